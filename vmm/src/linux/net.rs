//! Socket calls. There are no sockets: on a descriptor these calls return what Linux returns for
//! one that is no socket, which programs that try it expect (shells, standard input).

use abi::Errno;

use super::{CallResult, Fail};
use crate::files::FileKind;
use crate::linux::task::ThreadCtx;

fn refusal(ctx: &ThreadCtx<'_>, fd: u64) -> Fail {
    let file = ctx.files().get(fd as i32);
    let checked = file.and_then(|file| file.check_not_path().map(|()| file.kind()));
    Fail::Errno(match checked {
        Err(errno) => errno,
        // A socket that the program was started with: `read` and `write` serve it.
        Ok(FileKind::Socket) => Errno::EOPNOTSUPP,
        Ok(_) => Errno::from_raw(libc::ENOTSOCK),
    })
}

/// Every call that takes a socket's descriptor first.
pub(super) fn on_descriptor(ctx: &ThreadCtx<'_>, fd: u64) -> CallResult {
    Err(refusal(ctx, fd))
}

/// `accept4(2)`: its flags are checked before the descriptor's kind.
pub(super) fn accept4(ctx: &ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let known = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    match refusal(ctx, a[0]) {
        Fail::Errno(Errno::EBADF) => Err(Errno::EBADF.into()),
        _ if a[3] as i32 & !known != 0 => Err(Errno::EINVAL.into()),
        refusal => Err(refusal),
    }
}
