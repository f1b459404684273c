//! Calls on address spaces (VASes): making, finding, attaching, listing.

use abi::Errno;
use abi::call::{
    CALL_VAS_ATTACH, CALL_VAS_CLONE, CALL_VAS_CREATE, CALL_VAS_CTL, CALL_VAS_DELETE,
    CALL_VAS_DETACH, CALL_VAS_FIND, CALL_VAS_LIST, CALL_VAS_SEGMENTS, CALL_VAS_STAT, CALL_VAS_TAG,
};
use abi::objects::{Attachment, VasId, VasStat, detach};

use super::{bytes, call};
use crate::handle::VasHandle;

/// What a [`VasStat`] is before a call fills it.
pub const EMPTY_VAS_STAT: VasStat = VasStat {
    vid: 0,
    mode: 0,
    segments: 0,
    attachers: 0,
    tagged: 0,
    access: 0,
    reserved: [0; 2],
    name: [0; 256],
};

/// A result register as an id; the VMM never gives 0.
fn id(raw: u64) -> Result<VasId, Errno> {
    VasId::new(raw).ok_or(Errno::EIO)
}

/// Makes an empty VAS `name` with permission bits `mode` (as for `open`, `umask` applied) and
/// returns its id. It exists until it is deleted.
///
/// # Errors
/// - `EEXIST`: there is a VAS of that name.
/// - `EINVAL`: bits in `mode` beyond 0o777.
/// - `EACCES`: the store may not be written to.
/// - name errors, store errors ([`super`]).
pub fn vas_create(name: impl AsRef<[u8]>, mode: u32) -> Result<VasId, Errno> {
    let [at, len] = bytes(name.as_ref());
    // SAFETY: the call reads the name, which outlives it.
    unsafe { call(CALL_VAS_CREATE, [at, len, u64::from(mode)]) }.and_then(id)
}

/// The id of the VAS `name`. `NAME@TAG` is a tag of one ([`vas_tag`]). `NAME@NUMBER` is the version with
/// that number of its only versioned segment, as long as the segment's log has it. It is kept for a
/// while: as long as somebody has it attached, and a minute, unless garbage is collected before.
///
/// # Errors
/// - `ENOENT`: there is none, it has no such tag, or the version is gone.
/// - `EACCES`: its manifest may not be read.
/// - for `NAME@NUMBER` also those of [`vas_tag`]; `EINVAL` if the VAS has several versioned segments.
/// - name errors, store errors ([`super`]).
pub fn vas_find(name: impl AsRef<[u8]>) -> Result<VasId, Errno> {
    // SAFETY: the call reads the name, which outlives it.
    unsafe { call(CALL_VAS_FIND, bytes(name.as_ref())) }.and_then(id)
}

/// A new VAS `name` with the same segments, rights and permission bits as `vid`, and its id. The
/// segments are shared, unless `flags` has [`super::clone::COPY`]: then the new VAS has copies of them,
/// called `name.SEGMENT`, all as they are at one moment between two visits of writers.
///
/// # Errors
/// - `ENOENT`: no VAS has the id `vid`.
/// - `EEXIST`: there is a VAS of that name.
/// - `EINVAL`: `flags` has unknown bits; `vid` is a `NAME@NUMBER` without a tag, which is not kept for
///   long, and its segments are to be shared.
/// - for copies also those of [`seg_clone`](super::seg_clone).
/// - `EACCES`: `vid` may not be read, or the store not be written to.
/// - name errors, store errors ([`super`]).
pub fn vas_clone(vid: VasId, name: impl AsRef<[u8]>, flags: u64) -> Result<VasId, Errno> {
    let [at, len] = bytes(name.as_ref());
    // SAFETY: the call reads the name, which outlives it.
    unsafe { call(CALL_VAS_CLONE, [vid.raw(), at, len, flags]) }.and_then(id)
}

/// Keeps what was committed last to the versioned segments of a VAS, of one moment, as the VAS
/// `NAME@TAG`, and returns its id: durably, in constant time. Its segments can only be read. Raw segments
/// are left out. What the calling thread has changed and not committed is not kept.
///
/// # Errors
/// - `ENOENT`: no VAS has the id `vid`.
/// - `EINVAL`: `tag` is a number, or no name that a new object can have; the VAS has no versioned
///   segment.
/// - `EEXIST`: it has that tag.
/// - `EACCES`: `vid` or one of its segments may not be written to; `EPERM`: it is another user's.
/// - `EINTR` while it waits for a writer; `ETIMEDOUT` after 10 s for a thread that holds other locks.
/// - name errors, store errors ([`super`]).
pub fn vas_tag(vid: VasId, tag: impl AsRef<[u8]>) -> Result<VasId, Errno> {
    let [at, len] = bytes(tag.as_ref());
    // SAFETY: the call reads the tag, which outlives it.
    unsafe { call(CALL_VAS_TAG, [vid.raw(), at, len]) }.and_then(id)
}

