//! The slow path of `vas_switch`, for what `switch.rs` does not handle: both instances have locks,
//! a lock is not immediately free, or the program is already in the target instance.
//!
//! Runs on the vCPU's call stack or, on trapping hosts, on its exception stack: frames must stay
//! within a few hundred bytes. Waiting is left to the VMM.

use core::arch::asm;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::call::CALL_VAS_SWITCH;
use abi::layout::{
    LOCK_RANGES, LOCK_REFS, PLAIN_GENERATIONS, PLAIN_ROOTS, SWITCH_CONTROL, SWITCH_LIVE,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{CR3_KEEP, CR3_TAG, LockEnd, LockRef, SwitchControl, VcpuStatus};
use abi::{GuestVirt, tag};
use seg_lock::{AtomicWords, switch_locks_fast};

/// See [`switch_with_locks`].
pub(crate) const PARTIAL: u32 = 1;
/// See [`switch_with_locks`].
pub(crate) const FLUSH: u32 = 2;

const REF_BYTES: u64 = size_of::<LockRef>() as u64;

/// What the entry code gets back, in RAX and RDX.
#[repr(C)]
pub(crate) struct Outcome {
    /// 0 if served, else the call's number: exit to the VMM.
    number: u64,
    vh: u64,
}

/// The word at a kernel address.
///
/// # Safety
/// The VMM keeps the address mapped and writable.
#[inline(always)]
unsafe fn word(address: u64) -> &'static AtomicU64 {
    // SAFETY: mapped, as the caller guarantees; aligned, since all structures are.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

/// A page of lock words.
#[derive(Clone, Copy)]
struct Page(u64);

impl AtomicWords for Page {
    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: lock references point to pages that stay mapped (vmm: `map_lock_page`).
        unsafe { word(self.0 + index as u64 * 8) }
    }
}

/// The list that a range word describes: offset in the upper half, count in the lower.
#[inline(always)]
fn refs(range: u64) -> &'static [LockRef] {
    let start = LOCK_REFS.raw() + (range >> 32);
    // SAFETY: ranges come from the VMM, in memory that nothing else can write: they lie in the
    // table, which is mapped before any exists, and what they refer to is not written
    // (abi::switch). An empty range is aligned, too.
    unsafe { core::slice::from_raw_parts(start as *const LockRef, range as u32 as usize) }
}

/// Switches the vCPU whose page is at `page` to instance `vh`, or changes nothing.
///
/// With [`PARTIAL`], the locks recorded as held are the first ones of that instance, already
/// acquired; with [`FLUSH`], the TLB must be flushed whatever the tag's generation.
pub(crate) extern "sysv64" fn switch_with_locks(vh: u64, page: u64, how: u32) -> Outcome {
    // SAFETY: the entry code passes the page of this vCPU.
    let own = |offset: usize| unsafe { word(page + offset as u64) };
    let status = own(offset_of!(VcpuPage, status)).load(Ordering::Relaxed);
    // SAFETY: the VMM has filled in the status entry's address, and status entries are mapped from
    // the start.
    let status = |offset: usize| unsafe { word(status + offset as u64) };
    let announced = status(offset_of!(VcpuStatus, announced));
    let inside = status(offset_of!(VcpuStatus, inside));
    // At most MAX_INSTANCES: the tables that are indexed by handle end there.
    let done = vh < own(offset_of!(VcpuPage, kernel_limit)).load(Ordering::Relaxed) && {
        announced.swap(vh, Ordering::SeqCst);
        inside.load(Ordering::Relaxed) == vh && is_fresh() || enter(vh, own, inside, how)
    };
    if !done {
        if how == PARTIAL {
            let held = own(offset_of!(VcpuPage, held));
            // The result does not matter: the VMM wakes the waiters of the locks of both instances.
            let _ = switch_locks_fast(refs(held.load(Ordering::Relaxed)), &[], Page);
            held.store(0, Ordering::Relaxed);
        }
        announced.store(inside.load(Ordering::Relaxed), Ordering::Release);
    }
    // The VMM must wake the waiters of the locks that were released on the way. It finds the thread
    // in its target instance, if the switch succeeded.
    let waited_for = own(offset_of!(VcpuPage, waited_for)).load(Ordering::Relaxed) != 0;
    let number = if done && !waited_for { 0 } else { u64::from(CALL_VAS_SWITCH) };
    Outcome { number, vh }
}

