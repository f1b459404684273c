//! The page-table walker and editor, generic over how a table entry is accessed.
//!
//! The VMM runs it on guest memory; tests run it on a plain map. It never frees or moves a table: a
//! table, once linked, stays bound to its position. That rule is what makes edits from outside the
//! guest safe on a host that shadows the guest's tables (docs/src/internals/memory.md). To reuse a
//! table, unlink it and make every vCPU forget all translations first.

use crate::addr::{GuestPhys, GuestVirt, Level, PageSize};
use crate::pte::{Pte, Rights};
use crate::table::{Entry, EntryMem, Table};

/// Memory that holds page tables and can allocate more.
pub trait TableMem: EntryMem {
    /// A zeroed frame that becomes a table.
    ///
    /// # Errors
    /// When out of memory.
    fn alloc_table(&mut self) -> Result<GuestPhys, Self::Error>;
}

/// A root table and the memory it lies in.
#[derive(Debug)]
pub struct PageTable<'m, M> {
    root: GuestPhys,
    mem: &'m mut M,
}

/// Where a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Level of the last entry read.
    pub level: Level,
    /// The table that holds it.
    pub table: GuestPhys,
    /// The entry itself: a leaf, or not present.
    pub pte: Pte,
}

impl Walk {
    /// The physical address `gva` translates to, when the walk ended in a leaf.
    #[must_use]
    pub fn translation(&self, gva: GuestVirt) -> Option<GuestPhys> {
        let size = self.level.leaf()?;
        self.pte.is_present().then(|| {
            GuestPhys::literal(
                (self.pte.target().raw() & !(size.bytes() - 1)) | (gva.raw() & (size.bytes() - 1)),
            )
        })
    }
}

/// The table that an entry of this level leads to; `None` for a leaf or an empty entry.
fn next(pte: Pte, level: Level) -> Option<(GuestPhys, Level)> {
    let is_table = pte.is_present() && !(pte.is_large() && level.leaf().is_some());
    level.below().filter(|_| is_table).map(|below| (pte.target(), below))
}

impl<'m, M: TableMem> PageTable<'m, M> {
    /// Borrows `mem` for one session of edits below `root`.
    pub fn new(root: GuestPhys, mem: &'m mut M) -> Self {
        PageTable { root, mem }
    }

    /// Follows `gva` to its leaf or to the first entry that is not present.
    ///
    /// # Errors
    /// When a table lies outside guest memory.
    pub fn walk(&self, gva: GuestVirt) -> Result<Walk, M::Error> {
        let (mut table, mut level) = (self.root, Level::Root);
        loop {
            let pte = Table::new(table, level).get(self.mem, gva.raw())?;
            let Some(next) = next(pte, level) else { return Ok(Walk { level, table, pte }) };
            (table, level) = next;
        }
    }

    /// The table of `level` that covers `gva`, allocated if missing. A large page in the way is
    /// split into a table that maps the same memory with the same rights.
    ///
    /// # Errors
    /// When out of memory or a table lies outside guest memory; every page then maps what it mapped
    /// before.
    pub fn table_for(&mut self, gva: GuestVirt, level: Level) -> Result<GuestPhys, M::Error> {
        let (mut table, mut at) = (self.root, Level::Root);
        while at > level {
            let Some(below) = at.below() else { break };
            let pte = Table::new(table, at).get(self.mem, gva.raw())?;
            (table, at) = if let Some(next) = next(pte, at) {
                next
            } else {
                let fresh = self.mem.alloc_table()?;
                if pte.is_present() {
                    self.fill_split(fresh, pte, below)?;
                }
                // Linked only when complete: another vCPU may walk it immediately.
                Table::new(table, at).set(self.mem, gva.raw(), Entry::Table(fresh))?;
                (fresh, below)
            };
        }
        Ok(table)
    }

    /// Points the entry of `level` that covers `gva` at `table`, whatever it held before. The table
    /// must have been made for exactly this position.
    ///
    /// # Errors
    /// When out of memory or a table lies outside guest memory.
    pub fn link(&mut self, gva: GuestVirt, level: Level, table: GuestPhys) -> Result<(), M::Error> {
        let above = self.table_for(gva, level)?;
        Table::new(above, level).set(self.mem, gva.raw(), Entry::Table(table))
    }

    /// Clears the entry of `level` that covers `gva`, if the tables down to it exist. The caller
    /// must flush.
    ///
    /// # Errors
    /// When a table lies outside guest memory.
    pub fn clear(&mut self, gva: GuestVirt, level: Level) -> Result<(), M::Error> {
        let (mut table, mut at) = (self.root, Level::Root);
        while at > level {
            let pte = Table::new(table, at).get(self.mem, gva.raw())?;
            let Some(next) = next(pte, at) else { return Ok(()) };
            (table, at) = next;
        }
        Table::new(table, level).set(self.mem, gva.raw(), Entry::Empty)
    }

