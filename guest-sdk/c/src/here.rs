//! The location of the calling thread, and the heap there.
//!
//! Asking the VMM each time would cost more than allocating, so the library's own switches keep a
//! word for each thread; and the VAS of each instance, which no call reports, is kept for the
//! process.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::Errno;
use abi::objects::{Attachment, Lifetime, attach};
use sdk::heap::{HeapError, RawHeap};
use sdk::sys::{self, Right, SegId, VasId};

/// The heap of an instance.
#[derive(Clone, Copy)]
pub(crate) struct Heap {
    pub(crate) raw: RawHeap,
    pub(crate) sid: SegId,
    pub(crate) base: NonNull<u8>,
    pub(crate) writable: bool,
}

/// Where a thread is: an instance, [`UNKNOWN`] after a switch that the library did not see.
#[derive(Clone, Copy)]
struct Here {
    vh: i64,
    heap: Option<Heap>,
}

const HOME: i64 = 0;
const UNKNOWN: i64 = -1;

thread_local! {
    static HERE: Cell<Here> = const { Cell::new(Here { vh: HOME, heap: None }) };
}

/// The VAS of an instance.
#[derive(Default)]
struct Instance {
    vid: u64,
    read_only: bool,
    /// Its segments stay as they are (`VAS_ATTACH_PINNED`).
    is_pinned: bool,
    local: Vec<(u64, u64)>,
    /// Where an earlier visit found its heap: that stays so if it is pinned.
    heap: Option<Found>,
}

/// A segment that holds a heap.
#[derive(Clone, Copy)]
struct Found {
    sid: SegId,
    base: u64,
    writable: bool,
    is_versioned: bool,
}

impl Found {
    /// The heap, if it is one that this version knows and has no more than `size` bytes.
    ///
    /// # Safety
    /// The thread is inside an instance that has the segment, which begins at a multiple of 2 MiB and has
    /// `size` bytes, or held a heap once, and the C program ensures that no thread writes to it meanwhile.
    unsafe fn open(self, size: u64) -> Result<Heap, HeapError> {
        let Found { sid, base, writable, is_versioned } = self;
        let Some(base) = address(base) else { return Err(HeapError::NotAHeap { found: 0 }) };
        // SAFETY: the caller's promise.
        let raw = unsafe { RawHeap::open(base, size) }?;
        let raw = if is_versioned { raw.giving_back(sys::remove_pages) } else { raw };
        Ok(Heap { raw, sid, base, writable })
    }
}

static INSTANCES: Mutex<BTreeMap<i64, Instance>> = Mutex::new(BTreeMap::new());

fn instances() -> MutexGuard<'static, BTreeMap<i64, Instance>> {
    // Nothing panics while it is held.
    INSTANCES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread is in `vh` now.
#[inline]
pub(crate) fn enter(vh: i64) {
    HERE.set(Here { vh, heap: None });
}

/// The thread may be anywhere.
pub(crate) fn forget() {
    enter(UNKNOWN);
}

/// `vh` is an instance of `vid` now.
pub(crate) fn attached(vh: i64, vid: u64, flags: u64) {
    let has = |flag| flags & flag != 0;
    let (read_only, is_pinned) = (has(attach::READ_ONLY), has(attach::PINNED));
    instances().insert(vh, Instance { vid, read_only, is_pinned, ..Instance::default() });
}

/// `vh` is no longer an instance.
pub(crate) fn detached(vh: i64) {
    instances().remove(&vh);
}

/// `vh` has a segment of its own now.
pub(crate) fn attached_local(vh: i64, sid: u64, right: u64) {
    let mut instances = instances();
    let instance = instances.entry(vh).or_default();
    instance.local.push((sid, right));
    instance.heap = None;
}

/// `vh` no longer has it.
pub(crate) fn detached_local(vh: i64, sid: u64) {
    {
        let mut instances = instances();
        let instance = instances.entry(vh).or_default();
        instance.local.retain(|it| it.0 != sid);
        instance.heap = None;
    }
    found_anew();
}

/// The heap of the VAS that the thread is in.
#[inline]
pub(crate) fn heap() -> Result<Heap, Errno> {
    match HERE.get().heap {
        Some(heap) => Ok(heap),
        None => find(),
    }
}

