//! Memory for a writer's own copies of pages: frames of anonymous memory, behind windows of its own.
//!
//! Frames that are given back are dropped at once, one host call for each run of them: with the
//! memory go all translations of the guest's to it, on every kind of host. Frames are taken in the
//! order of their addresses, so that runs are long.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_2M};
use spacejmp_versions::page::{PAGE_BYTES, Page};

use super::written::Written;
use crate::vm::windows::{PinnedRange, Window};
use crate::vm::{Machine, MemoryError, MemoryKind, MemoryLedger};

/// Bytes of one window.
const WINDOW_BYTES: u64 = 16 << 20;
const WINDOW_FRAMES: u32 = (WINDOW_BYTES / PAGE_SIZE) as u32;
/// Frames of 2 MiB.
const GROUP_FRAMES: u32 = (PAGE_SIZE_2M / PAGE_SIZE) as u32;

/// Who takes so many frames at once will write them all: the host does well to find the memory in large
/// pieces.
const MANY: usize = 128;

/// What a fault takes at most.
const AT_ONCE_BYTES: u64 = PAGE_SIZE_2M;

/// A page's worth of memory, by its number over all windows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Frame(u32);

/// See the module.
#[derive(Debug)]
pub(crate) struct Copies {
    ledger: Arc<MemoryLedger>,
    windows: Vec<(Window, Written)>,
    /// Falling, so that the lowest is taken first.
    free: Vec<Frame>,
}

impl Copies {
    /// No memory yet.
    pub(crate) fn new(ledger: Arc<MemoryLedger>) -> Copies {
        Copies { ledger, windows: Vec::new(), free: Vec::new() }
    }

    /// Whether more pages can be changed without others being written out: what visits have changed takes at
    /// most half of the limit, so that the program's own memory, and page tables, find some.
    pub(crate) fn has_room(&self) -> bool {
        let held = self.ledger.held(MemoryKind::Versioned);
        held.saturating_add(AT_ONCE_BYTES) <= self.ledger.limit_bytes() / 2
            && self.ledger.check(MemoryKind::Versioned, AT_ONCE_BYTES).is_ok()
    }

    /// Whether one more large page may be made. Its frames stay until the tables go, since its entry is never
    /// replaced: so a quarter of the limit at most, and what is written out turn by turn has another.
    pub(crate) fn has_room_for_group(&self) -> bool {
        let held = self.ledger.held(MemoryKind::Versioned);
        held.saturating_add(PAGE_SIZE_2M) <= self.ledger.limit_bytes() / 4
    }

    /// Whether 2 MiB may be copied so that they are read more quickly: nothing else is to lack memory for it, so
    /// a quarter of the limit at most, and only while half of it is free.
    pub(crate) fn has_room_to_gather(&self) -> bool {
        let total = self.ledger.total().saturating_add(PAGE_SIZE_2M);
        let is_free = self.ledger.check(MemoryKind::Versioned, self.ledger.limit_bytes() / 2);
        self.has_room_for_group() && total <= self.ledger.limit_bytes() / 2 && is_free.is_ok()
    }

    /// Whether the host may be using a frame, on behalf of a system call: or one near it.
    pub(crate) fn is_in_use(&self, frame: Frame) -> bool {
        self.place(frame).0.is_pinned()
    }

    /// A frame with this content.
    pub(crate) fn make(&mut self, content: &Page, machine: &Machine) -> Result<Frame, MemoryError> {
        let frame = self.zeroed(1, machine)?[0];
        self.write(frame, content);
        Ok(frame)
    }

    /// `count` frames of zeros, rising.
    ///
    /// # Errors
    /// No memory for all of them; then there is none of them.
    pub(crate) fn zeroed(
        &mut self,
        count: usize,
        machine: &Machine,
    ) -> Result<Vec<Frame>, MemoryError> {
        while self.free.len() < count {
            self.add_window(machine)?;
        }
        self.ledger.charge(MemoryKind::Versioned, count as u64 * PAGE_SIZE)?;
        let frames = self.free.split_off(self.free.len() - count);
        let frames: Vec<Frame> = frames.into_iter().rev().collect();
        for frame in &frames {
            let (window, written) = self.written(*frame);
            written.add(frame.0 % WINDOW_FRAMES);
            if count >= MANY {
                window.prefer_huge();
            }
        }
        Ok(frames)
    }

