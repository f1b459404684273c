//! The blocks of a space, as a check sees them: which one an address is in, and which it has reached.

use std::ptr::NonNull;

use seg_heap::check::{Leaks, Report, Survey, survey};

use super::place::Place;
use crate::heap::{SegmentWords, Subject};

/// A block that is in use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) start: NonNull<u8>,
    pub(crate) bytes: usize,
}

impl Block {
    pub(crate) fn address(self) -> usize {
        self.start.addr().get()
    }

    /// All of it.
    pub(crate) fn place(self) -> Place {
        // SAFETY: blocks are found by `Blocks`, whose makers promise it.
        unsafe { Place::new(self.start, self.bytes) }
    }
}

/// A space's blocks.
pub(crate) trait Blocks {
    /// The block that an address is in.
    fn block_at(&mut self, address: usize) -> Option<Block>;
    /// Marks a block as reached; returns whether it was not yet.
    fn reach(&mut self, block: Block) -> bool;
    /// Marks all as not reached.
    fn forget(&mut self);
    /// Those that are not reached.
    fn unreached(&mut self) -> Option<Leaks>;
}

/// Those of a heap in a segment.
pub(crate) struct SegmentBlocks {
    words: SegmentWords,
    base: NonNull<u8>,
    survey: Option<Survey>,
}

impl SegmentBlocks {
    /// Of the heap at `base`, which may be damaged, in a segment of `size` bytes; and what is wrong with it. `None` if there
    /// is no heap.
    ///
    /// # Safety
    /// As [`RawHeap::check`](crate::heap::RawHeap::check) as long as the result, or any place of it, is used.
    pub(crate) unsafe fn new(base: NonNull<u8>, size: u64) -> Option<(SegmentBlocks, Report)> {
        // SAFETY: the caller's promise.
        let mut words = unsafe { SegmentWords::new(base, size) };
        let subject = Subject { base: base.addr().get() as u64, size, roots: &[] };
        let (report, survey) = survey(&mut words, &subject)?;
        Some((SegmentBlocks { words, base, survey }, report))
    }
}

impl Blocks for SegmentBlocks {
    fn block_at(&mut self, address: usize) -> Option<Block> {
        let offset = address.checked_sub(self.base.addr().get())?;
        let (start, bytes) = self.survey.as_ref()?.block_at(&mut self.words, offset as u64)?;
        // SAFETY: a survey's blocks lie in the heap, and that in the segment.
        let start = unsafe { self.base.byte_add(start as usize) };
        Some(Block { start, bytes: bytes as usize })
    }

    fn reach(&mut self, block: Block) -> bool {
        let offset = block.address().wrapping_sub(self.base.addr().get());
        self.survey.as_mut().is_some_and(|survey| survey.reach(offset as u64))
    }

    fn forget(&mut self) {
        if let Some(survey) = &mut self.survey {
            survey.forget();
        }
    }

    fn unreached(&mut self) -> Option<Leaks> {
        self.survey.as_ref()?.unreached(&mut self.words)
    }
}

/// Those of a space over plain memory, in the order of their addresses.
pub(crate) struct PlainBlocks {
    blocks: Vec<(Block, bool)>,
}

impl PlainBlocks {
    /// # Safety
    /// As long as the result, or any place of it, is used, the blocks are there and nobody writes them.
    pub(crate) unsafe fn new(blocks: impl Iterator<Item = Block>) -> PlainBlocks {
        PlainBlocks { blocks: blocks.map(|block| (block, false)).collect() }
    }

    fn position(&self, address: usize) -> Option<usize> {
        let after = self.blocks.partition_point(|(block, _)| block.address() <= address);
        let position = after.checked_sub(1)?;
        let (block, _) = self.blocks.get(position)?;
        (address - block.address() < block.bytes).then_some(position)
    }
}

impl Blocks for PlainBlocks {
    fn block_at(&mut self, address: usize) -> Option<Block> {
        self.blocks.get(self.position(address)?).map(|&(block, _)| block)
    }

    fn reach(&mut self, block: Block) -> bool {
        let position = self.position(block.address());
        let reached = position.and_then(|position| self.blocks.get_mut(position));
        reached.is_some_and(|(_, reached)| !std::mem::replace(reached, true))
    }

    fn forget(&mut self) {
        self.blocks.iter_mut().for_each(|(_, reached)| *reached = false);
    }

    fn unreached(&mut self) -> Option<Leaks> {
        let unreached = self.blocks.iter().filter(|(_, reached)| !reached);
        Some(unreached.fold(Leaks::default(), |leaks, (block, _)| Leaks {
            blocks: leaks.blocks + 1,
            bytes: leaks.bytes + block.bytes as u64,
            first: leaks.first,
        }))
    }
}
