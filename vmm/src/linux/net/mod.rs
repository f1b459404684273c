//! Sockets: the host's own, within what is granted.
//!
//! A name that the program gives is copied once, decoded ([`address`]), compared with the grants
//! ([`grant`]) and encoded anew: the host never reads it where another thread could still change it, and gets
//! no form of it that means something else to the host than it did here. Control messages likewise
//! ([`control`]). The data itself is moved directly between guest memory and the host, as for files.
//!
//! Calls wait in the host, like those on files: a kick interrupts them, and they are restarted unless a
//! handler forbids it.
//!
//! - `endpoint`: `socket`, `bind`, `connect`, `listen`, `accept` and names
//! - `message`: sending and receiving; `options`: `getsockopt`, `setsockopt`
//! - `interfaces`: `ioctl`; `peer`: who is at the other end
//! - `host`: the host's calls

pub mod address;
pub mod control;
mod endpoint;
pub mod grant;
mod host;
mod interfaces;
mod message;
pub mod netlink;
mod options;
mod peer;

use std::sync::Arc;

use abi::Errno;

pub(super) use endpoint::{
    accept, accept4, bind, connect, getpeername, getsockname, listen, shutdown, socket as create,
    socketpair,
};
pub use grant::{ConnectGrant, ListenGrant, NetGrantError, NetGrants, Network};
pub(super) use interfaces::ioctl;
pub(super) use message::{recvfrom, recvmmsg, recvmsg, sendmmsg, sendmsg, sendto};
pub(super) use options::{get as getsockopt, set as setsockopt};
pub use peer::CONTROL_PREFIX;
pub(crate) use peer::peer;

use super::Fail;
use crate::files::{FileKind, OpenFile};
use crate::linux::task::ThreadCtx;

type Ctx<'a, 'b> = &'a mut ThreadCtx<'b>;
type Args<'a> = &'a [u64; 6];

const NO_SOCKET: Errno = Errno::from_raw(libc::ENOTSOCK);

/// The socket of a descriptor.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`; `EOPNOTSUPP` for one that the program did not make and could not make, where
/// `read` and `write` work.
fn socket(ctx: &ThreadCtx<'_>, fd: u64) -> Result<Arc<OpenFile>, Errno> {
    let file = ctx.files().for_io(fd as i32)?;
    match file.kind() {
        FileKind::Socket | FileKind::Netlink if file.is_own() => Ok(file),
        // Whoever passed it granted what it is connected to, or listens at; every address that the
        // program names is compared with the grants, as on its own.
        FileKind::Socket if is_usual(&file) => Ok(file),
        FileKind::Socket => Err(Errno::EOPNOTSUPP),
        _ => Err(NO_SOCKET),
    }
}

/// Whether a program with a grant could have made such a socket: not raw, nor of another family.
fn is_usual(file: &OpenFile) -> bool {
    let of = |option| host::int_option(file.host_fd(), option);
    let [domain, kind, protocol] = [libc::SO_DOMAIN, libc::SO_TYPE, libc::SO_PROTOCOL].map(of);
    match (domain, kind, protocol) {
        (Ok(libc::AF_UNIX), Ok(_), _) => true,
        (Ok(libc::AF_INET | libc::AF_INET6), Ok(kind), Ok(protocol)) => matches!(
            (kind, protocol),
            (libc::SOCK_STREAM, libc::IPPROTO_TCP)
                | (libc::SOCK_DGRAM, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE)
        ),
        _ => false,
    }
}

/// Whether a call on it does not wait. The host's flag of a socket that others have, too, is not the
/// program's.
fn never_waits(file: &OpenFile) -> bool {
    file.nonblocking() && !file.is_own()
}

/// A process's number as the program knows it: its own may differ from the host's.
fn in_program(ctx: &ThreadCtx<'_>, pid: i32) -> i32 {
    if pid == std::process::id().cast_signed() { ctx.process.pid() } else { pid }
}

/// Runs `call` in the host, again if something other than a signal for the program ended it.
fn waiting<T>(ctx: &ThreadCtx<'_>, mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Fail> {
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::Restart);
        }
        match call() {
            Err(Errno::EINTR) => {}
            result => return result.map_err(Fail::Errno),
        }
    }
}

/// Writes a socket's name where the program wants it: as much of it as there is room for, and how long
/// it is.
fn put_name(ctx: &ThreadCtx<'_>, at: u64, len_at: u64, name: &[u8]) -> Result<(), Errno> {
    let room = ctx.user().read_u32(len_at)?.cast_signed();
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    ctx.user().copy_out(at, name.get(..room.min(name.len())).unwrap_or_default())?;
    ctx.user().copy_out(len_at, &(name.len() as u32).to_ne_bytes())
}