    /// Frames of zeros, rising, that one large page can show: 2 MiB, at a multiple of it. The caller has
    /// asked [`Copies::has_room_for_group`].
    ///
    /// # Errors
    /// No memory for all of them; then there is none of them.
    pub(crate) fn zeroed_group(&mut self, machine: &Machine) -> Result<Vec<Frame>, MemoryError> {
        let found = match self.free_group() {
            Some(found) => found,
            None => {
                self.add_window(machine)?;
                // The new window's lowest, which lie before those that were there.
                (WINDOW_FRAMES - GROUP_FRAMES) as usize..WINDOW_FRAMES as usize
            }
        };
        self.ledger.charge(MemoryKind::Versioned, PAGE_SIZE_2M)?;
        let frames: Vec<Frame> = self.free.drain(found).rev().collect();
        for frame in &frames {
            let (window, written) = self.written(*frame);
            written.add(frame.0 % WINDOW_FRAMES);
            window.prefer_huge();
        }
        Ok(frames)
    }

    /// The lowest 2 MiB that are free, as places in `free`.
    fn free_group(&self) -> Option<Range<usize>> {
        let last = self.free.len().checked_sub(GROUP_FRAMES as usize)?;
        let is_group = |&start: &usize| {
            let (high, low) = (self.free[start], self.free[start + GROUP_FRAMES as usize - 1]);
            low.0.is_multiple_of(GROUP_FRAMES) && high.0 - low.0 == GROUP_FRAMES - 1
        };
        let start = (0..=last).rev().find(is_group)?;
        Some(start..start + GROUP_FRAMES as usize)
    }

    fn add_window(&mut self, machine: &Machine) -> Result<(), MemoryError> {
        let first = self.windows.len() as u32 * WINDOW_FRAMES;
        let window = machine.windows.map_anonymous(WINDOW_BYTES)?;
        self.windows.push((window, Written::new(WINDOW_FRAMES)));
        // Falling, as those that are there, which lie below.
        self.free.splice(0..0, (first..first + WINDOW_FRAMES).rev().map(Frame));
        Ok(())
    }

    fn place(&self, frame: Frame) -> (&Window, u64) {
        let window = self.windows.get((frame.0 / WINDOW_FRAMES) as usize);
        let offset = u64::from(frame.0 % WINDOW_FRAMES) * PAGE_SIZE;
        (&window.expect("windows are never taken away").0, offset)
    }

    fn written(&mut self, frame: Frame) -> (&Window, &mut Written) {
        let window = self.windows.get_mut((frame.0 / WINDOW_FRAMES) as usize);
        let (window, written) = window.expect("windows are never taken away");
        (window, written)
    }

    /// Looks what the guest has written, where that is noted.
    pub(crate) fn take_in_writes(&mut self) {
        self.windows.iter_mut().for_each(|(window, written)| written.take_in(window));
    }

    /// Whether a frame may have another content than when it was [settled](Copies::settle).
    pub(crate) fn may_differ(&self, frame: Frame) -> bool {
        let window = self.windows.get((frame.0 / WINDOW_FRAMES) as usize);
        window.is_none_or(|(_, written)| written.has(frame.0 % WINDOW_FRAMES))
    }

    /// Frames were looked at, with no thread inside the guest that could have written them since
    /// [`Copies::take_in_writes`].
    pub(crate) fn settle(&mut self, frames: impl IntoIterator<Item = Frame>) {
        for frame in frames {
            let (window, written) = self.written(frame);
            // A system call may have the memory still.
            if !window.is_pinned() {
                written.remove(frame.0 % WINDOW_FRAMES);
            }
        }
    }

