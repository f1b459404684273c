//! The calls that do nothing, and those that move the calling thread between address spaces.

use std::time::Duration;

use abi::Errno;
use abi::call::{
    CALL_HYPER_NULL, CALL_NULL, CALL_VAS_ABORT, CALL_VAS_COMMIT, CALL_VAS_CURRENT,
    CALL_VAS_MESSAGE, CALL_VAS_NEST, CALL_VAS_RETURN, CALL_VAS_SWITCH, CALL_VAS_SWITCH_TIMEOUT,
    CALL_VAS_SYNC, CALL_VAS_TRY_SWITCH, CALL_VAS_VERSION, CALL_VAS_WAIT,
};

use super::{bytes, call};
use crate::handle::VasHandle;

/// Enters the guest kernel and comes back: the least a call can cost.
///
/// # Errors
/// `ENOSYS` outside a VM.
#[inline]
pub fn null() -> Result<(), Errno> {
    // SAFETY: the call takes no arguments and touches no memory.
    unsafe { call(CALL_NULL, []) }.map(|_| ())
}

/// Goes to the VMM and comes back: the least a hypercall can cost.
///
/// # Errors
/// `ENOSYS` outside a VM.
#[inline]
pub fn hyper_null() -> Result<(), Errno> {
    // SAFETY: the call takes no arguments and touches no memory.
    unsafe { call(CALL_HYPER_NULL, []) }.map(|_| ())
}

/// The calling thread enters the instance `vh`, or home. Control flow, registers and stack stay;
/// the VAS region (16 to 128 TiB) shows the segments of the instance from then on. Locks of the
/// target's lockable segments are acquired, shared where the right is read, exclusive where it is
/// write, and waited for; locks of the space that is left that are no longer needed are released.
/// Entering the instance the thread is in succeeds and does nothing.
///
/// # Errors
/// After any error but `EOWNERDEAD` the thread is where it was, with the locks it had.
///
/// - `EBADF`: `vh` is no instance of this process.
/// - `ESTALE`: `vh` was attached with `PINNED`, and the VAS no longer has its segments as they were;
///   or a disk that failed has lost versions of a versioned segment that this process has seen:
///   detach and attach it anew.
/// - `EBUSY`: the thread reads versioned segments that it would write in `vh`, and there is a newer
///   version than it sees: what it has read would not hold. It can go home first.
/// - `EINTR`: a signal was handled while the thread waited for a lock. Not if it held locks and
///   waits without limit: it may have released some, and handles the signal inside.
/// - `EOWNERDEAD`: **the thread is inside**, with all locks, but some thread ended while it held
///   one of them exclusively (its program was killed, `main` returned, it called `exit`), and the
///   content it locked may be half-changed. Repair it, then declare it consistent with
///   [`super::seg_command::RECOVER`]; until then every switch returns this again.
/// - `ENOMEM`: no memory for page tables.
/// - store errors, when the VAS has changed since it was last read.
///
/// # Safety
/// References and pointers into segments of the space that is left dangle as soon as the call
/// returns `Ok` or `EOWNERDEAD`: none may be used, or dropped with a destructor that uses it,
/// until the thread is inside again. That holds for references in the hands of callers too.
/// What is in the segments of the target must be what the program takes it for.
#[inline]
pub unsafe fn vas_switch(vh: VasHandle) -> Result<(), Errno> {
    // SAFETY: the call touches no memory through its argument; the rest is the caller's promise.
    unsafe { call(CALL_VAS_SWITCH, [vh.raw()]) }.map(|_| ())
}

/// As [`vas_switch`], but never waits for a lock.
///
/// # Errors
/// As [`vas_switch`] without `EINTR`, and `EAGAIN`: a lock could not be acquired immediately.
///
/// # Safety
/// As [`vas_switch`].
#[inline]
pub unsafe fn vas_try_switch(vh: VasHandle) -> Result<(), Errno> {
    // SAFETY: as for `vas_switch`.
    unsafe { call(CALL_VAS_TRY_SWITCH, [vh.raw()]) }.map(|_| ())
}

/// As [`vas_switch`], but waits no longer than `limit` for locks, all together.
///
/// # Errors
/// As [`vas_switch`], and `ETIMEDOUT`: the locks could not be acquired in that time.
///
/// # Safety
/// As [`vas_switch`].
#[inline]
pub unsafe fn vas_switch_timeout(vh: VasHandle, limit: Duration) -> Result<(), Errno> {
    // 584 years are as good as forever.
    let nanoseconds = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: as for `vas_switch`.
    unsafe { call(CALL_VAS_SWITCH_TIMEOUT, [vh.raw(), nanoseconds]) }.map(|_| ())
}

/// Enters the instance `vh`, or home, in a *nested* visit: where the thread is now is suspended, and stays as
/// it is, with its locks, the version that it sees, and what it has changed and not committed, until
/// [`vas_return`] brings the thread back. [`vas_switch`], [`vas_commit`] and [`vas_abort`] concern the nested visit
/// only. A thread that ends, wherever it is, loses what it has not committed in any of them.
///
/// Waits no longer than `limit` for locks; `None`: as long as it takes, but for a thread that holds locks, in
/// this visit or in suspended ones, 10 seconds: whoever has the others may be waiting for one of those.
///
/// # Errors
/// As [`vas_switch_timeout`], with its store errors; without time `EAGAIN` instead of `ETIMEDOUT`.
///
/// - `EDEADLK`: the thread itself has a lock in the way, or without a limit waited for 10 seconds with others in hand.
/// - `EBUSY`: a visit from which it comes, however many are between, reads versioned segments that it would write
///   in `vh`, and there is a newer version than it sees.
/// - `ELOOP`: it has suspended 16 visits.
///
/// # Safety
/// As [`vas_switch`].
#[inline]
pub unsafe fn vas_nest(vh: VasHandle, limit: Option<Duration>) -> Result<(), Errno> {
    let limit = limit.and_then(|limit| u64::try_from(limit.as_nanos()).ok());
    // SAFETY: as for `vas_switch`.
    unsafe { call(CALL_VAS_NEST, [vh.raw(), limit.unwrap_or(u64::MAX)]) }.map(|_| ())
}

