//! Which processes belong to a run, and how much memory each of them holds: one table that all its
//! VMMs share, made before the first of them starts another.
//!
//! A VMM can be killed at any time: so each change is one atomic operation, and what a dead one held
//! is released by whoever waits for it. What a process does at its own place is in [`Member`].

mod member;

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use super::images::Images;
use super::shared_words::SharedWords;
use super::shown::{Cell, Shown};
use super::wait;
use crate::files::Seen;

pub use self::member::Member;

/// The most processes that a run may have.
pub const PROCESSES_MAX: u32 = 1 << 15;

/// One process's entry.
#[repr(C)]
#[derive(Debug)]
struct Entry {
    /// 0: free. [`TAKEN`]: of a process that is being made.
    pid: AtomicI32,
    held: AtomicU64,
    open_files: AtomicU64,
}

const TAKEN: i32 = -1;

/// What precedes the entries.
#[repr(C)]
#[derive(Debug)]
struct Head {
    total: AtomicU64,
    open_files: AtomicU64,
    /// How many there may be.
    open_files_limit: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct Registry {
    memory: NonNull<u8>,
    bytes: usize,
    entries: u32,
    images: Images,
    /// Nanoseconds of processor time of processes that have ended, and the limit of all together in seconds; 0 is none.
    times: SharedWords,
}

// SAFETY: the memory is shared, never unmapped while this exists, and contains only atomics.
unsafe impl Send for Registry {}
// SAFETY: as above.
unsafe impl Sync for Registry {}

impl Registry {
    /// A table for that many processes, with so many open files together, shared with those that are forked from
    /// this one.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(processes: u32, open_files: u64) -> io::Result<Registry> {
        let entries = processes.clamp(1, PROCESSES_MAX);
        let of_each = size_of::<Entry>() + size_of::<Cell>();
        let bytes = size_of::<Entry>() + entries as usize * of_each;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let (images, times) = (Images::new(entries as usize)?, SharedWords::new(2)?);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0) };
        let registry = match NonNull::new(at.cast()) {
            Some(memory) if at != libc::MAP_FAILED => {
                Registry { memory, bytes, entries, images, times }
            }
            _ => return Err(io::Error::last_os_error()),
        };
        registry.head().open_files_limit.store(open_files, Ordering::Relaxed);
        Ok(registry)
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

    /// What the process at each place shows of itself.
    fn cells(&self) -> &[Cell] {
        let first = self.memory.as_ptr().cast::<Entry>().wrapping_add(1 + self.entries as usize);
        const _: () = assert!(align_of::<Entry>().is_multiple_of(align_of::<Cell>()));
        // SAFETY: `new` has mapped these after the entries, at an address that is aligned for entries and so
        // for them; zeroes are valid atomics, and all access is atomic.
        unsafe { std::slice::from_raw_parts(first.cast::<Cell>(), self.entries as usize) }
    }

    /// What a process of the run shows of itself, and how many threads it has; `None` if it is none.
    #[must_use]
    pub fn shown(&self, pid: i32) -> Option<(Shown, u32)> {
        let of_pid = |entry: &Entry| pid > 0 && entry.pid.load(Ordering::Acquire) == pid;
        let place = self.entries().iter().position(of_pid)?;
        let cell = self.cells().get(place)?;
        Some((cell.look()?, cell.threads.load(Ordering::Relaxed)))
    }

    fn cell_of(&self, pid: i32) -> Option<&Cell> {
        let mut all = self.entries().iter().zip(self.cells());
        let found = all.find(|(entry, _)| pid > 0 && entry.pid.load(Ordering::Acquire) == pid);
        found.map(|(_, cell)| cell)
    }

    /// The numbers of a process's threads: none before its program runs.
    #[must_use]
    pub fn threads_of(&self, pid: i32) -> Vec<i32> {
        self.cell_of(pid).map_or_else(Vec::new, Cell::tids)
    }

    /// The numbers of a process's open descriptors.
    #[must_use]
    pub fn descriptors_of(&self, pid: i32) -> Vec<u32> {
        self.cell_of(pid).map_or_else(Vec::new, Cell::descriptors)
    }

    /// What one of them is.
    #[must_use]
    pub fn descriptor_of(&self, pid: i32, fd: u32) -> Seen {
        self.cell_of(pid).map_or(Seen::Closed, |cell| cell.descriptor(fd))
    }

    /// The processes that run a file: its device and its inode. Some may have ended.
    #[must_use]
    pub fn runners(&self, file: [u64; 2]) -> Vec<i32> {
        // Only of processes that are there: looking at a place that nobody has used would take memory for it.
        let numbered = |(entry, cell): (&Entry, &Cell)| {
            let pid = entry.pid.load(Ordering::Acquire);
            (pid > 0 && cell.runs(file)).then_some(pid)
        };
        self.entries().iter().zip(self.cells()).filter_map(numbered).collect()
    }

    /// Bytes that a process of the run holds, with those of the images that it has.
    #[must_use]
    pub fn held_by(&self, pid: i32) -> u64 {
        let mut entries = self.entries().iter().zip(0..);
        let found = entries.find(|(entry, _)| entry.pid.load(Ordering::Acquire) == pid);
        found.map_or(0, |(entry, place)| {
            entry.held.load(Ordering::Relaxed) + self.images.bytes_of(place)
        })
    }

    /// Takes an entry for a process that is about to be made; `None` if the run has as many as it
    /// may.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Member> {
        let place = self.entries().iter().position(|entry| {
            entry.pid.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        let member = Member { registry: self.clone(), place };
        member.show(&Shown::default());
        member.show_threads(0);
        member.show_executable([0; 2]);
        if let Some(cell) = self.cells().get(place) {
            cell.show_no_thread();
            cell.show_descriptors(&mut std::iter::empty());
        }
        Some(member)
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
        for (entry, place) in self.entries().iter().zip(0..) {
            if pid > 0 && entry.pid.load(Ordering::Acquire) == pid {
                let used = wait::processor_time(pid).unwrap_or_default();
                self.clear(entry, place);
                // Afterwards: better too little for a moment than the same twice.
                self.times[0].fetch_add(used.as_nanos() as u64, Ordering::AcqRel);
            }
        }
    }

    /// Limits the processor time of all processes together, before the first of them runs.
    pub fn limit_processor_time(&self, seconds: u64) {
        self.times[1].store(seconds, Ordering::Release);
    }

    /// That limit, if there is one.
    #[must_use]
    pub fn processor_time_limit(&self) -> Option<Duration> {
        let seconds = self.times[1].load(Ordering::Acquire);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Processor time that all processes of the run have used together, also those that have ended.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let ended = Duration::from_nanos(self.times[0].load(Ordering::Acquire));
        let living = self.pids().into_iter().filter_map(wait::processor_time);
        living.fold(ended, Duration::saturating_add)
    }

    /// Releases what a process that has ended held, which has its number until it is waited for.
    pub fn release_ended(&self, pid: i32) {
        for (entry, place) in self.entries().iter().zip(0..) {
            if pid > 0 && entry.pid.load(Ordering::Acquire) == pid {
                self.release_memory(entry, place);
                self.close(entry.open_files.swap(0, Ordering::AcqRel));
            }
        }
    }

    fn release_memory(&self, entry: &Entry, place: usize) {
        let of_images = self.images.release_all(place);
        self.subtract(entry.held.swap(0, Ordering::AcqRel) + of_images);
    }

    fn clear(&self, entry: &Entry, place: usize) {
        self.release_memory(entry, place);
        self.close(entry.open_files.swap(0, Ordering::AcqRel));
        entry.pid.store(0, Ordering::Release);
    }

    /// Charges bytes that no single process holds, if all together then hold no more than `limit_bytes`.
    #[must_use]
    pub fn charge(&self, bytes: u64, limit_bytes: u64) -> bool {
        let fits = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= limit_bytes);
        self.head().total.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).is_ok()
    }

    fn subtract(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.head().total.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
    }

    fn close(&self, files: u64) {
        let less = |now: u64| Some(now.saturating_sub(files));
        let _ = self.head().open_files.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
    }

    /// Whether there may be so many more open files.
    #[must_use]
    pub fn has_room_for_files(&self, files: u64) -> bool {
        let head = self.head();
        let sum = head.open_files.load(Ordering::Relaxed).checked_add(files);
        sum.is_some_and(|sum| sum <= head.open_files_limit.load(Ordering::Relaxed))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Registry, Shown, wait};
    use crate::files::{DescriptorCount, Seen};

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        let registry = Arc::new(Registry::new(2, u64::MAX).unwrap());
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
        let registry = Arc::new(Registry::new(2, u64::MAX).unwrap());
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

    #[test]
    fn processor_time_of_processes_counts_together_and_goes_on_counting_when_they_have_ended() {
        let registry = Arc::new(Registry::new(2, u64::MAX).unwrap());
        assert_eq!(registry.processor_time_limit(), None);
        registry.limit_processor_time(3);
        assert_eq!(registry.processor_time_limit(), Some(Duration::from_secs(3)));
        let (one, other) = (registry.take().unwrap(), registry.take().unwrap());
        let spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        let mut child = std::process::Command::new("sh").args(["-c", spin]).spawn().unwrap();
        let pid = child.id().cast_signed();
        one.set_pid(pid);
        wait::wait(libc::P_PID, pid, libc::WEXITED | libc::WNOWAIT).unwrap();
        let used = registry.processor_time();
        assert!(used > Duration::ZERO);
        registry.free(pid);
        registry.free(pid);
        child.wait().unwrap();
        assert_eq!(registry.processor_time(), used);
        other.set_pid(std::process::id().cast_signed());
        assert!(registry.processor_time() > used);
    }

    #[test]
    fn an_image_counts_once_for_all_who_have_it_and_goes_with_the_last() {
        let registry = Arc::new(Registry::new(3, u64::MAX).unwrap());
        let members: Vec<_> = (0..3).map(|_| registry.take().unwrap()).collect();
        let [parent, child, other] = members.as_slice() else { panic!("three") };
        for (member, pid) in members.iter().zip(10..) {
            member.set_pid(pid);
        }
        let image = parent.new_image().unwrap();
        assert!(parent.charge_image(image, 60, 100) && !parent.charge_image(image, 41, 100));
        assert!(child.give_image(image) && other.give_image(image));
        assert!(child.has_image(image) && !child.charge(41, 100) && child.charge(5, 100));
        assert_eq!(
            (registry.total_bytes(), registry.held_by(11), registry.held_by(12)),
            (65, 65, 60)
        );
        parent.release_image(image);
        // It has ended, and nobody has waited for it yet.
        registry.release_ended(11);
        assert_eq!((registry.total_bytes(), registry.contains(11)), (60, true));
        registry.free(11);
        other.release_all();
        other.release_image(image);
        assert_eq!(registry.total_bytes(), 0);
    }

    #[test]
    fn open_files_count_together_and_go_with_their_process() {
        let registry = Arc::new(Registry::new(2, 10).unwrap());
        let (one, other) = (registry.take().unwrap(), registry.take().unwrap());
        one.set_pid(10);
        assert!(one.open(6) && !other.open(5) && other.open(4) && !one.open(1));
        other.close(1);
        assert!(registry.has_room_for_files(1) && !registry.has_room_for_files(2));
        one.note_open(5);
        assert!(!other.open(1) && !registry.has_room_for_files(0));
        registry.free(10);
        assert!(other.open(7) && !other.open(1));
    }

    #[test]
    fn who_runs_a_file_is_known_until_another_program_or_process_takes_the_place() {
        let registry = Arc::new(Registry::new(2, u64::MAX).unwrap());
        let (one, other) = (registry.take().unwrap(), registry.take().unwrap());
        one.set_pid(10);
        other.set_pid(11);
        one.show_executable([1, 2]);
        other.show_executable([1, 2]);
        assert_eq!(registry.runners([1, 2]), [10, 11]);
        assert!(registry.runners([2, 2]).is_empty() && registry.runners([1, 1]).is_empty());
        other.show_executable([1, 3]);
        assert_eq!((registry.runners([1, 2]), registry.runners([1, 3])), (vec![10], vec![11]));
        registry.free(10);
        registry.take().unwrap().set_pid(12);
        assert!(registry.runners([1, 2]).is_empty() && registry.runners([0, 0]).is_empty());
    }

    #[test]
    fn a_process_shows_of_itself_what_there_is_room_for() {
        let registry = Arc::new(Registry::new(2, u64::MAX).unwrap());
        let member = registry.take().unwrap();
        assert!(registry.shown(10).is_none());
        member.set_pid(10);
        assert_eq!(registry.shown(10), Some((Shown::default(), 0)));
        let shown = Shown {
            name: b"cat".to_vec(),
            args: vec![7; 100_000],
            program: b"/bin/cat".to_vec(),
            directory: b"/".to_vec(),
        };
        member.show(&shown);
        member.show_threads(3);
        for (place, tid) in [(0, 10), (7, 15), (1023, 14), (1024, 99), (7, 0)] {
            member.show_thread(place, tid);
        }
        assert_eq!((registry.threads_of(10), registry.threads_of(11)), (vec![10, 14], vec![]));
        member.show_all_open(&mut [(0, Seen::Host(9)), (3, Seen::Nameless)].into_iter());
        for (fd, seen) in [(4, Seen::Host(0)), (0, Seen::Closed), (5000, Seen::Host(1))] {
            member.show_open(fd, seen);
        }
        assert_eq!(
            (registry.descriptors_of(10), registry.descriptors_of(11)),
            (vec![3, 4], vec![])
        );
        let of = |fd| registry.descriptor_of(10, fd);
        assert_eq!([of(3), of(4), of(5000)], [Seen::Nameless, Seen::Host(0), Seen::Closed]);
        let (seen, threads) = registry.shown(10).unwrap();
        assert_eq!((seen.args.len(), threads), (2048, 3));
        assert_eq!(Shown { args: shown.args.clone(), ..seen }, shown);
        assert_eq!((registry.shown(0), registry.shown(11)), (None, None));
        // The next process at this place shows nothing of the one before.
        registry.free(10);
        let next = registry.take().unwrap();
        next.set_pid(12);
        assert_eq!(registry.shown(12), Some((Shown::default(), 0)));
        assert!(registry.threads_of(12).is_empty() && registry.descriptors_of(12).is_empty());
    }
}
