//! A file in memory against the run's memory limit.
//!
//! The host allocates such a file's pages when they are written, or touched through a mapping,
//! which the VMM does not see. So the charge is an upper bound of what the file can come to hold
//! before the VMM is asked again:
//!
//! - never mapped: what is stored, which changes by calls alone. A call that may store more charges
//!   that first and releases afterwards what it did not need.
//! - mapped once: its whole length. A large sparse file can be written in places, but not
//!   mapped, unless the limit allows for all of it.
//!
//! Changes of one file are serialized. There is no address space here, and no names: what the
//! program calls such a file is in `memory_dir`.

use std::fmt;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use abi::PAGE_SIZE;
use rustix::fs::{OFlags, SeekFrom};

/// What the descriptors of a process count against, besides its own limit.
pub trait DescriptorCount: fmt::Debug + Send + Sync {
    /// Counts so many more; returns whether there may be as many.
    fn open(&self, count: u64) -> bool;

    /// Counts them, even if there may not be as many.
    fn note_open(&self, count: u64);

    /// Counts so many less.
    fn close(&self, count: u64);

    /// A number refers to something else than before.
    fn show_open(&self, fd: u32, seen: Seen);

    /// These numbers are open, and no others.
    fn show_all_open(&self, open: &mut dyn Iterator<Item = (u32, Seen)>);
}

/// What other processes may know of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is not open.
    Closed,
    /// It is one of the host's, which has a name there.
    Host(RawFd),
    /// It is of our making: it has none.
    Nameless,
}

/// The memory account that files are part of, and its limit: the run's.
pub trait MemoryAccount: fmt::Debug + Send + Sync {
    /// Charges bytes for files.
    ///
    /// # Errors
    /// [`OverLimit`]: nothing is charged.
    fn charge(&self, bytes: u64) -> Result<(), OverLimit>;

    /// Records bytes that files turned out to hold, even beyond the limit.
    fn note(&self, bytes: u64);

    /// Releases bytes of files.
    fn release(&self, bytes: u64);

    /// Bytes held, by files and everything else.
    fn used_bytes(&self) -> u64;

    /// How many may be held.
    fn limit_bytes(&self) -> u64;
}

/// A file would hold more memory than the run may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a file in memory would exceed the limit")]
pub struct OverLimit;

/// An account of files alone, without a limit unless it is given one.
#[derive(Debug)]
pub(super) struct FilesOnly {
    held: AtomicU64,
    limit_bytes: u64,
}

impl FilesOnly {
    pub(super) const fn limited_to(limit_bytes: u64) -> FilesOnly {
        FilesOnly { held: AtomicU64::new(0), limit_bytes }
    }
}

impl MemoryAccount for FilesOnly {
    fn charge(&self, bytes: u64) -> Result<(), OverLimit> {
        let fits = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= self.limit_bytes);
        self.held.fetch_update(Relaxed, Relaxed, fits).map_or(Err(OverLimit), |_| Ok(()))
    }

    fn note(&self, bytes: u64) {
        self.held.fetch_add(bytes, Relaxed);
    }

    fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    fn used_bytes(&self) -> u64 {
        self.held.load(Relaxed)
    }

    fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }
}

#[derive(Debug, Default)]
struct State {
    charged: u64,
    mapped: bool,
}

/// What one file in memory is charged with. Released when the last descriptor, name and mapping of
/// it has dropped this.
#[derive(Debug)]
pub struct FileCharge {
    account: Arc<dyn MemoryAccount>,
    state: Mutex<State>,
}

/// A write about to be requested from the host.
#[derive(Clone, Copy, Debug)]
pub struct PendingWrite {
    /// Where; `None` for the file's own offset.
    pub offset: Option<u64>,
    /// How much at most.
    pub bytes: u64,
}

fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE)
}

/// Length, and bytes stored. A descriptor that cannot be queried stores nothing.
fn size_of(file: BorrowedFd<'_>) -> (u64, u64) {
    let stat = rustix::fs::fstat(file);
    stat.map_or((0, 0), |stat| (stat.st_size.cast_unsigned(), stat.st_blocks as u64 * 512))
}

/// What that many bytes can add, wherever they are placed.
fn anywhere(bytes: u64) -> u64 {
    pages(bytes).saturating_add(PAGE_SIZE)
}

