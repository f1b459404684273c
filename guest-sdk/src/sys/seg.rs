//! Calls on segments: making, putting them into address spaces, changing, listing.

use abi::Errno;
use abi::call::{
    CALL_SEG_ALLOC, CALL_SEG_ATTACH, CALL_SEG_ATTACH_LOCAL, CALL_SEG_CLONE, CALL_SEG_CTL,
    CALL_SEG_DELETE, CALL_SEG_DETACH, CALL_SEG_DETACH_LOCAL, CALL_SEG_FIND, CALL_SEG_GROW,
    CALL_SEG_LIST, CALL_SEG_RESERVE, CALL_SEG_ROOT_GET, CALL_SEG_ROOT_SET, CALL_SEG_STAT,
    CALL_SEG_SYNC,
};
use abi::objects::{Right, SegId, SegParams, SegRoot, SegStat, VasId, seg_ctl as seg_command};

use super::{bytes, call};
use crate::handle::VasHandle;
use crate::thread_state;

/// What a [`SegStat`] is before a call fills it.
pub const EMPTY_SEG_STAT: SegStat = SegStat {
    sid: 0,
    base: 0,
    size_bytes: 0,
    reserve_bytes: 0,
    stored_bytes: 0,
    mode: 0,
    lifetime: 0,
    pages: 0,
    lockable: 0,
    dirty: 0,
    inconsistent: 0,
    access: 0,
    durability: 0,
    attachers: 0,
    name: [0; 256],
};

/// A result register as an id; the VMM never gives 0.
fn id(raw: u64) -> Result<SegId, Errno> {
    SegId::new(raw).ok_or(Errno::EIO)
}

/// Makes a segment `name` as `params` says, full of zeros, and returns its id. It uses no storage
/// until it is written to. `umask` applies to the mode.
///
/// # Errors
/// - `EEXIST`: there is a segment of that name.
/// - `EINVAL`: size 0; a base that is not 2 MiB-aligned; a range outside the VAS region; a
///   reserve below the size; a mode beyond 0o777; an unknown lifetime or page policy; `lockable`
///   beyond 1 or `reserved` not 0.
/// - `ENOMEM`: no base was given, and nothing that large is free.
/// - `EACCES`: the store may not be written to.
/// - name errors, store errors ([`super`]).
pub fn seg_alloc(name: impl AsRef<[u8]>, params: &SegParams) -> Result<SegId, Errno> {
    let [at, len] = bytes(name.as_ref());
    let args = [at, len, &raw const *params as u64, size_of::<SegParams>() as u64];
    // SAFETY: the call reads the name and the structure, which outlive it.
    unsafe { call(CALL_SEG_ALLOC, args) }.and_then(id)
}

/// The id of the segment `name`.
///
/// # Errors
/// - `ENOENT`: there is none.
/// - `EACCES`: its file may not be read.
/// - name errors, store errors ([`super`]).
pub fn seg_find(name: impl AsRef<[u8]>) -> Result<SegId, Errno> {
    // SAFETY: the call reads the name, which outlives it.
    unsafe { call(CALL_SEG_FIND, bytes(name.as_ref())) }.and_then(id)
}

/// A copy of `sid` under a new name, at the same base, with the same size, root object and
/// policies; its id. Holes are not copied, and nothing is where the file system can share. The copy
/// is a consistent snapshot: the call acquires the segment's lock, shared, unless the calling
/// thread holds it. For a thread that switched inside by [`vas_switch`](super::vas_switch) and
/// holds it to write, the copy is of the present content; a visit to write by
/// [`Space`](crate::Space) is refused a copy of what it may change, since the call may come from
/// the middle of a change: from a comparison in a sort, which has a value in two places.
///
/// # Errors
/// - `EDEADLK`: the thread is inside a [`Space`](crate::Space) to write that has the segment.
/// - `ENOENT`: no segment has the id `sid`.
/// - `EEXIST`: there is a segment of that name.
/// - `EACCES`: the segment may not be read, or the store not be written to.
/// - `EBUSY`: the segment has no lock, and another program can write it.
/// - `EINTR`: a signal came while the lock was waited for.
/// - `ETIMEDOUT`: the thread holds other locks, and this one was not free within ten seconds.
/// - name errors, store errors ([`super`]).
pub fn seg_clone(sid: SegId, name: impl AsRef<[u8]>) -> Result<SegId, Errno> {
    if thread_state::is_writing(sid) {
        return Err(Errno::EDEADLK);
    }
    let [at, len] = bytes(name.as_ref());
    // SAFETY: the call reads the name, which outlives it.
    unsafe { call(CALL_SEG_CLONE, [sid.raw(), at, len]) }.and_then(id)
}

/// Puts `sid` into the VAS `vid`, for every process that has it attached or will. Threads that are
/// inside see it at the latest at their next switch; an instance that has the segment, or one in
/// its place, by [`seg_attach_local`] keeps that.
///
/// # Errors
/// - `ENOENT`: no VAS has the id `vid`, or no segment the id `sid`.
/// - `EEXIST`: the range up to the reserve overlaps another segment of the VAS, or the
///   segment is in it already.
/// - `EACCES`: the VAS may not be written to, or the segment not be used with this right.
/// - store errors ([`super`]).
pub fn seg_attach(vid: VasId, sid: SegId, right: Right) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses; what it maps lay unmapped.
    unsafe { call(CALL_SEG_ATTACH, [vid.raw(), sid.raw(), right.raw()]) }.map(|_| ())
}

