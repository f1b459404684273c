//! Making sockets, and saying where they are: `socket`, `socketpair`, `bind`, `connect`, `listen`, `accept`,
//! `shutdown`, and their names.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::Errno;
use rustix::fs::Mode;

use super::address::{self, Address, destination};
use super::grant::Binding;
use super::host::{self, Whose};
use super::peer::{CONTROL_PREFIX, is_control};
use super::{Args, Ctx, never_waits, put_name, socket as socket_of, waiting};
use crate::files::{FileKind, OpenFile, SocketPlace, host as host_errno};
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, descriptor, done, value};

const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
const UNSUPPORTED_FAMILY: Errno = Errno::from_raw(libc::EAFNOSUPPORT);
const UNSUPPORTED_TYPE: Errno = Errno::from_raw(libc::ESOCKTNOSUPPORT);
const UNSUPPORTED_PROTOCOL: Errno = Errno::from_raw(libc::EPROTONOSUPPORT);
/// Linux's highest number of a family, and of a type.
const FAMILY_MAX: i32 = 45;
const TYPE_MAX: i32 = 10;

/// Held while a socket is bound or begins to listen: where it is does not change in between.
static PLACING: Mutex<()> = Mutex::new(());

fn placing() -> MutexGuard<'static, ()> {
    PLACING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `socket(2)`.
pub(in crate::linux) fn socket(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let [domain, kind, protocol] = [a[0] as i32, a[1] as i32, a[2] as i32];
    let flags = kind & !0xf;
    let plain = kind & 0xf;
    if flags & !FLAGS != 0 || plain > TYPE_MAX {
        return Err(Errno::EINVAL.into());
    }
    if !(0..=FAMILY_MAX).contains(&domain) {
        return Err(UNSUPPORTED_FAMILY.into());
    }
    let network = &ctx.process.network;
    match domain {
        libc::AF_UNIX => check_unix(plain, protocol)?,
        libc::AF_INET | libc::AF_INET6 => {
            if network.grants.is_none() {
                network.refused(
                    "the program wants to use the network, which is not granted: --net grants all of it, \
                     --connect HOST:PORT and --listen [ADDR:]PORT a part",
                );
                return Err(Errno::EACCES.into());
            }
            check_internet(plain, protocol, network.grants.all)?;
        }
        libc::AF_NETLINK => {
            if !network.grants.all {
                // Run-time libraries try it when they look up a name, and can do without.
                tracing::debug!(
                    "the program wants to look at the host's addresses and routes (netlink), which is \
                     not granted: --net grants it"
                );
                return Err(Errno::EACCES.into());
            }
            if !matches!(plain, libc::SOCK_RAW | libc::SOCK_DGRAM) {
                return Err(UNSUPPORTED_TYPE.into());
            }
            if protocol != libc::NETLINK_ROUTE {
                return Err(UNSUPPORTED_PROTOCOL.into());
            }
        }
        // Packets below IP need a privilege.
        libc::AF_PACKET => return Err(Errno::EPERM.into()),
        _ => return Err(UNSUPPORTED_FAMILY.into()),
    }
    let fd = host::socket(domain, kind, protocol)?;
    let cloexec = flags & libc::SOCK_CLOEXEC != 0;
    if domain == libc::AF_NETLINK {
        let (fd, _) = ctx.files().own_of_kind(fd, FileKind::Netlink, cloexec)?;
        return value(fd as u64);
    }
    descriptor(ctx.files().own(fd, cloexec))
}

fn check_unix(kind: i32, protocol: i32) -> Result<(), Errno> {
    match (kind, protocol) {
        (_, p) if p != 0 && p != libc::PF_UNIX => Err(UNSUPPORTED_PROTOCOL),
        // Linux takes a raw one for one of datagrams.
        (libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET | libc::SOCK_RAW, _) => Ok(()),
        _ => Err(UNSUPPORTED_TYPE),
    }
}

/// TCP and UDP; with all of the network also UDP-Lite, and the sockets by which an unprivileged `ping`
/// works, where the host permits them.
fn check_internet(kind: i32, protocol: i32, all: bool) -> Result<(), Errno> {
    match (kind, protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) | (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => {
            Ok(())
        }
        (libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 | libc::IPPROTO_UDPLITE)
            if all =>
        {
            Ok(())
        }
        // Which protocol is always to be said.
        (libc::SOCK_RAW, 0) => Err(UNSUPPORTED_PROTOCOL),
        (libc::SOCK_RAW, _) => Err(Errno::EPERM),
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => Err(UNSUPPORTED_PROTOCOL),
        _ => Err(UNSUPPORTED_TYPE),
    }
}

