//! The Linux calls a program makes, served on the host.
//!
//! One module per subject; each function takes the calling thread and the six argument
//! registers as Linux passes them and returns what RAX gets. Numbers and meaning are
//! Linux's for x86-64. A call that is not in the table gives `ENOSYS`, is counted, and is
//! named once in the log.
//!
//! Every argument is the guest's: nothing here may panic on any value.

pub mod identity;
pub mod memory;
pub mod names;
pub mod sigframe;
pub mod signal;
pub mod thread;
pub mod time;

use std::time::Instant;

use abi::Errno;

use crate::process::thread::Next;
use crate::process::{Outcome, ThreadCtx};

/// What a call did, when it did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// The value for RAX.
    Value(u64),
    /// The registers are already what they should be (`rt_sigreturn`).
    Registers,
    /// The calling thread has ended.
    ThreadExit,
    /// The process has ended.
    Stop,
}

/// Why a call did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fail {
    /// The program gets this error.
    Errno(Errno),
    /// A signal came while the call was blocked: it is made again unless a handler without
    /// `SA_RESTART` runs first.
    Restart,
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Fail {
        Fail::Errno(errno)
    }
}

/// Result of a call.
pub type CallResult = Result<Done, Fail>;

/// A plain value.
///
/// # Errors
/// Never; for the ends of functions that return [`CallResult`].
pub fn value(v: u64) -> CallResult {
    Ok(Done::Value(v))
}

/// Bytes of the SYSCALL instruction, for going back to make a call again.
const SYSCALL_BYTES: u64 = 2;

/// Serves the Linux call in the registers of `ctx`.
pub fn syscall(ctx: &mut ThreadCtx<'_>) -> Next {
    let regs = &ctx.vcpu.regs;
    let number = regs.rax;
    let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    let began = Instant::now();
    let result = dispatch(ctx, number, &args);
    ctx.process.stats.call(number, began.elapsed());
    tracing::trace!(target: "linux", tid = ctx.thread.tid, number, ?args, ?result);
    finish(ctx, number, result)
}

fn finish(ctx: &mut ThreadCtx<'_>, number: u64, result: CallResult) -> Next {
    match result {
        Ok(Done::Value(v)) => ctx.vcpu.regs.rax = v,
        Ok(Done::Registers) => {}
        Ok(Done::ThreadExit) => return Next::ThreadEnds,
        Ok(Done::Stop) => return Next::Stop,
        Err(Fail::Errno(errno)) => ctx.vcpu.regs.rax = errno.as_result(),
        Err(Fail::Restart) => {
            ctx.vcpu.regs.rax = Errno::EINTR.as_result();
            return signal::deliver_after_interruption(ctx, number, SYSCALL_BYTES);
        }
    }
    signal::deliver_pending(ctx)
}