/// Puts `sid` into this process's instance `vh` only. A lockable segment is locked from the next
/// switch into the instance on.
///
/// # Errors
/// - `EBADF`: `vh` is no instance of this process.
/// - `EINVAL`: `vh` is home.
/// - `ENOENT`: no segment has the id `sid`.
/// - `EEXIST`: as [`seg_attach`], within the instance.
/// - `EBUSY`: the segment is lockable and a thread is inside: it would be in without the lock.
/// - `EACCES`: the segment may not be used with this right.
/// - `ENOMEM`: no memory for page tables.
/// - store errors ([`super`]).
pub fn seg_attach_local(vh: VasHandle, sid: SegId, right: Right) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses; what it maps lay unmapped.
    unsafe { call(CALL_SEG_ATTACH_LOCAL, [vh.raw(), sid.raw(), right.raw()]) }.map(|_| ())
}

/// Takes `sid` out of the VAS `vid`, for all processes.
///
/// # Errors
/// - `ENOENT`: no VAS has the id `vid`, or the segment is not in it.
/// - `EBUSY`: a thread of a live process is inside the VAS, or waits to enter.
/// - `EACCES`: the VAS may not be written to.
/// - store errors ([`super`]).
pub fn seg_detach(vid: VasId, sid: SegId) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses, and refuses while a thread is inside.
    unsafe { call(CALL_SEG_DETACH, [vid.raw(), sid.raw()]) }.map(|_| ())
}

/// Takes `sid` out of this process's instance `vh`, into which [`seg_attach_local`] put it.
///
/// # Errors
/// - `EBADF`: `vh` is no instance of this process.
/// - `EINVAL`: `vh` is home.
/// - `ENOENT`: the segment was not attached to the instance itself.
/// - `EBUSY`: a thread of this process is inside.
pub fn seg_detach_local(vh: VasHandle, sid: SegId) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses, and refuses while a thread is inside.
    unsafe { call(CALL_SEG_DETACH_LOCAL, [vh.raw(), sid.raw()]) }.map(|_| ())
}

/// Carries out one of the commands of [`super::seg_command`] on `sid`, except `RECOVER` and
/// `MARK_INCONSISTENT`, which are [`seg_recover`] and [`seg_mark_inconsistent`].
///
/// # Errors
/// - `EINVAL`: unknown `cmd`, or an `arg` it does not take.
/// - `ENOENT`: no segment has the id `sid`.
/// - `EACCES`, `EPERM`: the segment may not be changed; its mode only by its owner.
/// - `EBUSY`: `SET_LOCKABLE` while the segment is attached anywhere.
/// - `EPERM`: `RECOVER` and `MARK_INCONSISTENT`, which have functions of their own.
/// - `EOPNOTSUPP`: `SET_LIFETIME` from volatile to persistent or back.
/// - store errors ([`super`]).
pub fn seg_ctl(sid: SegId, cmd: u64, arg: u64) -> Result<(), Errno> {
    if matches!(cmd, seg_command::RECOVER | seg_command::MARK_INCONSISTENT) {
        return Err(Errno::EPERM);
    }
    // SAFETY: no command takes addresses or unmaps memory, or takes back what was written.
    unsafe { call(CALL_SEG_CTL, [sid.raw(), cmd, arg]) }.map(|_| ())
}

/// Declares the content of `sid` inconsistent, as if the thread ended in the middle of a change: for a
/// program that leaves in such a state. What the thread has changed in a versioned segment is
/// thrown away when it leaves.
///
/// # Errors
/// `EPERM`: the calling thread does not hold the segment's lock exclusively. `ENOENT`, and store errors, as
/// for [`seg_ctl`].
///
/// # Safety
/// If the segment is versioned: nothing that points into it, or owns a part of it, is used once the thread
/// has left, not even when it is inside again.
pub unsafe fn seg_mark_inconsistent(sid: SegId) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { call(CALL_SEG_CTL, [sid.raw(), seg_command::MARK_INCONSISTENT, 0]) }.map(|_| ())
}

/// Declares the content of `sid` consistent after a holder of its lock died: the command
/// `RECOVER` of `seg_ctl`.
///
/// # Errors
/// - `ENOENT`: no segment has the id `sid`.
/// - `EPERM`: the calling thread does not hold the lock exclusively.
/// - store errors ([`super`]).
///
/// # Safety
/// The content is what a [`Space`](crate::Space) takes it for: no program is warned after this.
pub unsafe fn seg_recover(sid: SegId) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses; the rest is the caller's promise.
    unsafe { call(CALL_SEG_CTL, [sid.raw(), seg_command::RECOVER, 0]) }.map(|_| ())
}

