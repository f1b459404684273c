//! Requests to terminals: the user's, as far as the program was given one, and the pseudo-terminals
//! that programs of the run make. All are the host's, so line discipline, controlling terminals and the
//! signals they send are the host kernel's.
//!
//! What would take a terminal away from others (making it the controlling one, signals, exclusive use)
//! is served on those of the run alone.

use std::os::fd::AsRawFd;
use std::time::Duration;

use abi::Errno;
use rustix::process::Pid;
use vmm_sys_util::signal::{block_signal, unblock_signal};

use super::children::signals::members;
use super::io::from_host;
use super::time::checked;
use super::{CallResult, Fail, descriptor, done, value};
use crate::files::{OpenFile, host};
use crate::linux::task::ThreadCtx;
use crate::process_tree::stop;
use crate::vm::kick::kick_signal;

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
/// How often a thread looks whether the event loop has passed a signal on, which takes it microseconds: a second in
/// all, so that one that cannot is not waited for without end.
const MOST_ROUNDS_UNDERWAY: u32 = 5000;

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

/// Whether the request is for those in the foreground (the kernel's `tty_check_change`).
fn changes_modes(request: u64) -> bool {
    matches!(
        request as libc::Ioctl,
        TCSETA
            | TCSETAW
            | TCSETAF
            | libc::TCSETS
            | libc::TCSETSW
            | libc::TCSETSF
            | libc::TCSETS2
            | libc::TCSETSW2
            | libc::TCSETSF2
            | libc::TCSBRK
            | libc::TCSBRKP
            | libc::TCXONC
            | libc::TCFLSH
    )
}

/// Makes the request to the host; `arg` is a number, or points to a buffer that is large enough.
fn ask(ctx: &ThreadCtx<'_>, file: &OpenFile, request: u64, arg: *const u8) -> CallResult {
    let (fd, request) = (file.host_fd().as_raw_fd(), request as libc::Ioctl);
    if changes_modes(request) {
        stop_in_background(ctx, file, Use::Change)?;
    }
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

/// What a program does to a terminal that only those in the foreground may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Reads it.
    Read,
    /// Writes to it, which all may unless the terminal says otherwise.
    Write,
    /// Changes its modes, or whose it is.
    Change,
}

/// Stops a process that uses a terminal in the background, as the host's kernel would, which does so before there is
/// anything to read.
///
/// The kernel is asked whether to stop, and the VMM then stops of itself: see [`stop::without_stopping`]. Signals that
/// have arrived come first, as natively: `kill %1` of a job that the terminal stopped sends SIGTERM, and SIGCONT.
pub(super) fn stop_in_background(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    usage: Use,
) -> Result<(), Fail> {
    let signal = match usage {
        Use::Read => libc::SIGTTIN,
        Use::Write | Use::Change => libc::SIGTTOU,
    };
    // Asks as it would be used, and does nothing: reads no bytes, or requests what there is not.
    let ask = || match usage {
        Use::Read => rustix::io::read(file.host_fd(), &mut [0_u8; 0]).map(drop).map_err(host),
        Use::Write | Use::Change => {
            const NOTHING: usize = 99;
            let fd = file.host_fd().as_raw_fd();
            // SAFETY: the request takes a number.
            checked(unsafe { libc::ioctl(fd, libc::TCXONC, NOTHING) }.into()).map(drop)
        }
    };
    // Where the program does not leave it to the default, nothing stops: of a read the kernel's answer is the program's,
    // and all else answers for itself. Before it runs a program, a child is its parent's host process.
    let stops = ctx.child.is_none()
        && !ctx.thread.signals.blocks(signal)
        && !ctx.process.signals.is_handled(signal)
        && !ctx.actions().has_ignored(signal);
    if !stops && usage != Use::Read {
        return Ok(());
    }
    loop {
        if stops && !(is_in_background(file) && (usage != Use::Write || stops_writers(file))) {
            return Ok(());
        }
        for _ in 0..MOST_ROUNDS_UNDERWAY {
            if ctx.is_interrupted() || !stop::is_underway() {
                break;
            }
            // The event loop has been woken.
            std::thread::sleep(Duration::from_micros(200));
        }
        if ctx.is_interrupted() {
            return Err(Fail::Restart);
        }
        let answer = match stops {
            true => stop::without_stopping(signal, kick_signal(), ask),
            false => Some(ask()),
        };
        match answer {
            None => stop::stop_here(signal),
            Some(Err(Errno::EINTR)) => {}
            // Nobody could continue the process, or the program ignores the signal.
            Some(Err(Errno::EIO)) => return Err(Errno::EIO.into()),
            // The call itself says what else there is.
            Some(_) => return Ok(()),
        }
    }
}

/// Whether this may be the controlling terminal, with another group in the foreground.
fn is_in_background(file: &OpenFile) -> bool {
    let foreground = rustix::termios::tcgetpgrp(file.host_fd());
    foreground.is_ok_and(|group| group.as_raw_nonzero().get() != crate::host::process_group())
}

/// Whether those in the background may not write to it either (`stty tostop`).
fn stops_writers(file: &OpenFile) -> bool {
    let modes = rustix::termios::tcgetattr(file.host_fd());
    modes.is_ok_and(|modes| modes.local_modes.contains(rustix::termios::LocalModes::TOSTOP))
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
    // In Linux's order: whether it is the controlling terminal, then what is asked for.
    if rustix::termios::tcgetpgrp(file.host_fd()) == Err(rustix::io::Errno::NOTTY) {
        return Err(Errno::ENOTTY.into());
    }
    let group = ctx.user().read_u32(arg)?.cast_signed();
    if group < 0 {
        return Err(Errno::EINVAL.into());
    }
    // 0 is the group of a leader outside of the PID namespace: there is no number by which to name it.
    let wanted = Pid::from_raw(group).ok_or(Errno::ESRCH)?;
    // Another group would give the terminal to a program that did not ask for it.
    if group != crate::host::process_group() && members(ctx.process, Some(group)).is_empty() {
        return Err(Errno::EPERM.into());
    }
    stop_in_background(ctx, file, Use::Change)?;
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
