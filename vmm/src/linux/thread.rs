//! Thread calls: a thread is a vCPU.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::addr::LOWER_HALF_END;
use abi::{Errno, GuestVirt};

use super::time::{last_errno, read_timespec};
use super::{CallResult, Done, Fail, value};
use crate::process::thread::{self, Thread};
use crate::process::{Outcome, Process, ThreadCtx};
use crate::user_memory::{FutexWord, UserMemory};
use crate::vas;

/// The flags every thread library sets: one memory, one file table, one process.
const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD) as u64;
const CLONE_SETTLS: u64 = libc::CLONE_SETTLS as u64;
const CLONE_PARENT_SETTID: u64 = libc::CLONE_PARENT_SETTID as u64;
const CLONE_CHILD_SETTID: u64 = libc::CLONE_CHILD_SETTID as u64;
const CLONE_CHILD_CLEARTID: u64 = libc::CLONE_CHILD_CLEARTID as u64;

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
    start(ctx, &CloneArgs { flags: flags & !0xff, child_tid, parent_tid, stack_top, tls })
}

/// `clone3(2)`.
pub(super) fn clone3(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    const FIRST_VERSION_BYTES: u64 = 64;
    if a[1] < FIRST_VERSION_BYTES || a[1] > 4096 {
        return Err(Errno::EINVAL.into());
    }
    let word = |i: u64| ctx.user().read_u64(a[0].wrapping_add(i * 8));
    let (stack, stack_bytes) = (word(5)?, word(6)?);
    let args = CloneArgs {
        flags: word(0)?,
        child_tid: word(2)?,
        parent_tid: word(3)?,
        stack_top: stack.wrapping_add(stack_bytes),
        tls: word(7)?,
    };
    start(ctx, &args)
}

/// Refuses a new process; the log says what to do instead.
pub(super) fn no_processes(ctx: &ThreadCtx<'_>, number: u64) -> CallResult {
    if ctx.process.stats.unserved(number) {
        tracing::warn!(
            number,
            "the program asked for another process (fork or exec): there is one process in a \
             VM; start another `spacejmp run`"
        );
    }
    Err(Errno::ENOSYS.into())
}

fn start(ctx: &mut ThreadCtx<'_>, args: &CloneArgs) -> CallResult {
    if args.flags & THREAD_FLAGS != THREAD_FLAGS {
        return no_processes(ctx, libc::SYS_clone as u64);
    }
    if args.tls >= LOWER_HALF_END && args.flags & CLONE_SETTLS != 0 {
        return Err(Errno::EPERM.into());
    }
    let threads = &ctx.process.threads;
    // Everything that can fail comes before a vCPU is taken: one taken and not used is lost.
    let tls = if args.flags & CLONE_SETTLS != 0 { args.tls } else { ctx.vcpu.fs_base() };
    let fs_base = GuestVirt::new(tls).map_err(|_| Errno::EPERM)?;
    let gs_base = GuestVirt::new(ctx.vcpu.gs_base()).map_err(|_| Errno::EPERM)?;
    // The child continues with the parent's x87 and SSE control words, as on Linux.
    let fpu = ctx.vcpu.fpu_state().map_err(|_| Errno::EAGAIN)?;
    let mut vcpu = match threads.idle_vcpu() {
        Some(vcpu) => vcpu,
        None => ctx.vcpu.machine().new_vcpu().map_err(|e| {
            tracing::warn!(error = %crate::error::chain(&e), "cannot make another vCPU");
            Errno::EAGAIN
        })?,
    };
    vcpu.regs = ctx.vcpu.regs;
    vcpu.regs.rax = 0;
    if args.stack_top != 0 {
        vcpu.regs.rsp = args.stack_top;
    }
    vcpu.restore_all();
    vcpu.set_fs_base(fs_base);
    vcpu.set_gs_base(gs_base);
    vcpu.set_fpu_state(&fpu).map_err(|_| Errno::EAGAIN)?;

    let tid = threads.new_tid();
    let child = Thread::new(tid, ctx.thread.signals.for_child());
    child.set_name(&ctx.thread.name());
    if args.flags & CLONE_CHILD_CLEARTID != 0 {
        child.clear_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    // Linux, too, starts the thread when its number cannot be written.
    let tid_bytes = tid.to_le_bytes();
    if args.flags & CLONE_PARENT_SETTID != 0 {
        let _ = ctx.user().copy_out(args.parent_tid, &tid_bytes);
    }
    if args.flags & CLONE_CHILD_SETTID != 0 {
        let _ = ctx.user().copy_out(args.child_tid, &tid_bytes);
    }
    thread::spawn(ctx.process, child, vcpu).map_err(|_| Errno::EAGAIN)?;
    value(tid as u64)
}

/// `exit(2)`: the calling thread.
pub(super) fn exit(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if ctx.process.threads.counts().0 == 1 {
        return exit_group(ctx, a);
    }
    Ok(Done::ThreadExit)
}

/// `exit_group(2)`.
pub(super) fn exit_group(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    super::stop(ctx, Outcome::Exited(a[0] as u8))
}

/// What Linux does when a thread ends: marks robust futexes it held, clears and wakes the
/// word that `pthread_join` waits on.
pub(crate) fn on_exit(process: &Arc<Process>, thread: &Thread) {
    release_robust(process, thread);
    // The thread has gone home: what it had in a segment is no longer its.
    let user = process.user_in(vas::HOME);
    let word = thread.clear_child_tid.load(Ordering::Relaxed);
    if word != 0 && user.copy_out(word, &[0; 4]).is_ok() {
        let _ = wake(&user, word, 1);
    }
}

/// Most entries of a robust list that are looked at (Linux's ROBUST_LIST_LIMIT).
const ROBUST_LIMIT: usize = 2048;
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

fn release_robust(process: &Arc<Process>, thread: &Thread) {
    let head = thread.robust_list.load(Ordering::Relaxed);
    if head == 0 {
        return;
    }
    let user = process.user_in(vas::HOME);
    let Ok(offset) = user.read_u64(head.wrapping_add(8)) else { return };
    let mut entry = user.read_u64(head).unwrap_or(head);
    for _ in 0..ROBUST_LIMIT {
        if entry & !1 == head {
            break;
        }
        let word = (entry & !1).wrapping_add(offset);
        if let Ok(old) = user.read_u32(word)
            && old & FUTEX_TID_MASK == thread.tid as u32
        {
            let died = (old & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
            let _ = user.copy_out(word, &died.to_le_bytes());
            if old & FUTEX_WAITERS != 0 {
                let _ = wake(&user, word, 1);
            }
        }
        let Ok(next) = user.read_u64(entry & !1) else { break };
        entry = next;
    }
}

/// `set_tid_address(2)`.
pub(super) fn set_tid_address(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    ctx.thread.clear_child_tid.store(a[0], Ordering::Relaxed);
    value(ctx.thread.tid as u64)
}

/// `set_robust_list(2)`.
pub(super) fn set_robust_list(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[1] != 24 {
        return Err(Errno::EINVAL.into());
    }
    ctx.thread.robust_list.store(a[0], Ordering::Relaxed);
    value(0)
}

/// `sched_yield(2)`.
pub(super) fn sched_yield(_ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    std::thread::yield_now();
    value(0)
}

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

/// `arch_prctl(2)`: the thread pointer.
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
        _ => return Err(Errno::EINVAL.into()),
    }
    value(0)
}

