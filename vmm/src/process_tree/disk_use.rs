//! What all processes of a run add to disks together: a count that their VMMs share, with its limit.
//!
//! It is an upper bound. A file counts with what of it may be stored, which is all up to its end (and
//! to the end of what was reserved behind it), without what was stored when the run first made it grow.
//! So holes count as full, and what is in them when it is written later has been charged. What is not
//! known is not released: only when a file becomes shorter, and when its inode belongs to another file that
//! the run has just made, so that it itself is gone.
//!
//! One change at a time, in all processes: a thread has a lock of the host's, which goes with its process
//! however that ends. Each step leaves more charged than there is, never less, so that a process may end after any.
//! When a file is not in the table (there are more than it has room for), it is looked at anew, and what it
//! was charged with stays.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use abi::PAGE_SIZE;
use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock};
use rustix::io::{Errno as HostErrno, retry_on_intr};
use spacejmp_versions::disk::host::Growth;

use super::shared_words::SharedWords;
use crate::files::{DiskAccount, NAME_BYTES, OverDisk, Stored};

/// Files that are known at one time.
const FILES: usize = 1 << 16;
/// Places where one file can be.
const PLACES: usize = 32;
/// Of a file: device, inode, what was stored before, as far as it may be stored, what its name and inode take.
const WORDS: usize = 5;

/// What the processes of a run share.
#[derive(Debug)]
pub struct DiskLimit {
    /// What is charged, and then the files.
    words: SharedWords,
    /// A file without content, to be locked.
    turn: OwnedFd,
    limit_bytes: u64,
}

impl DiskLimit {
    /// For a run that may add so much.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(limit_bytes: u64) -> io::Result<DiskLimit> {
        let words = SharedWords::new(1 + FILES * WORDS)?;
        let turn = rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC)?;
        Ok(DiskLimit { words, turn, limit_bytes })
    }

    /// What has to stay open in every process of the run.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.turn.as_fd()
    }

    /// How much the run may add.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// What it is charged with now.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used().load(Relaxed)
    }

    fn used(&self) -> &AtomicU64 {
        &self.words[0]
    }
}

/// The limit as one process has it.
#[derive(Debug)]
pub struct DiskUse {
    limit: Arc<DiskLimit>,
    /// The host's lock is the process's: its threads take turns by this.
    threads: Mutex<()>,
}

/// The run's turn, until it is dropped.
struct Turn<'a>(&'a DiskLimit);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let _ = lock(self.0, FlockOperation::Unlock);
    }
}

/// Again after a signal: whoever has the turn will not keep it for long.
fn lock(limit: &DiskLimit, operation: FlockOperation) -> Result<(), HostErrno> {
    retry_on_intr(|| fcntl_lock(&limit.turn, operation))
}

/// A file's entry.
#[derive(Clone, Copy)]
struct Entry<'a>(&'a [AtomicU64]);

impl Entry<'_> {
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }

    fn is_of(&self, file: [u64; 2]) -> bool {
        [0, 1].map(|index| self.word(index).load(Relaxed)) == file
    }

    fn before(&self) -> u64 {
        self.word(2).load(Relaxed)
    }

    /// As far as it is charged.
    fn end(&self) -> u64 {
        self.word(3).load(Relaxed)
    }

    fn charged(&self) -> u64 {
        let of_content = self.end().saturating_sub(self.before());
        of_content.saturating_add(self.word(4).load(Relaxed))
    }

    fn set(&self, before: u64, end: u64, name: u64) {
        for (index, value) in [(2, before), (3, end), (4, name)] {
            self.word(index).store(value, Relaxed);
        }
    }

    /// Gives it to a file. A process that ends half-way leaves it to none.
    fn give_to(&self, file: [u64; 2], before: u64, name: u64) {
        self.word(1).store(0, Relaxed);
        self.set(before, before, name);
        self.word(0).store(file[0], Relaxed);
        self.word(1).store(file[1], Relaxed);
    }
}

/// What the host says of a file: which it is, its size, and what is stored of it.
struct Seen {
    file: [u64; 2],
    size: u64,
    stored: u64,
}

