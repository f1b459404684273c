//! The Linux calls a program makes, served on the host.
//!
//! One module per subject; a function takes the calling thread and the six argument registers as
//! Linux passes them and returns the value for RAX. Where decoding is all there is to do, the row
//! of the table does it. Numbers and meaning are Linux's for x86-64. A call that is not in the
//! table returns `ENOSYS`, is counted, and is named once in the log.
//!
//! Every argument comes from the guest: nothing here may panic on any value.

pub mod children;
pub mod core_dump;
pub mod credentials;
pub mod debug;
mod epoll;
pub mod fault;
pub mod file;
pub mod futex;
mod futex_owned;
mod futex_waitv;
pub(crate) mod host_fault;
pub mod identity;
pub mod io;
mod io_signals;
mod legacy;
pub mod limits;
pub mod memory;
mod mlock;
pub mod net;
mod operands;
pub mod pid;
mod pidfd;
pub mod prctl;
pub mod proc;
pub mod profile;
pub mod robust;
pub mod sched;
pub mod sigframe;
pub mod signal;
pub(crate) mod signalfd;
pub mod snapshot;
pub mod strace;
pub mod survivor;
pub mod sysv;
pub mod task;
mod terminal;
pub mod thread;
pub mod time;
pub mod timer;
mod timerfd;
pub mod transfer;
mod wait;
mod xattr;

use std::sync::atomic::{Ordering, compiler_fence};
use std::time::Instant;

use abi::Errno;

use credentials::{gid, uid};
use signal::{Again, Due, Interrupted};
use strace::{Call, Ended};
use task::{Outcome, ThreadCtx};
use transfer::{DRAIN, FILL};

use crate::stats::names;

/// What a thread does next.
#[derive(Debug)]
pub enum Next {
    /// Enter the guest again, after delivering what is due and the pending signals.
    Run(Due),
    /// Enter it again unchanged: it may be in the middle of the guest kernel.
    Resume,
    /// This thread has ended.
    ThreadEnds,
    /// The process has ended.
    Stop,
}

/// What a call did, when it did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// The value for RAX.
    Value(u64),
    /// The registers are already what they should be (`rt_sigreturn`).
    Registers,
    /// `rt_sigreturn` found no frame to restore.
    BadFrame,
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
    /// A signal arrived while the call was blocked: it is restarted unless a handler without
    /// `SA_RESTART` runs first.
    Restart,
    /// As `Restart`, whatever handler runs: a signal must not make a thread give up a lock.
    RestartAlways,
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

/// The end of a call that returns 0.
fn done(result: Result<(), Errno>) -> CallResult {
    result?;
    value(0)
}

/// The end of a call that returns a descriptor.
fn descriptor(result: Result<i32, Errno>) -> CallResult {
    value(result? as u64)
}

/// `AT_FDCWD`, for calls without a directory.
const CWD: i32 = libc::AT_FDCWD;
const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;

/// Bytes of the SYSCALL instruction, for going back to restart a call.
pub(crate) const SYSCALL_BYTES: u64 = 2;

/// Serves the Linux call in the registers of `ctx`.
pub fn syscall(ctx: &mut ThreadCtx<'_>) -> Next {
    let regs = &ctx.vcpu.regs;
    // Linux takes the number from EAX alone.
    let number = u64::from(regs.rax as u32);
    let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    ctx.thread.set_call(Some(number));
    // A viewer who comes now finds the call in the thread, or the thread finds the viewer: see `viewed`.
    compiler_fence(Ordering::SeqCst);
    let tracer = ctx.process.tracer();
    let call = Call { name: names::name(number), number, args };
    if let Some(tracer) = &tracer {
        tracer.begins(ctx, &call);
    }
    let began = Instant::now();
    let result = dispatch(ctx, number, &args);
    ctx.thread.set_call(None);
    ctx.process.stats.call(number, began.elapsed());
    if let Some(tracer) = &tracer {
        tracer.ends(ctx, &call, ended(ctx, result));
    }
    tracing::trace!(target: "linux", tid = ctx.thread.tid, number, ?args, ?result);
    finish(ctx, number, result)
}