/// Makes an instance of `vid` for this process and returns its handle. `flags` are those of
/// [`super::attach`]. The rights of all segments are checked here and never again.
///
/// # Errors
/// - `ENOENT`: no VAS has the id `vid`, or a segment of it does not exist any more.
/// - `EINVAL`: unknown `flags`.
/// - `EACCES`: the VAS may not be read, or a segment not be used with its right in the VAS;
///   with [`super::attach::READ_ONLY`] reading is enough.
/// - `EMFILE`: the process has [`super::MAX_INSTANCES`] instances.
/// - `ENOMEM`: no memory for page tables.
/// - store errors ([`super`]).
pub fn vas_attach(vid: VasId, flags: u64) -> Result<VasHandle, Errno> {
    // SAFETY: the call takes no addresses; the current address space stays as it is.
    unsafe { call(CALL_VAS_ATTACH, [vid.raw(), flags]) }.map(VasHandle::from_raw)
}

/// Drops the instance `vh`; its number may be reused.
///
/// # Errors
/// - `EBADF`: `vh` is no instance of this process.
/// - `EINVAL`: `vh` is home.
/// - `EBUSY`: a thread of this process is inside, perhaps the caller, or waits to enter; or the
///   instance was attached with [`super::attach::OWNED`], as those of [`Attached`](crate::Attached)
///   and [`Space`](crate::Space) are.
pub fn vas_detach(vh: VasHandle) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses, and refuses an instance that a thread is in.
    unsafe { call(CALL_VAS_DETACH, [vh.raw()]) }.map(|_| ())
}

/// Drops an instance that was attached with [`OWNED`](super::attach::OWNED), which only its owner does.
///
/// # Errors
/// As [`vas_detach`]; `EINVAL`: it has no owner.
pub(crate) fn vas_detach_owned(vh: VasHandle) -> Result<(), Errno> {
    // SAFETY: as in `vas_detach`.
    unsafe { call(CALL_VAS_DETACH, [vh.raw(), detach::OWNED]) }.map(|_| ())
}

/// Carries out one of the commands of [`super::vas_command`] on `object`, a VAS's id or, for
/// commands on an instance, a handle.
///
/// # Errors
/// - `EINVAL`: unknown `cmd`, or an `arg` it does not take.
/// - `ENOENT`: no VAS has that id.
/// - `EBADF`: `object` must be a handle and is not one, or is home.
/// - `EACCES`, `EPERM`: the VAS may not be changed; its mode only by its owner.
/// - `EBUSY`: `SET_INSTANCE_TAGGED` while a thread is inside.
/// - store errors ([`super`]).
pub fn vas_ctl(cmd: u64, object: u64, arg: u64) -> Result<(), Errno> {
    // SAFETY: no command takes addresses or unmaps memory.
    unsafe { call(CALL_VAS_CTL, [cmd, object, arg]) }.map(|_| ())
}

/// Deletes the VAS, not its segments.
///
/// # Errors
/// - `ENOENT`: no VAS has the id `vid`.
/// - `EBUSY`: a live process, perhaps this one, has it attached.
/// - `EACCES`: the VAS or the store may not be written to.
/// - store errors ([`super`]).
pub fn vas_delete(vid: VasId) -> Result<(), Errno> {
    // SAFETY: the call takes no addresses, and refuses what is attached.
    unsafe { call(CALL_VAS_DELETE, [vid.raw()]) }.map(|_| ())
}

/// Fills `buffer` with the VASes of the store in the order of their names, from number
/// `cursor` on, and says how many there were; 0 means the end. VASes made or deleted between
/// two calls move the others.
///
/// # Errors
/// - `EINVAL`: the buffer has no room for one.
/// - `EACCES`: the store may not be read.
/// - store errors ([`super`]).
pub fn vas_list(buffer: &mut [VasStat], cursor: u64) -> Result<usize, Errno> {
    let args = [buffer.as_mut_ptr() as u64, size_of_val(buffer) as u64, cursor];
    // SAFETY: the call writes whole `VasStat`s, any bytes of which are valid, into the buffer.
    unsafe { call(CALL_VAS_LIST, args) }.map(|count| count as usize)
}

/// What is known of the VAS `vid`.
///
/// # Errors
/// - `ENOENT`: no VAS has that id.
/// - store errors ([`super`]).
pub fn vas_stat(vid: VasId) -> Result<VasStat, Errno> {
    let mut stat = EMPTY_VAS_STAT;
    let args = [vid.raw(), &raw mut stat as u64, size_of::<VasStat>() as u64];
    // SAFETY: the call writes at most as many bytes as the structure has, and any are valid.
    unsafe { call(CALL_VAS_STAT, args) }.map(|_| stat)
}

/// Fills `buffer` with the segments of the VAS `vid`, in ascending order of their addresses, from
/// number `cursor` on, and says how many there were; 0 means the end.
///
/// # Errors
/// - `ENOENT`: no VAS has that id.
/// - `EINVAL`: the buffer has no room for one.
/// - `EACCES`: the VAS may not be read.
/// - store errors ([`super`]).
pub fn vas_segments(vid: VasId, buffer: &mut [Attachment], cursor: u64) -> Result<usize, Errno> {
    let args = [vid.raw(), buffer.as_mut_ptr() as u64, size_of_val(buffer) as u64, cursor];
    // SAFETY: the call writes whole `Attachment`s, any bytes of which are valid, into the buffer.
    unsafe { call(CALL_VAS_SEGMENTS, args) }.map(|count| count as usize)
}
