//! Futexes: the host's, on the memory that backs the program's word.
//!
//! A waiting thread of the program is a waiting host thread. It has the same thread number, so the
//! host kernel's priority-inheritance futexes, whose words hold their owner's number, work as they
//! are, across VMs and with native programs. Where the program's threads have other numbers, in a copy from a snapshot,
//! `futex_owned` serves those.

use std::time::Duration;

use abi::Errno;

use super::futex_owned::Word;
use super::time::{add, checked, now, read_timespec};
use super::{CallResult, Fail, futex_owned, value};
use crate::access::MemoryAccess;
use crate::linux::task::ThreadCtx;
use crate::user_memory::{FutexWord, UserMemory};

/// `FUTEX_LOCK_PI2`: as `FUTEX_LOCK_PI`, by the monotonic clock.
const FUTEX_LOCK_PI2: i32 = 13;
/// How long a thread waits in one host call where a kick does not end the call.
const SLICE: Duration = Duration::from_millis(20);

/// The arguments of the host's call.
#[derive(Clone, Copy)]
pub(super) struct HostFutex<'a> {
    pub(super) word: &'a FutexWord<'a>,
    pub(super) op: i32,
    pub(super) val: u32,
    /// A count for the commands that have no time limit.
    pub(super) val2: u32,
    pub(super) word2: Option<&'a FutexWord<'a>>,
    pub(super) val3: u32,
}

impl HostFutex<'_> {
    /// One without a time limit: `val2` stands in its place.
    pub(super) fn call(self) -> Result<u64, Errno> {
        self.make(std::ptr::without_provenance(self.val2 as usize))
    }

    /// One with a time limit, absolute by the command's clock.
    fn wait(self, deadline: Option<libc::timespec>) -> Result<u64, Errno> {
        self.make(deadline.as_ref().map_or(std::ptr::null(), std::ptr::from_ref))
    }

    fn make(self, limit: *const libc::timespec) -> Result<u64, Errno> {
        let (word, op, val, val3) = (self.word.as_ptr(), self.op, self.val, self.val3);
        let word2 = self.word2.map_or(std::ptr::null_mut(), FutexWord::as_ptr);
        // SAFETY: both words are guest memory, mapped as long as `self`'s borrows live, or
        // null where the command has one word; the kernel checks every access. `limit` is no
        // pointer for commands without a time limit, and outlives the call for the others.
        checked(unsafe { libc::syscall(libc::SYS_futex, word, op, val, limit, word2, val3) })
    }
}

/// Wakes up to `count` waiters of the word at `gva`, if that is one.
pub(super) fn wake(user: UserMemory<'_>, gva: u64, count: u32) {
    let Ok(word) = user.futex_word(gva, MemoryAccess::Read) else { return };
    // A waiter on a private futex hashes differently: both kinds are woken.
    for op in [libc::FUTEX_WAKE, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG] {
        // That no thread waits is not an error.
        let _ = HostFutex { word: &word, op, val: count, val2: 0, word2: None, val3: 0 }.call();
    }
}

/// Stores `FUTEX_OWNER_DIED` into the word at `gva` and wakes the threads that wait for it.
///
/// The host kernel performs the store (`FUTEX_WAKE_OP`): an atomic of ours would raise SIGBUS in
/// this process where a file was truncated. The store clears the waiters bit, so all are woken: a
/// thread that does not get the lock sets it again. Waiters for a priority-inheritance lock are in
/// the kernel's own list; they get it when the host thread that owns it, which is the calling one,
/// ends.
pub(super) fn mark_owner_died(user: UserMemory<'_>, gva: u64) -> Result<(), Errno> {
    const SET: u32 = 0;
    const OWNER_DIED_BIT: u32 = 30;
    let word = user.futex_word(gva, MemoryAccess::Write)?;
    match bit_changed(&word, i32::MAX.cast_unsigned(), SET, OWNER_DIED_BIT) {
        // EINVAL comes after the store: its waiters wait for a priority-inheritance lock.
        Ok(_) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(errno),
    }
    wake(user, gva, i32::MAX.cast_unsigned());
    Ok(())
}

/// Adds a bit to the word at `gva`, in the same way; may wake one thread that waits for it.
pub(super) fn add_bit(user: UserMemory<'_>, gva: u64, bit: u32) -> Result<(), Errno> {
    const OR: u32 = 2;
    let word = user.futex_word(gva, MemoryAccess::Write)?;
    bit_changed(&word, 0, OR, bit).map(|_| ())
}

/// Has the host kernel change a word by an operation with one bit, and wake threads that wait for it.
fn bit_changed(word: &FutexWord<'_>, wakes: u32, change: u32, bit: u32) -> Result<u64, Errno> {
    const SHIFTED: u32 = 8;
    let op = libc::FUTEX_WAKE_OP;
    let val3 = (SHIFTED | change) << 28 | bit << 12;
    HostFutex { word, op, val: wakes, val2: 0, word2: Some(word), val3 }.call()
}

