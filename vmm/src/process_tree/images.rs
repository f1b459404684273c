//! Which images of memory the processes of a run have (`vm::images`): each is charged to the run once, as long as
//! anybody has it.
//!
//! There is no count of those who have one, which a VMM that is killed could leave wrong. Each process lists what
//! it has, and whoever lets go of an image looks whether it is in any list. So that no list is missed into
//! which it is entered meanwhile, the look is repeated if another process has let go of something since it began: an
//! image is only ever entered for a process by one that has it itself.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared_words::SharedWords;

/// The most images that one process has, beyond which it is charged for them alone.
const OF_A_PROCESS: usize = 16;
/// Places for images, for each process that there may be.
const PLACES_FOR_EACH: usize = 4;
/// A place that is taken; the rest of its word is its use's number and the bytes.
const USED: u64 = 1 << 63;
const NUMBER_SHIFT: u32 = 48;
const NUMBER: u64 = (USED - 1) & !BYTES;
const BYTES: u64 = (1 << NUMBER_SHIFT) - 1;

/// An image's place in the run's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagePlace(u32);

impl ImagePlace {
    /// As it is told to another VMM.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// What another VMM has told.
    #[must_use]
    pub fn of(number: u32) -> ImagePlace {
        ImagePlace(number)
    }

