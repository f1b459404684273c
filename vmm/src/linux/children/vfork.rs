//! `vfork`, and `clone` with `CLONE_VM | CLONE_VFORK`: a process that runs in its parent's memory,
//! while the calling thread waits, until it starts a program or ends. `posix_spawn` is made of it.
//!
//! Since the calling thread does nothing meanwhile, its own host thread and vCPU run the child; what
//! Linux would give the child a copy of is copied here: descriptors, directory, umask, actions for
//! signals, mask, limits. The host process that will be the child is there from the beginning, with
//! its number, and does what only it can do for itself.
//!
//! Such a child may do little (vfork(2)); the calls that are served are listed below. All others give
//! `ENOSYS`: they would act on the parent.

use std::os::fd::AsFd;

use abi::addr::LOWER_HALF_END;
use abi::{Errno, GuestVirt};
use kvm_bindings::kvm_xsave;

use super::exec::NewProgram;
use crate::files::Files;
use crate::linux::limits::Limits;
use crate::linux::signal::SignalActions;
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, Done, value};
use crate::process_tree::{Channel, fork};
use crate::vm::UserRegs;

/// What the child's host process is told. The numbers are followed by 32-bit words.
pub mod order {
    /// Becomes the leader of a session; answers.
    pub const SETSID: u8 = 1;
    /// Enters the group of that number; answers.
    pub const SETPGID: u8 = 2;
    /// Ends with that status.
    pub const EXIT: u8 = 3;
    /// Ends by that signal.
    pub const DIE: u8 = 4;
    /// Is to run a program: the next message says which.
    pub const PROGRAM: u8 = 5;
    /// Is to go on as a copy of its parent: the next message says what that is. With 1, the parent
    /// waits until it has let go of its memory.
    pub const FORK: u8 = 6;
}

/// A child that runs in the memory of its parent, and what the parent goes on with.
#[derive(Debug)]
pub struct VforkChild {
    /// Its number.
    pub pid: i32,
    pub(in crate::linux) files: Files,
    pub(in crate::linux) actions: SignalActions,
    pub(in crate::linux) limits: Limits,
    pub(in crate::linux) mask: u64,
    channel: Channel,
    parent: ParentState,
}

struct ParentState {
    regs: UserRegs,
    fs_base: GuestVirt,
    gs_base: GuestVirt,
    fpu: Box<kvm_xsave>,
    mask: u64,
}

impl VforkChild {
    /// Whether it blocks a signal.
    pub(in crate::linux) fn blocks(&self, signal: i32) -> bool {
        1_u64.checked_shl((signal - 1).cast_unsigned()).is_some_and(|bit| self.mask & bit != 0)
    }
}

impl std::fmt::Debug for ParentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParentState").field("regs", &self.regs).finish_non_exhaustive()
    }
}

/// The arguments of `clone` for a process.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::linux) struct ForkArgs {
    pub(in crate::linux) stack_top: u64,
    /// `CLONE_SETTLS`.
    pub(in crate::linux) tls: Option<u64>,
    /// `CLONE_PARENT_SETTID`.
    pub(in crate::linux) parent_tid: Option<u64>,
    /// `CLONE_CHILD_SETTID`.
    pub(in crate::linux) child_tid: Option<u64>,
    /// `CLONE_CHILD_CLEARTID`: of a child with memory of its own.
    pub(in crate::linux) clear_tid: Option<u64>,
    /// `CLONE_VFORK`: the same.
    pub(in crate::linux) waits: bool,
    /// `CLONE_CLEAR_SIGHAND`.
    pub(in crate::linux) clear_handlers: bool,
}

/// Starts the child: the call returns in it first.
pub(in crate::linux) fn vfork(ctx: &mut ThreadCtx<'_>, args: ForkArgs) -> CallResult {
    let canonical = |raw: u64| match GuestVirt::new(raw) {
        Ok(base) if raw < LOWER_HALF_END => Ok(base),
        _ => Err(Errno::EPERM),
    };
    let fs_base = GuestVirt::new(ctx.vcpu.fs_base()).map_err(|_| Errno::EPERM)?;
    let gs_base = GuestVirt::new(ctx.vcpu.gs_base()).map_err(|_| Errno::EPERM)?;
    let child_fs = args.tls.map(canonical).transpose()?;
    let fpu = ctx.vcpu.fpu_state().map_err(|error| {
        tracing::warn!(error = %crate::error::chain(&error), "no new process for the program");
        Errno::EAGAIN
    })?;
    let made = ctx.process.children.make(ctx.process)?;
    let actions = ctx.process.signals.copy(args.clear_handlers);
    let parent = ParentState {
        regs: ctx.vcpu.regs,
        fs_base,
        gs_base,
        fpu: Box::new(fpu),
        mask: ctx.thread.signals.mask(),
    };
    let mask = parent.mask;
    ctx.child = Some(Box::new(VforkChild {
        pid: made.pid,
        files: ctx.process.files.for_child(),
        actions,
        limits: ctx.process.limits.copy(),
        mask,
        channel: made.channel,
        parent,
    }));
    // What is sent to the parent waits until it runs again, or goes to its other threads.
    ctx.thread.signals.block_all();
    let number = made.pid.to_le_bytes();
    for at in [args.parent_tid, args.child_tid].into_iter().flatten() {
        let _ = ctx.user().copy_out(at, &number);
    }
    if args.stack_top != 0 {
        ctx.vcpu.regs.rsp = args.stack_top;
    }
    if let Some(base) = child_fs {
        ctx.vcpu.set_fs_base(base);
    }
    value(0)
}