/// The table: number to function.
fn dispatch(ctx: &mut ThreadCtx<'_>, number: u64, a: &[u64; 6]) -> CallResult {
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_brk => memory::brk(ctx, a),
        libc::SYS_mmap => memory::mmap(ctx, a),
        libc::SYS_munmap => memory::munmap(ctx, a),
        libc::SYS_mprotect => memory::mprotect(ctx, a),
        libc::SYS_mremap => memory::mremap(ctx, a),
        libc::SYS_madvise => memory::madvise(ctx, a),
        libc::SYS_mincore => memory::mincore(ctx, a),
        libc::SYS_msync => memory::msync(ctx, a),
        libc::SYS_mlock | libc::SYS_munlock | libc::SYS_mlock2 => value(0),

        libc::SYS_clone => thread::clone(ctx, a),
        libc::SYS_clone3 => thread::clone3(ctx, a),
        libc::SYS_exit => thread::exit(ctx, a),
        libc::SYS_exit_group => thread::exit_group(ctx, a),
        libc::SYS_set_tid_address => thread::set_tid_address(ctx, a),
        libc::SYS_set_robust_list => thread::set_robust_list(ctx, a),
        libc::SYS_get_robust_list => Err(Errno::EPERM.into()),
        libc::SYS_gettid => value(ctx.thread.tid as u64),
        libc::SYS_futex => thread::futex(ctx, a),
        libc::SYS_sched_yield => thread::sched_yield(ctx, a),
        libc::SYS_sched_getaffinity => thread::sched_getaffinity(ctx, a),
        libc::SYS_sched_setaffinity => value(0),
        libc::SYS_rseq => Err(Errno::ENOSYS.into()),
        libc::SYS_arch_prctl => thread::arch_prctl(ctx, a),
        libc::SYS_fork | libc::SYS_vfork | libc::SYS_execve | libc::SYS_execveat => {
            thread::no_processes(ctx, number)
        }
        libc::SYS_wait4 | libc::SYS_waitid => Err(Errno::ECHILD.into()),

        libc::SYS_rt_sigaction => signal::rt_sigaction(ctx, a),
        libc::SYS_rt_sigprocmask => signal::rt_sigprocmask(ctx, a),
        libc::SYS_rt_sigreturn => signal::rt_sigreturn(ctx, a),
        libc::SYS_rt_sigpending => signal::rt_sigpending(ctx, a),
        libc::SYS_rt_sigsuspend => signal::rt_sigsuspend(ctx, a),
        libc::SYS_rt_sigtimedwait => signal::rt_sigtimedwait(ctx, a),
        libc::SYS_sigaltstack => signal::sigaltstack(ctx, a),
        libc::SYS_pause => signal::pause(ctx, a),
        libc::SYS_kill => signal::kill(ctx, a),
        libc::SYS_tkill => signal::tkill(ctx, a),
        libc::SYS_tgkill => signal::tgkill(ctx, a),

        libc::SYS_clock_gettime => time::clock_gettime(ctx, a),
        libc::SYS_clock_getres => time::clock_getres(ctx, a),
        libc::SYS_clock_nanosleep => time::clock_nanosleep(ctx, a),
        libc::SYS_nanosleep => time::nanosleep(ctx, a),
        libc::SYS_gettimeofday => time::gettimeofday(ctx, a),
        libc::SYS_time => time::time(ctx, a),
        libc::SYS_times => time::times(ctx, a),
        libc::SYS_getrusage => time::getrusage(ctx, a),

        libc::SYS_getpid => value(crate::process::table::PID as u64),
        libc::SYS_getppid => value(1),
        libc::SYS_getpgrp | libc::SYS_getpgid | libc::SYS_getsid => {
            value(crate::process::table::PID as u64)
        }
        libc::SYS_setpgid => value(0),
        libc::SYS_setsid => Err(Errno::EPERM.into()),
        libc::SYS_getuid | libc::SYS_geteuid => identity::uid(ctx),
        libc::SYS_getgid | libc::SYS_getegid => identity::gid(ctx),
        libc::SYS_getresuid => identity::getresuid(ctx, a),
        libc::SYS_getresgid => identity::getresgid(ctx, a),
        libc::SYS_getgroups => value(0),
        libc::SYS_uname => identity::uname(ctx, a),
        libc::SYS_sysinfo => identity::sysinfo(ctx, a),
        libc::SYS_getrandom => identity::getrandom(ctx, a),
        libc::SYS_prctl => identity::prctl(ctx, a),
        libc::SYS_prlimit64 => identity::prlimit64(ctx, a),
        libc::SYS_getrlimit => identity::getrlimit(ctx, a),
        libc::SYS_setrlimit => value(0),
        libc::SYS_getcpu => identity::getcpu(ctx, a),
        libc::SYS_getpriority => value(20),
        libc::SYS_setpriority => value(0),
        libc::SYS_sched_getparam => identity::sched_getparam(ctx, a),
        libc::SYS_sched_getscheduler => value(0),
        libc::SYS_sched_setscheduler => value(0),
        libc::SYS_membarrier => identity::membarrier(ctx, a),
        libc::SYS_personality => value(0),

        _ => file_call(ctx, number, a),
    }
}

/// Placeholder until the file layer is here: output only.
fn file_call(ctx: &mut ThreadCtx<'_>, number: u64, a: &[u64; 6]) -> CallResult {
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_write if a[0] == 1 || a[0] == 2 => {
            let mut buf = vec![0; (a[2] as usize).min(1 << 20)];
            ctx.process.space.copy_in(a[1], &mut buf)?;
            use std::io::Write;
            let done = if a[0] == 1 {
                std::io::stdout().write_all(&buf)
            } else {
                std::io::stderr().write_all(&buf)
            };
            let _ = std::io::stdout().flush();
            done.map_err(|_| Errno::EIO)?;
            value(buf.len() as u64)
        }
        libc::SYS_poll | libc::SYS_ioctl | libc::SYS_fcntl => value(0),
        _ => unserved(ctx, number),
    }
}

fn unserved(ctx: &ThreadCtx<'_>, number: u64) -> CallResult {
    if ctx.process.stats.unserved(number) {
        match names::name(number) {
            Some(name) => tracing::warn!("Linux call {name} ({number}) is not served: ENOSYS"),
            None => tracing::warn!("there is no Linux call {number}: ENOSYS"),
        }
    }
    Err(Errno::ENOSYS.into())
}

/// Ends the process.
///
/// # Errors
/// Never.
pub fn stop(ctx: &ThreadCtx<'_>, outcome: Outcome) -> CallResult {
    ctx.process.stop(outcome);
    Ok(Done::Stop)
}