impl FileCharge {
    /// The charge of a file that the VMM or the host has just made.
    #[must_use]
    pub fn new(account: Arc<dyn MemoryAccount>, file: BorrowedFd<'_>) -> FileCharge {
        let charge = FileCharge { account, state: Mutex::default() };
        charge.settle(&mut charge.lock(), file);
        charge
    }

    /// The charge of a file that another process has mapped, and this one is about to. It is charged
    /// even beyond the limit: it is there.
    #[must_use]
    pub fn mapped(account: Arc<dyn MemoryAccount>, file: BorrowedFd<'_>) -> FileCharge {
        let charge = FileCharge { account, state: Mutex::default() };
        let mut state = charge.lock();
        state.mapped = true;
        charge.settle(&mut state, file);
        drop(state);
        charge
    }

    /// Charges what the file holds now: others write to it, too.
    pub(super) fn refresh(&self, file: BorrowedFd<'_>) {
        self.settle(&mut self.lock(), file);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Charges what the file can hold now, no more and no less.
    fn settle(&self, state: &mut State, file: BorrowedFd<'_>) {
        let (size, stored) = size_of(file);
        let now = if state.mapped { pages(size).max(stored) } else { stored };
        if now > state.charged {
            self.account.note(now - state.charged);
        } else {
            self.account.release(state.charged - now);
        }
        state.charged = now;
    }

    /// Runs `call`, after which the file can hold at most `bound` bytes.
    fn within<R>(
        &self,
        state: &mut State,
        file: BorrowedFd<'_>,
        bound: u64,
        call: impl FnOnce() -> R,
    ) -> Result<R, OverLimit> {
        if bound > state.charged {
            self.account.charge(bound - state.charged)?;
            state.charged = bound;
        }
        let result = call();
        self.settle(state, file);
        Ok(result)
    }

    /// Runs `call`, which writes as described by `write`, at the offset passed to it, if any.
    /// It returns how much it wrote.
    ///
    /// # Errors
    /// [`OverLimit`]: nothing was written.
    pub fn write<E>(
        &self,
        file: BorrowedFd<'_>,
        write: PendingWrite,
        call: impl FnOnce(Option<u64>) -> Result<u64, E>,
    ) -> Result<Result<u64, E>, OverLimit> {
        let mut state = self.lock();
        let (size, stored) = size_of(file);
        let appends =
            rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::APPEND));
        // Another thread may move the file's own offset at any time: where it matters, the offset
        // that is checked is also the one written at.
        let own = || rustix::fs::tell(file).unwrap_or(u64::MAX);
        let at = if appends { size } else { write.offset.unwrap_or_else(own) };
        let end = at.saturating_add(write.bytes);
        let bound = if state.mapped {
            pages(size.max(end)).max(stored)
        } else if end <= size && stored >= pages(size) {
            // All stored already: nothing is added.
            stored
        } else {
            stored.saturating_add(anywhere(write.bytes))
        };
        let explicit = (!appends).then_some(at);
        let done = self.within(&mut state, file, bound, || call(explicit))?;
        if let Ok(bytes) = done
            && write.offset.is_none()
            && !appends
        {
            // Cannot fail: the file is a regular one and has just been written there.
            let _ = rustix::fs::seek(file, SeekFrom::Start(at.saturating_add(bytes)));
        }
        Ok(done)
    }

    /// Runs `call`, which may store that many more bytes anywhere.
    ///
    /// # Errors
    /// [`OverLimit`]: `call` was not run.
    pub fn grow<R>(
        &self,
        file: BorrowedFd<'_>,
        bytes: u64,
        call: impl FnOnce() -> R,
    ) -> Result<R, OverLimit> {
        let mut state = self.lock();
        let (size, stored) = size_of(file);
        let from = if state.mapped { pages(size).max(stored) } else { stored };
        self.within(&mut state, file, from.saturating_add(anywhere(bytes)), call)
    }

    /// Runs `call`, which sets the file's length to `len`.
    ///
    /// # Errors
    /// [`OverLimit`]: `call` was not run.
    pub fn resize<R>(
        &self,
        file: BorrowedFd<'_>,
        len: u64,
        call: impl FnOnce() -> R,
    ) -> Result<R, OverLimit> {
        let mut state = self.lock();
        let bound = if state.mapped { pages(len) } else { 0 };
        self.within(&mut state, file, bound, call)
    }

    /// From now on the file may be mapped.
    ///
    /// # Errors
    /// [`OverLimit`]: the limit does not allow for all of it.
    pub fn map(&self, file: BorrowedFd<'_>) -> Result<(), OverLimit> {
        let mut state = self.lock();
        let (size, stored) = size_of(file);
        let result = self.within(&mut state, file, pages(size).max(stored), || ());
        if result.is_ok() {
            state.mapped = true;
            self.settle(&mut state, file);
        }
        result
    }
}