    /// Has it noted from now on which frames near these the guest writes, or not.
    pub(crate) fn note_writes_near(
        &mut self,
        frames: impl Iterator<Item = Frame>,
        is_wanted: bool,
    ) {
        let mut windows: Vec<u32> = Vec::new();
        for index in frames.map(|frame| frame.0 / WINDOW_FRAMES) {
            // Most lie in the same one.
            if !windows.contains(&index) {
                windows.push(index);
            }
        }
        for index in windows {
            let Some((window, written)) = self.windows.get_mut(index as usize) else { continue };
            if is_wanted { written.begin(window) } else { written.end() }
        }
    }

    pub(crate) fn gpa(&self, frame: Frame) -> GuestPhys {
        let (window, offset) = self.place(frame);
        window.gpa().offset(offset)
    }

    /// The frame's memory, for a system call, which may write it.
    pub(crate) fn pin_to_write(&mut self, frame: Frame) -> PinnedRange {
        self.written(frame).1.add(frame.0 % WINDOW_FRAMES);
        self.pin(frame)
    }

    /// The frame's memory, to be read.
    pub(crate) fn pin(&self, frame: Frame) -> PinnedRange {
        let (window, offset) = self.place(frame);
        window.pin(offset, PAGE_SIZE)
    }

    pub(crate) fn read(&self, frame: Frame) -> Page {
        let mut content = [0; PAGE_BYTES];
        self.read_into(frame, &mut content);
        content
    }

    /// Whether a frame has this content.
    pub(super) fn has(&self, frame: Frame, content: &Page) -> bool {
        let (window, offset) = self.place(frame);
        window.has(offset, content)
    }

    pub(crate) fn read_into(&self, frame: Frame, content: &mut Page) {
        self.pin(frame).range().read(content).expect("a frame has a page's length");
    }

    pub(crate) fn write(&mut self, frame: Frame, content: &Page) {
        self.pin_to_write(frame).range().write(content).expect("a frame has a page's length");
    }

    /// Makes zeros of frames that tables go on to show. They need no memory before they are touched, of
    /// which nobody is told: so they stay charged.
    pub(crate) fn clear(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let mut frames: Vec<Frame> = frames.into_iter().collect();
        frames.sort_unstable();
        for run in frames.chunk_by(adjoin) {
            if self.drop_run(run).is_err() {
                run.iter().for_each(|frame| self.write(*frame, &[0; PAGE_BYTES]));
            }
            run.iter().for_each(|frame| self.written(*frame).1.add(frame.0 % WINDOW_FRAMES));
        }
    }

    /// Drops the memory of frames that follow each other, and all translations to it.
    fn drop_run(&self, run: &[Frame]) -> Result<(), MemoryError> {
        let Some(&first) = run.first() else { return Ok(()) };
        let (window, offset) = self.place(first);
        window.drop_pages(offset, run.len() as u64 * PAGE_SIZE)
    }

    /// Takes frames back. No table that a vCPU runs on may have them.
    pub(crate) fn give_back(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let mut frames: Vec<Frame> = frames.into_iter().collect();
        frames.sort_unstable();
        for run in frames.chunk_by(adjoin) {
            if let Err(error) = self.drop_run(run) {
                // Translations may be left: the frames are never used again.
                tracing::warn!("cannot drop copied pages: {}", crate::error::chain(&error));
                continue;
            }
            self.ledger.release(MemoryKind::Versioned, run.len() as u64 * PAGE_SIZE);
            self.free.extend(run);
        }
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }
}