    fn entry(self) -> u64 {
        u64::from(self.0) + 1
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Images {
    words: SharedWords,
    places: usize,
}

impl Images {
    pub(super) fn new(processes: usize) -> io::Result<Images> {
        let places = processes.saturating_mul(PLACES_FOR_EACH);
        Ok(Images { words: SharedWords::new(1 + places + processes * OF_A_PROCESS)?, places })
    }

    /// How often somebody has begun to let go of an image.
    fn releases(&self) -> Option<&AtomicU64> {
        self.words.first()
    }

    fn place(&self, at: ImagePlace) -> Option<&AtomicU64> {
        self.words.get(1..1 + self.places)?.get(at.0 as usize)
    }

    fn all_lists(&self) -> &[AtomicU64] {
        self.words.get(1 + self.places..).unwrap_or_default()
    }

    fn list(&self, process: usize) -> &[AtomicU64] {
        let lists = self.all_lists();
        lists.get(process * OF_A_PROCESS..(process + 1) * OF_A_PROCESS).unwrap_or_default()
    }

    /// Enters an image in a process's list; by a process that has it.
    #[must_use]
    pub(super) fn enter(&self, process: usize, image: ImagePlace) -> bool {
        let into = |entry: &AtomicU64| {
            let (free, taken) = (0, image.entry());
            entry.compare_exchange(free, taken, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        };
        self.place(image).is_some() && self.list(process).iter().any(into)
    }

    /// Whether a process has it.
    #[must_use]
    pub(super) fn has(&self, process: usize, image: ImagePlace) -> bool {
        self.list(process).iter().any(|entry| entry.load(Ordering::SeqCst) == image.entry())
    }

    /// A place for a new image, which the process has; bytes that were freed meanwhile are handed to `freed`.
    pub(super) fn take(&self, process: usize, freed: impl Fn(u64)) -> Option<ImagePlace> {
        (0..self.places as u32).map(ImagePlace).find(|&image| {
            let Some(place) = self.place(image) else { return false };
            let word = place.load(Ordering::SeqCst);
            // Listed first: a VMM that is killed in between leaves nothing that nobody lists.
            if word & USED != 0 || !self.enter(process, image) {
                return false;
            }
            let taken = word & NUMBER | USED;
            if place.compare_exchange(word, taken, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                return true;
            }
            freed(self.release(process, image));
            false
        })
    }

    /// Records that an image, which the caller has, has become larger.
    pub(super) fn grow(&self, image: ImagePlace, bytes: u64) {
        if let Some(place) = self.place(image) {
            let more = |word: u64| Some(word & !BYTES | ((word & BYTES) + bytes).min(BYTES));
            let _ = place.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more);
        }
    }

    /// A process has it no longer: the bytes that nobody has any more.
    #[must_use]
    pub(super) fn release(&self, process: usize, image: ImagePlace) -> u64 {
        self.release_where(process, |entry| entry == image.entry())
    }

    /// A process has none any longer.
    #[must_use]
    pub(super) fn release_all(&self, process: usize) -> u64 {
        self.release_where(process, |_| true)
    }

    fn release_where(&self, process: usize, which: impl Fn(u64) -> bool) -> u64 {
        let mut freed = 0;
        for entry in self.list(process) {
            let now = entry.load(Ordering::SeqCst);
            if now == 0 || !which(now) {
                continue;
            }
            if let Some(releases) = self.releases() {
                // Before it is done: see the module.
                releases.fetch_add(1, Ordering::SeqCst);
            }
            if entry.compare_exchange(now, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                freed += self.settle(ImagePlace((now - 1) as u32));
            }
        }
        freed
    }

    /// Frees a place if nobody has its image: the bytes.
    fn settle(&self, image: ImagePlace) -> u64 {
        let (Some(place), Some(releases)) = (self.place(image), self.releases()) else { return 0 };
        loop {
            let before = releases.load(Ordering::SeqCst);
            let word = place.load(Ordering::SeqCst);
            if word & USED == 0 || self.is_listed(image) {
                return 0;
            }
            if releases.load(Ordering::SeqCst) != before {
                continue;
            }
            // The number makes a place that was freed and taken again another one.
            let free = (word & NUMBER).wrapping_add(1 << NUMBER_SHIFT) & NUMBER;
            if place.compare_exchange(word, free, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                return word & BYTES;
            }
        }
    }

    fn is_listed(&self, image: ImagePlace) -> bool {
        self.all_lists().iter().any(|entry| entry.load(Ordering::SeqCst) == image.entry())
    }

    /// Bytes of all that a process has.
    #[must_use]
    pub(super) fn bytes_of(&self, process: usize) -> u64 {
        let entries = self.list(process).iter().map(|entry| entry.load(Ordering::Relaxed));
        let images =
            entries.filter(|&entry| entry != 0).map(|entry| ImagePlace((entry - 1) as u32));
        let bytes = images.filter_map(|image| self.place(image));
        bytes.map(|place| place.load(Ordering::Relaxed) & BYTES).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::{Images, OF_A_PROCESS};

    fn taken(images: &Images, process: usize) -> super::ImagePlace {
        images.take(process, |freed| assert_eq!(freed, 0)).unwrap()
    }

    #[test]
    fn an_image_is_freed_when_the_last_who_has_it_lets_go() {
        let images = Images::new(4).unwrap();
        let image = taken(&images, 0);
        images.grow(image, 100);
        images.grow(image, 11);
        assert!(images.enter(1, image) && images.enter(3, image));
        assert_eq!((images.bytes_of(1), images.bytes_of(2)), (111, 0));
        assert_eq!(images.release(0, image), 0);
        assert_eq!(images.release(0, image), 0, "twice");
        assert_eq!(images.release_all(3), 0);
        assert!(images.has(1, image) && !images.has(0, image));
        assert_eq!(images.release_all(1), 111);
        // The place is taken again, empty.
        let again = taken(&images, 2);
        assert_eq!((again, images.bytes_of(2)), (image, 0));
    }

    #[test]
    fn a_process_has_no_more_images_than_it_can_list() {
        let images = Images::new(8).unwrap();
        for _ in 0..OF_A_PROCESS {
            taken(&images, 0);
        }
        assert!(images.take(0, |_| {}).is_none());
        let other = taken(&images, 1);
        assert!(!images.enter(0, other));
        assert_eq!(images.release_all(0), 0);
        assert!(images.enter(0, other));
    }

    #[test]
    fn nobodys_image_is_freed_while_it_is_passed_on_and_all_are_in_the_end() {
        let images = Images::new(8).unwrap();
        let all = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for pair in 0..4 {
                let (images, all) = (&images, &all);
                scope.spawn(move || {
                    let (from, to) = (2 * pair, 2 * pair + 1);
                    let add = |freed| {
                        all.fetch_add(freed, std::sync::atomic::Ordering::Relaxed);
                    };
                    for round in 0..2000_u64 {
                        let image = images.take(from, add).unwrap();
                        images.grow(image, round + 1);
                        // Passed on, and let go of by the one who had it.
                        assert!(images.enter(to, image));
                        assert_eq!(images.release(from, image), 0);
                        assert_eq!(images.bytes_of(to), round + 1);
                        add(images.release_all(to));
                    }
                });
            }
        });
        let each: u64 = (1..=2000).sum();
        assert_eq!(all.into_inner(), 4 * each);
    }
}