impl Seen {
    fn of(file: BorrowedFd<'_>) -> Option<Seen> {
        let stat = rustix::fs::fstat(file).ok()?;
        Some(Seen {
            file: [stat.st_dev, stat.st_ino],
            size: stat.st_size.cast_unsigned(),
            stored: stat.st_blocks.cast_unsigned().saturating_mul(512),
        })
    }
}

/// What was charged already of a file that was made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// There is nothing in it.
    Empty,
    /// All of it.
    Whole,
}

fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE)
}

impl DiskUse {
    /// For this process.
    #[must_use]
    pub fn new(limit: Arc<DiskLimit>) -> DiskUse {
        DiskUse { limit, threads: Mutex::new(()) }
    }

    /// Runs `work` while no other thread of the run does.
    fn in_turn<R>(&self, work: impl FnOnce() -> R) -> Result<R, OverDisk> {
        let _thread = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a lock (the host has no memory for it) nothing may be added.
        lock(&self.limit, FlockOperation::LockExclusive).map_err(|_| OverDisk)?;
        let _turn = Turn(&self.limit);
        Ok(work())
    }

    fn release(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.limit.used().fetch_update(Relaxed, Relaxed, less);
    }

    fn charge(&self, bytes: u64) -> Result<(), OverDisk> {
        let fits = |now: u64| {
            now.checked_add(bytes).filter(|sum| bytes == 0 || *sum <= self.limit.limit_bytes)
        };
        let charged = self.limit.used().fetch_update(Relaxed, Relaxed, fits);
        charged.map(drop).map_err(|_| OverDisk)
    }

    /// Where a file's entry can be.
    fn places(&self, file: [u64; 2]) -> impl Iterator<Item = Entry<'_>> {
        let mixed = file[1].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ file[0].wrapping_mul(31);
        let first = (mixed >> 32) as usize % (FILES - PLACES);
        let words = &self.limit.words[1 + first * WORDS..1 + (first + PLACES) * WORDS];
        words.chunks_exact(WORDS).map(Entry)
    }

    /// The entry of a file, if it has one.
    fn known(&self, file: [u64; 2]) -> Option<Entry<'_>> {
        self.places(file).find(|entry| entry.is_of(file))
    }

    /// A place for another file: a free one, or that of the file that was charged least.
    fn free_place(&self, file: [u64; 2]) -> Option<Entry<'_>> {
        self.places(file).min_by_key(|entry| match entry.word(1).load(Relaxed) {
            0 => 0,
            _ => entry.charged().saturating_add(1),
        })
    }

    /// The entry of a file, which is new if none of the run has grown it.
    fn entry(&self, seen: &Seen) -> Option<Entry<'_>> {
        if let Some(entry) = self.known(seen.file) {
            return Some(entry);
        }
        let entry = self.free_place(seen.file)?;
        entry.give_to(seen.file, seen.stored.min(pages(seen.size)), 0);
        Some(entry)
    }

    /// See [`DiskAccount::grow`]; the caller has its turn.
    fn grow_now(
        &self,
        file: BorrowedFd<'_>,
        end: &mut dyn FnMut(u64) -> u64,
        stored: Stored,
        call: &mut dyn FnMut(),
    ) -> Result<(), OverDisk> {
        let seen = Seen::of(file).ok_or(OverDisk)?;
        let entry = self.entry(&seen).ok_or(OverDisk)?;
        let (before, wanted) = (entry.end(), pages(end(seen.size).max(seen.size)));
        let reached = wanted.max(before);
        self.charge(reached - before)?;
        entry.word(3).store(reached, Relaxed);
        call();
        let Some(after) = Seen::of(file) else { return Ok(()) };
        let size = pages(after.size);
        if after.size < seen.size {
            // All behind its end is gone.
            let charged = entry.charged();
            let end = reached.min(size);
            let was_stored = entry.before().min(end).min(after.stored);
            entry.set(was_stored, end, entry.word(4).load(Relaxed));
            self.release(charged.saturating_sub(entry.charged()));
        } else if stored == Stored::ToItsEnd && size.max(before) < reached {
            entry.word(3).store(size.max(before), Relaxed);
            self.release(reached - size.max(before));
        }
        Ok(())
    }

    /// Notes a file that the run has made, and for whose name it was charged with `name`.
    fn adopt(&self, file: BorrowedFd<'_>, made: Made, name: u64) {
        let noted = self.in_turn(|| {
            let Some(seen) = Seen::of(file) else { return };
            // Another file had this inode: it is gone, and all of it.
            if let Some(old) = self.known(seen.file) {
                let charged = old.charged();
                old.word(1).store(0, Relaxed);
                self.release(charged);
            }
            if let Some(entry) = self.free_place(seen.file) {
                entry.give_to(seen.file, 0, name);
                if made == Made::Whole {
                    entry.word(3).store(pages(seen.size), Relaxed);
                }
            }
        });
        // Not noted, it is charged again when it grows.
        let _ = noted;
    }

    /// Charges what is not stored yet of a file that others may write without being seen.
    ///
    /// # Errors
    /// [`OverDisk`].
    pub(crate) fn cover(&self, file: BorrowedFd<'_>) -> Result<(), OverDisk> {
        DiskAccount::grow(self, file, &mut |size| size, Stored::AsAskedFor, &mut || ())
    }

    /// Notes a file of the store that was made, and for all of whose content enough was taken.
    pub(crate) fn made_with_all(&self, file: BorrowedFd<'_>) {
        self.adopt(file, Made::Whole, 0);
    }
}