/// Whether the VMM has checked all VASes since the last change to one.
#[inline(always)]
fn is_fresh() -> bool {
    // SAFETY: the page of change counters is mapped from the start.
    let live = unsafe { word(SWITCH_LIVE.raw()) };
    // SAFETY: and so is the control page.
    let seen = unsafe { word(SWITCH_CONTROL.raw() + offset_of!(SwitchControl, seen) as u64) };
    live.load(Ordering::SeqCst) == seen.load(Ordering::SeqCst)
}

/// The switch, after the announcement.
#[inline(always)]
fn enter(vh: u64, own: impl Fn(usize) -> &'static AtomicU64, inside: &AtomicU64, how: u32) -> bool {
    if !is_fresh() {
        return false;
    }
    // SAFETY: a word of one of the tables indexed by handle, which are mapped from the start.
    let of = |table: GuestVirt| unsafe { word(table.raw() + vh * 8) }.load(Ordering::Acquire);
    let needed = of(LOCK_RANGES);
    // A view of a versioned segment, which is entered only by the short way (`switch.rs`).
    if needed.cast_signed() < 0 {
        return false;
    }
    let (cr3, generation) = if needed == 0 {
        let found = (of(PLAIN_ROOTS), of(PLAIN_GENERATIONS));
        // Both are a consistent snapshot: the VMM clears the root before it writes a generation.
        if found.0 == 0 || found.0 != of(PLAIN_ROOTS) {
            return false;
        }
        found
    } else {
        let end = LOCK_REFS.raw() + (needed >> 32) + u64::from(needed as u32) * REF_BYTES;
        // SAFETY: as for the list itself, whose end this is.
        let end = unsafe { &*(end as *const LockEnd) };
        (end.cr3, end.generation)
    };
    let held = own(offset_of!(VcpuPage, held));
    let old = held.load(Ordering::Relaxed);
    let (outcome, has_waiters) = switch_locks_fast(refs(old), refs(needed), Page);
    if !outcome.is_held() {
        return false;
    }
    // From here on nothing fails. A kick may interrupt us, but the VMM does not read these words
    // then.
    held.store(needed, Ordering::Relaxed);
    let limit = if needed == 0 { u64::from(MAX_INSTANCES) } else { 0 };
    own(offset_of!(VcpuPage, plain_limit)).store(limit, Ordering::Relaxed);
    let mut load = cr3;
    if cr3 & CR3_KEEP != 0 {
        let tags = own(offset_of!(VcpuPage, tags)).load(Ordering::Relaxed);
        // SAFETY: tagged roots exist only where vCPUs have tag tables, which cover all 4096 tags.
        let last = unsafe { word(tags + (cr3 & CR3_TAG) * 8) };
        let keep = tag::keeps(last.load(Ordering::Relaxed), generation) && how != FLUSH;
        last.store(generation, Ordering::Relaxed);
        if !keep {
            load &= !CR3_KEEP;
        }
    }
    // SAFETY: a root that the VMM wrote; all roots have the same kernel half.
    unsafe { asm!("mov cr3, {}", in(reg) load, options(nostack, preserves_flags)) };
    inside.store(vh, Ordering::Release);
    let waited_for = own(offset_of!(VcpuPage, waited_for));
    if has_waiters && waited_for.load(Ordering::Relaxed) == 0 {
        waited_for.store(old, Ordering::Relaxed);
    }
    true
}
