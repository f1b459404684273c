//! Words in the VAS region, and switching between address spaces.
//!
//! One rule makes both safe functions here: **no program of this package has a reference into
//! the VAS region.** No Rust object lives there (text, stacks and heap are in the private
//! region), and all access goes through [`Place`], an address, never a borrow. So a switch
//! leaves nothing dangling, and a wrong address in the region faults or reaches test data.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use abi::Errno;
use abi::layout::{VAS_END, VAS_START};
use spacejmp::sys::{self, SegId, SegRoot, VasHandle};

use crate::touch::{self, Seen};

/// An aligned word in the VAS region, of whatever is mapped there at the time of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    /// The word at `address`.
    ///
    /// # Panics
    /// If the word is not aligned or not in the VAS region.
    #[must_use]
    pub fn at(address: u64) -> Place {
        assert!(address.is_multiple_of(8), "{address:#x} is not aligned");
        let region = VAS_START.raw()..VAS_END.raw();
        assert!(region.contains(&address), "{address:#x} is not in the VAS region");
        Place(address)
    }

    /// Its address.
    #[must_use]
    pub fn address(self) -> u64 {
        self.0
    }

    fn word(&self) -> &AtomicU64 {
        let pointer = std::ptr::with_exposed_provenance_mut(self.0 as usize);
        // SAFETY: aligned and in the VAS region (`at`), where no Rust object lives (module
        // documentation) and all accesses are atomic; the borrow ends within the caller below,
        // before any switch. Unmapped, it faults.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    /// Its value.
    #[must_use]
    pub fn read(self) -> u64 {
        self.word().load(Ordering::SeqCst)
    }

    /// Sets it to `value`.
    pub fn write(self, value: u64) {
        self.word().store(value, Ordering::SeqCst);
    }

    /// Reads it if it can be read.
    #[must_use]
    pub fn look(self) -> Seen {
        // SAFETY: in the VAS region (`at`), where all accesses are atomic, and so is an aligned
        // read.
        unsafe { touch::read(self.0) }
    }

    /// Writes it if it can be written.
    #[must_use]
    pub fn put(self, value: u64) -> Seen {
        // SAFETY: in the VAS region (`at`), where all accesses are atomic, and so is an aligned
        // write.
        unsafe { touch::write(self.0, value) }
    }

    /// Adds one in two steps, which are atomic only under a lock.
    pub fn increment_unlocked(self) {
        let before = self.word().load(Ordering::Relaxed);
        self.word().store(before + 1, Ordering::Relaxed);
    }
}

/// [`sys::vas_switch`], safe by the rule of this module.
///
/// # Errors
/// As that.
pub fn enter(vh: VasHandle) -> Result<(), Errno> {
    // SAFETY: no references into segments exist (module documentation).
    unsafe { sys::vas_switch(vh) }
}

/// [`sys::vas_try_switch`], likewise.
///
/// # Errors
/// As that.
pub fn try_enter(vh: VasHandle) -> Result<(), Errno> {
    // SAFETY: no references into segments exist (module documentation).
    unsafe { sys::vas_try_switch(vh) }
}

/// [`sys::vas_switch_timeout`], likewise.
///
/// # Errors
/// As that.
pub fn enter_within(vh: VasHandle, limit: Duration) -> Result<(), Errno> {
    // SAFETY: no references into segments exist (module documentation).
    unsafe { sys::vas_switch_timeout(vh, limit) }
}

/// The hypercall twin of [`enter`]: the VMM does what the guest kernel would.
///
/// # Errors
/// As [`enter`].
pub fn enter_by_hypercall(vh: VasHandle) -> Result<(), Errno> {
    let page = spacejmp::CallPage::find().map_err(|_| Errno::ENOSYS)?;
    let number = abi::call::CALL_VAS_SWITCH | abi::call::CALL_HYPER;
    // SAFETY: no references into segments exist (module documentation).
    unsafe { page.call(number, [vh.raw(), 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// [`sys::vas_commit`], likewise.
///
/// # Errors
/// As that.
pub fn commit() -> Result<(), Errno> {
    // SAFETY: no program here opens as a `Space` what it has made with raw calls.
    unsafe { sys::vas_commit() }
}

/// [`sys::vas_abort`], likewise.
///
/// # Panics
/// If that is refused.
#[track_caller]
pub fn abort() {
    // SAFETY: no references into segments exist (module documentation).
    assert_eq!(unsafe { sys::vas_abort() }, Ok(()), "an abort");
}

/// [`sys::vas_nest`], likewise.
///
/// # Errors
/// As that.
pub fn nest(vh: VasHandle, limit: Option<Duration>) -> Result<(), Errno> {
    // SAFETY: no references into segments exist (module documentation).
    unsafe { sys::vas_nest(vh, limit) }
}

/// [`sys::vas_return`], likewise.
///
/// # Errors
/// As that.
pub fn go_back() -> Result<VasHandle, Errno> {
    // SAFETY: no references into segments exist (module documentation).
    unsafe { sys::vas_return() }
}

/// Goes back to the process's own address space.
///
/// # Panics
/// If that is refused, which must never happen.
#[track_caller]
pub fn go_home() {
    assert_eq!(enter(VasHandle::HOME), Ok(()), "there is no way home");
}

/// Sets the address of a segment's root object.
///
/// # Errors
/// As [`sys::seg_root_set`].
pub fn set_root(sid: SegId, root: &SegRoot) -> Result<(), Errno> {
    // SAFETY: no program here opens as a `Space` what it has made with raw calls.
    unsafe { sys::seg_root_set(sid, root) }
}

/// Declares a segment consistent.
///
/// # Errors
/// As [`sys::seg_recover`].
pub fn recover(sid: SegId) -> Result<(), Errno> {
    // SAFETY: as for `set_root`.
    unsafe { sys::seg_recover(sid) }
}
