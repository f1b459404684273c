//! Numbers of lock pages: at which address the guest kernel sees a segment's lock.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::layout::MAX_LOCK_PAGES;
use abi::switch::LockRef;
use abi::{GuestPhys, SegId};

use super::lock_page::LockPage;
use crate::kernel::SwitchTables;
use crate::store::{SegmentFile, Store};
use crate::vas::VasError;
use crate::vas::opened::Opened;
use crate::vas::range_allocator::RangeAllocator;

/// See the module.
#[derive(Debug)]
pub(crate) struct LockNumbers {
    switch: Arc<SwitchTables>,
    numbers: RangeAllocator,
    /// Guest memory reserved for lock pages, by number: it stays, whichever segment has the number.
    memory: BTreeMap<u32, GuestPhys>,
    /// Which segment's lock lies at which number.
    segments: BTreeMap<u32, SegId>,
}

impl LockNumbers {
    /// None in use.
    pub(crate) fn new(switch: Arc<SwitchTables>) -> LockNumbers {
        let (numbers, memory, segments) = Default::default();
        LockNumbers { switch, numbers, memory, segments }
    }

    /// Maps a segment's lock page, at a number that is free.
    pub(crate) fn map(
        &mut self,
        file: &SegmentFile,
        opened: &Opened,
    ) -> Result<LockPage, VasError> {
        let full = VasError::Full { what: "lock pages" };
        let number = self.numbers.allocate(1, MAX_LOCK_PAGES).ok_or(full)?;
        let mapped = self.memory_of(number).and_then(|gpa| {
            LockPage::map(
                number,
                gpa,
                file,
                opened.lease.id(),
                &opened.store,
                self.switch.machine(),
            )
        });
        match mapped {
            Ok(_) => {
                self.segments.insert(number, file.sid());
            }
            Err(_) => self.numbers.free(number),
        }
        mapped
    }

    fn memory_of(&mut self, number: u32) -> Result<GuestPhys, VasError> {
        if let Some(&gpa) = self.memory.get(&number) {
            return Ok(gpa);
        }
        let gpa = self.switch.map_lock_page(number)?;
        self.memory.insert(number, gpa);
        Ok(gpa)
    }

    /// Releases the number of a lock that no thread of this VM has or will ask for.
    pub(crate) fn unmap(&mut self, lock: LockPage, store: &Store) -> Result<(), VasError> {
        let number = lock.number();
        self.segments.remove(&number);
        self.numbers.free(number);
        lock.give_up(store, self.switch.machine())
    }

    /// The segment whose lock a reference of the kernel's names, if any.
    pub(crate) fn segment_of(&self, reference: &LockRef) -> Option<SegId> {
        self.segments.get(&LockPage::number_of(reference)).copied()
    }
}
