//! Which frames of a window may have been written since somebody looked at them.
//!
//! KVM notes what the guest writes, once it is asked to (`KVM_MEM_LOG_DIRTY_PAGES`): on every kind of host,
//! and whatever the guest's own tables say. It costs the guest a moment in the host's kernel, without an
//! exit to the VMM, for each page that it writes again. What the host writes for system calls, KVM does not
//! see: whoever lets it do that says so here.
#![forbid(unsafe_code)]

use crate::vm::windows::Window;

/// See the module. While KVM notes nothing, every frame may have been written.
#[derive(Debug)]
pub(super) struct Written {
    /// A bit for each frame.
    bits: Vec<u64>,
    /// KVM was asked to note what the guest writes.
    is_asked: bool,
    /// What it notes is taken in.
    is_noted: bool,
}

impl Written {
    /// For a window of so many frames, which nobody has looked at.
    pub(super) fn new(frames: u32) -> Written {
        let bits = vec![u64::MAX; frames.div_ceil(u64::BITS) as usize];
        Written { bits, is_asked: false, is_noted: false }
    }

    fn bit(&mut self, frame: u32) -> Option<(&mut u64, u64)> {
        let word = self.bits.get_mut((frame / u64::BITS) as usize)?;
        Some((word, 1 << (frame % u64::BITS)))
    }

    pub(super) fn has(&self, frame: u32) -> bool {
        let word = self.bits.get((frame / u64::BITS) as usize);
        word.is_none_or(|word| word & 1 << (frame % u64::BITS) != 0)
    }

    /// A frame is written, or may be from now on.
    pub(super) fn add(&mut self, frame: u32) {
        if let Some((word, bit)) = self.bit(frame) {
            *word |= bit;
        }
    }

    /// Somebody has looked at a frame since [`Written::take_in`], and nobody has written it meanwhile.
    pub(super) fn remove(&mut self, frame: u32) {
        if !self.is_noted {
            return;
        }
        if let Some((word, bit)) = self.bit(frame) {
            *word &= !bit;
        }
    }

    /// Has KVM note what the guest writes from now on, if it can.
    pub(super) fn begin(&mut self, window: &Window) {
        if self.is_noted {
            return;
        }
        self.is_asked = self.is_asked || window.note_writes().is_ok();
        // What was noted before does not matter: everything may have been written.
        self.is_noted = self.is_asked && window.take_writes().is_ok();
    }

    /// Takes in no more: then the guest pays nothing for what it writes.
    pub(super) fn end(&mut self) {
        self.is_noted = false;
        self.bits.fill(u64::MAX);
    }

    /// Takes in what KVM has noted. If it does not say, everything may have been written.
    pub(super) fn take_in(&mut self, window: &Window) {
        if !self.is_noted {
            return;
        }
        match window.take_writes() {
            Ok(noted) if noted.len() == self.bits.len() => {
                self.bits.iter_mut().zip(noted).for_each(|(word, noted)| *word |= noted);
            }
            _ => self.bits.fill(u64::MAX),
        }
    }
}