fn ended(ctx: &ThreadCtx<'_>, result: CallResult) -> Ended {
    match result {
        Ok(Done::Value(value)) => Ended::Returned(Ok(value)),
        Ok(Done::Registers) => Ended::Returned(Ok(ctx.vcpu.regs.rax)),
        Ok(Done::BadFrame | Done::ThreadExit | Done::Stop) => Ended::Never,
        Err(Fail::Errno(errno)) => Ended::Returned(Err(errno)),
        Err(Fail::Restart) => Ended::Again { always: false },
        Err(Fail::RestartAlways) => Ended::Again { always: true },
    }
}

fn finish(ctx: &mut ThreadCtx<'_>, number: u64, result: CallResult) -> Next {
    match result {
        Ok(Done::Value(v)) => ctx.vcpu.regs.rax = v,
        Ok(Done::Registers) => {}
        Ok(Done::BadFrame) => return Next::Run(Due::BadFrame),
        Ok(Done::ThreadExit) => return Next::ThreadEnds,
        Ok(Done::Stop) => return Next::Stop,
        Err(Fail::Errno(errno)) => {
            if errno == Errno::EFBIG {
                signal::file_too_large(ctx);
            }
            ctx.vcpu.regs.rax = errno.as_result();
        }
        Err(fail @ (Fail::Restart | Fail::RestartAlways)) => {
            let again = match fail {
                Fail::RestartAlways => Again::Always,
                _ => Again::UnlessHandled,
            };
            ctx.vcpu.regs.rax = Errno::EINTR.as_result();
            let call = Interrupted { number, bytes: SYSCALL_BYTES, again };
            return Next::Run(Due::Call(call));
        }
    }
    Next::Run(Due::Nothing)
}

