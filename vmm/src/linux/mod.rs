//! The Linux calls a program makes, served on the host.
//!
//! One module per subject; each function takes the calling thread and the six argument
//! registers as Linux passes them and returns the value for RAX. Numbers and meaning are
//! Linux's for x86-64. A call that is not in the table returns `ENOSYS`, is counted, and is
//! named once in the log.
//!
//! Every argument comes from the guest: nothing here may panic on any value.

pub mod credentials;
pub mod fault;
pub mod file;
pub mod futex;
mod futex_waitv;
pub(crate) mod host_fault;
pub mod identity;
pub mod io;
mod legacy;
pub mod limits;
pub mod memory;
mod mlock;
pub mod net;
pub mod pid;
pub mod prctl;
pub mod proc;
pub mod robust;
pub mod sched;
pub mod sigframe;
pub mod signal;
pub mod survivor;
pub mod task;
pub mod thread;
pub mod time;
pub mod timer;
pub mod transfer;
mod wait;
mod xattr;

use std::time::Instant;

use abi::Errno;

use signal::{Again, Due, Interrupted};
use task::{Outcome, ThreadCtx};

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

/// Bytes of the SYSCALL instruction, for going back to restart a call.
const SYSCALL_BYTES: u64 = 2;

/// Serves the Linux call in the registers of `ctx`.
pub fn syscall(ctx: &mut ThreadCtx<'_>) -> Next {
    let regs = &ctx.vcpu.regs;
    // Linux takes the number from EAX alone.
    let number = u64::from(regs.rax as u32);
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
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_brk => memory::brk(ctx, a),
        libc::SYS_mmap => memory::mmap(ctx, a),
        libc::SYS_munmap => memory::munmap(ctx, a),
        libc::SYS_mprotect => memory::mprotect(ctx, a),
        libc::SYS_mremap => memory::mremap(ctx, a),
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
        libc::SYS_exit_group => thread::exit_group(ctx, a),
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
        libc::SYS_fork | libc::SYS_vfork | libc::SYS_execve | libc::SYS_execveat => {
            thread::no_processes(ctx, number)
        }
        libc::SYS_wait4 => Err(wait::wait4(a).into()),
        libc::SYS_waitid => Err(wait::waitid(ctx, a).into()),

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
        libc::SYS_nanosleep => time::nanosleep(ctx, a),
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
        libc::SYS_getppid => pid::getppid(ctx, a),
        libc::SYS_getpgrp => pid::getpgrp(ctx, a),
        libc::SYS_getpgid => pid::getpgid(ctx, a),
        libc::SYS_getsid => pid::getsid(ctx, a),
        libc::SYS_setpgid => pid::setpgid(ctx, a),
        libc::SYS_setsid => pid::setsid(ctx, a),
        libc::SYS_getuid | libc::SYS_geteuid => credentials::getuid(),
        libc::SYS_getgid | libc::SYS_getegid => credentials::getgid(),
        libc::SYS_getresuid => credentials::getresuid(ctx, a),
        libc::SYS_getresgid => credentials::getresgid(ctx, a),
        libc::SYS_setuid => credentials::setuid(a),
        libc::SYS_setgid => credentials::setgid(a),
        libc::SYS_setreuid => credentials::set_uids(a, 2),
        libc::SYS_setregid => credentials::set_gids(a, 2),
        libc::SYS_setresuid => credentials::set_uids(a, 3),
        libc::SYS_setresgid => credentials::set_gids(a, 3),
        // They never fail: they return the previous id, which is unchanged.
        libc::SYS_setfsuid => credentials::getuid(),
        libc::SYS_setfsgid => credentials::getgid(),
        libc::SYS_getgroups => credentials::getgroups(a),
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
        libc::SYS_sched_get_priority_min => sched::get_priority_min(a),
        libc::SYS_sched_get_priority_max => sched::get_priority_max(a),
        libc::SYS_sched_rr_get_interval => sched::rr_get_interval(ctx, a),
        libc::SYS_membarrier => identity::membarrier(ctx, a),

        _ => file_call(ctx, number, a),
    }
}

