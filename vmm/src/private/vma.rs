//! Which addresses are in use and for what: a map of non-overlapping areas.
//!
//! Pure bookkeeping in page-aligned byte addresses, tested against a page-by-page model.
//! `region.rs` manages the memory behind an area.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use abi::{PAGE_SIZE, Rights};

use crate::access::MemoryAccess;

/// What a program may do with an area: read, write, execute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prot(u8);

impl Prot {
    /// No access at all.
    pub const NONE: Prot = Prot(0);
    /// Reads.
    pub const READ: Prot = Prot(1);
    /// Reads and writes.
    pub const READ_WRITE: Prot = Prot(3);

    /// From `mmap`'s bits; unknown bits give `None`.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Prot> {
        (bits <= 7).then_some(Prot(bits as u8))
    }

    /// As `mmap` takes them.
    #[must_use]
    pub fn bits(self) -> u64 {
        u64::from(self.0)
    }

    /// Whether data can be read. On x86 every accessible page can be.
    #[must_use]
    pub fn can_read(self) -> bool {
        self.0 != 0
    }

    /// Whether data can be written.
    #[must_use]
    pub fn can_write(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether data can be accessed that way.
    #[must_use]
    pub fn allows(self, access: MemoryAccess) -> bool {
        match access {
            MemoryAccess::Read => self.can_read(),
            MemoryAccess::Write => self.can_write(),
        }
    }

    /// Whether instructions can be fetched.
    #[must_use]
    pub fn can_execute(self) -> bool {
        self.0 & 4 != 0
    }

    /// The page-table rights, `None` for no access.
    #[must_use]
    pub fn rights(self) -> Option<Rights> {
        self.can_read().then_some(Rights {
            write: self.can_write(),
            execute: self.can_execute(),
            user: true,
        })
    }
}

impl std::fmt::Display for Prot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = |bit: u8, c: char| if self.0 & bit != 0 { c } else { '-' };
        write!(f, "{}{}{}", letter(1, 'r'), letter(2, 'w'), letter(4, 'x'))
    }
}

/// What backs an area.
#[derive(Clone, Debug)]
pub enum Backing {
    /// Zeroed memory of the VM.
    Anonymous,
    /// A file, starting at the offset of the area's first page.
    File {
        /// The open file.
        file: Arc<File>,
        /// Offset of the area's first byte in it.
        offset: u64,
        /// Whether writes reach the file, and whether they may.
        kind: crate::vm::memory::FileMapping,
        /// For a file that exists only in memory: charged as long as it is mapped.
        charge: Option<Arc<crate::files::FileCharge>>,
    },
}

impl Backing {
    /// Whether its pages are charged to the program once they are accessed: all but those that the
    /// host can drop and read again from a file. Those of a private mapping may be copies.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        use crate::vm::memory::FileMapping;
        match self {
            Backing::Anonymous | Backing::File { kind: FileMapping::Private, .. } => true,
            Backing::File { .. } => false,
        }
    }
}

/// Whether an area's pages have to stay in the host's memory (`mlock(2)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemoryLock {
    /// They do not.
    #[default]
    Unlocked,
    /// All of them are present and stay.
    Locked,
    /// Those that have been accessed stay.
    OnFault,
}

/// What a child has of an area (`madvise(2)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFork {
    /// Its content.
    #[default]
    Copied,
    /// The area, empty (`MADV_WIPEONFORK`).
    Emptied,
    /// Nothing (`MADV_DONTFORK`).
    LeftOut,
}

/// One area.
#[derive(Clone, Debug)]
pub struct Vma {
    /// One past its last byte.
    pub end: u64,
    /// What the program may do.
    pub prot: Prot,
    /// What backs it.
    pub backing: Backing,
    /// Its purpose, for reports.
    pub label: &'static str,
    /// Whether its pages are locked.
    pub lock: MemoryLock,
    /// What a child has of it.
    pub on_fork: OnFork,
}

impl Vma {
    /// The same area, starting `by` bytes later.
    pub(super) fn advanced(&self, by: u64) -> Vma {
        let mut vma = self.clone();
        if let Backing::File { offset, .. } = &mut vma.backing {
            *offset += by;
        }
        vma
    }
}

/// All areas of a region, by start address.
#[derive(Debug, Default)]
pub struct VmaMap {
    map: BTreeMap<u64, Vma>,
}

impl VmaMap {
    /// Number of areas.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How many areas are added by making the ends of `range` boundaries.
    #[must_use]
    pub fn splits(&self, range: &Range<u64>) -> usize {
        let inside = |at: u64| self.find(at).is_some_and(|(start, _)| start != at);
        usize::from(inside(range.start)) + usize::from(inside(range.end))
    }