/// The table: number to function.
fn dispatch(ctx: &mut ThreadCtx<'_>, number: u64, a: &[u64; 6]) -> CallResult {
    if ctx.child.is_some()
        && let Some(result) = children::vfork::call(ctx, number, a)
    {
        return result;
    }
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_brk => memory::brk(ctx, a),
        libc::SYS_mmap => sysv::noting(ctx, a, memory::mmap),
        libc::SYS_munmap => sysv::noting(ctx, a, memory::munmap),
        libc::SYS_mprotect => memory::mprotect(ctx, a),
        libc::SYS_pkey_mprotect => memory::pkey_mprotect(ctx, a),
        libc::SYS_pkey_alloc => memory::pkey_alloc(ctx, a),
        libc::SYS_pkey_free => memory::pkey_free(ctx, a),
        libc::SYS_mremap => sysv::noting(ctx, a, memory::mremap),
        libc::SYS_shmget => sysv::shmget(ctx, a),
        libc::SYS_shmat => sysv::shmat(ctx, a),
        libc::SYS_shmdt => sysv::shmdt(ctx, a),
        libc::SYS_shmctl => sysv::shmctl(ctx, a),
        libc::SYS_semget => sysv::semget(ctx, a),
        libc::SYS_semop => sysv::semop(ctx, a),
        libc::SYS_semtimedop => sysv::semtimedop(ctx, a),
        libc::SYS_semctl => sysv::semctl(ctx, a),
        libc::SYS_msgget => sysv::msgget(ctx, a),
        libc::SYS_msgsnd => sysv::msgsnd(ctx, a),
        libc::SYS_msgrcv => sysv::msgrcv(ctx, a),
        libc::SYS_msgctl => sysv::msgctl(ctx, a),
        libc::SYS_madvise => memory::madvise(ctx, a),
        libc::SYS_mincore => memory::mincore(ctx, a),
        libc::SYS_msync => memory::msync(ctx, a),
        libc::SYS_mlock => mlock::mlock(ctx, &[a[0], a[1], 0, 0, 0, 0]),
        libc::SYS_mlock2 => mlock::mlock(ctx, a),
        libc::SYS_munlock => mlock::munlock(ctx, a),
        libc::SYS_munlockall => mlock::munlockall(ctx),
        libc::SYS_mlockall => mlock::mlockall(ctx, a),
        libc::SYS_get_mempolicy | libc::SYS_set_mempolicy | libc::SYS_mbind => {
            Err(Errno::ENOSYS.into())
        }
        libc::SYS_migrate_pages | libc::SYS_move_pages => Err(Errno::ENOSYS.into()),

        libc::SYS_clone => thread::clone(ctx, a),
        libc::SYS_clone3 => thread::clone3(ctx, a),
        libc::SYS_exit => thread::exit(ctx, a),
        libc::SYS_exit_group => stop(ctx, Outcome::Exited(a[0] as u8)),
        libc::SYS_set_tid_address => thread::set_tid_address(ctx, a),
        libc::SYS_set_robust_list => robust::set_robust_list(ctx, a),
        libc::SYS_get_robust_list => robust::get_robust_list(ctx, a),
        libc::SYS_gettid => value(ctx.thread.tid as u64),
        libc::SYS_futex => futex::futex(ctx, a),
        libc::SYS_futex_waitv => futex_waitv::futex_waitv(ctx, a),
        libc::SYS_sched_yield => thread::sched_yield(ctx, a),
        libc::SYS_sched_getaffinity => sched::getaffinity(ctx, a),
        libc::SYS_sched_setaffinity => sched::setaffinity(ctx, a),
        libc::SYS_rseq => Err(Errno::ENOSYS.into()),
        libc::SYS_arch_prctl => thread::arch_prctl(ctx, a),
        libc::SYS_fork => children::fork(ctx, children::vfork::ForkArgs::default()),
        libc::SYS_vfork => children::vfork::vfork(ctx, children::vfork::ForkArgs::default()),
        libc::SYS_execve => children::exec::execve(ctx, a),
        libc::SYS_execveat => children::exec::execveat(ctx, a),
        libc::SYS_wait4 => wait::wait4(ctx, a),
        libc::SYS_waitid => wait::waitid(ctx, a),

        libc::SYS_rt_sigaction => signal::rt_sigaction(ctx, a),
        libc::SYS_rt_sigprocmask => signal::rt_sigprocmask(ctx, a),
        libc::SYS_rt_sigreturn => signal::rt_sigreturn(ctx, a),
        libc::SYS_rt_sigpending => signal::rt_sigpending(ctx, a),
        libc::SYS_rt_sigsuspend => signal::rt_sigsuspend(ctx, a),
        libc::SYS_rt_sigtimedwait => signal::rt_sigtimedwait(ctx, a),
        libc::SYS_sigaltstack => signal::sigaltstack(ctx, a),
        libc::SYS_pause => signal::pause(ctx, a),
        libc::SYS_kill => signal::kill(ctx, a),
        libc::SYS_rt_sigqueueinfo => signal::rt_sigqueueinfo(ctx, a),
        libc::SYS_rt_tgsigqueueinfo => signal::rt_tgsigqueueinfo(ctx, a),
        libc::SYS_tkill => signal::tkill(ctx, a),
        libc::SYS_tgkill => signal::tgkill(ctx, a),

        libc::SYS_clock_gettime => time::clock_gettime(ctx, a),
        libc::SYS_clock_getres => time::clock_getres(ctx, a),
        libc::SYS_clock_nanosleep => time::clock_nanosleep(ctx, a),
        libc::SYS_nanosleep => time::sleep(ctx, libc::CLOCK_MONOTONIC, 0, a[0], a[1]),
        libc::SYS_gettimeofday => time::gettimeofday(ctx, a),
        libc::SYS_time => time::time(ctx, a),
        libc::SYS_clock_settime => time::clock_settime(ctx, a),
        libc::SYS_settimeofday => time::settimeofday(ctx, a),
        libc::SYS_adjtimex => time::adjtimex(ctx, a),
        libc::SYS_clock_adjtime => time::clock_adjtime(ctx, a),
        libc::SYS_alarm => timer::alarm(ctx, a),
        libc::SYS_setitimer => timer::setitimer(ctx, a),
        libc::SYS_getitimer => timer::getitimer(ctx, a),
        libc::SYS_timer_create => timer::timer_create(ctx, a),
        libc::SYS_timer_settime => timer::timer_settime(ctx, a),
        libc::SYS_timer_gettime => timer::timer_gettime(ctx, a),
        libc::SYS_timer_getoverrun => timer::timer_getoverrun(ctx, a),
        libc::SYS_timer_delete => timer::timer_delete(ctx, a),
        libc::SYS_times => time::times(ctx, a),
        libc::SYS_getrusage => time::getrusage(ctx, a),

        libc::SYS_getpid => value(ctx.process.pid() as u64),
        libc::SYS_getppid => pid::number(pid::parent()),
        libc::SYS_getpgrp => pid::number(crate::host::process_group()),
        libc::SYS_getpgid => pid::getpgid(ctx, a),
        libc::SYS_getsid => pid::getsid(ctx, a),
        libc::SYS_setpgid => pid::setpgid(ctx, a),
        libc::SYS_setsid => pid::setsid(ctx, a),
        libc::SYS_getuid | libc::SYS_geteuid => value(u64::from(uid())),
        libc::SYS_getgid | libc::SYS_getegid => value(u64::from(gid())),
        libc::SYS_getresuid => credentials::write_three(ctx, a, uid()),
        libc::SYS_getresgid => credentials::write_three(ctx, a, gid()),
        libc::SYS_setuid => credentials::set_one(a, uid()),
        libc::SYS_setgid => credentials::set_one(a, gid()),
        libc::SYS_setreuid => credentials::set_several(a, 2, uid()),
        libc::SYS_setregid => credentials::set_several(a, 2, gid()),
        libc::SYS_setresuid => credentials::set_several(a, 3, uid()),
        libc::SYS_setresgid => credentials::set_several(a, 3, gid()),
        // They never fail: they return the previous id, which is unchanged.
        libc::SYS_setfsuid => value(u64::from(uid())),
        libc::SYS_setfsgid => value(u64::from(gid())),
        libc::SYS_getgroups => credentials::getgroups(ctx, a),
        libc::SYS_setgroups => Err(Errno::EPERM.into()),
        libc::SYS_capget => credentials::capget(ctx, a),
        libc::SYS_capset => credentials::capset(ctx, a),
        libc::SYS_uname => identity::uname(ctx, a),
        libc::SYS_sysinfo => identity::sysinfo(ctx, a),
        libc::SYS_getrandom => identity::getrandom(ctx, a),
        libc::SYS_prctl => prctl::prctl(ctx, a),
        libc::SYS_personality => prctl::personality(ctx, a),
        libc::SYS_prlimit64 => limits::prlimit64(ctx, a),
        libc::SYS_getrlimit => limits::getrlimit(ctx, a),
        libc::SYS_setrlimit => limits::setrlimit(ctx, a),
        libc::SYS_getcpu => sched::getcpu(ctx, a),
        libc::SYS_getpriority => sched::getpriority(ctx, a),
        libc::SYS_setpriority => sched::setpriority(ctx, a),
        libc::SYS_ioprio_get => sched::ioprio_get(ctx, a),
        libc::SYS_ioprio_set => sched::ioprio_set(ctx, a),
        libc::SYS_sched_getparam => sched::getparam(ctx, a),
        libc::SYS_sched_setparam => sched::setparam(ctx, a),
        libc::SYS_sched_getscheduler => sched::getscheduler(ctx, a),
        libc::SYS_sched_setscheduler => sched::setscheduler(ctx, a),
        libc::SYS_sched_getattr => sched::getattr(ctx, a),
        libc::SYS_sched_setattr => sched::setattr(ctx, a),
        libc::SYS_sched_get_priority_min | libc::SYS_sched_get_priority_max => {
            sched::priority_bound(number, a)
        }
        libc::SYS_sched_rr_get_interval => sched::rr_get_interval(ctx, a),
        libc::SYS_membarrier => identity::membarrier(ctx, a),

        _ => file_call(ctx, number, a),
    }
}