/// `socketpair(2)`: of UNIX sockets; the host knows no others.
pub(in crate::linux) fn socketpair(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let [domain, kind, protocol] = [a[0] as i32, a[1] as i32, a[2] as i32];
    let flags = kind & !0xf;
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    match domain {
        libc::AF_UNIX if kind & 0xf > TYPE_MAX => return Err(Errno::EINVAL.into()),
        libc::AF_UNIX => check_unix(kind & 0xf, protocol)?,
        // There are no pairs of what there is, either.
        libc::AF_INET | libc::AF_INET6 => {
            check_internet(kind & 0xf, protocol, true)?;
            return Err(Errno::EOPNOTSUPP.into());
        }
        _ => return Err(UNSUPPORTED_FAMILY.into()),
    }
    let cloexec = flags & libc::SOCK_CLOEXEC != 0;
    let files = ctx.files();
    let [one, other] = host::socketpair(domain, kind, protocol)?;
    let one = files.own(one, cloexec)?;
    let both = files.own(other, cloexec).and_then(|other| {
        let bytes = [one.to_ne_bytes(), other.to_ne_bytes()].concat();
        // As Linux: nothing is left of sockets whose numbers the program cannot be told.
        ctx.user().copy_out(a[3], &bytes).inspect_err(|_| {
            let _ = files.close(other);
        })
    });
    done(both.inspect_err(|_| {
        let _ = files.close(one);
    }))
}

/// A name that may be used, in the host's terms.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) name: Vec<u8>,
    #[expect(dead_code, reason = "keeps what the name means")]
    place: Option<SocketPlace>,
}

/// The program's bytes of a name, copied.
pub(super) fn read_name(ctx: &ThreadCtx<'_>, at: u64, len: u64) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len as i32).ok().filter(|len| *len <= host::NAME_MAX);
    let mut bytes = vec![0; len.ok_or(Errno::EINVAL)?];
    ctx.user().copy_in(at, &mut bytes)?;
    Ok(bytes)
}

/// The socket's family, for the few names whose meaning depends on it.
fn domain(file: &OpenFile) -> Result<i32, Errno> {
    host::int_option(file.host_fd(), libc::SO_DOMAIN)
}

/// Where the program may connect or send, or why not.
pub(super) fn check_destination(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    bytes: &[u8],
) -> Result<Checked, Errno> {
    let network = &ctx.process.network;
    let named = |address: &Address| Checked { name: address::encode(address), place: None };
    match address::decode(bytes, domain(file)?)? {
        Address::Internet(asked) => {
            let to = destination(asked);
            if !network.grants.may_connect(to) && !may_answer(ctx, file, to)? {
                let shown = SocketAddr::new(to.ip().to_canonical(), to.port());
                network.refused(format_args!(
                    "the program wants to connect to {shown}, which is not granted: --connect {shown} \
                     grants it, --net all of the network"
                ));
                return Err(Errno::EACCES);
            }
            Ok(named(&Address::Internet(to)))
        }
        Address::Path(path) => {
            let place = ctx.files().socket_to_connect(&path).inspect_err(|errno| {
                if *errno == Errno::EACCES {
                    let path = String::from_utf8_lossy(&path);
                    network.refused(format_args!(
                        "the program wants to connect to the socket {path}, whose directory is not \
                         granted for writing: --dir DIR grants it"
                    ));
                }
            })?;
            let name = address::encode(&Address::Path(place.name().to_vec()));
            Ok(Checked { name, place: Some(place) })
        }
        Address::Abstract(name) => {
            check_abstract(ctx, &name)?;
            Ok(named(&Address::Abstract(name)))
        }
        address @ Address::Netlink { port: 0, groups: 0 } => Ok(named(&address)),
        // To other processes, and to groups of them.
        Address::Netlink { .. } => Err(Errno::EPERM),
        address @ (Address::Unspecified | Address::Unnamed) => Ok(named(&address)),
    }
}

/// Whether a socket may send there because something came from there: it is where the program may
/// listen, and a server answers.
fn may_answer(ctx: &ThreadCtx<'_>, file: &OpenFile, to: SocketAddr) -> Result<bool, Errno> {
    if !file.peers().knows(to) {
        return Ok(false);
    }
    Ok(own_address(file)?.is_some_and(|at| ctx.process.network.grants.may_listen(at)))
}

