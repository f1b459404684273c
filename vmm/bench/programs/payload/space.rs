//! What `switch`, `attach` and `handover` share: switching, words in segments, creation,
//! clocks. Nothing that is itself measured.
//!
//! No reference into the VAS region ever exists here: Rust's text, stacks and heap are in the
//! private region, and a segment is reached through [`Word`], an address. That makes switching
//! safe.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use abi::Errno;
use abi::call::{CALL_HYPER, CALL_VAS_SWITCH};
use abi::layout::{VAS_END, VAS_START};
use spacejmp::CallPage;
use spacejmp::sys::{self, PagePolicy, Right, SegId, SegParams, VasHandle, VasId};

/// Names the call that failed.
pub(crate) fn tell<T>(what: &str, result: Result<T, Errno>) -> Result<T, String> {
    result.map_err(|errno| format!("{what}: {errno:?}"))
}

/// Enters an instance, or switches home.
#[inline]
pub(crate) fn enter(vh: VasHandle) -> Result<(), Errno> {
    // SAFETY: no reference into a segment exists (module documentation).
    unsafe { sys::vas_switch(vh) }
}

/// The same, performed by the VMM.
#[inline]
pub(crate) fn enter_by_hypercall(vh: VasHandle) -> Result<(), Errno> {
    let page = CallPage::find().map_err(|_| Errno::ENOSYS)?;
    // SAFETY: no reference into a segment exists (module documentation).
    unsafe { page.call(CALL_VAS_SWITCH | CALL_HYPER, [vh.raw(), 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// The time-stamp counter.
#[inline]
pub(crate) fn cycles() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and no host kind forbids it in ring 3.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Waits until all earlier instructions have completed, reads of the counter and of
/// memory included.
#[inline]
pub(crate) fn fence() {
    // SAFETY: every x86-64 processor has the instruction; it changes nothing.
    unsafe { core::arch::x86_64::_mm_lfence() }
}

/// A word in the VAS region, of whatever is mapped there when it is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word(u64);

impl Word {
    /// The word at `address`.
    ///
    /// # Errors
    /// When it is not aligned or not in the VAS region.
    pub(crate) fn at(address: u64) -> Result<Word, String> {
        let region = VAS_START.raw()..VAS_END.raw();
        if address.is_multiple_of(8) && region.contains(&address) {
            Ok(Word(address))
        } else {
            Err(format!("{address:#x} is no word of a segment"))
        }
    }

    fn atomic(&self) -> &AtomicU64 {
        let pointer = std::ptr::with_exposed_provenance_mut(self.0 as usize);
        // SAFETY: aligned and in the VAS region (`at`), where no Rust object lives; all
        // threads use atomics there; the borrow ends within the caller below. Unmapped, it
        // faults.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    pub(crate) fn read(self) -> u64 {
        self.atomic().load(Ordering::SeqCst)
    }

    /// Writes without an order that others could see: as cheap as any store.
    pub(crate) fn put(self, value: u64) {
        self.atomic().store(value, Ordering::Relaxed);
    }

    pub(crate) fn write(self, value: u64) {
        self.atomic().store(value, Ordering::SeqCst);
    }
}

/// A segment to be made.
pub(crate) fn sized(size_bytes: u64, pages: PagePolicy) -> SegParams {
    SegParams { size_bytes, mode: 0o600, pages: pages as u8, ..SegParams::default() }
}

/// A new VAS `name` with `count` new segments of its own, writable.
pub(crate) fn make(
    name: &str,
    count: u64,
    params: &SegParams,
) -> Result<(VasId, Vec<SegId>), String> {
    let vid = tell("vas_create", sys::vas_create(name, 0o600))?;
    let mut sids = Vec::new();
    for n in 0..count {
        let sid = tell("seg_alloc", sys::seg_alloc(format!("{name}-{n}"), params))?;
        tell("seg_attach", sys::seg_attach(vid, sid, Right::Write))?;
        sids.push(sid);
    }
    Ok((vid, sids))
}

/// Deletes what [`make`] made, while nothing has it attached.
pub(crate) fn unmake(vid: VasId, sids: Vec<SegId>) -> Result<(), String> {
    tell("vas_delete", sys::vas_delete(vid))?;
    sids.into_iter().try_for_each(|sid| match sys::seg_delete(sid) {
        // A volatile one was deleted with the last process that had it attached.
        Err(Errno::ENOENT) => Ok(()),
        deleted => tell("seg_delete", deleted),
    })
}

/// Does `work` and adds the nanoseconds that it took to `samples`.
#[inline]
pub(crate) fn timed<T>(samples: &mut Vec<u64>, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    samples.push(began.elapsed().as_nanos() as u64);
    done
}

/// The median of some samples, the upper one of two; 0 if there are none.
pub(crate) fn median(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or(0)
}
