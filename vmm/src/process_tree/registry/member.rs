//! A process's own place in the table of its run: what it holds is counted there, and what it shows of itself is seen by the others.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Entry, Registry};
use crate::files::{DescriptorCount, Seen};
use crate::process_tree::images::ImagePlace;
use crate::process_tree::shown::Shown;

/// One process's place in the table. Dropping it frees nothing: a process ends when it is waited for.
#[derive(Debug, Clone)]
pub struct Member {
    pub(super) registry: Arc<Registry>,
    pub(super) place: usize,
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

    /// Shows this to the other processes; by one thread at a time.
    pub fn show(&self, shown: &Shown) {
        if let Some(cell) = self.registry.cells().get(self.place) {
            cell.show(shown);
        }
    }

    /// Shows a thread that has begun, at a place which no other has until it ends; 0 when it has.
    pub fn show_thread(&self, place: u32, tid: i32) {
        if let Some(cell) = self.registry.cells().get(self.place) {
            cell.show_thread(place, tid);
        }
    }

    /// Shows which file the process runs: its device and its inode; zeroes for none.
    pub fn show_executable(&self, file: [u64; 2]) {
        if let Some(cell) = self.registry.cells().get(self.place) {
            cell.show_executable(file);
        }
    }

    /// Shows how many threads the process has.
    pub fn show_threads(&self, count: usize) {
        if let Some(cell) = self.registry.cells().get(self.place) {
            cell.threads.store(count as u32, Ordering::Relaxed);
        }
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
            self.registry.clear(entry, self.place);
        }
    }

    /// Forgets what it holds: its VM is gone.
    pub fn release_all(&self) {
        if let Some(entry) = self.entry() {
            self.registry.release_memory(entry, self.place);
        }
    }

    /// Charges bytes, if all processes together then hold no more than `limit_bytes`.
    #[must_use]
    pub fn charge(&self, bytes: u64, limit_bytes: u64) -> bool {
        let fitted = self.registry.charge(bytes, limit_bytes);
        if fitted && let Some(entry) = self.entry() {
            entry.held.fetch_add(bytes, Ordering::AcqRel);
        }
        fitted
    }

    /// A place for a new image, which this process has; `None` if there is none.
    #[must_use]
    pub fn new_image(&self) -> Option<ImagePlace> {
        self.registry.images.take(self.place, |freed| self.registry.subtract(freed))
    }

    /// Charges the run with more of an image that this process has, if all together then hold no more than
    /// `limit_bytes`.
    #[must_use]
    pub fn charge_image(&self, image: ImagePlace, bytes: u64, limit_bytes: u64) -> bool {
        let fitted = self.registry.charge(bytes, limit_bytes);
        if fitted {
            self.registry.images.grow(image, bytes);
        }
        fitted
    }

    /// Lets this process have an image of the caller's; whether there was room in its list.
    #[must_use]
    pub fn give_image(&self, image: ImagePlace) -> bool {
        self.registry.images.enter(self.place, image)
    }

    /// Whether this process has an image.
    #[must_use]
    pub fn has_image(&self, image: ImagePlace) -> bool {
        self.registry.images.has(self.place, image)
    }

    /// This process has the image no longer.
    pub fn release_image(&self, image: ImagePlace) {
        self.registry.subtract(self.registry.images.release(self.place, image));
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

impl DescriptorCount for Member {
    fn open(&self, count: u64) -> bool {
        let head = self.registry.head();
        let limit = head.open_files_limit.load(Ordering::Relaxed);
        let fits = |now: u64| now.checked_add(count).filter(|sum| *sum <= limit);
        let taken = head.open_files.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).is_ok();
        if taken && let Some(entry) = self.entry() {
            entry.open_files.fetch_add(count, Ordering::AcqRel);
        }
        taken
    }

    fn note_open(&self, count: u64) {
        self.registry.head().open_files.fetch_add(count, Ordering::AcqRel);
        if let Some(entry) = self.entry() {
            entry.open_files.fetch_add(count, Ordering::AcqRel);
        }
    }

    fn close(&self, count: u64) {
        let Some(entry) = self.entry() else { return };
        let less = |now: u64| Some(now.saturating_sub(count));
        if let Ok(before) = entry.open_files.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less)
        {
            self.registry.close(count.min(before));
        }
    }

    fn show_open(&self, fd: u32, seen: Seen) {
        if let Some(cell) = self.registry.cells().get(self.place) {
            cell.show_descriptor(fd, seen);
        }
    }

    fn show_all_open(&self, open: &mut dyn Iterator<Item = (u32, Seen)>) {
        if let Some(cell) = self.registry.cells().get(self.place) {
            cell.show_descriptors(open);
        }
    }
}