/// The parent goes on: its call returns the child's number.
fn resume_parent(ctx: &mut ThreadCtx<'_>) -> CallResult {
    let Some(child) = ctx.child.take() else { return Err(Errno::ENOSYS.into()) };
    let VforkChild { pid, parent, .. } = *child;
    ctx.vcpu.regs = parent.regs;
    ctx.vcpu.regs.rax = u64::from(pid.cast_unsigned());
    ctx.vcpu.restore_all();
    ctx.vcpu.set_fs_base(parent.fs_base);
    ctx.vcpu.set_gs_base(parent.gs_base);
    if let Err(error) = ctx.vcpu.set_fpu_state(&parent.fpu) {
        // It was this vCPU's own.
        let text =
            format!("a thread's FPU state cannot be restored: {}", crate::error::chain(&error));
        ctx.process.stop(crate::linux::task::Outcome::HostFailed(text));
        return Ok(Done::Stop);
    }
    ctx.thread.signals.block_only(parent.mask);
    Ok(Done::Registers)
}

/// Sends the program to the child's host process, which begins to run it; the parent goes on.
pub(super) fn start_program(ctx: &mut ThreadCtx<'_>, new: &NewProgram) -> CallResult {
    let Some(child) = &ctx.child else { return Err(Errno::ENOSYS.into()) };
    let (bytes, fds) = new.encode()?;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    ctx.process.children.note_started(child.pid);
    let sent = child.channel.send(&[order::PROGRAM], &[]);
    if let Err(error) = sent.and_then(|()| child.channel.send(&bytes, &fds)) {
        // It was killed: its status says so.
        tracing::debug!(%error, "a new process has ended before it was told what to run");
    }
    resume_parent(ctx)
}

/// Ends the child; the parent goes on.
fn end(ctx: &mut ThreadCtx<'_>, order: u8, number: i32) -> CallResult {
    if let Some(child) = &ctx.child {
        // Otherwise it has ended already.
        let _ = child.channel.send(&request(order, number), &[]);
    }
    resume_parent(ctx)
}

/// Ends the child by a signal that it raised or was not prepared for.
pub(crate) fn die(ctx: &mut ThreadCtx<'_>, signal: i32) {
    // Returns to the parent, or ends this process.
    let _ = end(ctx, order::DIE, signal);
}

fn request(order: u8, number: i32) -> Vec<u8> {
    [&[order], number.to_le_bytes().as_slice()].concat()
}

/// Has the child's host process do something, and returns its answer.
fn ask(child: &VforkChild, order: u8, number: i32) -> Result<i32, Errno> {
    const GONE: Errno = Errno::ESRCH;
    child.channel.send(&request(order, number), &[]).map_err(|_| GONE)?;
    let answer = child.channel.receive().ok().flatten().ok_or(GONE)?;
    match answer.bytes.first_chunk().map(|word| i32::from_le_bytes(*word)) {
        Some(number) if number >= 0 => Ok(number),
        Some(error) => Err(Errno::from_raw(error.saturating_neg())),
        None => Err(GONE),
    }
}

/// Serves a call of the child's that is not the same as the parent's; `None` for one that is, because
/// it acts on memory, which they share, or on what [`ThreadCtx::files`] and its kin give.
pub(in crate::linux) fn call(
    ctx: &mut ThreadCtx<'_>,
    number: u64,
    a: &[u64; 6],
) -> Option<CallResult> {
    let child = ctx.child.as_ref()?;
    let pid = child.pid;
    let result = match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_exit | libc::SYS_exit_group => {
            return Some(end(ctx, order::EXIT, i32::from(a[0] as u8)));
        }
        libc::SYS_getpid | libc::SYS_gettid => Ok(pid),
        libc::SYS_getppid => Ok(ctx.process.pid()),
        libc::SYS_getpgrp => fork::group_of(pid).map_err(|_| Errno::ESRCH),
        libc::SYS_getpgid => group_of(ctx, pid, a[0]),
        libc::SYS_getsid => match a[0] as i32 {
            0 => fork::session_of(pid).map_err(|_| Errno::ESRCH),
            other if other == pid => fork::session_of(pid).map_err(|_| Errno::ESRCH),
            _ => Err(Errno::ESRCH),
        },
        libc::SYS_setsid => ask(child, order::SETSID, 0),
        libc::SYS_setpgid => match (a[0] as i32, a[1] as i32) {
            (_, group) if group < 0 => Err(Errno::EINVAL),
            (who, group) if who == 0 || who == pid => match group == 0 || group == pid {
                true => ask(child, order::SETPGID, pid),
                false => ask(child, order::SETPGID, group),
            },
            _ => Err(Errno::ESRCH),
        },
        libc::SYS_kill | libc::SYS_tkill | libc::SYS_tgkill => {
            let signal = if number == libc::SYS_tgkill as u64 { a[2] } else { a[1] } as i32;
            match (a[0] as i32 == pid, signal) {
                (true, 0) => Ok(0),
                (true, 1..=64) => return Some(end(ctx, order::DIE, signal)),
                (true, _) => Err(Errno::EINVAL),
                (false, _) => Err(Errno::ESRCH),
            }
        }
        // None has arrived yet: none reaches it until its program runs.
        libc::SYS_rt_sigpending => match usize::try_from(a[1]) {
            Ok(bytes @ 0..=8) => {
                let none = [0; 8];
                ctx.user().copy_out(a[0], none.get(..bytes).unwrap_or_default()).map(|()| 0)
            }
            _ => Err(Errno::EINVAL),
        },
        served if is_same(served) => return None,
        _ => {
            if ctx.process.stats.unserved(number) {
                let name = crate::stats::names::name(number).unwrap_or("?");
                tracing::warn!("Linux call {name} is not served between vfork and execve: ENOSYS");
            }
            Err(Errno::ENOSYS)
        }
    };
    Some(match result {
        Ok(number) => value(u64::from(number.cast_unsigned())),
        Err(errno) => Err(errno.into()),
    })
}