/// Where an internet socket is.
fn own_address(file: &OpenFile) -> Result<Option<SocketAddr>, Errno> {
    let name = host::name(file.host_fd(), Whose::Own)?;
    Ok(match address::decode(&name, libc::AF_UNSPEC)? {
        Address::Internet(at) => Some(at),
        _ => None,
    })
}

fn check_abstract(ctx: &ThreadCtx<'_>, name: &[u8]) -> Result<(), Errno> {
    let network = &ctx.process.network;
    if is_control(name) {
        network.refused(format_args!(
            "the program wants to use a UNIX socket whose name begins with {CONTROL_PREFIX}: these are \
             the control sockets of VMs, and not for programs in them"
        ));
        return Err(Errno::EACCES);
    }
    if network.grants.all {
        return Ok(());
    }
    network.refused(
        "the program wants to use a UNIX socket with an abstract name, which is in no directory and not \
         granted: --net grants it",
    );
    Err(Errno::EACCES)
}

/// `connect(2)`.
pub(in crate::linux) fn connect(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket_of(ctx, a[0])?;
    let bytes = read_name(ctx, a[1], a[2])?;
    if bytes.get(..2) == Some(&[0, 0]) {
        // Without an address it gives up the one it has, and does not wait.
        let _placing = placing();
        return done(host::connect(file.host_fd(), &[0, 0]));
    }
    let to = check_destination(ctx, &file, &bytes)?;
    waiting(ctx, || host::connect(file.host_fd(), &to.name))?;
    value(0)
}

/// `bind(2)`.
pub(in crate::linux) fn bind(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket_of(ctx, a[0])?;
    let bytes = read_name(ctx, a[1], a[2])?;
    let network = &ctx.process.network;
    let address = match address::decode(&bytes, domain(&file)?)? {
        Address::Internet(asked) => {
            let how = Binding { stream: is_stream(&file), only_v6: is_only_v6(&file) };
            let Some(at) = network.grants.to_bind(asked, how) else {
                let shown = SocketAddr::new(asked.ip().to_canonical(), asked.port());
                let shown = if shown.ip().is_unspecified() || shown.ip().is_loopback() {
                    shown.port().to_string()
                } else {
                    shown.to_string()
                };
                network.refused(format_args!(
                    "the program wants to listen at {asked}, which is not granted: --listen {shown} \
                     grants it, --net all of the network"
                ));
                return Err(Errno::EACCES.into());
            };
            Address::Internet(at)
        }
        Address::Path(path) => {
            is_unix(&file, bytes.len())?;
            return done(bind_path(ctx, &file, &path));
        }
        // The host chooses an abstract name for a socket that is to have none.
        Address::Unnamed => {
            check_abstract(ctx, &[])?;
            Address::Unnamed
        }
        Address::Abstract(name) => {
            check_abstract(ctx, &name)?;
            Address::Abstract(name)
        }
        // Groups are what changes are told to.
        address @ Address::Netlink { .. } => address,
        address @ Address::Unspecified => address,
    };
    let _placing = placing();
    done(host::bind(file.host_fd(), &address::encode(&address)))
}

