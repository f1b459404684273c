//! Requests to terminals: the user's, as far as the program was given one, and the pseudo-terminals
//! that programs of the run make. All are the host's, so line discipline, controlling terminals and the
//! signals they send are the host kernel's.
//!
//! What would take a terminal away from others (making it the controlling one, signals, exclusive use)
//! is served on those of the run alone.

use std::os::fd::AsRawFd;

use abi::Errno;
use rustix::process::Pid;
use vmm_sys_util::signal::{block_signal, unblock_signal};

use super::children::signals::members;
use super::io::from_host;
use super::time::checked;
use super::{CallResult, Fail, descriptor, done, value};
use crate::files::{OpenFile, host};
use crate::linux::task::ThreadCtx;

/// Bytes of the kernel's `struct termios` and `struct termios2`.
const TERMIOS_BYTES: usize = 36;
const TERMIOS2_BYTES: usize = 44;
/// And of System V's `struct termio`.
const TERMIO_BYTES: usize = 18;
/// System V's requests: to read the modes, and to set them at once, after what is to be written, and without
/// what was to be read.
const TCGETA: libc::Ioctl = 0x5405;
const TCSETA: libc::Ioctl = 0x5406;
const TCSETAW: libc::Ioctl = 0x5407;
const TCSETAF: libc::Ioctl = 0x5408;
const WINSIZE_BYTES: usize = 8;

/// The requests, by what their argument is.
enum Request {
    /// The host writes that many bytes.
    Tells(usize),
    /// The host reads that many bytes.
    Takes(usize),
    /// A number.
    Number,
    /// Makes a group the foreground one.
    SetGroup,
    /// Makes it the controlling terminal.
    Control,
    /// Opens the other end.
    OpenOther,
}

/// What a request is, on a terminal of the run or any other.
fn classify(request: libc::Ioctl, own: bool) -> Option<Request> {
    use Request::{Control, Number, OpenOther, SetGroup, Takes, Tells};
    Some(match request {
        libc::TCGETS => Tells(TERMIOS_BYTES),
        libc::TCGETS2 => Tells(TERMIOS2_BYTES),
        TCGETA => Tells(TERMIO_BYTES),
        TCSETA | TCSETAW | TCSETAF => Takes(TERMIO_BYTES),
        libc::TIOCGWINSZ => Tells(WINSIZE_BYTES),
        libc::TIOCGPGRP | libc::TIOCGSID | libc::TIOCOUTQ | libc::TIOCGETD | libc::TIOCGDEV => {
            Tells(4)
        }
        libc::TCSETS | libc::TCSETSW | libc::TCSETSF => Takes(TERMIOS_BYTES),
        libc::TCSETS2 | libc::TCSETSW2 | libc::TCSETSF2 => Takes(TERMIOS2_BYTES),
        libc::TIOCSWINSZ => Takes(WINSIZE_BYTES),
        libc::TCSBRK | libc::TCSBRKP | libc::TCXONC | libc::TCFLSH => Number,
        libc::TIOCSPGRP => SetGroup,
        _ if !own => return None,
        libc::TIOCGPTN | libc::TIOCGPTLCK | libc::TIOCGPKT | libc::TIOCGEXCL => Tells(4),
        libc::TIOCSPTLCK | libc::TIOCPKT => Takes(4),
        libc::TIOCSIG | libc::TIOCEXCL | libc::TIOCNXCL | libc::TIOCNOTTY => Number,
        libc::TIOCSCTTY => Control,
        libc::TIOCGPTPEER => OpenOther,
        _ => return None,
    })
}

/// Serves a request to the terminal `file`; `None` for one that is not only for terminals, or not
/// served.
pub(super) fn ioctl(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    request: u64,
    arg: u64,
) -> Option<CallResult> {
    let classified = classify(request as libc::Ioctl, file.is_own())?;
    // Before it runs a program, it is its parent's host process that would be asked.
    let is_child = ctx.child.is_some();
    Some(match classified {
        Request::Tells(bytes) => from_host(ctx, file, request, arg, bytes),
        Request::Takes(bytes) => takes(ctx, file, request, arg, bytes),
        Request::Number if is_child && request as libc::Ioctl == libc::TIOCNOTTY => {
            Err(Errno::ENOTTY.into())
        }
        Request::Number => ask(ctx, file, request, arg as usize as *const u8),
        Request::SetGroup => set_group(ctx, file, arg),
        Request::Control if is_child => Err(Errno::EPERM.into()),
        // Never with the argument that takes the terminal from another session.
        Request::Control => done(rustix::process::ioctl_tiocsctty(file.host_fd()).map_err(host)),
        Request::OpenOther => descriptor(ctx.files().open_other_end(file, arg as i32)),
    })
}

fn takes(ctx: &ThreadCtx<'_>, file: &OpenFile, request: u64, arg: u64, bytes: usize) -> CallResult {
    // Larger than any structure these requests read.
    let mut buffer = [0u8; 64];
    ctx.user().copy_in(arg, buffer.get_mut(..bytes).unwrap_or_default())?;
    ask(ctx, file, request, buffer.as_ptr())
}

/// Makes the request to the host; `arg` is a number, or points to a buffer that is large enough.
fn ask(ctx: &ThreadCtx<'_>, file: &OpenFile, request: u64, arg: *const u8) -> CallResult {
    let (fd, request) = (file.host_fd().as_raw_fd(), request as libc::Ioctl);
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::Restart);
        }
        // SAFETY: the requests passed here take a number, or read at most 44 bytes at the pointer,
        // which then points to 64 of ours.
        let got = as_in_program(ctx, || checked(unsafe { libc::ioctl(fd, request, arg) }.into()));
        match got {
            // Until what was written has been read it may wait.
            Err(Errno::EINTR) => {}
            got => return value(got?),
        }
    }
}

/// Runs `call`, which stops a background process unless it blocks or ignores SIGTTOU: if the program
/// does, so does its host thread.
fn as_in_program<T>(ctx: &ThreadCtx<'_>, call: impl FnOnce() -> T) -> T {
    let blocks = match &ctx.child {
        Some(child) => child.blocks(libc::SIGTTOU),
        None => ctx.thread.signals.blocks(libc::SIGTTOU),
    };
    if !blocks && !ctx.actions().has_ignored(libc::SIGTTOU) {
        return call();
    }
    let blocked = block_signal(libc::SIGTTOU).is_ok();
    let result = call();
    if blocked {
        let _ = unblock_signal(libc::SIGTTOU);
    }
    result
}

/// `TIOCSPGRP`: only a group of the run gets the terminal.
fn set_group(ctx: &ThreadCtx<'_>, file: &OpenFile, arg: u64) -> CallResult {
    let group = ctx.user().read_u32(arg)?.cast_signed();
    // The group of a leader outside the PID namespace has no number by which to name it.
    let own = Pid::from_raw(crate::host::process_group()).ok_or(Errno::ESRCH)?;
    let wanted = Pid::from_raw(group).filter(|_| group > 0).ok_or(Errno::EINVAL)?;
    // Another group would give the terminal to a program that did not ask for it.
    if wanted != own && members(ctx.process, Some(group)).is_empty() {
        return Err(Errno::EPERM.into());
    }
    loop {
        let set =
            as_in_program(ctx, || rustix::termios::tcsetpgrp(file.host_fd(), wanted).map_err(host));
        match set {
            Err(Errno::EINTR) if ctx.is_interrupted() => return Err(Fail::Restart),
            Err(Errno::EINTR) => {}
            set => return done(set),
        }
    }
}
