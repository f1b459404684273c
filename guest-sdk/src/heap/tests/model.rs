//! What every block of a heap must be, kept beside it.

use std::alloc::Layout;
use std::ptr::NonNull;

use proptest::prelude::prop;

use super::region::Region;
use crate::heap::RawHeap;

/// One thing to do.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Alloc { bytes: usize, align: usize },
    Free(prop::sample::Index),
    Realloc { which: prop::sample::Index, bytes: usize },
    Reopen,
}

struct Block {
    at: NonNull<u8>,
    bytes: usize,
    align: usize,
    seed: u8,
}

/// A heap and the blocks that are in it.
pub(super) struct Model {
    region: Region,
    heap: RawHeap,
    blocks: Vec<Block>,
    seed: u8,
}

impl Model {
    pub(super) fn new(size: u64, reserve: u64) -> Model {
        let region = Region::new(size, reserve);
        let heap = region.heap();
        Model { region, heap, blocks: Vec::new(), seed: 1 }
    }

    /// Does it, and looks at what came of it.
    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Alloc { bytes, align } => {
                let layout = Layout::from_size_align(bytes, align).unwrap();
                let Some(at) = self.region.alloc(self.heap, layout) else { return };
                self.add(at, bytes, align);
            }
            Step::Free(which) if !self.blocks.is_empty() => {
                let block = self.blocks.swap_remove(which.index(self.blocks.len()));
                self.check(&block, block.bytes);
                self.region.free(self.heap, block.at);
            }
            Step::Realloc { which, bytes } if !self.blocks.is_empty() => {
                let block = self.blocks.swap_remove(which.index(self.blocks.len()));
                match self.region.realloc(self.heap, block.at, block.align, bytes) {
                    None => self.blocks.push(block),
                    Some(at) => {
                        self.check(&Block { at, ..block }, block.bytes.min(bytes));
                        self.add(at, bytes, block.align);
                    }
                }
            }
            Step::Reopen => self.heap = self.region.reopen(),
            Step::Free(_) | Step::Realloc { .. } => {}
        }
        assert_eq!(self.region.stats(self.heap).blocks, self.blocks.len() as u64);
        if self.seed.is_multiple_of(16) {
            self.check_all();
        }
    }

    /// The walk that trusts nothing agrees.
    fn check_all(&self) {
        let blocks: Vec<_> = self.blocks.iter().map(|block| block.at).collect();
        let report = self.region.check(&blocks);
        assert_eq!(report.damage, []);
        let stats = self.region.stats(self.heap);
        assert_eq!(
            (report.end, report.blocks, report.bytes),
            (stats.end, stats.blocks, stats.bytes)
        );
        if let Some(leaks) = report.leaks {
            assert_eq!(leaks.blocks, 0, "{leaks:?}");
        }
    }

    fn add(&mut self, at: NonNull<u8>, bytes: usize, align: usize) {
        let start = at.addr().get();
        assert!(start.is_multiple_of(align), "{bytes} bytes at {start:#x}, not at {align:#x}");
        let usable = self.region.usable_size(self.heap, at);
        assert!(usable >= bytes);
        assert!(self.region.is_block(self.heap, at));
        let base = self.region.base().addr().get();
        assert!(start > base);
        assert!((start + usable - base) as u64 <= self.region.stats(self.heap).end);
        for other in &self.blocks {
            let other_start = other.at.addr().get();
            let apart = start + usable <= other_start || other_start + other.bytes <= start;
            assert!(apart, "{start:#x} and {other_start:#x}");
        }
        self.seed = self.seed.wrapping_mul(5).wrapping_add(1);
        let block = Block { at, bytes, align, seed: self.seed };
        for (offset, value) in pattern(&block, bytes) {
            self.region.fill(self.region.at(at, offset), 1, value);
        }
        self.blocks.push(block);
    }

    fn check(&self, block: &Block, bytes: usize) {
        for (offset, value) in pattern(block, bytes) {
            let found = self.region.read(self.region.at(block.at, offset));
            assert_eq!(found, value, "block of {} at {:p}", block.bytes, block.at);
        }
    }

    /// Frees all blocks: what is left are spans without blocks, one for each class at most.
    pub(super) fn free_all(mut self) {
        for block in std::mem::take(&mut self.blocks) {
            self.check(&block, block.bytes);
            self.region.free(self.heap, block.at);
        }
        self.check_all();
        let stats = self.region.stats(self.heap);
        assert_eq!((stats.blocks, stats.bytes), (0, 0));
        let spans: u64 = seg_heap::class::SPAN_PAGES.iter().map(|&pages| u64::from(pages)).sum();
        let tables = stats.end.div_ceil(seg_heap::AREA_BYTES);
        let kept = (spans + tables) * seg_heap::PAGE_BYTES;
        assert!(stats.free_page_bytes + kept >= stats.end, "{stats:?}");
    }
}

/// Which byte has which value: all of a small block, some of a large one.
fn pattern(block: &Block, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    let seed = block.seed;
    let step = if block.bytes > 4096 { 509 } else { 1 };
    (0..bytes).step_by(step).map(move |offset| (offset, seed ^ offset as u8))
}