impl Drop for FileCharge {
    fn drop(&mut self) {
        let charged = self.lock().charged;
        self.account.release(charged);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    const LIMIT: u64 = 64 * PAGE_SIZE;

    fn file() -> (Arc<FilesOnly>, FileCharge, File) {
        let account = Arc::new(FilesOnly::limited_to(LIMIT));
        let file: File =
            rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into();
        let charge = FileCharge::new(account.clone(), file.as_fd());
        (account, charge, file)
    }

    fn write(charge: &FileCharge, file: &File, offset: Option<u64>, pages: u64) -> bool {
        let bytes = vec![7; (pages * PAGE_SIZE) as usize];
        let pending = PendingWrite { offset, bytes: bytes.len() as u64 };
        let call = |at: Option<u64>| file.write_at(&bytes, at.unwrap()).map(|n| n as u64);
        charge.write(file.as_fd(), pending, call).is_ok_and(|done| done.is_ok())
    }

    #[test]
    fn a_sparse_file_is_charged_with_what_is_stored_until_it_is_mapped() {
        let (account, charge, file) = file();
        charge.resize(file.as_fd(), 1 << 40, || file.set_len(1 << 40)).unwrap().unwrap();
        assert_eq!(account.used_bytes(), 0);
        assert!(write(&charge, &file, Some(1 << 39), 3));
        assert_eq!(account.used_bytes(), 3 * PAGE_SIZE);
        assert!(charge.map(file.as_fd()).is_err());
        assert_eq!(account.used_bytes(), 3 * PAGE_SIZE);
        drop(charge);
        assert_eq!(account.used_bytes(), 0);
    }

    #[test]
    fn writes_stop_at_the_limit_and_what_is_stored_can_be_written_again() {
        let (account, charge, mut file) = file();
        let written = (0..1000).take_while(|_| write(&charge, &file, None, 1)).count() as u64;
        // One page more than the data may be needed where it is not aligned.
        assert!((60..=64).contains(&written), "{written} pages of 64");
        assert_eq!(file.stream_position().unwrap(), written * PAGE_SIZE);
        assert_eq!(account.used_bytes(), written * PAGE_SIZE);
        assert!(write(&charge, &file, Some(0), written), "overwriting takes nothing");
        file.seek(SeekFrom::Start(PAGE_SIZE)).unwrap();
        assert!(write(&charge, &file, None, 2), "nor at the file's own offset");
        assert_eq!(file.stream_position().unwrap(), 3 * PAGE_SIZE);
        charge.resize(file.as_fd(), 0, || file.set_len(0)).unwrap().unwrap();
        assert_eq!(account.used_bytes(), 0);
    }

    #[test]
    fn a_mapped_file_is_charged_with_its_length_however_it_gets_it() {
        let (account, charge, file) = file();
        let resize = |pages: u64| {
            let len = pages * PAGE_SIZE;
            charge.resize(file.as_fd(), len, || file.set_len(len)).map(|done| done.unwrap())
        };
        resize(10).unwrap();
        charge.map(file.as_fd()).unwrap();
        assert_eq!(account.used_bytes(), 10 * PAGE_SIZE);
        assert!(resize(65).is_err());
        assert_eq!(file.metadata().unwrap().len(), 10 * PAGE_SIZE);
        resize(64).unwrap();
        assert_eq!(account.used_bytes(), LIMIT);
        assert!(write(&charge, &file, Some(60 * PAGE_SIZE), 4), "inside");
        assert!(!write(&charge, &file, Some(60 * PAGE_SIZE), 5), "beyond");
        resize(1).unwrap();
        assert_eq!(account.used_bytes(), PAGE_SIZE);
        assert!(charge.grow(file.as_fd(), LIMIT, || ()).is_err());
    }
}
