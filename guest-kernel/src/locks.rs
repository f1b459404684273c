//! `vas_switch` where there is more to do than to load CR3: locks to take or to give back.
//!
//! Runs on the vCPU's call stack or, on trapping hosts, on its exception stack: frames must
//! stay within a few hundred bytes. What has to be waited for is left to the VMM.

use core::arch::asm;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::call::CALL_VAS_SWITCH;
use abi::layout::{INSTANCES, LOCK_REFS, LOCK_REFS_BYTES, SWITCH_CONTROL, SWITCH_LIVE};
use abi::lock::{Fast, LockWords, switch_locks_fast};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{CR3_KEEP, CR3_TAG, InstanceEntry, LockRef, SwitchControl, VcpuLine};

/// What entry gets back, in RAX and RDX.
#[repr(C)]
pub(crate) struct Outcome {
    /// 0: served. Else the call's number: leave for the VMM.
    number: u64,
    vh: u64,
}

/// The word at a kernel address.
///
/// # Safety
/// The address is one that the VMM keeps mapped and writable.
#[inline(always)]
unsafe fn word(address: u64) -> &'static AtomicU64 {
    // SAFETY: mapped, by the caller's word; aligned, since all structures are.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

/// A page of lock words.
#[derive(Clone, Copy)]
struct Page(u64);

impl Page {
    #[inline(always)]
    fn word(self, index: usize) -> &'static AtomicU64 {
        // SAFETY: lock references name pages that stay mapped (vmm: `map_lock_page`).
        unsafe { word(self.0 + index as u64 * 8) }
    }
}

impl LockWords for Page {
    #[inline(always)]
    fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }
    #[inline(always)]
    fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }
    #[inline(always)]
    fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word(index).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    #[inline(always)]
    fn fetch_add(&self, index: usize, delta: u64) -> u64 {
        self.word(index).fetch_add(delta, Ordering::SeqCst)
    }
    #[inline(always)]
    fn fetch_sub(&self, index: usize, delta: u64) -> u64 {
        self.word(index).fetch_sub(delta, Ordering::SeqCst)
    }
    #[inline(always)]
    fn fetch_or(&self, index: usize, bits: u64) -> u64 {
        self.word(index).fetch_or(bits, Ordering::SeqCst)
    }
    #[inline(always)]
    fn fetch_and(&self, index: usize, bits: u64) -> u64 {
        self.word(index).fetch_and(bits, Ordering::SeqCst)
    }
    #[inline(always)]
    fn swap(&self, index: usize, value: u64) -> u64 {
        self.word(index).swap(value, Ordering::SeqCst)
    }
}

/// The references of a range word: first in the upper half, count in the lower.
#[inline(always)]
fn refs(range: u64) -> Option<&'static [LockRef]> {
    const MOST: u64 = LOCK_REFS_BYTES / size_of::<LockRef>() as u64;
    let (first, count) = (range >> 32, range & 0xffff_ffff);
    if first + count > MOST {
        return None;
    }
    let start = LOCK_REFS.raw() + first * size_of::<LockRef>() as u64;
    // SAFETY: within the table, which is mapped before any count is not 0; entries that a
    // range names are not written (abi::switch).
    Some(unsafe { core::slice::from_raw_parts(start as *const LockRef, count as usize) })
}

/// Switches the vCPU whose page is at `page` to instance `vh`, or changes nothing.
pub(crate) extern "sysv64" fn switch_with_locks(vh: u64, page: u64) -> Outcome {
    let number = if try_switch(vh, page).is_some() { 0 } else { u64::from(CALL_VAS_SWITCH) };
    Outcome { number, vh }
}

#[inline(always)]
fn try_switch(vh: u64, page: u64) -> Option<()> {
    // SAFETY: entry passes the page of this vCPU, and the VMM has filled in its line.
    let own = |offset: usize| unsafe { word(page + offset as u64) };
    let line = own(offset_of!(VcpuPage, line)).load(Ordering::Relaxed);
    // SAFETY: the lines are mapped from the start.
    let line = |offset: usize| unsafe { word(line + offset as u64) };
    let (announced, inside) =
        (line(offset_of!(VcpuLine, announced)), line(offset_of!(VcpuLine, inside)));
    if vh >= u64::from(MAX_INSTANCES) {
        return None;
    }
    announced.swap(vh, Ordering::SeqCst);
    let done = enter(vh, own, inside);
    if done.is_none() {
        announced.store(inside.load(Ordering::Relaxed), Ordering::Release);
    }
    done
}

/// The switch, once it is announced.
#[inline(always)]
fn enter(
    vh: u64,
    own: impl Fn(usize) -> &'static AtomicU64,
    inside: &AtomicU64,
) -> Option<()> {
    // SAFETY: both are mapped from the start, and so is the table of instances.
    let fixed = |address: u64| unsafe { word(address) };
    let seen = SWITCH_CONTROL.raw() + offset_of!(SwitchControl, seen) as u64;
    if fixed(SWITCH_LIVE.raw()).load(Ordering::SeqCst) != fixed(seen).load(Ordering::SeqCst) {
        return None;
    }
    if inside.load(Ordering::Relaxed) == vh {
        return Some(());
    }
    let entry = INSTANCES.raw() + vh * size_of::<InstanceEntry>() as u64;
    let entry = |offset: usize| fixed(entry + offset as u64).load(Ordering::Acquire);
    let cr3 = entry(offset_of!(InstanceEntry, cr3));
    let generation = entry(offset_of!(InstanceEntry, generation));
    let needed = entry(offset_of!(InstanceEntry, lock_count));
    // All three are of one time: the VMM empties the root before it writes the others.
    if cr3 == 0 || cr3 != entry(offset_of!(InstanceEntry, cr3)) {
        return None;
    }
    let held = own(offset_of!(VcpuPage, held_count));
    let old = held.load(Ordering::Relaxed);
    let result = switch_locks_fast(refs(old)?, refs(needed)?, Page);
    if result == Fast::Refused {
        return None;
    }
    // From here on nothing fails. Kicks may stop us, but the VMM does not look at these words
    // then.
    held.store(needed, Ordering::Relaxed);
    let limit = if needed as u32 == 0 { u64::from(MAX_INSTANCES) } else { 0 };
    own(offset_of!(VcpuPage, plain_limit)).store(limit, Ordering::Relaxed);
    let mut load = cr3;
    if cr3 & CR3_KEEP != 0 {
        let tags = own(offset_of!(VcpuPage, tags)).load(Ordering::Relaxed);
        // SAFETY: tagged roots exist only where vCPUs have tables of tags, of all 4096.
        let last = unsafe { word(tags + (cr3 & CR3_TAG) * 8) };
        if last.load(Ordering::Relaxed) != generation {
            last.store(generation, Ordering::Relaxed);
            load &= !CR3_KEEP;
        }
    }
    // SAFETY: a root of the VMM's; all have the same kernel half.
    unsafe { asm!("mov cr3, {}", in(reg) load, options(nostack, preserves_flags)) };
    inside.store(vh, Ordering::Release);
    if result == Fast::DoneNudge {
        // The VMM must wake who waits. It finds the thread where it wanted to go.
        own(offset_of!(VcpuPage, nudge_count)).store(old, Ordering::Relaxed);
        return None;
    }
    Some(())
}