/// The heap, if it may be written to.
#[inline]
pub(crate) fn writable_heap() -> Result<Heap, Errno> {
    let heap = heap()?;
    if heap.writable { Ok(heap) } else { Err(Errno::EACCES) }
}

/// The thread's location, verified; not home.
fn inside() -> Result<i64, Errno> {
    let mut here = HERE.get();
    if here.vh == UNKNOWN {
        here.vh = sys::vas_current()?.raw() as i64;
        HERE.set(here);
    }
    if here.vh == HOME {
        // At home because there is nowhere else?
        sys::null()?;
        return Err(Errno::EPERM);
    }
    Ok(here.vh)
}

#[cold]
fn find() -> Result<Heap, Errno> {
    let vh = inside()?;
    if let Some(heap) = again(vh) {
        HERE.set(Here { vh, heap: Some(heap) });
        return Ok(heap);
    }
    for (sid, writable) in segments(vh)? {
        let stat = sys::seg_stat(sid)?;
        let is_versioned = stat.lifetime == Lifetime::Versioned as u8;
        let found = Found { sid, base: stat.base, writable, is_versioned };
        // SAFETY: the thread is inside an instance that has the segment, with so many bytes.
        match unsafe { found.open(stat.size_bytes) } {
            Ok(heap) => {
                HERE.set(Here { vh, heap: Some(heap) });
                if let Some(instance) = instances().get_mut(&vh).filter(|it| it.is_pinned) {
                    instance.heap = Some(found);
                }
                return Ok(heap);
            }
            Err(HeapError::NotAHeap { .. } | HeapError::TooSmall { .. }) => {}
            Err(HeapError::Version { .. }) => return Err(Errno::EOPNOTSUPP),
            Err(_) => return Err(Errno::EUCLEAN),
        }
    }
    Err(Errno::ENOENT)
}

/// The heap of an instance as an earlier visit found it, if there is still one: a rollback may have brought
/// a version back that has none. No call is made, so that a visit costs what its switches cost.
fn again(vh: i64) -> Option<Heap> {
    let found = instances().get(&vh)?.heap?;
    // SAFETY: the thread is inside an instance that has the segment still, as it is pinned; a segment that
    // held a heap has its first page always, and the heap's header says how far it goes now.
    unsafe { found.open(u64::MAX) }.ok()
}

/// The heap of this segment becomes the one that is found here.
pub(crate) fn found_anew() {
    HERE.set(Here { heap: None, ..HERE.get() });
}

/// Whether the segment is in the VAS that the thread is in, and writable there.
pub(crate) fn is_here(sid: SegId) -> Result<bool, Errno> {
    let vh = inside()?;
    let found = segments(vh)?.into_iter().find(|it| it.0 == sid);
    found.map(|(_, writable)| writable).ok_or(Errno::ENOENT)
}

/// The segments of an instance in the order of their addresses, and whether they are writable.
fn segments(vh: i64) -> Result<Vec<(SegId, bool)>, Errno> {
    let (vid, read_only, mut found) = {
        let mut instances = instances();
        let instance = instances.entry(vh).or_default();
        (instance.vid, instance.read_only, instance.local.clone())
    };
    if let Some(vid) = VasId::new(vid) {
        let list = |buffer: &mut [Attachment], cursor| sys::vas_segments(vid, buffer, cursor);
        let attached = sys::all(Attachment::default(), list)?;
        found.extend(attached.into_iter().map(|it| (it.sid, it.right)));
    }
    let mut placed = Vec::new();
    for (sid, right) in found {
        let sid = SegId::new(sid).ok_or(Errno::EIO)?;
        let writable = !read_only && right == Right::Write.raw();
        placed.push((sys::seg_stat(sid)?.base, sid, writable));
    }
    placed.sort_by_key(|&(base, ..)| base);
    Ok(placed.into_iter().map(|(_, sid, writable)| (sid, writable)).collect())
}

/// A segment's base as a pointer.
pub(crate) fn address(base: u64) -> Option<NonNull<u8>> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(base as usize))
}
