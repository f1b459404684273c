//! Which processes belong to a run, and how much memory each of them holds: one table that all its
//! VMMs share, made before the first of them starts another.
//!
//! A VMM can be killed at any time: so each change is one atomic operation, and what a dead one held
//! is released by whoever waits for it.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// The most processes that a run may have.
pub const PROCESSES_MAX: u32 = 1 << 15;

/// One process's entry.
#[repr(C)]
#[derive(Debug)]
struct Entry {
    /// 0: free. [`TAKEN`]: of a process that is being made.
    pid: AtomicI32,
    held: AtomicU64,
}

const TAKEN: i32 = -1;

/// What precedes the entries.
#[repr(C)]
#[derive(Debug)]
struct Head {
    total: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct Registry {
    memory: NonNull<u8>,
    bytes: usize,
    entries: u32,
}

// SAFETY: the memory is shared, never unmapped while this exists, and contains only atomics.
unsafe impl Send for Registry {}
// SAFETY: as above.
unsafe impl Sync for Registry {}

impl Registry {
    /// A table for that many processes, shared with those that are forked from this one.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(processes: u32) -> io::Result<Registry> {
        let entries = processes.clamp(1, PROCESSES_MAX);
        let bytes = size_of::<Entry>() + entries as usize * size_of::<Entry>();
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0) };
        match NonNull::new(at.cast()) {
            Some(memory) if at != libc::MAP_FAILED => Ok(Registry { memory, bytes, entries }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping begins with a head, for which an entry's bytes are set aside; zeroes
        // are valid atomics, and all access is atomic.
        unsafe { self.memory.cast::<Head>().as_ref() }
    }

    fn entries(&self) -> &[Entry] {
        let first = self.memory.as_ptr().cast::<Entry>().wrapping_add(1);
        // SAFETY: `new` has mapped one more than these, aligned as the page they begin in; zeroes
        // are valid atomics, and all access is atomic.
        unsafe { std::slice::from_raw_parts(first, self.entries as usize) }
    }

    /// Takes an entry for a process that is about to be made; `None` if the run has as many as it
    /// may.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Member> {
        let place = self.entries().iter().position(|entry| {
            entry.pid.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        Some(Member { registry: self.clone(), place })
    }

    /// Whether a host process belongs to the run.
    #[must_use]
    pub fn contains(&self, pid: i32) -> bool {
        pid > 0 && self.entries().iter().any(|entry| entry.pid.load(Ordering::Acquire) == pid)
    }

    /// The processes of the run.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let pids = self.entries().iter().map(|entry| entry.pid.load(Ordering::Acquire));
        pids.filter(|pid| *pid > 0).collect()
    }

    /// Frees the entry of a process that has ended, and what it held. To be called before its number
    /// can be used again: before it is waited for.
    pub fn free(&self, pid: i32) {
        for entry in self.entries() {
            if pid > 0 && entry.pid.load(Ordering::Acquire) == pid {
                self.clear(entry);
            }
        }
    }

    fn clear(&self, entry: &Entry) {
        let held = entry.held.swap(0, Ordering::AcqRel);
        self.subtract(held);
        entry.pid.store(0, Ordering::Release);
    }

    fn subtract(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.head().total.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
    }

    /// Records bytes that no single process holds.
    pub fn note(&self, bytes: u64) {
        self.head().total.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Releases such bytes.
    pub fn release(&self, bytes: u64) {
        self.subtract(bytes);
    }

    /// What all processes of the run hold together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.head().total.load(Ordering::Relaxed)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // SAFETY: `new` has mapped it; nothing refers to it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}

/// One process's place in the table. Dropping it frees nothing: a process ends when it is waited for.
#[derive(Debug, Clone)]
pub struct Member {
    registry: Arc<Registry>,
    place: usize,
}

impl Member {
    fn entry(&self) -> Option<&Entry> {
        self.registry.entries().get(self.place)
    }

    /// The run's table.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Which place it is, for the process it is given to.
    #[must_use]
    pub fn place(&self) -> u32 {
        self.place as u32
    }

    /// The member at a place that another process has taken.
    #[must_use]
    pub fn at(registry: &Arc<Registry>, place: u32) -> Member {
        Member { registry: registry.clone(), place: place as usize }
    }

    /// Enters the process's number.
    pub fn set_pid(&self, pid: i32) {
        if let Some(entry) = self.entry() {
            entry.pid.store(pid, Ordering::Release);
        }
    }

    /// Gives the place back: no process was made.
    pub fn give_back(&self) {
        if let Some(entry) = self.entry() {
            self.registry.clear(entry);
        }
    }

    /// Forgets what it holds: its VM is gone.
    pub fn release_all(&self) {
        if let Some(entry) = self.entry() {
            self.registry.subtract(entry.held.swap(0, Ordering::AcqRel));
        }
    }

    /// Charges bytes, if all processes together then hold no more than `limit_bytes`.
    #[must_use]
    pub fn charge(&self, bytes: u64, limit_bytes: u64) -> bool {
        let fits = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= limit_bytes);
        let total = &self.registry.head().total;
        let fitted = total.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).is_ok();
        if fitted && let Some(entry) = self.entry() {
            entry.held.fetch_add(bytes, Ordering::AcqRel);
        }
        fitted
    }

    /// Records bytes, even beyond the limit.
    pub fn note(&self, bytes: u64) {
        self.registry.head().total.fetch_add(bytes, Ordering::AcqRel);
        if let Some(entry) = self.entry() {
            entry.held.fetch_add(bytes, Ordering::AcqRel);
        }
    }

    /// Releases bytes.
    pub fn release(&self, bytes: u64) {
        let Some(entry) = self.entry() else { return };
        let less = |now: u64| Some(now.saturating_sub(bytes));
        if let Ok(before) = entry.held.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less) {
            self.registry.subtract(bytes.min(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Registry;

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        let registry = Arc::new(Registry::new(2).unwrap());
        let one = registry.take().unwrap();
        let other = registry.take().unwrap();
        assert!(registry.take().is_none());
        other.give_back();
        let other = registry.take().unwrap();
        one.set_pid(10);
        other.set_pid(11);
        assert!(registry.contains(10) && !registry.contains(0) && !registry.contains(-1));
        assert_eq!(registry.pids(), [10, 11]);
        registry.free(10);
        assert!(!registry.contains(10) && registry.take().is_some());
    }

    #[test]
    fn memory_counts_together_and_goes_with_its_process() {
        let registry = Arc::new(Registry::new(2).unwrap());
        let (one, other) = (registry.take().unwrap(), registry.take().unwrap());
        one.set_pid(10);
        other.set_pid(11);
        assert!(one.charge(60, 100) && !other.charge(41, 100) && other.charge(40, 100));
        other.release(10);
        one.note(5);
        assert_eq!(registry.total_bytes(), 95);
        registry.free(10);
        assert_eq!(registry.total_bytes(), 30);
        other.release_all();
        other.release(10);
        assert_eq!(registry.total_bytes(), 0);
    }
}
