//! `waitid` of the host, with everything it returns; the processor time of a process that has not been waited for.

use std::io;
use std::time::Duration;

/// What happened to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// `CLD_EXITED` and its like.
    pub code: i32,
    /// The exit status, or the signal.
    pub status: i32,
    /// What it and its own children used: `struct rusage`, word by word.
    pub usage: [u64; 18],
}

impl Changed {
    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED)
    }

    /// The status word of `wait4`.
    #[must_use]
    pub fn status_word(&self) -> u32 {
        let status = self.status as u32;
        match self.code {
            libc::CLD_EXITED => (status & 0xff) << 8,
            libc::CLD_DUMPED => (status & 0x7f) | 0x80,
            libc::CLD_STOPPED | libc::CLD_TRAPPED => (status & 0xff) << 8 | 0x7f,
            libc::CLD_CONTINUED => 0xffff,
            _ => status & 0x7f,
        }
    }
}

/// Waits for one of the children that `kind` and `id` select (`P_ALL`, `P_PID`, `P_PGID`); `None`
/// with `WNOHANG` if nothing happened to any.
///
/// # Errors
/// `ECHILD` without such a child; `EINTR` when a signal arrived; `EINVAL`.
pub fn wait(kind: u32, id: i32, options: i32) -> io::Result<Option<Changed>> {
    // `siginfo_t`: signal, error, code; then, in the union, process, user, status.
    let mut info = [0_i32; 32];
    let mut usage = [0_u64; 18];
    const _: () = assert!(size_of::<[u64; 18]>() == size_of::<libc::rusage>());
    const _: () = assert!(size_of::<[i32; 32]>() == size_of::<libc::siginfo_t>());
    // SAFETY: writes one structure to each of the two places, which are as large.
    let done = unsafe {
        libc::syscall(libc::SYS_waitid, kind, id, info.as_mut_ptr(), options, usage.as_mut_ptr())
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let [_, _, code, _, pid, uid, status, ..] = info;
    let uid = uid.cast_unsigned();
    Ok((pid != 0).then_some(Changed { pid, uid, code, status, usage }))
}

/// Processor time that a process has used, which may have ended; `None` if it is not there, or has been waited for.
#[must_use]
pub fn processor_time(pid: i32) -> Option<Duration> {
    // As `clock_getcpuclockid(3)` makes it: the clock by which timers of the process go, too.
    let clock = !pid << 3;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure it is given.
    let told = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let nanos = u32::try_from(time.tv_nsec).ok().filter(|_| told == 0)?;
    Some(Duration::new(time.tv_sec.unsigned_abs(), nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_known_until_it_is_waited_for() {
        let spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        let mut child = std::process::Command::new("sh").args(["-c", spin]).spawn().unwrap();
        let pid = child.id().cast_signed();
        let ended = wait(libc::P_PID, pid, libc::WEXITED | libc::WNOWAIT).unwrap().unwrap();
        assert!(ended.has_ended());
        assert!(processor_time(pid).unwrap() > Duration::ZERO);
        child.wait().unwrap();
        assert_eq!(processor_time(pid), None);
        assert!(processor_time(std::process::id().cast_signed()).is_some());
    }
}