impl DiskAccount for DiskUse {
    fn take(&self, bytes: u64) -> Result<(), OverDisk> {
        self.charge(bytes)
    }

    fn give_back(&self, bytes: u64) {
        self.release(bytes);
    }

    fn grow(
        &self,
        file: BorrowedFd<'_>,
        end: &mut dyn FnMut(u64) -> u64,
        stored: Stored,
        call: &mut dyn FnMut(),
    ) -> Result<(), OverDisk> {
        self.in_turn(|| self.grow_now(file, end, stored, call))?
    }

    fn made(&self, file: BorrowedFd<'_>) {
        self.adopt(file, Made::Empty, NAME_BYTES);
    }

    fn alone(&self, call: &mut dyn FnMut()) {
        // It makes nothing grow: without a turn it is done as well.
        if self.in_turn(&mut *call).is_err() {
            call();
        }
    }
}

impl Growth for DiskUse {
    fn create(&self, make: &mut dyn FnMut() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
        self.take(NAME_BYTES).map_err(full)?;
        let made = make().inspect_err(|_| self.give_back(NAME_BYTES))?;
        self.made(made.as_fd());
        Ok(made)
    }

    fn grow(
        &self,
        file: BorrowedFd<'_>,
        end: u64,
        call: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = Ok(());
        DiskAccount::grow(self, file, &mut |_| end, Stored::ToItsEnd, &mut || done = call())
            .map_err(full)?;
        done
    }
}