    /// The area that contains `at`, with its start.
    #[must_use]
    pub fn find(&self, at: u64) -> Option<(u64, &Vma)> {
        let (&start, vma) = self.map.range(..=at).next_back()?;
        (at < vma.end).then_some((start, vma))
    }

    /// Areas that overlap `range`, in ascending order, each clipped to it.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &Vma)> {
        let from = self.find(range.start).map_or(range.start, |(start, _)| start);
        self.map
            .range(from..range.end.max(from))
            .filter(move |(_, vma)| vma.end > range.start)
            .map(move |(&start, vma)| (start.max(range.start)..vma.end.min(range.end), vma))
    }

    /// Whether all of `range` is in use.
    #[must_use]
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for (piece, _) in self.overlapping(range.clone()) {
            if piece.start != at {
                return false;
            }
            at = piece.end;
        }
        at >= range.end
    }

    /// Whether nothing in `range` is in use.
    #[must_use]
    pub fn is_free(&self, range: Range<u64>) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// Makes `at` a boundary between areas, if it lies inside one.
    fn split(&mut self, at: u64) {
        let Some((start, vma)) = self.find(at) else { return };
        if start == at {
            return;
        }
        let upper = vma.advanced(at - start);
        if let Some(lower) = self.map.get_mut(&start) {
            lower.end = at;
        }
        self.map.insert(at, upper);
    }

    /// Removes everything in `range` and returns it.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<(Range<u64>, Vma)> {
        if range.is_empty() {
            return Vec::new();
        }
        self.split(range.start);
        self.split(range.end);
        let starts: Vec<u64> = self.map.range(range).map(|(&start, _)| start).collect();
        starts
            .into_iter()
            .filter_map(|start| self.map.remove(&start).map(|vma| (start..vma.end, vma)))
            .collect()
    }

    /// Inserts an area at `start`, where the range must be free, and merges it with equal
    /// neighbours.
    pub fn insert(&mut self, start: u64, vma: Vma) {
        debug_assert!(self.is_free(start..vma.end));
        let end = vma.end;
        self.map.insert(start, vma);
        self.join(end);
        self.join(start);
    }

    /// Merges the areas that meet at `at` if they are alike.
    fn join(&mut self, at: u64) {
        let Some(upper) = self.map.get(&at) else { return };
        let Some((&start, lower)) = self.map.range(..at).next_back() else { return };
        let alike = lower.end == at
            && lower.prot == upper.prot
            && lower.label == upper.label
            && lower.lock == upper.lock
            && lower.on_fork == upper.on_fork
            && continues(lower, upper, at - start);
        if alike
            && let Some(upper) = self.map.remove(&at)
            && let Some(lower) = self.map.get_mut(&start)
        {
            lower.end = upper.end;
        }
    }

    /// Sets the access of everything in `range` to `prot`.
    pub fn protect(&mut self, range: Range<u64>, prot: Prot) {
        for (piece, mut vma) in self.remove(range) {
            vma.prot = prot;
            self.insert(piece.start, vma);
        }
    }

    /// Locks or unlocks everything in `range`.
    pub fn set_lock(&mut self, range: Range<u64>, lock: MemoryLock) {
        for (piece, mut vma) in self.remove(range) {
            vma.lock = lock;
            self.insert(piece.start, vma);
        }
    }

    /// Sets what a child has of everything in `range`.
    pub fn set_on_fork(&mut self, range: Range<u64>, on_fork: OnFork) {
        for (piece, mut vma) in self.remove(range) {
            vma.on_fork = on_fork;
            self.insert(piece.start, vma);
        }
    }

    /// The highest free range of `len` bytes between `bottom` and `top`, aligned to `align`, a
    /// power of two.
    #[must_use]
    pub fn find_free(&self, len: u64, align: u64, bottom: u64, top: u64) -> Option<u64> {
        let mut limit = top;
        for (&start, vma) in self.map.range(..top).rev() {
            if vma.end < limit
                && let Some(at) = fit(len, align, vma.end.max(bottom), limit)
            {
                return Some(at);
            }
            limit = limit.min(start);
            if limit <= bottom {
                return None;
            }
        }
        fit(len, align, bottom, limit)
    }

    /// All areas, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &Vma)> {
        self.map.iter().map(|(&start, vma)| (start..vma.end, vma))
    }
}

