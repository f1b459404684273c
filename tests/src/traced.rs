//! A process whose host calls a test sees as they begin, and makes fail.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus};

/// How a stop at a system call looks, with `PTRACE_O_TRACESYSGOOD`.
pub const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// Traces every thread of a process, and those that it starts. They stop.
///
/// # Errors
/// The host's.
///
/// # Panics
/// If there is no such process.
pub fn seize(process: Pid) -> Result<(), Errno> {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it has threads");
    for task in tasks {
        let name = task.expect("an entry").file_name();
        let tid = Pid::from_raw(name.to_str().and_then(|tid| tid.parse().ok()).expect("a number"));
        ptrace::seize(tid, options)?;
        ptrace::interrupt(tid)?;
    }
    Ok(())
}

/// Waits for a thread that is traced by this one: others of this program wait for their own.
///
/// # Errors
/// The host's.
///
/// # Panics
/// If the host does not wait.
pub fn next_stop() -> Result<(Pid, WaitStatus), Errno> {
    let which = WaitOptions::from_bits_retain((libc::__WALL | libc::__WNOTHREAD).cast_unsigned());
    let next = rustix::process::wait(which).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    let (pid, status) = next.expect("it waits");
    Ok((Pid::from_raw(pid.as_raw_nonzero().get()), status))
}

/// Resumes a thread until its next call, or the end of this one, with a signal if not 0. Kicks
/// are real-time signals, for which `nix` has no name.
///
/// # Errors
/// The host's.
pub fn go_on(tid: Pid, signal: i32) -> Result<(), Errno> {
    let none = std::ptr::null_mut::<libc::c_void>();
    let signal = libc::c_long::from(signal);
    // SAFETY: this request reads and writes no memory of this process.
    let done = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid.as_raw(), none, signal) };
    Errno::result(done).map(drop)
}

/// A host call that begins.
#[derive(Debug)]
pub struct Call {
    process: Pid,
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

impl Call {
    /// The process that makes it.
    #[must_use]
    pub fn process(&self) -> i32 {
        self.process.as_raw()
    }

    /// The file whose descriptor is its first argument.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/fd/{}", self.process, self.args[0])).ok()
    }
}

/// Follows a process to its end, and returns its status, -1 for a signal. `begun` is called when it is
/// traced; `judge` gets each call, and what it returns is the error that the call gives without being made.
///
/// # Errors
/// The host's.
pub fn follow(
    process: Pid,
    begun: impl FnOnce(),
    mut judge: impl FnMut(&Call) -> Option<i32>,
) -> Result<i32, Errno> {
    seize(process)?;
    begun();
    // Threads that are inside a call, and the error that it is to give.
    let mut inside: BTreeMap<Pid, Option<i32>> = BTreeMap::new();
    loop {
        let (tid, status) = next_stop()?;
        let signal = match status.stopping_signal() {
            None if tid == process => return Ok(status.exit_status().unwrap_or(-1)),
            None => continue,
            Some(SYSCALL_STOP) => match at_call(process, tid, &mut inside, &mut judge) {
                Ok(()) => 0,
                // Killed since it stopped. Its end comes next, and has to be waited for here: a process whose threads
                // are traced does not end for its parent before the tracer has seen theirs.
                Err(Errno::ESRCH) => continue,
                Err(errno) => return Err(errno),
            },
            // The requested stop, and new threads.
            Some(_) if status.as_raw() >> 16 != 0 => 0,
            Some(signal) => signal,
        };
        match go_on(tid, signal) {
            // It has ended in the meantime.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn at_call(
    process: Pid,
    tid: Pid,
    inside: &mut BTreeMap<Pid, Option<i32>>,
    judge: &mut impl FnMut(&Call) -> Option<i32>,
) -> Result<(), Errno> {
    let mut regs = ptrace::getregs(tid)?;
    match inside.remove(&tid) {
        None => {
            let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
            let number = regs.orig_rax.cast_signed();
            let error = judge(&Call { process, number, args });
            if error.is_some() {
                // No call has this number.
                regs.orig_rax = u64::MAX;
                ptrace::setregs(tid, regs)?;
            }
            inside.insert(tid, error);
        }
        Some(Some(error)) => {
            regs.rax = i64::from(-error).cast_unsigned();
            ptrace::setregs(tid, regs)?;
        }
        Some(None) => {}
    }
    Ok(())
}
