//! Memory for a writer's own copies of pages: frames of anonymous memory, behind windows of its own.
//!
//! Frames that are given back are dropped at once, one host call for each run of them: with the
//! memory go all translations of the guest's to it, on every kind of host. Frames are taken in the
//! order of their addresses, so that runs are long.
#![forbid(unsafe_code)]

use std::sync::Arc;

use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_2M};
use spacejmp_versions::page::{PAGE_BYTES, Page};

use crate::vm::windows::{PinnedRange, Window};
use crate::vm::{Machine, MemoryError, MemoryKind, MemoryLedger};

/// Bytes of one window.
const WINDOW_BYTES: u64 = 16 << 20;
const WINDOW_FRAMES: u32 = (WINDOW_BYTES / PAGE_SIZE) as u32;

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
    windows: Vec<Window>,
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
            let first = self.windows.len() as u32 * WINDOW_FRAMES;
            self.windows.push(machine.windows.map_anonymous(WINDOW_BYTES)?);
            // Falling, as those that are there, which lie below.
            self.free.splice(0..0, (first..first + WINDOW_FRAMES).rev().map(Frame));
        }
        self.ledger.charge(MemoryKind::Versioned, count as u64 * PAGE_SIZE)?;
        let frames = self.free.split_off(self.free.len() - count);
        let frames: Vec<Frame> = frames.into_iter().rev().collect();
        if count >= MANY {
            for frame in &frames {
                self.windows[(frame.0 / WINDOW_FRAMES) as usize].prefer_huge();
            }
        }
        Ok(frames)
    }

    fn place(&self, frame: Frame) -> (&Window, u64) {
        let window = self.windows.get((frame.0 / WINDOW_FRAMES) as usize);
        let offset = u64::from(frame.0 % WINDOW_FRAMES) * PAGE_SIZE;
        (window.expect("windows are never taken away"), offset)
    }

    pub(crate) fn gpa(&self, frame: Frame) -> GuestPhys {
        let (window, offset) = self.place(frame);
        window.gpa().offset(offset)
    }

    /// The frame's memory, for a system call.
    pub(crate) fn pin(&self, frame: Frame) -> PinnedRange {
        let (window, offset) = self.place(frame);
        window.pin(offset, PAGE_SIZE)
    }

    pub(crate) fn read(&self, frame: Frame) -> Page {
        let mut content = [0; PAGE_BYTES];
        self.pin(frame).range().read(&mut content).expect("a frame has a page's length");
        content
    }

    pub(crate) fn write(&self, frame: Frame, content: &Page) {
        self.pin(frame).range().write(content).expect("a frame has a page's length");
    }

    /// Takes frames back. No table that a vCPU runs on may have them.
    pub(crate) fn give_back(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let mut frames: Vec<Frame> = frames.into_iter().collect();
        frames.sort_unstable();
        let adjoin = |a: &Frame, b: &Frame| a.0 + 1 == b.0 && !b.0.is_multiple_of(WINDOW_FRAMES);
        for run in frames.chunk_by(adjoin) {
            let Some(&first) = run.first() else { continue };
            let bytes = run.len() as u64 * PAGE_SIZE;
            let (window, offset) = self.place(first);
            if let Err(error) = window.drop_pages(offset, bytes) {
                // Translations may be left: the frames are never used again.
                tracing::warn!("cannot drop copied pages: {}", crate::error::chain(&error));
                continue;
            }
            self.ledger.release(MemoryKind::Versioned, bytes);
            self.free.extend(run);
        }
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }
}