/// Deletes the segment and its content.
///
/// # Errors
/// - `ENOENT`: no segment has the id `sid`.
/// - `EBUSY`: a live process, perhaps this one, has it attached, or a VAS lists it.
/// - `EACCES`: the segment or the store may not be written to.
/// - store errors ([`super`]).
pub fn seg_delete(sid: SegId) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses, and refuses what is attached.
    unsafe { call(CALL_SEG_DELETE, [sid.raw()]) }.map(|_| ())
}

/// Fills `buffer` with the segments of the store in the order of their names, from number `cursor`
/// on, and returns how many there were; 0 means the end. Segments made or deleted between two calls
/// move the others.
///
/// # Errors
/// - `EINVAL`: the buffer has no room for one.
/// - `EACCES`: the store may not be read.
/// - store errors ([`super`]).
pub fn seg_list(buffer: &mut [SegStat], cursor: u64) -> Result<usize, Errno> {
    let args = [buffer.as_mut_ptr() as u64, size_of_val(buffer) as u64, cursor];
    // SAFETY: the call writes whole `SegStat`s, any bytes of which are valid, into the buffer.
    unsafe { call(CALL_SEG_LIST, args) }.map(|count| count as usize)
}

/// What is known of the segment `sid`.
///
/// # Errors
/// - `ENOENT`: no segment has that id.
/// - store errors ([`super`]).
pub fn seg_stat(sid: SegId) -> Result<SegStat, Errno> {
    let mut stat = EMPTY_SEG_STAT;
    let args = [sid.raw(), &raw mut stat as u64, size_of::<SegStat>() as u64];
    // SAFETY: the call writes at most as many bytes as the structure has, and any are valid.
    unsafe { call(CALL_SEG_STAT, args) }.map(|_| stat)
}

/// Grows the segment in place to `bytes`, rounded up to 4 KiB; the new part is zeros.
///
/// # Errors
/// - `ENOENT`: no segment has the id `sid`.
/// - `EINVAL`: `bytes` is less than its size.
/// - `EFBIG`: `bytes` is more than its reserve.
/// - `EACCES`: the segment may not be written to.
/// - `EPERM`: a versioned segment, and the caller is not inside to write it.
/// - store errors ([`super`]).
pub fn seg_grow(sid: SegId, bytes: u64) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses; what it maps lay unmapped.
    unsafe { call(CALL_SEG_GROW, [sid.raw(), bytes]) }.map(|_| ())
}

/// Reserves storage for `bytes` bytes at `offset` of the segment, so that a full disk is an error
/// here and not a bus error when they are touched. What is there stays as it is.
///
/// # Errors
/// - `ENOENT`: no segment has the id `sid`.
/// - `EINVAL`: `bytes` is 0, or the range is not all of the segment's.
/// - `ENOSPC`: there is not enough; some may have been reserved.
/// - `EACCES`: the segment may not be written to.
/// - `EPERM`: a versioned segment, and the caller is not inside.
/// - store errors ([`super`]).
pub fn seg_reserve(sid: SegId, offset: u64, bytes: u64) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses, and changes no content.
    unsafe { call(CALL_SEG_RESERVE, [sid.raw(), offset, bytes]) }.map(|_| ())
}

/// Returns when everything written to the segment before is on stable storage. A volatile
/// segment has none: nothing is done.
///
/// # Errors
/// - `ENOENT`: no segment has the id `sid`.
/// - `EACCES`: the segment may not be written to.
/// - `EPERM`: a versioned segment that is not attached in this process.
/// - store errors ([`super`]).
pub fn seg_sync(sid: SegId) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses.
    unsafe { call(CALL_SEG_SYNC, [sid.raw()]) }.map(|_| ())
}

/// The segment's root object; one with address 0 if none was set.
///
/// # Errors
/// - `ENOENT`: no segment has the id `sid`.
/// - `EACCES`: the segment may not be read.
/// - store errors ([`super`]).
pub fn seg_root_get(sid: SegId) -> Result<SegRoot, Errno> {
    let mut root = SegRoot::default();
    // SAFETY: the call writes one `SegRoot`, any bytes of which are valid.
    unsafe { call(CALL_SEG_ROOT_GET, [sid.raw(), &raw mut root as u64]) }.map(|_| root)
}

/// Sets the segment's root object: declares what lies at an address.
///
/// # Errors
/// - `ENOENT`: no segment has the id `sid`.
/// - `EINVAL`: an address that is not 0 and not within the segment's size.
/// - `EACCES`: the segment may not be written to.
/// - `EPERM`: a versioned segment, and the caller is not inside to write it.
/// - store errors ([`super`]).
///
/// # Safety
/// A program that opens the segment as a [`Space`](crate::Space) trusts it: at the address lies a
/// valid object of the type whose fingerprint is given, in a heap of this library. A root with
/// another fingerprint, or with address 0, is none, but a process that has the space open does not
/// check again; and where there is no root the next `open_or_create` creates the heap again.
pub unsafe fn seg_root_set(sid: SegId, root: &SegRoot) -> Result<(), Errno> {
    // SAFETY: the call reads the structure, which outlives it; the rest is the caller's promise.
    unsafe { call(CALL_SEG_ROOT_SET, [sid.raw(), &raw const *root as u64]) }.map(|_| ())
}