/// The calls on files and descriptors. Older calls are the newer ones with a default, as in Linux
/// itself.
fn file_call(ctx: &mut ThreadCtx<'_>, number: u64, a: &[u64; 6]) -> CallResult {
    let (files, fd) = (ctx.files(), a[0] as i32);
    let path = |at| ctx.user().read_path(at);
    let put = |at, bytes: &[u8]| done(ctx.user().copy_out(at, bytes));
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_read => transfer::simple(ctx, a, FILL, None),
        libc::SYS_write => transfer::simple(ctx, a, DRAIN, None),
        libc::SYS_readv => transfer::vectored(ctx, a, FILL, None, 0),
        libc::SYS_writev => transfer::vectored(ctx, a, DRAIN, None, 0),
        libc::SYS_pread64 => transfer::simple(ctx, a, FILL, Some(a[3] as i64)),
        libc::SYS_pwrite64 => transfer::simple(ctx, a, DRAIN, Some(a[3] as i64)),
        libc::SYS_preadv => transfer::vectored(ctx, a, FILL, Some(a[3] as i64), 0),
        libc::SYS_preadv2 => transfer::vectored(ctx, a, FILL, transfer::given(a[3]), a[5]),
        libc::SYS_pwritev => transfer::vectored(ctx, a, DRAIN, Some(a[3] as i64), 0),
        libc::SYS_pwritev2 => transfer::vectored(ctx, a, DRAIN, transfer::given(a[3]), a[5]),
        libc::SYS_vmsplice => transfer::vmsplice(ctx, a),
        libc::SYS_poll => io::poll(ctx, a),
        libc::SYS_ppoll => io::ppoll(ctx, a),
        libc::SYS_select => io::select(ctx, a),
        libc::SYS_pselect6 => io::pselect6(ctx, a),
        libc::SYS_ioctl => io::ioctl(ctx, a),
        libc::SYS_epoll_create => epoll::create(ctx, a),
        libc::SYS_epoll_create1 => descriptor(files.epoll_create1(a[0] as i32)),
        libc::SYS_epoll_ctl => epoll::ctl(ctx, a),
        libc::SYS_epoll_wait => epoll::wait(ctx, a),
        libc::SYS_epoll_pwait => epoll::pwait(ctx, a),
        libc::SYS_epoll_pwait2 => epoll::pwait2(ctx, a),
        libc::SYS_timerfd_create => timerfd::create(ctx, a),
        libc::SYS_timerfd_settime => timerfd::settime(ctx, a),
        libc::SYS_timerfd_gettime => timerfd::gettime(ctx, a),
        libc::SYS_signalfd => signalfd::signalfd(ctx, a, 0),
        libc::SYS_signalfd4 => signalfd::signalfd(ctx, a, a[3] as i32),
        libc::SYS_pidfd_open => pidfd::open(ctx, a),
        libc::SYS_pidfd_send_signal => pidfd::send_signal(ctx, a),
        libc::SYS_pidfd_getfd => pidfd::getfd(ctx, a),
        libc::SYS_inotify_init => descriptor(files.inotify_init1(0)),
        libc::SYS_inotify_init1 => descriptor(files.inotify_init1(a[0] as i32)),
        libc::SYS_inotify_add_watch => {
            descriptor(files.inotify_add_watch(fd, &path(a[1])?, a[2] as u32))
        }
        libc::SYS_inotify_rm_watch => done(files.inotify_rm_watch(fd, a[1] as i32)),

        libc::SYS_open => file::open(ctx, CWD, &path(a[0])?, a[1] as i32, a[2] as u32),
        libc::SYS_creat => file::open(ctx, CWD, &path(a[0])?, file::CREAT, a[1] as u32),
        libc::SYS_openat => file::open(ctx, fd, &path(a[1])?, a[2] as i32, a[3] as u32),
        libc::SYS_close => done(files.close(fd)),
        libc::SYS_close_range => done(files.close_range(a[0] as u32, a[1] as u32, a[2] as u32)),
        libc::SYS_dup => descriptor(files.dup(fd)),
        libc::SYS_dup2 => descriptor(files.dup2(fd, a[1] as i32)),
        libc::SYS_dup3 => descriptor(files.dup3(fd, a[1] as i32, a[2] as i32)),
        libc::SYS_fcntl => file::fcntl(ctx, a),
        libc::SYS_flock => file::flock(ctx, a),
        libc::SYS_pipe => file::pipe2(ctx, a[0], 0),
        libc::SYS_pipe2 => file::pipe2(ctx, a[0], a[1] as i32),
        libc::SYS_eventfd => descriptor(files.eventfd2(a[0] as u32, 0)),
        libc::SYS_eventfd2 => descriptor(files.eventfd2(a[0] as u32, a[1] as i32)),
        libc::SYS_memfd_create => descriptor(files.memfd_create(&path(a[0])?, a[1] as u32)),

        libc::SYS_stat => put(a[1], &files.newfstatat(CWD, &path(a[0])?, 0)?.encode()),
        libc::SYS_lstat => put(a[1], &files.newfstatat(CWD, &path(a[0])?, NOFOLLOW)?.encode()),
        libc::SYS_fstat => put(a[1], &files.fstat(fd)?.encode()),
        libc::SYS_newfstatat => {
            put(a[2], &files.newfstatat(fd, &path(a[1])?, a[3] as u32)?.encode())
        }
        libc::SYS_statx => put(a[4], &files.statx(fd, &path(a[1])?, a[2] as u32, a[3] as u32)?),
        libc::SYS_statfs => put(a[1], &files.statfs(&path(a[0])?)?),
        libc::SYS_fstatfs => put(a[1], &files.fstatfs(fd)?),
        libc::SYS_access => done(files.faccessat2(CWD, &path(a[0])?, a[1] as u32, 0)),
        libc::SYS_faccessat => done(files.faccessat2(fd, &path(a[1])?, a[2] as u32, 0)),
        libc::SYS_faccessat2 => done(files.faccessat2(fd, &path(a[1])?, a[2] as u32, a[3] as u32)),
        libc::SYS_getdents => legacy::getdents(ctx, a),
        libc::SYS_getdents64 => file::getdents64(ctx, a),
        libc::SYS_readlink => file::readlink(ctx, CWD, a[0], a[1], a[2]),
        libc::SYS_readlinkat => file::readlink(ctx, fd, a[1], a[2], a[3]),

        libc::SYS_mkdir => done(files.mkdirat(CWD, &path(a[0])?, a[1] as u32)),
        libc::SYS_mkdirat => done(files.mkdirat(fd, &path(a[1])?, a[2] as u32)),
        libc::SYS_mknod => done(files.mknodat(CWD, &path(a[0])?, a[1] as u32)),
        libc::SYS_mknodat => done(files.mknodat(fd, &path(a[1])?, a[2] as u32)),
        libc::SYS_unlink => done(files.unlinkat(CWD, &path(a[0])?, 0)),
        libc::SYS_rmdir => done(files.unlinkat(CWD, &path(a[0])?, libc::AT_REMOVEDIR as u32)),
        libc::SYS_unlinkat => done(files.unlinkat(fd, &path(a[1])?, a[2] as u32)),
        libc::SYS_rename => done(files.renameat2(CWD, &path(a[0])?, CWD, &path(a[1])?, 0)),
        libc::SYS_renameat => done(files.renameat2(fd, &path(a[1])?, a[2] as i32, &path(a[3])?, 0)),
        libc::SYS_renameat2 => {
            done(files.renameat2(fd, &path(a[1])?, a[2] as i32, &path(a[3])?, a[4] as u32))
        }
        libc::SYS_link => done(files.linkat(CWD, &path(a[0])?, CWD, &path(a[1])?, 0)),
        libc::SYS_linkat => {
            done(files.linkat(fd, &path(a[1])?, a[2] as i32, &path(a[3])?, a[4] as u32))
        }
        libc::SYS_symlink => done(files.symlinkat(&path(a[0])?, CWD, &path(a[1])?)),
        libc::SYS_symlinkat => done(files.symlinkat(&path(a[0])?, a[1] as i32, &path(a[2])?)),

        libc::SYS_lseek => value(files.lseek(fd, a[1] as i64, a[2] as i32)?),
        libc::SYS_truncate => done(files.truncate(&path(a[0])?, a[1] as i64)),
        libc::SYS_ftruncate => done(files.ftruncate(fd, a[1] as i64)),
        libc::SYS_fallocate => done(files.fallocate(fd, a[1] as u32, a[2] as i64, a[3] as i64)),
        libc::SYS_fsync => done(files.fsync(fd)),
        libc::SYS_fdatasync => done(files.fdatasync(fd)),
        libc::SYS_sync => legacy::sync(ctx, a),
        libc::SYS_syncfs => done(files.syncfs(fd)),
        libc::SYS_sync_file_range => {
            done(files.sync_file_range(fd, a[1] as i64, a[2] as i64, a[3] as u32))
        }
        libc::SYS_fadvise64 => done(files.fadvise64(fd, a[1] as i64, a[2] as i64, a[3] as i32)),
        libc::SYS_readahead => done(files.readahead(fd, a[1] as i64, a[2])),
        libc::SYS_copy_file_range => file::copy_file_range(ctx, a),
        libc::SYS_sendfile => file::sendfile(ctx, a),
        libc::SYS_splice => file::splice(ctx, a),
        libc::SYS_tee => file::tee(ctx, a),

        libc::SYS_chdir => moved(ctx, files.chdir(&path(a[0])?)),
        libc::SYS_chroot => Err(file::chroot(ctx, a).into()),
        libc::SYS_fchdir => moved(ctx, files.fchdir(fd)),
        libc::SYS_getcwd => file::getcwd(ctx, a),
        libc::SYS_umask => value(u64::from(files.umask(a[0] as u32))),
        libc::SYS_chmod => done(files.fchmodat2(CWD, &path(a[0])?, a[1] as u32, 0)),
        libc::SYS_fchmod => done(files.fchmod(fd, a[1] as u32)),
        libc::SYS_fchmodat => done(files.fchmodat2(fd, &path(a[1])?, a[2] as u32, 0)),
        libc::SYS_fchmodat2 => done(files.fchmodat2(fd, &path(a[1])?, a[2] as u32, a[3] as u32)),
        libc::SYS_chown => done(files.fchownat(CWD, &path(a[0])?, a[1] as u32, a[2] as u32, 0)),
        libc::SYS_lchown => {
            done(files.fchownat(CWD, &path(a[0])?, a[1] as u32, a[2] as u32, NOFOLLOW))
        }
        libc::SYS_fchown => done(files.fchown(fd, a[1] as u32, a[2] as u32)),
        libc::SYS_fchownat => {
            done(files.fchownat(fd, &path(a[1])?, a[2] as u32, a[3] as u32, a[4] as u32))
        }
        libc::SYS_utime => legacy::utime(ctx, a),
        libc::SYS_futimesat => file::futimesat(ctx, fd, a[1], a[2]),
        libc::SYS_utimensat => file::utimensat(ctx, a),
        libc::SYS_utimes => file::futimesat(ctx, CWD, a[0], a[1]),

        libc::SYS_getxattr => xattr::get(ctx, a, xattr::Form::Follow),
        libc::SYS_lgetxattr => xattr::get(ctx, a, xattr::Form::NoFollow),
        libc::SYS_fgetxattr => xattr::get(ctx, a, xattr::Form::Descriptor),
        libc::SYS_setxattr => xattr::set(ctx, a, xattr::Form::Follow),
        libc::SYS_lsetxattr => xattr::set(ctx, a, xattr::Form::NoFollow),
        libc::SYS_fsetxattr => xattr::set(ctx, a, xattr::Form::Descriptor),
        libc::SYS_listxattr => xattr::list(ctx, a, xattr::Form::Follow),
        libc::SYS_llistxattr => xattr::list(ctx, a, xattr::Form::NoFollow),
        libc::SYS_flistxattr => xattr::list(ctx, a, xattr::Form::Descriptor),
        libc::SYS_removexattr => xattr::remove(ctx, a, xattr::Form::Follow),
        libc::SYS_lremovexattr => xattr::remove(ctx, a, xattr::Form::NoFollow),
        libc::SYS_fremovexattr => xattr::remove(ctx, a, xattr::Form::Descriptor),
        libc::SYS_sysfs => legacy::sysfs(ctx, a),
        libc::SYS_ustat => legacy::ustat(ctx, a),
        libc::SYS_sethostname | libc::SYS_setdomainname => Err(Errno::EPERM.into()),
        libc::SYS_name_to_handle_at => Err(Errno::EOPNOTSUPP.into()),
        libc::SYS_open_by_handle_at => Err(Errno::EPERM.into()),
        _ => socket_call(ctx, number, a),
    }
}