/// Whether `upper` continues where `lower`, `len` bytes long, ends: the same open file, as on
/// Linux.
fn continues(lower: &Vma, upper: &Vma, len: u64) -> bool {
    match (&lower.backing, &upper.backing) {
        (Backing::Anonymous, Backing::Anonymous) => true,
        (
            Backing::File { file: a, offset: from, kind: a_kind, .. },
            Backing::File { file: b, offset: to, kind: b_kind, .. },
        ) => Arc::ptr_eq(a, b) && a_kind == b_kind && from.checked_add(len) == Some(*to),
        _ => false,
    }
}

fn fit(len: u64, align: u64, low: u64, high: u64) -> Option<u64> {
    let at = high.checked_sub(len)? & !(align - 1);
    (at >= low).then_some(at)
}

/// Rounds up to a multiple of the page size; `None` on overflow.
#[must_use]
pub fn page_up(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64, u64, u8),
        Remove(u64, u64),
        Protect(u64, u64, u8),
    }

    const PAGES: u64 = 48;

    fn op() -> impl Strategy<Value = Op> {
        let range = (0..PAGES, 1..12u64);
        prop_oneof![
            (range.clone(), 0u8..8).prop_map(|((a, n), p)| Op::Insert(a, n, p)),
            range.clone().prop_map(|(a, n)| Op::Remove(a, n)),
            (range, 0u8..8).prop_map(|((a, n), p)| Op::Protect(a, n, p)),
        ]
    }

    proptest! {
        #[test]
        fn any_sequence_of_edits_matches_a_page_by_page_model(ops in prop::collection::vec(op(), 1..60)) {
            let mut map = VmaMap::default();
            let mut model: Vec<Option<u8>> = vec![None; 64];
            for op in ops {
                match op {
                    Op::Insert(a, n, p) => {
                        let range = a * PAGE_SIZE..(a + n) * PAGE_SIZE;
                        map.remove(range.clone());
                        map.insert(range.start, Vma { end: range.end, prot: Prot(p),
                            backing: Backing::Anonymous, label: "", lock: MemoryLock::Unlocked,
                            on_fork: OnFork::Copied });
                        for i in a..a + n { model[i as usize] = Some(p); }
                    }
                    Op::Remove(a, n) => {
                        let gone: u64 = map.remove(a * PAGE_SIZE..(a + n) * PAGE_SIZE).iter()
                            .map(|(r, _)| (r.end - r.start) / PAGE_SIZE).sum();
                        let expect = (a..a + n).filter(|&i| model[i as usize].take().is_some()).count();
                        prop_assert_eq!(gone, expect as u64);
                    }
                    Op::Protect(a, n, p) => {
                        map.protect(a * PAGE_SIZE..(a + n) * PAGE_SIZE, Prot(p));
                        for i in a..a + n {
                            if let Some(old) = &mut model[i as usize] { *old = p; }
                        }
                    }
                }
            }
            for (i, expect) in model.iter().enumerate() {
                let at = i as u64 * PAGE_SIZE;
                prop_assert_eq!(map.find(at + 5).map(|(_, v)| v.prot.0), *expect);
                prop_assert_eq!(map.is_free(at..at + PAGE_SIZE), expect.is_none());
            }
            for n in 1..10u64 {
                let found = map.find_free(n * PAGE_SIZE, PAGE_SIZE, 0, PAGES * PAGE_SIZE);
                let expect = (0..=PAGES - n).rev()
                    .find(|&a| (a..a + n).all(|i| model[i as usize].is_none()));
                prop_assert_eq!(found, expect.map(|a| a * PAGE_SIZE));
            }
            let areas: Vec<_> = map.iter().map(|(r, _)| r).collect();
            prop_assert!(areas.windows(2).all(|w| w[0].end <= w[1].start));
        }
    }

    #[test]
    fn a_split_file_area_keeps_its_offsets() {
        let file = Arc::new(File::open("/dev/null").unwrap());
        let mut map = VmaMap::default();
        let kind = crate::vm::memory::FileMapping::Private;
        let backing = Backing::File { file, offset: 0x7000, kind, charge: None };
        let lock = MemoryLock::Unlocked;
        let on_fork = OnFork::Copied;
        let vma = Vma { end: 0x14000, prot: Prot::READ, backing, label: "", lock, on_fork };
        map.insert(0x10000, vma);
        map.remove(0x11000..0x12000);
        let Some((start, Vma { backing: Backing::File { offset, .. }, .. })) = map.find(0x13fff)
        else {
            panic!("the upper part is gone")
        };
        assert_eq!((start, *offset), (0x12000, 0x9000));
    }
}
