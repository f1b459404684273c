//! One page table: where an entry lies in it, and typed contents of an entry.
//!
//! Every entry written from outside the guest, in any kind of table, is written here; bits are in
//! `pte.rs`, walks through several tables in `walk.rs`.

use crate::addr::{GuestPhys, LOWER_HALF_END, Level};
use crate::pte::{Pte, Rights};

/// Access to the memory that holds page tables.
pub trait EntryMem {
    /// What can go wrong: a table lies outside the guest's memory.
    type Error;

    /// Reads the entry at `place`.
    ///
    /// # Errors
    /// When it is not guest memory.
    fn read(&self, place: GuestPhys) -> Result<Pte, Self::Error>;

    /// Writes the entry at `place`, as one aligned 64-bit store.
    ///
    /// # Errors
    /// When it is not guest memory.
    fn write(&self, place: GuestPhys, pte: Pte) -> Result<(), Self::Error>;

    /// Writes consecutive entries, starting at `place`, of a table that no vCPU can reach.
    ///
    /// # Errors
    /// When it is not guest memory.
    fn write_run(&self, place: GuestPhys, run: &[Pte]) -> Result<(), Self::Error> {
        (0..).zip(run).try_for_each(|(n, &pte)| self.write(place.offset(n * Pte::BYTES), pte))
    }
}

/// The contents of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Not present.
    Empty,
    /// The table of the level below.
    Table(GuestPhys),
    /// A page of the size that the level maps, aligned to that size.
    Page(GuestPhys, Rights),
}

/// A page table of a known level. Its entries are identified by an address that they cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table {
    frame: GuestPhys,
    level: Level,
}

impl Table {
    /// The table of `level` in `frame`.
    #[must_use]
    pub const fn new(frame: GuestPhys, level: Level) -> Table {
        Table { frame, level }
    }

    /// Where the entry lies that covers `address`.
    #[must_use]
    pub const fn place(self, address: u64) -> GuestPhys {
        self.frame.offset(self.level.index(address) as u64 * Pte::BYTES)
    }

    /// The bits of `entry` in this table, where it covers `address`. An entry that points to a
    /// table grants all rights: the leaf decides (by SDM 3A, 4.6.1 the rights of all levels are
    /// ANDed).
    #[must_use]
    pub fn encode(self, address: u64, entry: Entry) -> Pte {
        match entry {
            Entry::Empty => Pte::EMPTY,
            Entry::Table(table) => Pte::table(table, address < LOWER_HALF_END),
            Entry::Page(page, rights) => {
                debug_assert!(self.level.leaf().is_some(), "no page is that large");
                Pte::leaf(page, rights, self.level)
            }
        }
    }

    /// Reads the entry that covers `address`.
    ///
    /// # Errors
    /// When the table is not guest memory.
    pub fn get<M: EntryMem>(self, mem: &M, address: u64) -> Result<Pte, M::Error> {
        mem.read(self.place(address))
    }

    /// Writes the entry that covers `address`. A table that it points to must be complete: a vCPU
    /// may walk it immediately. The caller must flush what was there before.
    ///
    /// # Errors
    /// When the table is not guest memory.
    pub fn set<M: EntryMem>(self, mem: &M, address: u64, entry: Entry) -> Result<(), M::Error> {
        mem.write(self.place(address), self.encode(address, entry))
    }

    /// Writes consecutive entries, starting with the one that covers `address`, of a table that
    /// nothing links to yet. Stops at the table's end.
    ///
    /// # Errors
    /// When the table is not guest memory.
    pub fn fill<M: EntryMem>(
        self,
        mem: &M,
        address: u64,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<(), M::Error> {
        let mut run = [Pte::EMPTY; 512];
        let tail = run.get_mut(self.level.index(address)..).unwrap_or_default();
        let filled = tail.iter_mut().zip(entries);
        let len = filled.map(|(pte, entry)| *pte = self.encode(address, entry)).count();
        mem.write_run(self.place(address), tail.get(..len).unwrap_or_default())
    }

    /// Copies the entry that covers `address` from a table of the same level, if it is present.
    ///
    /// # Errors
    /// When one of them is not guest memory.
    pub fn copy_from<M: EntryMem>(
        self,
        mem: &M,
        from: GuestPhys,
        address: u64,
    ) -> Result<(), M::Error> {
        let pte = Table::new(from, self.level).get(mem, address)?;
        if pte.is_present() { mem.write(self.place(address), pte) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::*;
    use crate::addr::PAGE_SIZE_2M;

    const FRAME: GuestPhys = GuestPhys::literal(0x7000);

    /// One table at [`FRAME`].
    struct OneTable(RefCell<[u64; 512]>);

    impl EntryMem for OneTable {
        type Error = ();
        fn read(&self, place: GuestPhys) -> Result<Pte, ()> {
            let index = place.raw().checked_sub(FRAME.raw()).ok_or(())? / 8;
            self.0.borrow().get(index as usize).map(|&raw| Pte::from_raw(raw)).ok_or(())
        }
        fn write(&self, place: GuestPhys, pte: Pte) -> Result<(), ()> {
            let index = place.raw().checked_sub(FRAME.raw()).ok_or(())? / 8;
            *self.0.borrow_mut().get_mut(index as usize).ok_or(())? = pte.raw();
            Ok(())
        }
    }

    #[test]
    fn a_page_is_large_above_the_last_level_and_its_rights_are_kept() {
        let page = GuestPhys::literal(4 * PAGE_SIZE_2M);
        for (level, large) in [(Level::Table, false), (Level::Directory, true)] {
            let pte = Table::new(FRAME, level).encode(0, Entry::Page(page, Rights::KERNEL_READ));
            assert_eq!((pte.is_large(), pte.target()), (large, page));
            assert_eq!(pte.rights(), Rights::KERNEL_READ);
        }
    }

    #[test]
    fn tables_of_the_lower_half_are_open_to_ring_3_and_those_of_the_upper_are_not() {
        let root = Table::new(FRAME, Level::Root);
        let rights = |address| root.encode(address, Entry::Table(FRAME)).rights();
        assert!(rights(0).user && rights(LOWER_HALF_END - 1).user);
        assert!(!rights(!0 << 47).user && !rights(!0).user);
    }

    #[test]
    fn a_run_ends_with_the_table_and_leaves_what_is_before_it() {
        let mem = OneTable(RefCell::new([0; 512]));
        let table = Table::new(FRAME, Level::Table);
        let page = Entry::Page(GuestPhys::literal(0x9000), Rights::KERNEL_WRITE);
        table.fill(&mem, 510 * 4096, [page; 9]).unwrap();
        let present = |n: u64| table.get(&mem, n * 4096).unwrap().is_present();
        assert_eq!([0, 509, 510, 511].map(present), [false, false, true, true]);
        assert_eq!(
            table.place(512 * 4096),
            FRAME,
            "entries are addressed modulo what a table covers"
        );
        table.set(&mem, 510 * 4096, Entry::Empty).unwrap();
        assert!(!present(510));
    }
}