fn group_of(ctx: &ThreadCtx<'_>, own: i32, pid: u64) -> Result<i32, Errno> {
    let pid = if pid as i32 == 0 { own } else { pid as i32 };
    match ctx.process.children.is_of_run(pid) {
        true => fork::group_of(pid).map_err(|_| Errno::ESRCH),
        false => Err(Errno::ESRCH),
    }
}

/// The calls that a child may make and that act on its own copies, or on the memory it shares.
fn is_same(number: i64) -> bool {
    matches!(
        number,
        libc::SYS_execve
            | libc::SYS_execveat
            | libc::SYS_rt_sigaction
            | libc::SYS_rt_sigprocmask
            | libc::SYS_sigaltstack
            | libc::SYS_brk
            | libc::SYS_mmap
            | libc::SYS_munmap
            | libc::SYS_mprotect
            | libc::SYS_mremap
            | libc::SYS_madvise
            | libc::SYS_futex
            | libc::SYS_sched_yield
            | libc::SYS_sched_getaffinity
            | libc::SYS_sched_setaffinity
            | libc::SYS_sched_getscheduler
            | libc::SYS_sched_setscheduler
            | libc::SYS_sched_getparam
            | libc::SYS_sched_setparam
            | libc::SYS_sched_getattr
            | libc::SYS_sched_setattr
            | libc::SYS_sched_rr_get_interval
            | libc::SYS_sched_get_priority_min
            | libc::SYS_sched_get_priority_max
            | libc::SYS_getpriority
            | libc::SYS_setpriority
            | libc::SYS_clock_gettime
            | libc::SYS_clock_nanosleep
            | libc::SYS_nanosleep
            | libc::SYS_gettimeofday
            | libc::SYS_time
            | libc::SYS_getrandom
            | libc::SYS_uname
            | libc::SYS_getuid
            | libc::SYS_geteuid
            | libc::SYS_getgid
            | libc::SYS_getegid
            | libc::SYS_getresuid
            | libc::SYS_getresgid
            | libc::SYS_setuid
            | libc::SYS_setgid
            | libc::SYS_setreuid
            | libc::SYS_setregid
            | libc::SYS_setresuid
            | libc::SYS_setresgid
            | libc::SYS_getgroups
            | libc::SYS_setgroups
            | libc::SYS_getrlimit
            | libc::SYS_prlimit64
            | libc::SYS_setrlimit
            | libc::SYS_read
            | libc::SYS_write
            | libc::SYS_readv
            | libc::SYS_writev
            | libc::SYS_pread64
            | libc::SYS_pwrite64
            | libc::SYS_poll
            | libc::SYS_ppoll
            | libc::SYS_ioctl
            | libc::SYS_open
            | libc::SYS_openat
            | libc::SYS_creat
            | libc::SYS_close
            | libc::SYS_close_range
            | libc::SYS_dup
            | libc::SYS_dup2
            | libc::SYS_dup3
            | libc::SYS_fcntl
            | libc::SYS_flock
            | libc::SYS_pipe
            | libc::SYS_pipe2
            | libc::SYS_lseek
            | libc::SYS_stat
            | libc::SYS_lstat
            | libc::SYS_fstat
            | libc::SYS_newfstatat
            | libc::SYS_statx
            | libc::SYS_access
            | libc::SYS_faccessat
            | libc::SYS_faccessat2
            | libc::SYS_getdents64
            | libc::SYS_readlink
            | libc::SYS_readlinkat
            | libc::SYS_chdir
            | libc::SYS_fchdir
            | libc::SYS_getcwd
            | libc::SYS_umask
            | libc::SYS_unlink
            | libc::SYS_unlinkat
    )
}
