//! Thread calls: a thread is a vCPU.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::addr::LOWER_HALF_END;
use abi::{Errno, GuestVirt, PAGE_SIZE};

use super::children::vfork::ForkArgs;
use super::{CallResult, Done, children, futex, value};
use crate::linux::task::{Prepared, Process, Thread, ThreadCtx};
use crate::vas;

/// The flags that every thread library sets: one memory, one file table, one process.
const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD) as u64;
const CLONE_SETTLS: u64 = libc::CLONE_SETTLS as u64;
const CLONE_PARENT_SETTID: u64 = libc::CLONE_PARENT_SETTID as u64;
const CLONE_CHILD_SETTID: u64 = libc::CLONE_CHILD_SETTID as u64;
const CLONE_CHILD_CLEARTID: u64 = libc::CLONE_CHILD_CLEARTID as u64;

/// Flags that have no effect for a thread here: threads are not traced, and what they share with
/// the caller is shared by all threads anyway.
const IDLE_FLAGS: u64 =
    (libc::CLONE_SYSVSEM | libc::CLONE_PTRACE | libc::CLONE_UNTRACED | libc::CLONE_PARENT) as u64
        | CLONE_IO
        | CLONE_DETACHED;
/// Bit 31: the C library's constant is negative.
const CLONE_IO: u64 = 0x8000_0000;
/// Without meaning in all current kernels; `clone3` refuses it.
const CLONE_DETACHED: u64 = 0x0040_0000;
/// New name spaces, which a thread could have but for the privilege they need.
const PRIVILEGED_FLAGS: u64 =
    (libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP) as u64;
const ALL_FLAGS: u64 = THREAD_FLAGS
    | IDLE_FLAGS
    | PRIVILEGED_FLAGS
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_SETTID
    | CLONE_CHILD_CLEARTID;

struct CloneArgs {
    flags: u64,
    child_tid: u64,
    parent_tid: u64,
    stack_top: u64,
    tls: u64,
}

/// `clone(2)`.
pub(super) fn clone(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [flags, stack_top, parent_tid, child_tid, tls, _] = *a;
    let exit_signal = flags & 0xff;
    let args = CloneArgs { flags: flags & !0xff, child_tid, parent_tid, stack_top, tls };
    match is_process(flags, exit_signal) {
        true => process(ctx, &args),
        false => start(ctx, &args),
    }
}

/// `clone3(2)`.
pub(super) fn clone3(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    const FIRST_VERSION_BYTES: usize = 64;
    const WORDS: usize = 11;
    let bytes = usize::try_from(a[1]).unwrap_or(usize::MAX);
    if bytes > PAGE_SIZE as usize {
        return Err(Errno::from_raw(libc::E2BIG).into());
    }
    if bytes < FIRST_VERSION_BYTES {
        return Err(Errno::EINVAL.into());
    }
    let mut given = vec![0; bytes.max(WORDS * 8)];
    ctx.user().copy_in(a[0], given.get_mut(..bytes).unwrap_or_default())?;
    // Fields that a newer Linux would interpret must not be ignored.
    if given.iter().skip(WORDS * 8).any(|byte| *byte != 0) {
        return Err(Errno::from_raw(libc::E2BIG).into());
    }
    let words = given.as_chunks().0.first_chunk::<WORDS>().ok_or(Errno::EINVAL)?;
    let [flags, _, child_tid, parent_tid, exit_signal, stack, stack_bytes, tls, set_tid, tids, _] =
        words.map(u64::from_le_bytes);
    let half_a_stack = (stack == 0) != (stack_bytes == 0);
    if is_process(flags, exit_signal) && !half_a_stack && set_tid == 0 && tids == 0 {
        let stack_top = stack.wrapping_add(stack_bytes);
        return process(ctx, &CloneArgs { flags, child_tid, parent_tid, stack_top, tls });
    }
    if flags & THREAD_FLAGS != THREAD_FLAGS {
        return no_processes(ctx, libc::SYS_clone3 as u64);
    }
    if flags & CLONE_DETACHED != 0
        || exit_signal != 0
        || half_a_stack
        || (set_tid == 0) != (tids == 0)
    {
        return Err(Errno::EINVAL.into());
    }
    // Choosing a number needs a privilege.
    if tids != 0 {
        return Err(Errno::EPERM.into());
    }
    let args =
        CloneArgs { flags, child_tid, parent_tid, stack_top: stack.wrapping_add(stack_bytes), tls };
    start(ctx, &args)
}