/// Wakes up to `count` waiters of the futex word at `gva`.
fn wake(user: &UserMemory<'_>, gva: u64, count: u32) -> Result<u64, Errno> {
    let word = user.futex_word(gva)?;
    // SAFETY: FUTEX_WAKE reads no memory; the address only names the futex. Both private and
    // shared waiters of this VM's threads wait in this host process.
    let woken =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count, 0, 0, 0) };
    // A waiter that asked for a private futex hashes differently: wake those too.
    let private = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: as above.
    let more = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), private, count, 0, 0, 0) };
    Ok((woken.max(0) + more.max(0)) as u64)
}

/// `futex(2)`: the host's futexes on the memory behind the word. A waiting thread is a
/// waiting host thread. Priority inheritance is not offered.
pub(super) fn futex(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [gva, op, val, timeout, gva2, val3] = *a;
    let command = op as i32 & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    let user = ctx.user();
    let word = user.futex_word(gva)?;
    let word2 = match command {
        libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE | libc::FUTEX_WAKE_OP => {
            Some(user.futex_word(gva2)?)
        }
        _ => None,
    };
    match command {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            let deadline = match timeout {
                0 => None,
                at => Some(read_timespec(ctx, at)?),
            };
            wait(ctx, &word, op as i32, val as u32, deadline, val3 as u32)
        }
        libc::FUTEX_WAKE
        | libc::FUTEX_WAKE_BITSET
        | libc::FUTEX_REQUEUE
        | libc::FUTEX_CMP_REQUEUE
        | libc::FUTEX_WAKE_OP => {
            let second = word2.as_ref().map_or(std::ptr::null_mut(), FutexWord::as_ptr);
            // SAFETY: both words are guest memory, mapped as long as `word` and `word2` are kept,
            // to the end of this function; the fourth argument is a count for these commands,
            // not a pointer.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    word.as_ptr(),
                    op as i32,
                    val as u32,
                    timeout as u32 as usize,
                    second,
                    val3 as u32,
                )
            };
            if done < 0 { Err(last_errno().into()) } else { value(done as u64) }
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn wait(
    ctx: &mut ThreadCtx<'_>,
    word: &FutexWord<'_>,
    op: i32,
    expected: u32,
    timeout: Option<libc::timespec>,
    bits: u32,
) -> CallResult {
    if ctx.is_interrupted() {
        return Err(Fail::Restart);
    }
    let timeout_ptr = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let at = word.as_ptr();
    // SAFETY: the word is guest memory, mapped as long as `word`, which outlives the call, as
    // the timeout does.
    let done = unsafe { libc::syscall(libc::SYS_futex, at, op, expected, timeout_ptr, 0, bits) };
    match last_errno() {
        _ if done == 0 => value(0),
        // A relative timeout would start over: let the library, which knows, decide.
        Errno::EINTR if timeout.is_none() => Err(Fail::Restart),
        errno => Err(errno.into()),
    }
}