/// Leaves the visit that began with the last [`vas_nest`], commits what was changed in it, and goes on with the
/// one that was suspended. No lock is waited for. Returns where the thread is then.
///
/// # Errors
/// `EPERM`: the thread has suspended none. Those of [`vas_commit`] but `EPERM`: then it stays where it is.
///
/// # Safety
/// As [`vas_switch`].
#[inline]
pub unsafe fn vas_return() -> Result<VasHandle, Errno> {
    // SAFETY: the call takes no arguments; the rest is the caller's promise.
    unsafe { call(CALL_VAS_RETURN, []) }.map(VasHandle::from_raw)
}

/// What the calling thread has changed in versioned segments since it entered, or since its last
/// commit, is a version from now on, as if it left; it stays inside.
///
/// # Errors
/// - `EPERM`: it is not inside an instance in which it may write versioned segments, or it has
///   declared its changes inconsistent.
/// - `ENOSPC`, `EDQUOT`, `EIO`: they cannot be stored. `EFBIG`: a file would be longer than
///   `ulimit -f` allows, or several segments were changed, and one of them in more than 63 MiB.
///   `ESTALE`: a failed disk has lost the version that they are to. Nothing has changed then: the
///   thread can make room and try again, or abort.
///
/// # Safety
/// What is there must be what every program takes it for, now and after an abort: this is a point
/// that an abort returns to.
#[inline]
pub unsafe fn vas_commit() -> Result<(), Errno> {
    // SAFETY: the call takes no arguments; the rest is the caller's promise.
    unsafe { call(CALL_VAS_COMMIT, []) }.map(|_| ())
}

/// Throws away what the calling thread has changed in versioned segments since it entered, or since
/// its last commit: content, size, root object. It stays inside.
///
/// # Errors
/// `EPERM`: it is not inside an instance in which it may write versioned segments. `EIO`: what was
/// there cannot be read.
///
/// # Safety
/// The content of the segments changes under every reference into them, and what was allocated since
/// is not there any more: none may be used, or dropped with a destructor that uses it.
#[inline]
pub unsafe fn vas_abort() -> Result<(), Errno> {
    // SAFETY: the call takes no arguments; the rest is the caller's promise.
    unsafe { call(CALL_VAS_ABORT, []) }.map(|_| ())
}

/// What the next version that the calling thread's visit makes says that it is for: a line that
/// `spacejmp vas log` shows with it. An empty one takes it back; it is forgotten with an abort, and with the end of
/// a visit that has changed nothing.
///
/// # Errors
/// `EPERM`: it is not inside an instance in which it may write versioned segments. `EFAULT` for a text that is not there.
/// `EINVAL`: more than 120 bytes, not UTF-8, or control characters.
#[inline]
pub fn vas_message(text: impl AsRef<[u8]>) -> Result<(), Errno> {
    let [at, len] = bytes(text.as_ref());
    // SAFETY: the call reads the text, which outlives it.
    unsafe { call(CALL_VAS_MESSAGE, [at, len]) }.map(|_| ())
}

/// All that was published of the versioned segments of `vh` survives a power cut from now on, whoever
/// has committed it; returns its version, as [`vas_version`]. What the calling thread has changed
/// and not committed is no part of it.
///
/// # Errors
/// `EBADF`: `vh` is no instance of this process. `EINVAL`: it is home, or has no versioned segment.
/// `EIO`: the disk has failed, in this program or another. The next commit, or visit to write, stores
/// anew what can be read back; if all of it can, the next `vas_sync` succeeds.
#[inline]
pub fn vas_sync(vh: VasHandle) -> Result<u64, Errno> {
    // SAFETY: the call touches no memory of the program.
    unsafe { call(CALL_VAS_SYNC, [vh.raw()]) }
}

/// The newest version that a visit of `vh` would see: of one versioned segment its number, of several
/// the sum of their numbers. It rises with every commit.
///
/// # Errors
/// `EBADF`: `vh` is no instance of this process. `EINVAL`: it is home, or has no versioned segment.
#[inline]
pub fn vas_version(vh: VasHandle) -> Result<u64, Errno> {
    // SAFETY: the call touches no memory of the program.
    unsafe { call(CALL_VAS_VERSION, [vh.raw()]) }
}

/// Waits until [`vas_version`] of `vh` is more than `after`, and returns it. The calling thread may be
/// inside: what it sees does not move. It wakes an eighth of the time it has waited later than the
/// commit, and a tenth of a second later at most.
///
/// # Errors
/// As [`vas_version`]; `ETIMEDOUT`; `EINTR`: a signal was handled; `EDEADLK`: it is inside where it may
/// write versioned segments, and would keep others from committing.
#[inline]
pub fn vas_wait(vh: VasHandle, after: u64, limit: Duration) -> Result<u64, Errno> {
    let nanoseconds = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the call touches no memory of the program.
    unsafe { call(CALL_VAS_WAIT, [vh.raw(), after, nanoseconds]) }
}

/// The instance the calling thread is in.
///
/// # Errors
/// `ENOSYS` outside a VM.
#[inline]
pub fn vas_current() -> Result<VasHandle, Errno> {
    // SAFETY: the call takes no arguments and touches no memory.
    unsafe { call(CALL_VAS_CURRENT, []) }.map(VasHandle::from_raw)
}
