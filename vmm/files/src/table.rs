//! The descriptor table: small numbers to open files, lowest free number first.

use std::os::fd::AsRawFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use abi::Errno;

use super::charge::{DescriptorCount, Seen};
use super::open_file::OpenFile;

/// How many descriptors a program may have unless told otherwise: Linux's usual soft limit.
pub const DEFAULT_NOFILE: u32 = 1024;

/// The most a limit can be raised to, Linux's usual hard limit on a table.
pub const NOFILE_MAX: u32 = 1 << 20;

#[derive(Clone, Debug)]
struct Slot {
    file: Arc<OpenFile>,
    cloexec: bool,
}

#[derive(Debug)]
struct Slots {
    slots: Vec<Option<Slot>>,
    /// No slot below this one is free.
    lowest: usize,
    limit: usize,
    /// What they count against, if anything.
    count: Option<Arc<dyn DescriptorCount>>,
}

/// Closed files are dropped after the table's lock is released: the last reference closes
/// a host descriptor, which may take a while.
#[derive(Debug)]
pub(super) struct Table(RwLock<Slots>);

/// The slot number of a guest descriptor.
fn index(fd: i32) -> Result<usize, Errno> {
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}

impl Table {
    pub(super) fn new(files: impl IntoIterator<Item = OpenFile>) -> Table {
        let slot = |file| Some(Slot { file: Arc::new(file), cloexec: false });
        let slots: Vec<_> = files.into_iter().map(slot).collect();
        Table(RwLock::new(Slots {
            lowest: slots.len(),
            slots,
            limit: DEFAULT_NOFILE as usize,
            count: None,
        }))
    }

    /// From now on the descriptors count against `count`, those that are open among them. A copy does not count.
    pub(super) fn count_against(&self, count: Arc<dyn DescriptorCount>) {
        let mut table = self.write();
        count.note_open(table.used());
        count.show_all_open(
            &mut (0_u32..).zip(&table.slots).map(|(fd, slot)| (fd, seen(slot.as_ref()))),
        );
        table.count = Some(count);
    }

    /// A table with the same open files; without those that are closed by `execve` if `for_exec`.
    pub(super) fn copy(&self, for_exec: bool) -> Table {
        let table = self.read();
        let kept = |slot: &Option<Slot>| slot.clone().filter(|slot| !(for_exec && slot.cloexec));
        let slots: Vec<Option<Slot>> = table.slots.iter().map(kept).collect();
        Table(RwLock::new(Slots { slots, lowest: 0, limit: table.limit, count: None }))
    }

    /// An empty table.
    pub(super) fn empty(limit: u32) -> Table {
        Table(RwLock::new(Slots {
            slots: Vec::new(),
            lowest: 0,
            limit: limit.min(NOFILE_MAX) as usize,
            count: None,
        }))
    }

    /// Puts a file at a number, whatever the limit is now.
    pub(super) fn place(&self, fd: u32, file: Arc<OpenFile>, cloexec: bool) {
        // Closed after the lock is released.
        let mut table = self.write();
        let old = table.put(fd as usize, Slot { file, cloexec });
        if let (None, Some(count)) = (&old, &table.count) {
            count.note_open(1);
        }
        drop(table);
        drop(old);
    }

    // A panic elsewhere while the lock was held left no half-done change: every method
    // changes one slot at a time.
    fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limit(&self) -> u32 {
        u32::try_from(self.read().limit).unwrap_or(u32::MAX)
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.write().limit = limit.min(NOFILE_MAX) as usize;
    }

