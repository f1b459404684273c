//! `ioctl` of sockets: what is queued, and the host's interfaces (netdevice(7)), which are only asked
//! about, and only with all of the network.

use std::os::fd::AsRawFd;

use abi::Errno;

use crate::files::OpenFile;
use crate::linux::io::from_host;
use crate::linux::task::ThreadCtx;
use crate::linux::time::checked;
use crate::linux::{CallResult, value};

/// Bytes of a `struct ifreq`: a name, and what is asked or told.
const REQUEST_BYTES: usize = 40;
/// Bytes of the list of addresses at most: more interfaces than a machine has.
const LIST_MAX: usize = REQUEST_BYTES * 1024;

const SIOCATMARK: u64 = 0x8905;
const SIOCGIFCONF: u64 = 0x8912;
/// Questions about one interface: its name by its index; its flags, address, peer, broadcast address,
/// mask, metric, MTU, hardware address, index, and the length of its queue.
const QUESTIONS: [u64; 11] =
    [0x8910, 0x8913, 0x8915, 0x8917, 0x8919, 0x891b, 0x891d, 0x8921, 0x8927, 0x8933, 0x8942];

/// What would set the same, and an interface's name: needs a privilege.
const SETTINGS: [u64; 10] =
    [0x8914, 0x8916, 0x8918, 0x891a, 0x891c, 0x891e, 0x8922, 0x8923, 0x8924, 0x8943];

/// Serves a request to a socket; `None` for one that every descriptor supports, or that is not served.
pub(in crate::linux) fn ioctl(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    request: u64,
    arg: u64,
) -> Option<CallResult> {
    match request {
        // SIOCOUTQ.
        libc::TIOCOUTQ | SIOCATMARK => Some(from_host(ctx, file, request, arg, 4)),
        _ if SETTINGS.contains(&request) => Some(refuse(ctx, arg)),
        _ if request != SIOCGIFCONF && !QUESTIONS.contains(&request) => None,
        _ if !ctx.process.network.grants.all => {
            tracing::debug!(
                "the program wants to look at the host's interfaces, which is not granted: --net grants it"
            );
            Some(Err(Errno::EACCES.into()))
        }
        SIOCGIFCONF => Some(list(ctx, file, arg)),
        _ => Some(ask(ctx, file, request, arg)),
    }
}

/// Linux reads what is to be set before it looks at who asks.
fn refuse(ctx: &ThreadCtx<'_>, arg: u64) -> CallResult {
    ctx.user().read_words::<{ REQUEST_BYTES / 8 }>(arg)?;
    Err(Errno::EPERM.into())
}

fn ask(ctx: &ThreadCtx<'_>, file: &OpenFile, request: u64, arg: u64) -> CallResult {
    let mut asked: [u64; REQUEST_BYTES / 8] = ctx.user().read_words(arg)?;
    let fd = file.host_fd().as_raw_fd();
    // SAFETY: these requests read and write one `struct ifreq`, which is as large.
    let answer = unsafe { libc::ioctl(fd, request as libc::Ioctl, asked.as_mut_ptr()) };
    checked(answer.into())?;
    ctx.user().write_words(arg, asked)?;
    value(0)
}

/// `SIOCGIFCONF`: as many addresses as there is room for, or without a buffer how much room they need.
fn list(ctx: &ThreadCtx<'_>, file: &OpenFile, arg: u64) -> CallResult {
    let [len, at] = ctx.user().read_words(arg)?;
    let room = usize::try_from(len as i32).unwrap_or(0).min(LIST_MAX);
    let mut found = vec![0_u8; room];
    let pointer = if at == 0 { 0 } else { found.as_mut_ptr() as usize as u64 };
    let mut asked = [room as u64, pointer];
    let fd = file.host_fd().as_raw_fd();
    // SAFETY: reads and writes one `struct ifconf`, and writes as much as it says at its pointer, where
    // there is as much; nothing is written without a pointer.
    let answer = unsafe { libc::ioctl(fd, SIOCGIFCONF as libc::Ioctl, asked.as_mut_ptr()) };
    checked(answer.into())?;
    let got = asked.first().copied().unwrap_or_default() as u32;
    if at != 0 {
        let got = found.get(..got as usize).ok_or(Errno::EINVAL)?;
        ctx.user().copy_out(at, got)?;
    }
    ctx.user().copy_out(arg, &got.to_ne_bytes())?;
    value(0)
}