/// Whether one frame follows another in the same window.
fn adjoin(a: &Frame, b: &Frame) -> bool {
    a.0 + 1 == b.0 && !b.0.is_multiple_of(WINDOW_FRAMES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn changed_pages_take_half_of_the_limit_at_most_and_what_others_leave() {
        let ledger = Arc::new(MemoryLedger::default());
        let (mut copies, machine) = (Copies::new(ledger.clone()), Machine::new().unwrap());
        ledger.begin(16 * MIB);
        let mut frames = Vec::new();
        while copies.has_room() {
            frames.extend(copies.zeroed(512, &machine).unwrap());
        }
        assert_eq!(ledger.held(MemoryKind::Versioned), 8 * MIB);
        copies.give_back(frames);
        assert!(copies.has_room());
        ledger.charge(MemoryKind::Private, 14 * MIB).unwrap();
        assert!(copies.has_room());
        ledger.charge(MemoryKind::Private, PAGE_SIZE).unwrap();
        assert!(!copies.has_room());
        // Somebody has to be able to go on.
        assert!(copies.zeroed(1, &machine).is_ok());
    }

    #[test]
    fn large_pages_take_a_quarter_of_the_limit_at_most() {
        let ledger = Arc::new(MemoryLedger::default());
        let (mut copies, machine) = (Copies::new(ledger.clone()), Machine::new().unwrap());
        ledger.begin(32 * MIB);
        let mut groups = 0;
        while copies.has_room_for_group() {
            copies.zeroed_group(&machine).unwrap();
            groups += 1;
        }
        assert_eq!(groups, 4);
        assert!(copies.has_room(), "single pages");
    }

    #[test]
    fn a_frame_is_in_use_as_long_as_anything_near_it_is_pinned() {
        let (mut copies, machine) = (Copies::new(Arc::default()), Machine::new().unwrap());
        let frames = copies.zeroed(WINDOW_FRAMES as usize + 1, &machine).unwrap();
        let pin = copies.pin(frames[7]);
        let in_use = [frames[0], frames[7], frames[WINDOW_FRAMES as usize]];
        assert_eq!(in_use.map(|frame| copies.is_in_use(frame)), [true, true, false]);
        drop(pin);
        assert_eq!(in_use.map(|frame| copies.is_in_use(frame)), [false; 3]);
    }

    #[test]
    fn what_one_large_page_is_to_show_is_2_mib_of_its_own_wherever_single_frames_are() {
        let machine = Machine::new().unwrap();
        let ledger = Arc::new(MemoryLedger::default());
        let mut copies = Copies::new(ledger.clone());
        let mut taken = vec![copies.make(&[1; PAGE_BYTES], &machine).unwrap()];
        // More than a window has.
        let groups: Vec<_> = (0..10).map(|_| copies.zeroed_group(&machine).unwrap()).collect();
        for group in &groups {
            let first = copies.gpa(group[0]);
            assert!(first.raw().is_multiple_of(PAGE_SIZE_2M), "{first:?}");
            for (frame, at) in group.iter().zip((0..).step_by(PAGE_SIZE as usize)) {
                assert_eq!(copies.gpa(*frame), first.offset(at));
                assert_eq!(copies.read(*frame), [0; PAGE_BYTES]);
            }
        }
        taken.extend(groups.iter().flatten());
        taken.extend(copies.zeroed(1000, &machine).unwrap());
        let count = taken.len();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), count, "nothing is taken twice");
        // What is cleared stays what it was taken for.
        let (whole, part) = (&groups[3], &groups[4][5..300]);
        whole.iter().chain(part).for_each(|frame| copies.write(*frame, &[7; PAGE_BYTES]));
        copies.write(groups[4][4], &[8; PAGE_BYTES]);
        copies.clear(whole.iter().chain(part).copied());
        let is_zero = |frame: &Frame| copies.read(*frame) == [0; PAGE_BYTES];
        assert!(whole.iter().chain(part).all(is_zero));
        assert_eq!(copies.read(groups[4][4]), [8; PAGE_BYTES]);
        let mut last = [0; PAGE_BYTES];
        last[PAGE_BYTES - 1] = 1;
        copies.write(groups[4][5], &last);
        let are_zero = [groups[4][4], groups[4][5], groups[4][6]]
            .map(|frame| copies.has(frame, &[0; PAGE_BYTES]));
        assert_eq!(are_zero, [false, false, true]);
        copies.give_back(groups[3].iter().copied());
        let again = copies.zeroed_group(&machine).unwrap();
        assert_eq!(again, groups[3], "the lowest that are free");
    }
}