const CLONE_VFORK: u64 = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
/// Only `clone3` has it.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// What a child can have besides: nothing that it would share with the parent but memory until it runs a
/// program, and no other parent.
const PROCESS_FLAGS: u64 = CLONE_VFORK
    | CLONE_CLEAR_SIGHAND
    | CLONE_IO
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_SETTID
    | CLONE_CHILD_CLEARTID
    | (libc::CLONE_UNTRACED | libc::CLONE_PTRACE | libc::CLONE_SYSVSEM) as u64;

/// Whether a call makes a process as `fork` does, or as `vfork`.
fn is_process(flags: u64, exit_signal: u64) -> bool {
    let flags = flags & !0xff;
    // A child that shares the memory while its parent goes on would be neither.
    let shares = flags & CLONE_VFORK == libc::CLONE_VM as u64;
    !shares && flags & !PROCESS_FLAGS == 0 && exit_signal == libc::SIGCHLD as u64
}

fn process(ctx: &mut ThreadCtx<'_>, args: &CloneArgs) -> CallResult {
    let has = |flag: u64| args.flags & flag != 0;
    let with = |flag: u64, value: u64| has(flag).then_some(value);
    let process = ForkArgs {
        stack_top: args.stack_top,
        tls: with(CLONE_SETTLS, args.tls),
        parent_tid: with(CLONE_PARENT_SETTID, args.parent_tid),
        child_tid: with(CLONE_CHILD_SETTID, args.child_tid),
        clear_tid: with(CLONE_CHILD_CLEARTID, args.child_tid),
        waits: has(libc::CLONE_VFORK as u64),
        clear_handlers: has(CLONE_CLEAR_SIGHAND),
    };
    match has(libc::CLONE_VM as u64) {
        true => children::vfork::vfork(ctx, process),
        false => children::fork(ctx, process),
    }
}

/// Refuses a new process; the log says what to do instead.
pub(super) fn no_processes(ctx: &ThreadCtx<'_>, number: u64) -> CallResult {
    if ctx.process.stats.unserved(number) {
        tracing::warn!(
            number,
            "the program asked for a process that cannot be made: with --processes 1 there are no \
             others, and one that shares its parent's memory or files is not served"
        );
    }
    Err(Errno::ENOSYS.into())
}