    fn fill_split(&mut self, table: GuestPhys, large: Pte, below: Level) -> Result<(), M::Error> {
        let Some(size) = below.leaf() else { return Ok(()) };
        let page = |n| Entry::Page(large.target().offset(n * size.bytes()), large.rights());
        Table::new(table, below).fill(self.mem, 0, (0..512).map(page))
    }

    /// Maps the page of `size` at `gva` to `gpa`. Both must be aligned to `size`; whatever was
    /// mapped there before is replaced without a flush, which is up to the caller.
    ///
    /// # Errors
    /// When out of memory or a table lies outside guest memory.
    pub fn map(
        &mut self,
        gva: GuestVirt,
        gpa: GuestPhys,
        size: PageSize,
        rights: Rights,
    ) -> Result<(), M::Error> {
        let table = self.table_for(gva, size.level())?;
        Table::new(table, size.level()).set(self.mem, gva.raw(), Entry::Page(gpa, rights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PAGE_SIZE;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::{BTreeMap, HashMap};

    /// Tables in a map; frames are numbered, data frames are never accessed.
    #[derive(Default)]
    struct MapMem {
        tables: RefCell<HashMap<u64, [u64; 512]>>,
        next: u64,
    }

    impl EntryMem for MapMem {
        type Error = String;
        fn read(&self, place: GuestPhys) -> Result<Pte, String> {
            let (table, index) = split(place);
            let tables = self.tables.borrow();
            let table = tables.get(&table).ok_or(format!("no table at {table:#x}"))?;
            Ok(Pte::from_raw(table[index]))
        }
        fn write(&self, place: GuestPhys, pte: Pte) -> Result<(), String> {
            let (table, index) = split(place);
            let mut tables = self.tables.borrow_mut();
            let table = tables.get_mut(&table).ok_or(format!("no table at {table:#x}"))?;
            table[index] = pte.raw();
            Ok(())
        }
    }

    fn split(place: GuestPhys) -> (u64, usize) {
        (place.raw() & !0xfff, (place.raw() & 0xfff) as usize / 8)
    }

    impl TableMem for MapMem {
        fn alloc_table(&mut self) -> Result<GuestPhys, String> {
            self.next += 1;
            let gpa = GuestPhys::literal((1 << 40) + self.next * PAGE_SIZE);
            self.tables.get_mut().insert(gpa.raw(), [0; 512]);
            Ok(gpa)
        }
    }

    fn rights(bits: u8) -> Rights {
        Rights { write: bits & 1 != 0, execute: bits & 2 != 0, user: bits & 4 != 0 }
    }

    #[derive(Clone, Debug)]
    struct Op {
        page: u64,
        frame: u64,
        size: PageSize,
        rights: u8,
    }

    fn op() -> impl Strategy<Value = Op> {
        let size = prop_oneof![
            4 => Just(PageSize::Small4K),
            2 => Just(PageSize::Large2M),
            1 => Just(PageSize::Huge1G)
        ];
        (0u64..1 << 20, 0u64..1 << 20, size, 0u8..8).prop_map(|(page, frame, size, rights)| {
            let pages = size.bytes() / PAGE_SIZE;
            Op { page: page / pages * pages, frame: frame / pages * pages, size, rights }
        })
    }

    proptest! {
        #[test]
        fn any_sequence_of_maps_translates_like_a_plain_map(ops in prop::collection::vec(op(), 1..40)) {
            let mut mem = MapMem::default();
            let root = mem.alloc_table().unwrap();
            // The model: intervals of pages, later ones override earlier ones.
            let mut model: Vec<Op> = Vec::new();
            let mut probes: BTreeMap<u64, ()> = BTreeMap::new();
            for op in ops {
                // A table cannot be replaced by a large page: tables are never unlinked.
                let shadowed = model.iter().any(|o| o.size < op.size
                    && o.page / (op.size.bytes() / PAGE_SIZE) == op.page / (op.size.bytes() / PAGE_SIZE));
                if shadowed { continue; }
                let gva = GuestVirt::new(op.page * PAGE_SIZE).unwrap();
                let gpa = GuestPhys::new(op.frame * PAGE_SIZE).unwrap();
                PageTable::new(root, &mut mem).map(gva, gpa, op.size, rights(op.rights)).unwrap();
                let pages = op.size.bytes() / PAGE_SIZE;
                for p in [op.page, op.page + pages - 1, op.page + pages, op.page.saturating_sub(1)] {
                    probes.insert(p, ());
                }
                model.push(op);
            }
            for (&page, ()) in &probes {
                let gva = GuestVirt::new(page * PAGE_SIZE + 0x123).unwrap();
                let walk = PageTable::new(root, &mut mem).walk(gva).unwrap();
                let expect = model.iter().rev().find(|o| {
                    let pages = o.size.bytes() / PAGE_SIZE;
                    (o.page..o.page + pages).contains(&page)
                });
                let got = walk.translation(gva).map(GuestPhys::raw);
                prop_assert_eq!(got, expect.map(|o| (o.frame + page - o.page) * PAGE_SIZE + 0x123));
                if let Some(o) = expect {
                    prop_assert_eq!(walk.pte.rights(), rights(o.rights));
                }
            }
        }
    }

    #[test]
    fn splitting_a_large_page_keeps_every_translation_and_right() {
        let mut mem = MapMem::default();
        let root = mem.alloc_table().unwrap();
        let mut tables = PageTable::new(root, &mut mem);
        let base = GuestVirt::literal(0x4000_0000);
        tables.map(base, GuestPhys::literal(0x8000_0000), PageSize::Huge1G, rights(5)).unwrap();
        tables.table_for(base, Level::Table).unwrap();
        for offset in [0, 0x1000, 0x1f_f000, 0x20_0000, 0x3fff_f000] {
            let gva = base.checked_add(offset).unwrap();
            let walk = tables.walk(gva).unwrap();
            assert_eq!(walk.translation(gva), Some(GuestPhys::literal(0x8000_0000 + offset)));
            assert_eq!(walk.pte.rights(), rights(5));
        }
    }

    #[test]
    fn every_size_and_right_is_written_as_the_manual_has_it_and_splits_into_the_same() {
        use crate::pte::{PTE_A, PTE_D, PTE_NX, PTE_P, PTE_PS, PTE_U, PTE_W};
        let frame = 0x1_4000_0000;
        for size in [PageSize::Small4K, PageSize::Large2M, PageSize::Huge1G] {
            for (base, upper) in [(0x1000_4000_0000, false), (0xffff_9000_4000_0000, true)] {
                for bits in 0..8 {
                    let mut mem = MapMem::default();
                    let root = mem.alloc_table().unwrap();
                    let mut tables = PageTable::new(root, &mut mem);
                    let gva = GuestVirt::literal(base);
                    tables.map(gva, GuestPhys::literal(frame), size, rights(bits)).unwrap();
                    let expected = PTE_P
                        | PTE_A
                        | PTE_D
                        | if bits & 1 != 0 { PTE_W } else { 0 }
                        | if bits & 2 != 0 { 0 } else { PTE_NX }
                        | if bits & 4 != 0 { PTE_U } else { 0 };
                    let large = if size == PageSize::Small4K { 0 } else { PTE_PS };
                    let walk = tables.walk(gva).unwrap();
                    assert_eq!(walk.level, size.level());
                    assert_eq!(walk.pte.raw(), frame | expected | large, "{size:?} {bits:03b}");
                    // Entries on the way allow everything, ring 3 only in its half.
                    let mut table = root;
                    for level in [Level::Root, Level::Pointer, Level::Directory] {
                        if level <= size.level() {
                            break;
                        }
                        let pte = Table::new(table, level).get(&mem, gva.raw()).unwrap();
                        let user = if upper { 0 } else { PTE_U };
                        assert_eq!(pte.raw() & !pte.target().raw(), PTE_P | PTE_W | user);
                        table = pte.target();
                    }
                    // Split into the smallest pages: every entry of every table is counted.
                    let mut tables = PageTable::new(root, &mut mem);
                    let pages = size.bytes() / PAGE_SIZE;
                    for page in (0..pages).step_by(if pages > 512 { 511 } else { 1 }) {
                        let gva = gva.checked_add(page * PAGE_SIZE).unwrap();
                        tables.table_for(gva, Level::Table).unwrap();
                        let walk = tables.walk(gva).unwrap();
                        let target = frame + page * PAGE_SIZE;
                        assert_eq!((walk.level, walk.pte.raw()), (Level::Table, target | expected));
                    }
                    // And promoted again by one entry in place of the table.
                    tables.map(gva, GuestPhys::literal(frame), size, rights(bits)).unwrap();
                    let walk = tables.walk(gva).unwrap();
                    assert_eq!(
                        (walk.level, walk.pte.raw()),
                        (size.level(), frame | expected | large)
                    );
                }
            }
        }
    }

    #[test]
    fn a_table_outside_memory_is_an_error() {
        let mut mem = MapMem::default();
        let root = mem.alloc_table().unwrap();
        let nowhere = Entry::Table(GuestPhys::literal(0xdead_f000));
        Table::new(root, Level::Root).set(&mem, 0, nowhere).unwrap();
        assert!(PageTable::new(root, &mut mem).walk(GuestVirt::literal(0)).is_err());
    }
}