/// The calls on sockets.
/// After a change of the current directory, which other processes see.
fn moved(ctx: &ThreadCtx<'_>, result: Result<(), Errno>) -> CallResult {
    result?;
    if ctx.child.is_none() {
        ctx.process.show();
    }
    value(0)
}

fn socket_call(ctx: &mut ThreadCtx<'_>, number: u64, a: &[u64; 6]) -> CallResult {
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_socket => net::create(ctx, a),
        libc::SYS_socketpair => net::socketpair(ctx, a),
        libc::SYS_bind => net::bind(ctx, a),
        libc::SYS_connect => net::connect(ctx, a),
        libc::SYS_listen => net::listen(ctx, a),
        libc::SYS_accept => net::accept(ctx, a),
        libc::SYS_accept4 => net::accept4(ctx, a),
        libc::SYS_shutdown => net::shutdown(ctx, a),
        libc::SYS_getsockname => net::getsockname(ctx, a),
        libc::SYS_getpeername => net::getpeername(ctx, a),
        libc::SYS_getsockopt => net::getsockopt(ctx, a),
        libc::SYS_setsockopt => net::setsockopt(ctx, a),
        libc::SYS_sendto => net::sendto(ctx, a),
        libc::SYS_recvfrom => net::recvfrom(ctx, a),
        libc::SYS_sendmsg => net::sendmsg(ctx, a),
        libc::SYS_recvmsg => net::recvmsg(ctx, a),
        libc::SYS_sendmmsg => net::sendmmsg(ctx, a),
        libc::SYS_recvmmsg => net::recvmmsg(ctx, a),
        _ => privileged(ctx, number),
    }
}