/// Refuses to bind another socket to a path: of a name of `len` bytes the Internet's look at the family once
/// it is as long as one of theirs.
fn is_unix(file: &OpenFile, len: usize) -> Result<(), Errno> {
    match domain(file)? {
        libc::AF_UNIX => Ok(()),
        libc::AF_INET if len >= address::V4_BYTES => Err(UNSUPPORTED_FAMILY),
        libc::AF_INET6 if len >= address::V6_OLD_BYTES => Err(UNSUPPORTED_FAMILY),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether it is a stream of bytes, of which a signal tells when nobody reads it.
pub(super) fn is_stream(file: &OpenFile) -> bool {
    host::int_option(file.host_fd(), libc::SO_TYPE) == Ok(libc::SOCK_STREAM)
}

fn is_only_v6(file: &OpenFile) -> bool {
    let mut value = [0; 4];
    let option = [libc::IPPROTO_IPV6, libc::IPV6_V6ONLY];
    host::getsockopt(file.host_fd(), option, &mut value).is_ok() && value != [0; 4]
}

fn bind_path(ctx: &ThreadCtx<'_>, file: &OpenFile, path: &[u8]) -> Result<(), Errno> {
    let files = ctx.files();
    let place = files.socket_to_bind(path).inspect_err(|errno| {
        if matches!(*errno, Errno::EROFS | Errno::EPERM) {
            let path = String::from_utf8_lossy(path);
            ctx.process.network.refused(format_args!(
                "the program wants to make the socket {path}, whose directory is not granted for writing: \
                 --dir DIR grants it"
            ));
        }
    })?;
    // The new entry gets the socket's own mode and no umask: ours is zero.
    let fd = file.host_fd();
    let mode = rustix::fs::fstat(fd).map_err(host_errno)?.st_mode & 0o777;
    let set = |mode| rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(host_errno);
    let _placing = placing();
    set(files.masked(mode))?;
    let bound = host::bind(fd, &address::encode(&Address::Path(place.name().to_vec())));
    set(mode)?;
    bound?;
    files.note_bound(&place, path);
    Ok(())
}

/// `listen(2)`: at an address that the socket has, and that is granted.
pub(in crate::linux) fn listen(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket_of(ctx, a[0])?;
    let network = &ctx.process.network;
    let _placing = placing();
    let check = || -> Result<(), Errno> {
        match own_address(&file)? {
            Some(at) if !network.grants.may_listen(at) => {
                network.refused(format_args!(
                    "the program wants to listen at {}, at a port that the host chooses, which is not \
                     granted: --listen 0 grants it by loopback, --net all of the network",
                    at.ip()
                ));
                Err(Errno::EACCES)
            }
            _ => Ok(()),
        }
    };
    check()?;
    host::listen(file.host_fd(), a[1] as i32)?;
    // A socket without an address has got one now.
    check().inspect_err(|_| {
        let _ = host::shutdown(file.host_fd(), libc::SHUT_RDWR);
    })?;
    value(0)
}

/// `accept(2)`.
pub(in crate::linux) fn accept(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    accept4(ctx, &[a[0], a[1], a[2], 0, 0, 0])
}

/// `accept4(2)`: its flags are checked before the descriptor's kind.
pub(in crate::linux) fn accept4(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let flags = a[3] as i32;
    let file = match socket_of(ctx, a[0]) {
        Err(Errno::EBADF) => return Err(Errno::EBADF.into()),
        _ if flags & !FLAGS != 0 => return Err(Errno::EINVAL.into()),
        file => file?,
    };
    // A connection for which there is no number is not taken.
    ctx.files().check_room()?;
    if never_waits(&file) && !host::is_ready(file.host_fd())? {
        return Err(Errno::EAGAIN.into());
    }
    let flags_for_host = flags & libc::SOCK_NONBLOCK;
    let (fd, name) = waiting(ctx, || host::accept(file.host_fd(), flags_for_host))?;
    if a[1] != 0 {
        // A connection that the program cannot be told of is closed, as on Linux.
        put_name(ctx, a[1], a[2], &inside(ctx, &name))?;
    }
    descriptor(ctx.files().own(fd, flags & libc::SOCK_CLOEXEC != 0))
}

/// The name of a socket as the program knows it.
pub(super) fn inside(ctx: &ThreadCtx<'_>, name: &[u8]) -> Vec<u8> {
    match address::decode(name, libc::AF_UNSPEC) {
        Ok(Address::Path(path)) => match ctx.files().socket_name_inside(&path) {
            path if path.is_empty() => address::encode(&Address::Unnamed),
            path => address::encode(&Address::Path(path)),
        },
        _ => name.to_vec(),
    }
}

fn tell_name(ctx: Ctx<'_, '_>, a: Args<'_>, whose: Whose) -> CallResult {
    let file = socket_of(ctx, a[0])?;
    let name = host::name(file.host_fd(), whose)?;
    let name = inside(ctx, &name);
    done(put_name(ctx, a[1], a[2], &name))
}

/// `getsockname(2)`.
pub(in crate::linux) fn getsockname(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    tell_name(ctx, a, Whose::Own)
}

/// `getpeername(2)`.
pub(in crate::linux) fn getpeername(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    tell_name(ctx, a, Whose::Peer)
}

/// `shutdown(2)`.
pub(in crate::linux) fn shutdown(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket_of(ctx, a[0])?;
    done(host::shutdown(file.host_fd(), a[1] as i32))
}
