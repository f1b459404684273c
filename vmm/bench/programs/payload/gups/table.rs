//! The words of one window, wherever it is mapped while they are used.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::layout::{VAS_END, VAS_START};

use super::plan::part;
use crate::mapping::Mapping;

/// A window's words: of a mapping that lives as long, or of segments that may or may not be
/// mapped when they are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    base: usize,
    mask: u64,
    mapping: PhantomData<&'a Mapping>,
}

impl<'a> Words<'a> {
    /// `bytes` of the VAS region.
    ///
    /// # Errors
    /// When they are not all in it, not aligned, or not a power of two.
    pub(crate) fn in_vas(base: u64, bytes: u64) -> Result<Words<'static>, String> {
        let inside = base >= VAS_START.raw()
            && base.checked_add(bytes).is_some_and(|end| end <= VAS_END.raw());
        if !inside || !base.is_multiple_of(8) || !bytes.is_power_of_two() || bytes < 8 {
            return Err(format!("{bytes} bytes at {base:#x} are no window of a segment"));
        }
        Ok(Words { base: base as usize, mask: bytes / 8 - 1, mapping: PhantomData })
    }

    /// Window `index` of `bytes` each in a mapping.
    pub(crate) fn of(mapping: &'a Mapping, index: u32, bytes: u64) -> Words<'a> {
        let begin = u64::from(index) * bytes;
        assert!(begin + bytes <= mapping.bytes(), "window {index} is not in the mapping");
        assert!(bytes.is_power_of_two() && bytes >= 8, "a window is a power of two of bytes");
        let base = mapping.base() + begin as usize;
        Words { base, mask: bytes / 8 - 1, mapping: PhantomData }
    }

    #[inline]
    fn at(&self, index: u64) -> &AtomicU64 {
        let address = self.base + ((index & self.mask) * 8) as usize;
        let pointer = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: aligned; within a mapping that `self` borrows (`of`), or in the VAS region,
        // where no Rust object lives (`in_vas`): unmapped, it faults. All threads use atomics
        // there, and the borrow ends within the callers below.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    /// Makes a set of updates. The window has one writer: two plain accesses, no locked one.
    #[inline]
    pub(crate) fn update(&self, set: &[u64]) {
        for &value in set {
            let word = self.at(value);
            word.store(word.load(Relaxed) ^ value, Relaxed);
        }
    }

    /// Changes every page of 4 KiB and changes it back: afterwards all of it is mapped for
    /// writing.
    pub(crate) fn touch(&self) {
        (0..=self.mask).step_by(512).for_each(|page| self.touch_word(page));
    }

    /// Reads one word.
    #[inline]
    pub(crate) fn read(&self, index: u64) -> u64 {
        self.at(index).load(Relaxed)
    }

    /// Changes one word and changes it back: an exchange that changes nothing would be
    /// compiled into a read.
    pub(crate) fn touch_word(&self, index: u64) {
        self.at(index).fetch_xor(1, Relaxed);
        self.at(index).fetch_xor(1, Relaxed);
    }

    /// Fills `buffer` from the beginning.
    #[inline]
    pub(crate) fn copy_out(&self, buffer: &mut [u8]) {
        assert!(buffer.len() as u64 <= (self.mask + 1) * 8, "no more than there is");
        let from = std::ptr::with_exposed_provenance::<u8>(self.base);
        // SAFETY: within the window (above), which is mapped or faults; nothing writes to
        // it meanwhile, since one party at a time has it; a buffer is never in it.
        unsafe { from.copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) }
    }

    /// Writes `data` at the beginning.
    pub(crate) fn copy_in(&self, data: &[u8]) {
        assert!(data.len() as u64 <= (self.mask + 1) * 8, "no more than fits");
        let to = std::ptr::with_exposed_provenance_mut::<u8>(self.base);
        // SAFETY: as above.
        unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) }
    }

    /// What it adds to the sum as window `window`.
    pub(crate) fn sum(&self, window: u32) -> u64 {
        let first = u64::from(window) * (self.mask + 1);
        let parts = (0..=self.mask).map(|index| part(first + index, self.at(index).load(Relaxed)));
        parts.fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_stay_in_their_window_and_two_of_the_same_cancel() {
        let mapping = Mapping::shared_memory(16384).unwrap();
        let windows: Vec<_> = (0..4).map(|index| Words::of(&mapping, index, 4096)).collect();
        let set = [5, 512 + 5, u64::MAX];
        windows[2].update(&set);
        let sums: Vec<_> = (0..4).map(|index| windows[index as usize].sum(index)).collect();
        let expected = part(1024 + 5, 512).wrapping_add(part(1024 + 511, u64::MAX));
        assert_eq!(sums, [0, 0, expected, 0]);
        windows[2].touch();
        assert_eq!(windows[2].sum(2), expected);
        windows[2].update(&set);
        assert_eq!(windows[2].sum(2), 0);
    }

    #[test]
    fn a_window_outside_the_vas_region_is_refused() {
        assert!(Words::in_vas(VAS_START.raw() - 4096, 4096).is_err());
        assert!(Words::in_vas(VAS_END.raw() - 4096, 8192).is_err());
        assert!(Words::in_vas(VAS_START.raw(), 4096).is_ok());
    }
}