fn start(ctx: &mut ThreadCtx<'_>, args: &CloneArgs) -> CallResult {
    // What of these flags needs which others (clone(2)).
    let [memory, handlers, thread] = [libc::CLONE_VM, libc::CLONE_SIGHAND, libc::CLONE_THREAD]
        .map(|flag| args.flags & flag as u64 != 0);
    if (thread && !handlers) || (handlers && !memory) {
        return Err(Errno::EINVAL.into());
    }
    if args.flags & THREAD_FLAGS != THREAD_FLAGS {
        return no_processes(ctx, libc::SYS_clone as u64);
    }
    if args.flags & !ALL_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    if args.flags & PRIVILEGED_FLAGS != 0 {
        return Err(Errno::EPERM.into());
    }
    if args.tls >= LOWER_HALF_END && args.flags & CLONE_SETTLS != 0 {
        return Err(Errno::EPERM.into());
    }
    let threads = &ctx.process.threads;
    if threads.counts().0 as u64 >= ctx.process.limits.soft(libc::RLIMIT_NPROC) {
        return Err(Errno::EAGAIN.into());
    }
    // Everything that can fail comes before a vCPU is acquired: one not used is lost.
    let tls = if args.flags & CLONE_SETTLS != 0 { args.tls } else { ctx.vcpu.fs_base() };
    let fs_base = GuestVirt::new(tls).map_err(|_| Errno::EPERM)?;
    let gs_base = GuestVirt::new(ctx.vcpu.gs_base()).map_err(|_| Errno::EPERM)?;
    // The child continues with the parent's x87 and SSE control words, as on Linux.
    let fpu =
        ctx.vcpu.fpu_state().map_err(|error| cannot("read the caller's FPU state", &error))?;
    let host = Prepared::new(ctx.process);
    let host = host.map_err(|error| cannot("start another host thread", &error))?;
    let mut vcpu = match threads.idle_vcpu() {
        Some(vcpu) => vcpu,
        None => {
            let made = ctx.process.kernel.new_vcpu();
            made.map_err(|error| cannot("make another vCPU", &error))?
        }
    };
    vcpu.regs = ctx.vcpu.regs;
    vcpu.regs.rax = 0;
    if args.stack_top != 0 {
        vcpu.regs.rsp = args.stack_top;
    }
    vcpu.restore_all();
    vcpu.set_fs_base(fs_base);
    vcpu.set_gs_base(gs_base);
    if let Err(error) = vcpu.set_fpu_state(&fpu) {
        threads.keep_vcpu(vcpu);
        return Err(cannot("set the new thread's FPU state", &error).into());
    }

    let child = Thread::new(host.tid(), ctx.thread.signals.for_child());
    child.set_name(&ctx.thread.name());
    if args.flags & CLONE_CHILD_CLEARTID != 0 {
        child.clear_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    // Linux, too, starts the thread when its number cannot be written.
    let tid = child.tid;
    let tid_bytes = tid.to_le_bytes();
    if args.flags & CLONE_PARENT_SETTID != 0 {
        let _ = ctx.user().copy_out(args.parent_tid, &tid_bytes);
    }
    if args.flags & CLONE_CHILD_SETTID != 0 {
        let _ = ctx.user().copy_out(args.child_tid, &tid_bytes);
    }
    host.run(ctx.process, child, vcpu);
    value(tid as u64)
}

/// The error for a thread that the host cannot create; the log has the reason.
fn cannot(what: &str, error: &dyn std::error::Error) -> Errno {
    let error = crate::error::chain(error);
    tracing::warn!(%error, "no new thread for the program: cannot {what}");
    Errno::EAGAIN
}

/// `exit(2)`: the calling thread.
pub(super) fn exit(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if ctx.thread.tid == ctx.process.pid() {
        ctx.process.set_first_status(a[0] as u8);
    }
    Ok(Done::ThreadExit)
}

/// Linux's last step when a thread ends: clears and wakes the word that `pthread_join` waits on.
pub(crate) fn on_exit(process: &Arc<Process>, thread: &Thread) {
    // The thread has left its VAS: what it had in a segment is no longer accessible to it.
    let user = process.user_in(vas::HOME);
    let word = thread.clear_child_tid.load(Ordering::Relaxed);
    if word != 0 && user.copy_out(word, &[0; 4]).is_ok() {
        futex::wake(user, word, 1);
    }
}

/// `set_tid_address(2)`.
pub(super) fn set_tid_address(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    ctx.thread.clear_child_tid.store(a[0], Ordering::Relaxed);
    value(ctx.thread.tid as u64)
}

/// `sched_yield(2)`.
///
/// Always the host's, even for a program with one thread. It yields to whatever else the host wants
/// to run there: other VMs that share a segment with this one, on whose progress the program may be
/// waiting. Answered in the guest, a loop around it would keep the processor until the end of its
/// time slice, and with `SCHED_FIFO`, which has none, indefinitely.
pub(super) fn sched_yield(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    std::thread::yield_now();
    value(0)
}

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;
const ARCH_GET_CPUID: u64 = 0x1011;
const ARCH_SET_CPUID: u64 = 0x1012;

/// `arch_prctl(2)`: the thread pointer, and the CPUID setting, which is "not intercepted".
pub(super) fn arch_prctl(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let base = |raw: u64| match GuestVirt::new(raw) {
        Ok(base) if raw < LOWER_HALF_END => Ok(base),
        _ => Err(Errno::EPERM),
    };
    match a[0] {
        ARCH_SET_FS => ctx.vcpu.set_fs_base(base(a[1])?),
        ARCH_SET_GS => ctx.vcpu.set_gs_base(base(a[1])?),
        ARCH_GET_FS => ctx.user().copy_out(a[1], &ctx.vcpu.fs_base().to_le_bytes())?,
        ARCH_GET_GS => ctx.user().copy_out(a[1], &ctx.vcpu.gs_base().to_le_bytes())?,
        ARCH_GET_CPUID => return value(1),
        // As on a processor that cannot make CPUID fault.
        ARCH_SET_CPUID => return Err(Errno::from_raw(libc::ENODEV).into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    value(0)
}