fn full(_: OverDisk) -> io::Error {
    io::Error::from_raw_os_error(libc::EDQUOT)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    const LIMIT: u64 = 64 * PAGE_SIZE;

    fn of_run() -> (Arc<DiskLimit>, DiskUse) {
        let limit = Arc::new(DiskLimit::new(LIMIT).unwrap());
        (limit.clone(), DiskUse::new(limit))
    }

    fn file() -> File {
        tempfile::tempfile().unwrap()
    }

    fn set_len(disk: &DiskUse, file: &File, pages: u64) -> bool {
        let len = pages * PAGE_SIZE;
        let cut = &mut || file.set_len(len).unwrap();
        DiskAccount::grow(disk, file.as_fd(), &mut |_| len, Stored::ToItsEnd, cut).is_ok()
    }

    fn write(disk: &DiskUse, file: &File, at: u64, pages: u64) -> bool {
        let bytes = vec![7; (pages * PAGE_SIZE) as usize];
        let end = (at + pages) * PAGE_SIZE;
        let write = &mut || file.write_all_at(&bytes, at * PAGE_SIZE).unwrap();
        DiskAccount::grow(disk, file.as_fd(), &mut |_| end, Stored::ToItsEnd, write).is_ok()
    }

    fn used(limit: &DiskLimit) -> u64 {
        limit.used_bytes() / PAGE_SIZE
    }

    #[test]
    fn a_file_counts_with_its_length_and_no_longer_when_it_is_cut() {
        let (limit, disk) = of_run();
        let file = file();
        assert!(set_len(&disk, &file, 40) && used(&limit) == 40);
        // In its holes nothing is charged again.
        assert!(write(&disk, &file, 0, 40) && write(&disk, &file, 10, 5) && used(&limit) == 40);
        assert!(!write(&disk, &file, 60, 5) && used(&limit) == 40);
        assert!(set_len(&disk, &file, 3) && used(&limit) == 3);
        assert!(write(&disk, &file, 60, 4) && used(&limit) == 64);
        assert!(!set_len(&disk, &file, 65) && set_len(&disk, &file, 0) && used(&limit) == 0);
    }

    #[test]
    fn what_was_there_before_is_free_and_its_holes_are_not() {
        let (limit, disk) = of_run();
        let file = file();
        file.write_all_at(&vec![1; 200 * PAGE_SIZE as usize], 0).unwrap();
        file.sync_all().unwrap();
        assert!(write(&disk, &file, 0, 200) && used(&limit) == 0);
        assert!(write(&disk, &file, 195, 10) && used(&limit) == 5);
        let sparse = super::tests::file();
        sparse.set_len(60 * PAGE_SIZE).unwrap();
        assert!(!write(&disk, &sparse, 0, 1) && used(&limit) == 5);
        sparse.set_len(50 * PAGE_SIZE).unwrap();
        assert!(disk.cover(sparse.as_fd()).is_ok() && used(&limit) == 55);
        // Cutting what was there before gives no room for something else.
        assert!(set_len(&disk, &file, 0) && used(&limit) == 50);
    }

    #[test]
    fn what_fails_or_is_short_is_charged_with_what_was_written() {
        let (limit, disk) = of_run();
        let file = file();
        let end = &mut |_| 30 * PAGE_SIZE;
        let short = &mut || file.set_len(PAGE_SIZE + 1).unwrap();
        DiskAccount::grow(&disk, file.as_fd(), end, Stored::ToItsEnd, short).unwrap();
        assert_eq!(used(&limit), 2);
        DiskAccount::grow(&disk, file.as_fd(), end, Stored::AsAskedFor, &mut || ()).unwrap();
        assert_eq!(used(&limit), 30);
        let too_far = &mut |_| 1 << 60;
        let never = &mut || panic!("over the limit");
        DiskAccount::grow(&disk, file.as_fd(), too_far, Stored::ToItsEnd, never).unwrap_err();
        assert_eq!(used(&limit), 30);
    }

    #[test]
    fn a_removed_file_is_released_when_its_inode_is_a_new_files() {
        let (limit, disk) = of_run();
        let file = file();
        disk.take(NAME_BYTES).unwrap();
        disk.made(file.as_fd());
        assert!(write(&disk, &file, 0, 30) && used(&limit) == 31);
        // The same inode: as if the host had given it to another file.
        disk.take(NAME_BYTES).unwrap();
        file.set_len(0).unwrap();
        disk.made(file.as_fd());
        assert_eq!(used(&limit), 1);
    }

    #[test]
    fn a_file_that_was_forgotten_is_charged_again_and_never_less() {
        let (limit, disk) = of_run();
        let file = file();
        assert!(write(&disk, &file, 0, 10));
        let known = disk.known(Seen::of(file.as_fd()).unwrap().file).unwrap();
        known.give_to([1, 1], 0, 0);
        file.sync_all().unwrap();
        assert!(write(&disk, &file, 8, 4));
        assert_eq!(used(&limit), 12);
        assert!(set_len(&disk, &file, 10) && used(&limit) == 10);
    }

    #[test]
    fn threads_that_write_and_cut_at_once_never_get_beyond_the_limit() {
        let (limit, disk) = of_run();
        let files: Vec<File> = (0..4).map(|_| file()).collect();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (disk, files, limit) = (&disk, &files, &limit);
                scope.spawn(move || {
                    for step in 0..500_usize {
                        let file = &files[(step * 7 + seed) % 4];
                        match (step + seed) % 3 {
                            0 => set_len(disk, file, (step % 5) as u64),
                            kind => write(disk, file, (step % 40) as u64, kind as u64),
                        };
                        assert!(limit.used_bytes() <= LIMIT);
                    }
                });
            }
        });
        let stored: u64 = files.iter().map(|file| pages(file.metadata().unwrap().len())).sum();
        assert_eq!(limit.used_bytes(), stored);
    }
}
