//! Read-only views of a program's areas, for reports and `/proc/self/maps`.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use abi::{Level, PAGE_SIZE, Table};

use super::charge::part;
use super::region::{Inner, Mapped, PrivateRegion, blocks_of};
use super::vma::{Backing, MemoryLock, Prot, Vma};
use crate::vm::memory::FileMapping;

/// An area, as shown in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Where it lies.
    pub range: Range<u64>,
    /// What the program may do there.
    pub prot: Prot,
    /// Its purpose.
    pub label: &'static str,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        write!(f, "{start:#x}-{end:#x} {} {}", self.prot, self.label)
    }
}

/// An address and the areas around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The nearest area that ends at or below the address.
    pub below: Option<Area>,
    /// The area that holds it.
    pub at: Option<Area>,
    /// The nearest area that begins above it.
    pub above: Option<Area>,
}

/// What mappings of System V segments are called.
pub const SEGMENT_LABEL: &str = "System V segment";

/// Label of a shared mapping without a file of the program's. Children share it by a file that has no
/// name; where `--memory` does not allow for all of it, it is as private memory, and there are no children.
pub const SHARED_LABEL: &str = "shared mapping";

/// Code at an address.
#[derive(Debug, Clone)]
pub struct Code {
    /// Its file, and where in it.
    pub file: Option<(Arc<File>, u64)>,
    /// The area's purpose.
    pub label: &'static str,
}

/// Whether writes to an area are visible outside it: in a file, for example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// They are not.
    Private,
    /// They are, or were requested to be.
    Shared,
}

/// What to determine about each area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Nothing that costs time.
    Nothing,
    /// How much of it is present.
    Present,
}

/// An area and what backs it.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Where it lies.
    pub range: Range<u64>,
    /// What the program may do there.
    pub prot: Prot,
    /// Its purpose.
    pub label: &'static str,
    /// Whether it is shared.
    pub sharing: Sharing,
    /// Its file, and the offset of its first byte there.
    pub file: Option<(Arc<File>, u64)>,
    /// Bytes present, if they were to be counted.
    pub present_bytes: u64,
    /// How much of them is locked (`mlock(2)`).
    pub locked_bytes: u64,
}

impl PrivateRegion {
    /// All areas in ascending order, for `/proc/self/maps` and related files.
    #[must_use]
    pub fn mappings(&self, count: Count) -> Vec<Mapping> {
        let inner = self.lock();
        let mapping = |(range, vma): (Range<u64>, &Vma)| {
            let (sharing, file) = match &vma.backing {
                Backing::File { file, offset, kind, .. } => {
                    let private = matches!(kind, FileMapping::Private);
                    let sharing = if private { Sharing::Private } else { Sharing::Shared };
                    let is_named = vma.label != SHARED_LABEL;
                    (sharing, is_named.then(|| (file.clone(), *offset)))
                }
                Backing::Anonymous if vma.label == SHARED_LABEL => (Sharing::Shared, None),
                Backing::Anonymous => (Sharing::Private, None),
            };
            let present_bytes = match count {
                Count::Nothing => 0,
                Count::Present => self.present_in(&inner, range.clone()),
            };
            let locked_bytes = match vma.lock {
                MemoryLock::Unlocked => 0,
                MemoryLock::Locked | MemoryLock::OnFault => present_bytes,
            };
            let (prot, label) = (vma.prot, vma.label);
            Mapping { range, prot, label, sharing, file, present_bytes, locked_bytes }
        };
        inner.areas.iter().map(mapping).collect()
    }

    /// Bytes of a range that are present in the page tables.
    fn present_in(&self, inner: &Inner, range: Range<u64>) -> u64 {
        let mut bytes = 0;
        for (&index, block) in inner.blocks.range(blocks_of(&range)) {
            let piece = part(index, &range);
            match block.mapped {
                Mapped::Nothing => {}
                Mapped::Large => bytes += piece.end - piece.start,
                Mapped::Table(table) => {
                    let table = Table::new(table, Level::Table);
                    let present =
                        |&at: &u64| table.get(self.mem(), at).is_ok_and(|pte| pte.is_present());
                    let pages = (piece.start..piece.end).step_by(PAGE_SIZE as usize);
                    bytes += pages.filter(present).count() as u64 * PAGE_SIZE;
                }
            }
        }
        bytes
    }

    /// Bytes of page tables of the region's blocks.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        let inner = self.lock();
        let tables = inner.blocks.values().filter(|block| block.table.is_some()).count();
        tables as u64 * PAGE_SIZE
    }

    /// Start of the `brk` heap.
    #[must_use]
    pub fn heap_start(&self) -> u64 {
        self.lock().heap_start
    }

    /// What the program can execute at `gva`.
    #[must_use]
    pub fn code_at(&self, gva: u64) -> Option<Code> {
        let inner = self.lock();
        let (start, vma) = inner.areas.find(gva)?;
        let file = match &vma.backing {
            Backing::File { file, offset, .. } => {
                Some((file.clone(), offset.saturating_add(gva - start)))
            }
            Backing::Anonymous => None,
        };
        vma.prot.can_execute().then_some(Code { file, label: vma.label })
    }

    /// The areas at and around `gva`.
    #[must_use]
    pub fn surroundings(&self, gva: u64) -> Surroundings {
        let mut around = Surroundings::default();
        let area = |range: Range<u64>, vma: &Vma| Area { range, prot: vma.prot, label: vma.label };
        for (range, vma) in self.lock().areas.iter() {
            if range.end <= gva {
                around.below = Some(area(range, vma));
            } else if range.start <= gva {
                around.at = Some(area(range, vma));
            } else {
                around.above = Some(area(range, vma));
                break;
            }
        }
        around
    }
}
