//! Restores the terminal's settings.
//!
//! A program can switch off echo or make reads non-blocking and then die without restoring the
//! settings; natively the next shell prompt suffers. Here the settings are saved before the program
//! starts and restored when it has ended, on every way out of `run`, panics included.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use vmm::files::Tty;
use vmm::host::process_group;

/// The settings of the terminals of our standard streams, and of `/dev/tty` if the program has it;
/// dropping this restores them.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    stdin: Option<(Termios, OFlags)>,
    stdout: Option<(Termios, OFlags)>,
    stderr: Option<(Termios, OFlags)>,
    tty: Option<(File, (Termios, OFlags))>,
}

impl Saved {
    /// Saves the settings; streams that are not terminals have none.
    pub(crate) fn now(tty: Tty) -> Self {
        let tty = match tty {
            Tty::Granted => File::options().read(true).write(true).open("/dev/tty").ok(),
            Tty::Withheld => None,
        };
        Self {
            stdin: settings(io::stdin().as_fd()),
            stdout: settings(io::stdout().as_fd()),
            stderr: settings(io::stderr().as_fd()),
            tty: tty.and_then(|tty| settings(tty.as_fd()).map(|saved| (tty, saved))),
        }
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        restore(io::stdin().as_fd(), self.stdin.take());
        restore(io::stdout().as_fd(), self.stdout.take());
        restore(io::stderr().as_fd(), self.stderr.take());
        if let Some((tty, saved)) = self.tty.take() {
            restore(tty.as_fd(), Some(saved));
        }
    }
}

fn settings(stream: BorrowedFd<'_>) -> Option<(Termios, OFlags)> {
    Some((tcgetattr(stream).ok()?, fcntl_getfl(stream).ok()?))
}

/// The foreground group of a terminal, 0 if it is outside our PID namespace: if our group is
/// outside, too, the two are assumed to be the same.
fn foreground(stream: BorrowedFd<'_>) -> Option<i32> {
    match tcgetpgrp(stream) {
        Ok(group) => Some(group.as_raw_pid()),
        // `rustix` turns the kernel's 0 into this error.
        Err(Errno::OPNOTSUPP) => Some(0),
        Err(_) => None,
    }
}

/// Restores what differs. In the background the terminal belongs to another process group: changing
/// it then would disturb that group, and stop us with SIGTTOU.
fn restore(stream: BorrowedFd<'_>, saved: Option<(Termios, OFlags)>) {
    let Some((termios, flags)) = saved else { return };
    if foreground(stream) != Some(process_group()) {
        return;
    }
    // A terminal that is gone needs no settings: errors are ignored.
    if !tcgetattr(stream).is_ok_and(|now| same(&now, &termios)) {
        let _ = tcsetattr(stream, OptionalActions::Now, &termios);
    }
    if fcntl_getfl(stream).is_ok_and(|now| now != flags) {
        let _ = fcntl_setfl(stream, flags);
    }
}

fn same(a: &Termios, b: &Termios) -> bool {
    let modes = |t: &Termios| {
        (t.input_modes, t.output_modes, t.control_modes, t.local_modes, t.line_discipline)
    };
    // `SpecialCodes` has no equality; its debug text lists all of them.
    modes(a) == modes(b) && format!("{:?}", a.special_codes) == format!("{:?}", b.special_codes)
}