/// Calls that need a privilege: the program has none.
fn privileged(ctx: &mut ThreadCtx<'_>, number: u64) -> CallResult {
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_acct
        | libc::SYS_delete_module
        | libc::SYS_finit_module
        | libc::SYS_init_module
        | libc::SYS_ioperm
        | libc::SYS_iopl
        | libc::SYS_kexec_load
        | libc::SYS_pivot_root
        | libc::SYS_reboot
        | libc::SYS_swapoff
        | libc::SYS_swapon
        | libc::SYS_syslog
        | libc::SYS_vhangup => Err(Errno::EPERM.into()),
        _ => unserved(ctx, number),
    }
}

fn unserved(ctx: &ThreadCtx<'_>, number: u64) -> CallResult {
    if ctx.process.stats.unserved(number) {
        match crate::stats::names::name(number) {
            Some(name) if PROBES.contains(&(number as i64)) => {
                tracing::debug!("Linux call {name} ({number}) is not served: ENOSYS");
            }
            Some(name) => tracing::warn!("Linux call {name} ({number}) is not served: ENOSYS"),
            None => tracing::warn!("there is no Linux call {number}: ENOSYS"),
        }
    }
    Err(Errno::ENOSYS.into())
}

/// Calls that run-time libraries try and can do without: their absence is not worth a message.
const PROBES: [i64; 10] = [
    libc::SYS_add_key,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_memfd_secret,
    libc::SYS_openat2,
    libc::SYS_perf_event_open,
    libc::SYS_process_vm_readv,
    libc::SYS_seccomp,
    libc::SYS_userfaultfd,
];

/// Ends the process.
///
/// # Errors
/// Never.
pub fn stop(ctx: &ThreadCtx<'_>, outcome: Outcome) -> CallResult {
    ctx.process.stop(outcome);
    Ok(Done::Stop)
}
