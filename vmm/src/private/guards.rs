//! Pages that a debugger watches: the program finds less rights there than its areas give it, so that each access is a
//! fault, of which the debugger's side then knows (`linux::debug`).
//!
//! Page tables alone say so. Areas do not know of it, and with them neither calls, nor `/proc`, nor children: what the
//! VMM does for the program is not seen, and a fault is resolved as if nothing were watched, but for what it makes
//! present. A watched page is a small one. While one thread runs alone, a page can be opened for it: then tables say what the area does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::{Entry, Errno, GuestPhys, Level, PAGE_SIZE, Rights, Table};

use super::charge::pages_of;
use super::image_pages::without_write;
use super::region::{BLOCK, Inner, Mapped, PrivateRegion};
use crate::access::{FaultCause, FaultOutcome, MemoryAccess};

/// What is seen of a watched page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Guard {
    /// Writing.
    Writing,
    /// Any access.
    All,
}

#[derive(Clone, Copy, Debug)]
struct Guarded {
    guard: Guard,
    is_open: bool,
}

/// The watched pages of a region, by their addresses. Its lock is taken last.
#[derive(Debug, Default)]
pub(super) struct Guards {
    are_there: AtomicBool,
    pages: Mutex<BTreeMap<u64, Guarded>>,
}

impl Guards {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Guarded>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Almost always there are none, and nothing is locked.
    fn are_there(&self) -> bool {
        // Only changed while the region is locked, as whoever makes pages present has it.
        self.are_there.load(Ordering::Relaxed)
    }

    /// Whether some page of a block is watched: then its pages are small.
    pub(super) fn are_in_block(&self, index: u64) -> bool {
        self.are_there() && self.lock().range(index * BLOCK..(index + 1) * BLOCK).next().is_some()
    }

    /// The entry for the page at `at`, of which the program is to have these rights.
    pub(super) fn entry(&self, at: u64, gpa: GuestPhys, rights: Rights) -> Entry {
        let seen = match self.are_there() {
            true => self.lock().get(&at).filter(|page| !page.is_open).map(|page| page.guard),
            false => None,
        };
        match seen {
            None => Entry::Page(gpa, rights),
            Some(Guard::Writing) => Entry::Page(gpa, without_write(rights)),
            Some(Guard::All) => Entry::Empty,
        }
    }
}

fn page_of(gva: u64) -> u64 {
    gva & !(PAGE_SIZE - 1)
}

impl PrivateRegion {
    /// Has exactly these pages watched, from when this returns; none of them need be mapped.
    ///
    /// # Errors
    /// `ENOMEM` without memory for page tables: then none is.
    pub fn guard(&self, pages: &BTreeMap<u64, Guard>) -> Result<(), Errno> {
        let mut inner = self.lock();
        let guarded = |(page, guard): (&u64, &Guard)| {
            (page_of(*page), Guarded { guard: *guard, is_open: false })
        };
        // What is not watched any more may stay as it is: a fault gives the rights back.
        *self.guards.lock() = pages.iter().map(guarded).collect();
        self.guards.are_there.store(!pages.is_empty(), Ordering::Relaxed);
        let done = pages.keys().try_for_each(|page| self.show(&mut inner, page_of(*page)));
        if done.is_err() {
            self.guards.lock().clear();
            self.guards.are_there.store(false, Ordering::Relaxed);
        }
        done
    }

    /// Whether an access that the area allows is a fault for being watched.
    #[must_use]
    pub fn is_guarded(&self, gva: u64, cause: FaultCause) -> bool {
        if !self.guards.are_there() {
            return false;
        }
        let page = self.guards.lock().get(&page_of(gva)).copied();
        page.is_some_and(|page| match page.guard {
            Guard::All => true,
            Guard::Writing => cause == FaultCause::Data(MemoryAccess::Write),
        })
    }

    /// Lets an access to a watched page through: to be called, and [`PrivateRegion::close_guarded`], while the program
    /// has one thread alone in the guest. Otherwise as [`PrivateRegion::fault`].
    pub fn open_guarded(&self, gva: u64, cause: FaultCause) -> FaultOutcome {
        let inner = self.lock();
        if let Some(page) = self.guards.lock().get_mut(&page_of(gva)) {
            page.is_open = true;
        }
        drop(inner);
        self.fault(gva, cause)
    }

    /// Ends that for all pages.
    pub fn close_guarded(&self) {
        let mut inner = self.lock();
        let mut opened = Vec::new();
        for (at, page) in self.guards.lock().iter_mut().filter(|(_, page)| page.is_open) {
            page.is_open = false;
            opened.push(*at);
        }
        for page in opened {
            if let Err(errno) = self.show(&mut inner, page) {
                tracing::warn!(%errno, "what happens at {page:#x} is not watched any more");
            }
        }
    }

    /// Has page tables and all vCPUs know what the program may do with a page.
    fn show(&self, inner: &mut Inner, page: u64) -> Result<(), Errno> {
        let area = inner.areas.find(page).and_then(|(_, vma)| vma.prot.rights());
        let (Some(rights), Some(block)) = (area, inner.blocks.get_mut(&(page / BLOCK))) else {
            // What is not there is shown when it is made present.
            return Ok(());
        };
        if block.mapped == Mapped::Nothing {
            return Ok(());
        }
        let table = Table::new(self.table(block, page / BLOCK * BLOCK)?, Level::Table);
        if !table.get(self.mem(), page)?.is_present() {
            return Ok(());
        }
        let gpa = block.gpa.offset(page % BLOCK);
        let is_of_image = block.of_image.has_all(pages_of(&(page..page + PAGE_SIZE)));
        let rights = if is_of_image { without_write(rights) } else { rights };
        table.set(self.mem(), page, self.guards.entry(page, gpa, rights))?;
        self.mem().forget_translations(gpa, PAGE_SIZE)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use abi::{Entry, GuestPhys, Rights};

    use super::{Guard, Guarded, Guards, without_write};

    #[test]
    fn a_watched_page_has_less_rights_until_it_is_open_and_others_have_theirs() {
        let rights = Rights { write: true, execute: false, user: true };
        let gpa = GuestPhys::new(0x7000).unwrap();
        let guards = Guards::default();
        assert_eq!(guards.entry(0x1000, gpa, rights), Entry::Page(gpa, rights));
        let guarded = |guard| Guarded { guard, is_open: false };
        let pages = [(0x1000, guarded(Guard::Writing)), (0x2000, guarded(Guard::All))];
        *guards.lock() = pages.into();
        guards.are_there.store(true, Ordering::Relaxed);
        let seen = Entry::Page(gpa, without_write(rights));
        assert_eq!(guards.entry(0x1000, gpa, rights), seen);
        assert_eq!(guards.entry(0x2000, gpa, rights), Entry::Empty);
        assert_eq!(guards.entry(0x3000, gpa, rights), Entry::Page(gpa, rights));
        guards.lock().values_mut().for_each(|page| page.is_open = true);
        assert_eq!(guards.entry(0x2000, gpa, rights), Entry::Page(gpa, rights));
        assert!(guards.are_in_block(0) && !guards.are_in_block(1));
    }
}