/// `futex(2)`: the host's futexes on the memory that backs the words.
pub(super) fn futex(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [gva, op, val, val2, gva2, val3] = *a;
    let op = op as i32;
    let command = op & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    let is_realtime = op & libc::FUTEX_CLOCK_REALTIME != 0;
    let (access, access2) = match command {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => (MemoryAccess::Read, None),
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => (MemoryAccess::Read, None),
        libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE => {
            (MemoryAccess::Read, Some(MemoryAccess::Read))
        }
        libc::FUTEX_WAKE_OP | libc::FUTEX_CMP_REQUEUE_PI | libc::FUTEX_WAIT_REQUEUE_PI => {
            (MemoryAccess::Read, Some(MemoryAccess::Write))
        }
        libc::FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | libc::FUTEX_TRYLOCK_PI | libc::FUTEX_UNLOCK_PI => {
            (MemoryAccess::Write, None)
        }
        _ => return Err(Errno::ENOSYS.into()),
    };
    let has_clock =
        [libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2].contains(&command);
    if is_realtime && !has_clock {
        return Err(Errno::ENOSYS.into());
    }
    let waits = has_clock || [libc::FUTEX_WAIT, libc::FUTEX_LOCK_PI].contains(&command);
    let limit = if waits && val2 != 0 { Some(read_timespec(ctx, val2)?) } else { None };
    let user = ctx.user();
    // What the host's call writes, the program must be allowed to write.
    let word = user.futex_word(gva, access)?;
    let word2 = access2.map(|access| user.futex_word(gva2, access)).transpose()?;
    let call = HostFutex {
        word: &word,
        op,
        val: val as u32,
        val2: val2 as u32,
        word2: word2.as_ref(),
        val3: val3 as u32,
    };
    if ctx.process.threads.are_renumbered() {
        let word = Word { user, gva, private: op & libc::FUTEX_PRIVATE_FLAG };
        match command {
            libc::FUTEX_LOCK_PI => {
                return futex_owned::lock(ctx, word, true, libc::FUTEX_CLOCK_REALTIME, limit);
            }
            FUTEX_LOCK_PI2 => {
                let clock = op & libc::FUTEX_CLOCK_REALTIME;
                return futex_owned::lock(ctx, word, true, clock, limit);
            }
            libc::FUTEX_TRYLOCK_PI => return futex_owned::lock(ctx, word, false, 0, None),
            libc::FUTEX_UNLOCK_PI => return futex_owned::unlock(ctx, word),
            libc::FUTEX_CMP_REQUEUE_PI | libc::FUTEX_WAIT_REQUEUE_PI => {
                return Err(Errno::ENOSYS.into());
            }
            _ => {}
        }
    }
    match command {
        libc::FUTEX_WAIT => {
            // As an absolute time: a wait that continues after a kick must not start over.
            let from_now = |limit| now(libc::CLOCK_MONOTONIC).map(|now| add(now, limit));
            let deadline = limit.map(from_now).transpose()?;
            let op = libc::FUTEX_WAIT_BITSET | (op & libc::FUTEX_PRIVATE_FLAG);
            wait(ctx, HostFutex { op, val3: !0, ..call }, deadline)
        }
        libc::FUTEX_WAIT_BITSET => wait(ctx, call, limit),
        libc::FUTEX_LOCK_PI => wait_in_slices(ctx, call, libc::CLOCK_REALTIME, limit),
        FUTEX_LOCK_PI2 | libc::FUTEX_WAIT_REQUEUE_PI => {
            let clock = if is_realtime { libc::CLOCK_REALTIME } else { libc::CLOCK_MONOTONIC };
            wait_in_slices(ctx, call, clock, limit)
        }
        _ => value(call.call()?),
    }
}

/// Waits in the host, without spinning first. Spinning would save the sleep of a waiter whose turn
/// comes soon. It would save no exit, since the waiter has left the guest before it can look from
/// here, and by then its turn has come or is far away: `docs/src/internals/kernel-entry.md` has the
/// figures. The guest kernel cannot spin at all; it has no mapping of the program's memory.
pub(super) fn wait(
    ctx: &mut ThreadCtx<'_>,
    call: HostFutex<'_>,
    deadline: Option<libc::timespec>,
) -> CallResult {
    loop {
        if ctx.is_interrupted() {
            // The library resumes a wait with a time limit, as on Linux.
            return Err(match deadline {
                Some(_) => Fail::Errno(Errno::EINTR),
                None => Fail::Restart,
            });
        }
        match call.wait(deadline) {
            Ok(done) => return value(done),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits for a priority-inheritance lock. The host kernel restarts these calls itself after any
/// signal, so a kick would go unnoticed: the thread checks its signals periodically. A signal's
/// handler runs, and then the call is restarted, whatever the handler's flags.
///
/// `FUTEX_WAIT_REQUEUE_PI` can be requeued to the lock and run out of its slice there. Restarted,
/// it finds the first word changed, which its users do before they requeue it, and returns
/// `EAGAIN`, as it does on Linux after a signal.
fn wait_in_slices(
    ctx: &mut ThreadCtx<'_>,
    call: HostFutex<'_>,
    clock: libc::clockid_t,
    limit: Option<libc::timespec>,
) -> CallResult {
    let slice =
        libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(SLICE.subsec_nanos() as i32) };
    let key = |time: &libc::timespec| (time.tv_sec, time.tv_nsec);
    loop {
        if ctx.is_interrupted() {
            return Err(Fail::RestartAlways);
        }
        let slice_end = add(now(clock)?, slice);
        let last = limit.filter(|limit| key(limit) <= key(&slice_end));
        match call.wait(Some(last.unwrap_or(slice_end))) {
            Ok(done) => return value(done),
            Err(Errno::ETIMEDOUT) if last.is_none() => {}
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
