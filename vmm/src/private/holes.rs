//! Ranges with holes, for calls that accept any range of addresses.
//!
//! Linux works through such a range area by area, and many of its calls continue after a hole and
//! return `ENOMEM` at the end. What they do to an area is in the sibling modules.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use abi::layout::PRIVATE_START;
use abi::{Errno, PAGE_SIZE};

use super::inspect::SEGMENT_LABEL;
use super::region::{BLOCK, PROGRAM_END, PrivateRegion};
use super::vma::{Backing, MemoryLock, Prot, Vma, page_up};
use crate::vm::memory::FileMapping;

/// The part of an area that a range covers.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Where it lies.
    pub range: Range<u64>,
    /// What the program may do there.
    pub prot: Prot,
    /// What backs it.
    pub backing: PieceBacking,
    /// Whether its pages are locked.
    pub lock: MemoryLock,
}

/// What backs a piece, as far as calls distinguish it.
#[derive(Clone, Debug)]
pub enum PieceBacking {
    /// Memory of the VM.
    Anonymous,
    /// Copies of a file's pages.
    PrivateFile,
    /// A file, starting at this offset.
    SharedFile(Arc<File>, u64),
    /// A file that may not be written through the mapping.
    ReadOnlyFile,
}

/// The pieces of a range, and whether they cover all of it.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// In ascending order, without overlap.
    pub pieces: Vec<Piece>,
    /// Whether part of the range is not mapped.
    pub has_holes: bool,
}

impl Pieces {
    /// `ENOMEM` if there are holes: the result of a call that continued after them.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn check_whole(&self) -> Result<(), Errno> {
        if self.has_holes { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// How far the pieces extend from the range's start without a hole.
    #[must_use]
    pub fn first_hole(&self, start: u64) -> u64 {
        let until = |at, piece: &Piece| if piece.range.start == at { piece.range.end } else { at };
        self.pieces.iter().fold(start, until)
    }
}

impl PrivateRegion {
    /// What is mapped in the pages that contain `len` bytes at the page-aligned `start`.
    #[must_use]
    pub fn pieces_of(&self, start: u64, len: u64) -> Pieces {
        let end = page_up(len).and_then(|len| start.checked_add(len));
        let end = end.unwrap_or(u64::MAX);
        let within = start.max(PRIVATE_START.raw())..end.min(PROGRAM_END.raw());
        if within.is_empty() {
            return Pieces { pieces: Vec::new(), has_holes: true };
        }
        let inner = self.lock();
        let area_start = |at| inner.areas.find(at).map_or(at, |(start, _)| start);
        let pieces: Vec<_> = inner
            .areas
            .overlapping(within)
            .map(|(range, vma)| piece(area_start(range.start), range, vma))
            .collect();
        let mut found = Pieces { pieces, has_holes: false };
        found.has_holes = found.first_hole(start) != end;
        found
    }

    /// The mappings of System V segments: the inode of each one's file, where it lies, and where the file's first byte
    /// would be.
    #[must_use]
    pub fn segment_mappings(&self) -> Vec<(u64, Range<u64>, u64)> {
        let inner = self.lock();
        let areas = inner.areas.iter().filter(|(_, vma)| vma.label == SEGMENT_LABEL);
        let of_segment = areas.filter_map(|(range, vma)| match &vma.backing {
            Backing::File { file, offset, .. } => {
                let first = range.start.checked_sub(*offset)?;
                Some((file.metadata().ok()?.ino(), range, first))
            }
            Backing::Anonymous => None,
        });
        of_segment.collect()
    }

    /// Whether each of `pages` pages at `start` is resident: the program's own memory where it may
    /// have been accessed, a file's pages always. What is not mapped is not resident.
    #[must_use]
    pub fn resident_pages(&self, start: u64, pages: usize) -> Vec<u8> {
        let mut resident = vec![0; pages];
        let end = start.saturating_add((pages as u64).saturating_mul(PAGE_SIZE));
        let inner = self.lock();
        for (range, vma) in inner.areas.overlapping(start..end) {
            let is_anonymous = matches!(vma.backing, Backing::Anonymous);
            for at in range.step_by(PAGE_SIZE as usize) {
                let page = (at % BLOCK / PAGE_SIZE) as usize;
                let is_held = || {
                    let block = inner.blocks.get(&(at / BLOCK));
                    let is = |pages: &super::held::HeldPages| pages.has_all(page..page + 1);
                    block.is_some_and(|block| is(&block.held) || is(&block.of_image))
                };
                if let Some(byte) = resident.get_mut(((at - start) / PAGE_SIZE) as usize) {
                    *byte = u8::from(!is_anonymous || is_held());
                }
            }
        }
        resident
    }

    /// A free range of `len` bytes in the second gigabyte, for `MAP_32BIT`.
    #[must_use]
    pub fn find_low_room(&self, len: u64) -> Option<u64> {
        const LOW: Range<u64> = 0x4000_0000..0x8000_0000;
        let len = page_up(len)?;
        self.lock().areas.find_free(len, abi::PAGE_SIZE, LOW.start, LOW.end)
    }

    /// Bytes of all areas, for `RLIMIT_AS`, and of the private writable ones, for `RLIMIT_DATA`.
    #[must_use]
    pub fn mapped_bytes(&self) -> (u64, u64) {
        let inner = self.lock();
        inner.areas.iter().fold((0, 0), |(all, data), (range, vma)| {
            let bytes = range.end - range.start;
            let shared = matches!(
                vma.backing,
                Backing::File { kind: FileMapping::Shared | FileMapping::SharedReadOnly, .. }
            );
            let counted = vma.prot.can_write() && !shared;
            (all + bytes, data + if counted { bytes } else { 0 })
        })
    }
}

fn piece(area: u64, range: Range<u64>, vma: &Vma) -> Piece {
    let backing = match &vma.backing {
        Backing::Anonymous => PieceBacking::Anonymous,
        Backing::File { file, offset, kind, .. } => match kind {
            FileMapping::Private => PieceBacking::PrivateFile,
            FileMapping::Shared => {
                PieceBacking::SharedFile(file.clone(), offset + (range.start - area))
            }
            FileMapping::SharedReadOnly => PieceBacking::ReadOnlyFile,
        },
    };
    Piece { range, prot: vma.prot, backing, lock: vma.lock }
}