/// The calls on files and descriptors.
fn file_call(ctx: &mut ThreadCtx<'_>, number: u64, a: &[u64; 6]) -> CallResult {
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_read => transfer::read(ctx, a),
        libc::SYS_write => transfer::write(ctx, a),
        libc::SYS_readv => transfer::readv(ctx, a),
        libc::SYS_writev => transfer::writev(ctx, a),
        libc::SYS_pread64 => transfer::pread(ctx, a),
        libc::SYS_pwrite64 => transfer::pwrite(ctx, a),
        libc::SYS_preadv => transfer::preadv(ctx, a),
        libc::SYS_preadv2 => transfer::preadv2(ctx, a),
        libc::SYS_pwritev => transfer::pwritev(ctx, a),
        libc::SYS_pwritev2 => transfer::pwritev2(ctx, a),
        libc::SYS_vmsplice => transfer::vmsplice(ctx, a),
        libc::SYS_poll => io::poll(ctx, a),
        libc::SYS_ppoll => io::ppoll(ctx, a),
        libc::SYS_select => io::select(ctx, a),
        libc::SYS_pselect6 => io::pselect6(ctx, a),
        libc::SYS_ioctl => io::ioctl(ctx, a),

        libc::SYS_open => file::open(ctx, a),
        libc::SYS_creat => file::creat(ctx, a),
        libc::SYS_openat => file::openat(ctx, a),
        libc::SYS_close => file::close(ctx, a),
        libc::SYS_close_range => file::close_range(ctx, a),
        libc::SYS_dup => file::dup(ctx, a),
        libc::SYS_dup2 => file::dup2(ctx, a),
        libc::SYS_dup3 => file::dup3(ctx, a),
        libc::SYS_fcntl => file::fcntl(ctx, a),
        libc::SYS_flock => file::flock(ctx, a),
        libc::SYS_pipe => file::pipe2(ctx, &[a[0], 0, 0, 0, 0, 0]),
        libc::SYS_pipe2 => file::pipe2(ctx, a),
        libc::SYS_eventfd => file::eventfd2(ctx, &[a[0], 0, 0, 0, 0, 0]),
        libc::SYS_eventfd2 => file::eventfd2(ctx, a),
        libc::SYS_memfd_create => file::memfd_create(ctx, a),

        libc::SYS_stat => file::stat(ctx, a),
        libc::SYS_lstat => file::lstat(ctx, a),
        libc::SYS_fstat => file::fstat(ctx, a),
        libc::SYS_newfstatat => file::newfstatat(ctx, a),
        libc::SYS_statx => file::statx(ctx, a),
        libc::SYS_statfs => file::statfs(ctx, a),
        libc::SYS_fstatfs => file::fstatfs(ctx, a),
        libc::SYS_access => file::access(ctx, a),
        libc::SYS_faccessat => file::faccessat(ctx, a),
        libc::SYS_faccessat2 => file::faccessat2(ctx, a),
        libc::SYS_getdents => legacy::getdents(ctx, a),
        libc::SYS_getdents64 => file::getdents64(ctx, a),
        libc::SYS_readlink => file::readlink(ctx, a),
        libc::SYS_readlinkat => file::readlinkat(ctx, a),

        libc::SYS_mkdir => file::mkdir(ctx, a),
        libc::SYS_mkdirat => file::mkdirat(ctx, a),
        libc::SYS_mknod => file::mknod(ctx, a),
        libc::SYS_mknodat => file::mknodat(ctx, a),
        libc::SYS_unlink => file::unlink(ctx, a),
        libc::SYS_rmdir => file::rmdir(ctx, a),
        libc::SYS_unlinkat => file::unlinkat(ctx, a),
        libc::SYS_rename => file::rename(ctx, a),
        libc::SYS_renameat => file::renameat(ctx, a),
        libc::SYS_renameat2 => file::renameat2(ctx, a),
        libc::SYS_link => file::link(ctx, a),
        libc::SYS_linkat => file::linkat(ctx, a),
        libc::SYS_symlink => file::symlink(ctx, a),
        libc::SYS_symlinkat => file::symlinkat(ctx, a),

        libc::SYS_lseek => file::lseek(ctx, a),
        libc::SYS_truncate => file::truncate(ctx, a),
        libc::SYS_ftruncate => file::ftruncate(ctx, a),
        libc::SYS_fallocate => file::fallocate(ctx, a),
        libc::SYS_fsync => file::fsync(ctx, a),
        libc::SYS_fdatasync => file::fdatasync(ctx, a),
        libc::SYS_sync => legacy::sync(ctx, a),
        libc::SYS_syncfs => file::syncfs(ctx, a),
        libc::SYS_sync_file_range => file::sync_file_range(ctx, a),
        libc::SYS_fadvise64 => file::fadvise64(ctx, a),
        libc::SYS_readahead => file::readahead(ctx, a),
        libc::SYS_copy_file_range => file::copy_file_range(ctx, a),
        libc::SYS_sendfile => file::sendfile(ctx, a),
        libc::SYS_splice => file::splice(ctx, a),
        libc::SYS_tee => file::tee(ctx, a),

        libc::SYS_chdir => file::chdir(ctx, a),
        libc::SYS_chroot => Err(file::chroot(ctx, a).into()),
        libc::SYS_fchdir => file::fchdir(ctx, a),
        libc::SYS_getcwd => file::getcwd(ctx, a),
        libc::SYS_umask => file::umask(ctx, a),
        libc::SYS_chmod => file::chmod(ctx, a),
        libc::SYS_fchmod => file::fchmod(ctx, a),
        libc::SYS_fchmodat => file::fchmodat(ctx, a),
        libc::SYS_fchmodat2 => file::fchmodat2(ctx, a),
        libc::SYS_chown => file::chown(ctx, a),
        libc::SYS_lchown => file::lchown(ctx, a),
        libc::SYS_fchown => file::fchown(ctx, a),
        libc::SYS_fchownat => file::fchownat(ctx, a),
        libc::SYS_utime => legacy::utime(ctx, a),
        libc::SYS_futimesat => legacy::futimesat(ctx, a),
        libc::SYS_utimensat => file::utimensat(ctx, a),
        libc::SYS_utimes => file::utimes(ctx, a),

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
        libc::SYS_socket | libc::SYS_socketpair => Err(Errno::from_raw(libc::EAFNOSUPPORT).into()),
        libc::SYS_getpeername
        | libc::SYS_getsockname
        | libc::SYS_bind
        | libc::SYS_connect
        | libc::SYS_listen
        | libc::SYS_accept
        | libc::SYS_shutdown
        | libc::SYS_getsockopt
        | libc::SYS_setsockopt
        | libc::SYS_sendto
        | libc::SYS_recvfrom
        | libc::SYS_sendmsg
        | libc::SYS_recvmsg
        | libc::SYS_sendmmsg
        | libc::SYS_recvmmsg => net::on_descriptor(ctx, a[0]),
        libc::SYS_accept4 => net::accept4(ctx, a),
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
const PROBES: [i64; 11] = [
    libc::SYS_add_key,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_memfd_secret,
    libc::SYS_openat2,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_open,
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