    pub(super) fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        Ok(self.read().slot(fd)?.file.clone())
    }

    /// Puts a file at the lowest free number not below `from`.
    ///
    /// # Errors
    /// `EMFILE` if all numbers are taken, `ENFILE` if there may be no more in all processes.
    pub(super) fn insert(
        &self,
        file: Arc<OpenFile>,
        cloexec: bool,
        from: i32,
    ) -> Result<i32, Errno> {
        let from = index(from)?;
        let mut table = self.write();
        let at = table.free(from).ok_or(Errno::EMFILE)?;
        let fd = i32::try_from(at).map_err(|_| Errno::EMFILE)?;
        table.take_one()?;
        table.put(at, Slot { file, cloexec });
        Ok(fd)
    }

    /// # Errors
    /// `EMFILE` if no number is free.
    pub(super) fn check_room(&self) -> Result<(), Errno> {
        self.read().free(0).map(|_| ()).ok_or(Errno::EMFILE)
    }

    /// Puts a file at exactly this number and returns what was there.
    ///
    /// # Errors
    /// `EBADF` if the number is negative or not below the limit; `ENFILE` as [`Table::insert`].
    pub(super) fn replace(
        &self,
        fd: i32,
        file: Arc<OpenFile>,
        cloexec: bool,
    ) -> Result<Option<Arc<OpenFile>>, Errno> {
        let at = index(fd)?;
        let mut table = self.write();
        if at >= table.limit {
            return Err(Errno::EBADF);
        }
        if !table.slots.get(at).is_some_and(Option::is_some) {
            table.take_one()?;
        }
        Ok(table.put(at, Slot { file, cloexec }).map(|slot| slot.file))
    }

    pub(super) fn remove(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let at = index(fd)?;
        let mut table = self.write();
        let old = table.slots.get_mut(at).and_then(Option::take);
        let old = old.ok_or(Errno::EBADF)?;
        table.lowest = table.lowest.min(at);
        table.give_back(1);
        table.show(at);
        Ok(old.file)
    }

    /// Removes and returns, or marks close-on-exec, every descriptor from `first` to `last`.
    pub(super) fn range(&self, first: u32, last: u32, only_cloexec: bool) -> Vec<Arc<OpenFile>> {
        let mut closed = Vec::new();
        let mut table = self.write();
        let first = first as usize;
        let count = (last as usize).saturating_sub(first).saturating_add(1);
        let counts = table.count.clone();
        for (at, slot) in (0_u32..).zip(&mut table.slots).skip(first).take(count) {
            if only_cloexec {
                if let Some(slot) = slot {
                    slot.cloexec = true;
                }
            } else if let Some(old) = slot.take() {
                closed.push(old.file);
                if let Some(counts) = &counts {
                    counts.show_open(at, Seen::Closed);
                }
            }
        }
        if !closed.is_empty() {
            table.lowest = table.lowest.min(first);
            table.give_back(closed.len() as u64);
        }
        closed
    }

    pub(super) fn cloexec(&self, fd: i32) -> Result<bool, Errno> {
        Ok(self.read().slot(fd)?.cloexec)
    }

    pub(super) fn set_cloexec(&self, fd: i32, cloexec: bool) -> Result<(), Errno> {
        let index = index(fd)?;
        let mut table = self.write();
        let slot = table.slots.get_mut(index).and_then(Option::as_mut);
        slot.ok_or(Errno::EBADF)?.cloexec = cloexec;
        Ok(())
    }

    /// The numbers in use, ascending.
    pub(super) fn open(&self) -> Vec<u32> {
        let table = self.read();
        let used = (0u32..).zip(&table.slots);
        used.filter(|(_, slot)| slot.is_some()).map(|(fd, _)| fd).collect()
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.give_back(self.used());
    }
}

impl Slots {
    fn used(&self) -> u64 {
        self.slots.iter().flatten().count() as u64
    }

    fn take_one(&self) -> Result<(), Errno> {
        match &self.count {
            Some(count) if !count.open(1) => Err(Errno::ENFILE),
            _ => Ok(()),
        }
    }

    fn give_back(&self, descriptors: u64) {
        if let Some(count) = &self.count {
            count.close(descriptors);
        }
    }

    fn slot(&self, fd: i32) -> Result<&Slot, Errno> {
        self.slots.get(index(fd)?).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    fn free(&self, from: usize) -> Option<usize> {
        let from = from.max(self.lowest);
        let taken = self.slots.iter().skip(from).take_while(|s| s.is_some());
        let at = from.checked_add(taken.count())?;
        (at < self.limit).then_some(at)
    }

    /// Fills a slot and returns what was in it.
    fn put(&mut self, at: usize, slot: Slot) -> Option<Slot> {
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        let old = self.slots.get_mut(at).and_then(|old| old.replace(slot));
        if at == self.lowest {
            self.lowest += 1;
        }
        self.show(at);
        old
    }

    /// Shows what is at a number now.
    fn show(&self, at: usize) {
        if let (Some(count), Ok(fd)) = (&self.count, u32::try_from(at)) {
            count.show_open(fd, seen(self.slots.get(at).and_then(Option::as_ref)));
        }
    }
}

fn seen(slot: Option<&Slot>) -> Seen {
    match slot.map(|slot| &slot.file) {
        None => Seen::Closed,
        Some(file) if file.node().is_some() || file.text().is_some() => Seen::Nameless,
        Some(file) => Seen::Host(file.host_fd().as_raw_fd()),
    }
}
