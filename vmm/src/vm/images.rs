//! Images of memory: what a process's memory contained when it forked.
//!
//! An image is a file in memory that nobody can change any more (it is sealed), or the memory of a snapshot, which is
//! a file of the store. A process that has
//! its content maps it privately: its own changes are copies of pages, which the host makes. Where
//! that is so is known here, because such a range does not behave like fresh memory: to be empty, it
//! has to be mapped anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use abi::{GuestPhys, PAGE_SIZE};
use rustix::fs::{MemfdFlags, SealFlags};

use super::host_pages::host_protect;
use super::host_range::HostRange;
use super::ledger::MemoryLedger;
use super::memory::{GuestMem, MemoryError};
use crate::process_tree::images::ImagePlace;

/// What keeps an image as it is: without these, whoever else has it could truncate it under us.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// An image that this process's memory is made of, in part, or is being made by it; charged as long as it is.
#[derive(Debug)]
pub struct Image {
    file: Arc<File>,
    bytes: AtomicU64,
    place: Option<ImagePlace>,
    /// It takes no memory that the host cannot have back: it is on a disk.
    is_on_disk: bool,
    ledger: Arc<MemoryLedger>,
}

impl Image {
    /// A new one, empty. It may be added to until it is sealed.
    ///
    /// # Errors
    /// The host has no descriptor.
    pub fn begin(ledger: Arc<MemoryLedger>) -> io::Result<Arc<Image>> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file: File = rustix::fs::memfd_create("image", flags)?.into();
        let place = ledger.new_image();
        let (file, bytes) = (Arc::new(file), AtomicU64::new(0));
        Ok(Arc::new(Image { file, bytes, place, is_on_disk: false, ledger }))
    }

    /// An empty file on a disk, to be added to: the memory of a snapshot. It is not charged.
    #[must_use]
    pub fn begin_on_disk(file: File, ledger: Arc<MemoryLedger>) -> Image {
        let (file, bytes) = (Arc::new(file), AtomicU64::new(0));
        Image { file, bytes, place: None, is_on_disk: true, ledger }
    }

    /// The memory of a snapshot. Whoever may write the file could change it: the program's own user, who could change
    /// the program as well.
    ///
    /// # Errors
    /// `InvalidData` for a file that has no whole pages.
    pub fn on_disk(file: Arc<File>, ledger: Arc<MemoryLedger>) -> io::Result<Arc<Image>> {
        let bytes = file.metadata()?.len();
        if !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let bytes = AtomicU64::new(bytes);
        Ok(Arc::new(Image { file, bytes, place: None, is_on_disk: true, ledger }))
    }

    /// An image that another process has made, and that it has charged to the run at this place, or to this
    /// process.
    ///
    /// # Errors
    /// `InvalidData` for a file that someone could still change, and a place that this process was not given.
    pub fn of_other(
        file: Arc<File>,
        place: Option<ImagePlace>,
        ledger: Arc<MemoryLedger>,
    ) -> io::Result<Arc<Image>> {
        let is_sealed = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS));
        let bytes = file.metadata()?.len();
        let is_given = place.is_none_or(|place| ledger.has_image(place));
        if !is_sealed || !bytes.is_multiple_of(PAGE_SIZE) || !is_given {
            return Err(io::ErrorKind::InvalidData.into());
        }
        ledger.adopt(bytes);
        let bytes = AtomicU64::new(bytes);
        Ok(Arc::new(Image { file, bytes, place, is_on_disk: false, ledger }))
    }

    /// Charges and appends what the range contains now, whole pages; returns where that is.
    ///
    /// # Errors
    /// The limit does not allow for it, the host has no memory, or some of the range is not accessible.
    pub fn append(&self, range: HostRange<'_>) -> io::Result<u64> {
        let bytes = range.len() as u64;
        if !self.is_on_disk {
            self.ledger.charge_image(self.place, bytes).map_err(io::Error::other)?;
        }
        let at = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut done = 0;
        while done < range.len() {
            let rest = range.part(done, range.len() - done);
            let offset = libc::off_t::try_from(at + done as u64).map_err(io::Error::other)?;
            let fd = self.file.as_raw_fd();
            // SAFETY: the range is guest memory and stays mapped while the caller's borrow lasts;
            // the host kernel checks every access to it.
            match unsafe { libc::pwrite(fd, rest.as_ptr().cast(), rest.len(), offset) } {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written @ 1.. => done += written.cast_unsigned(),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(at)
    }

    /// Completes it: nobody can change it any more.
    ///
    /// # Errors
    /// The host's.
    pub fn seal(&self) -> io::Result<()> {
        Ok(rustix::fs::fcntl_add_seals(&self.file, SEALS)?)
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Its file, to be sent.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Its place in the run's table, unless it is charged to this process alone.
    #[must_use]
    pub fn place(&self) -> Option<ImagePlace> {
        self.place
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if !self.is_on_disk {
            self.ledger.release_image(self.place, self.bytes());
        }
    }
}

/// Part of an image.
#[derive(Clone, Debug)]
pub struct ImagePart {
    /// Of which.
    pub image: Arc<Image>,
    /// Where in it.
    pub offset: u64,
}

/// A range of guest-physical memory.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its start.
    pub gpa: GuestPhys,
    /// Its size.
    pub len: u64,
}

/// Which images a VM's memory is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImagesUsed {
    /// How many.
    pub images: usize,
    /// Their size.
    pub bytes: u64,
    /// How much of them is mapped.
    pub mapped_bytes: u64,
    /// Whether one is on a disk: not for other processes, which take sealed ones only.
    pub any_on_disk: bool,
}

/// Where in guest-physical memory which images are mapped.
#[derive(Debug, Default)]
pub(super) struct ImageRanges {
    /// Most programs have none.
    any: AtomicBool,
    /// Start to end, and what is there. No two overlap.
    ranges: Mutex<BTreeMap<u64, (u64, ImagePart)>>,
}

impl ImageRanges {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (u64, ImagePart)>> {
        self.ranges.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// The parts of a range that are an image's.
    pub(super) fn within(&self, range: Range<u64>) -> Vec<(Range<u64>, ImagePart)> {
        if self.is_empty() {
            return Vec::new();
        }
        let ranges = self.lock();
        let before = ranges.range(..range.start).next_back().map(|(&start, _)| start);
        let from = before.unwrap_or(range.start);
        let overlapping = ranges.range(from..range.end.max(from));
        overlapping
            .filter(|(_, (end, _))| *end > range.start)
            .map(|(&start, (end, part))| {
                let clipped = start.max(range.start)..(*end).min(range.end);
                let offset = part.offset + (clipped.start - start);
                (clipped, ImagePart { image: part.image.clone(), offset })
            })
            .collect()
    }

    fn used(&self) -> ImagesUsed {
        let mut used = ImagesUsed::default();
        if self.is_empty() {
            return used;
        }
        let mut known: Vec<*const Image> = Vec::new();
        for (start, (end, part)) in &*self.lock() {
            used.mapped_bytes += end - start;
            let image = Arc::as_ptr(&part.image);
            if !known.contains(&image) {
                known.push(image);
                used.bytes += part.image.bytes();
                used.any_on_disk |= part.image.is_on_disk;
            }
        }
        used.images = known.len();
        used
    }

    fn insert(&self, range: Range<u64>, part: ImagePart) {
        self.remove(range.clone());
        self.any.store(true, Ordering::Release);
        self.lock().insert(range.start, (range.end, part));
    }

    /// Something else is mapped there.
    pub(super) fn remove(&self, range: Range<u64>) {
        if self.is_empty() {
            return;
        }
        for (piece, _) in self.within(range) {
            let mut ranges = self.lock();
            let Some((&start, (end, part))) = ranges.range(..=piece.start).next_back() else {
                continue;
            };
            let (end, part) = (*end, part.clone());
            ranges.remove(&start);
            if start < piece.start {
                ranges.insert(start, (piece.start, part.clone()));
            }
            if piece.end < end {
                let offset = part.offset + (piece.end - start);
                ranges.insert(piece.end, (end, ImagePart { offset, ..part }));
            }
        }
    }
}

impl GuestMem {
    /// Maps part of an image over the range: the content is the image's, changes are this VM's.
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub fn map_image(&self, gpa: GuestPhys, len: u64, part: ImagePart) -> Result<(), MemoryError> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let fd = part.image.as_fd().as_raw_fd();
        let flags = flags | libc::MAP_NORESERVE;
        self.remap("map an image over", gpa, len, prot, flags, fd, part.offset)?;
        self.images.insert(gpa.raw()..gpa.raw() + len, part);
        self.forbid_huge(gpa, len)
    }

    /// The parts of the range that are an image's, as far as they have not been changed since.
    #[must_use]
    pub fn images_in(&self, gpa: GuestPhys, len: u64) -> Vec<(Range<u64>, ImagePart)> {
        self.images.within(gpa.raw()..gpa.raw() + len)
    }

    /// Which images this VM's memory is made of.
    #[must_use]
    pub fn images_used(&self) -> ImagesUsed {
        self.images.used()
    }

    /// Appends the content of a range to an image.
    ///
    /// # Errors
    /// As [`Image::append`].
    pub fn copy_to_image(&self, image: &Image, part: Part) -> io::Result<u64> {
        image.append(self.host_range(part.gpa, part.len as usize).map_err(io::Error::other)?)
    }

    /// The same, and maps the image in its place: then there is one copy of the content for all who have the
    /// image.
    ///
    /// What is written there between the copy and the mapping would be lost. So the right to write is
    /// withheld: a vCPU or a host call that needs it tries again. The VMM's own stores are made with
    /// the areas locked, as they are now.
    ///
    /// # Errors
    /// As [`Image::append`], with the range as it was.
    pub fn move_to_image(&self, image: &Arc<Image>, part: Part) -> io::Result<u64> {
        let Part { gpa, len } = part;
        let range = self.host_range(gpa, len as usize).map_err(io::Error::other)?;
        self.withholding(|| {
            let moved = host_protect(range, libc::PROT_READ).and_then(|()| {
                let offset = image.append(range)?;
                let of = ImagePart { image: image.clone(), offset };
                self.map_image(gpa, len, of).map_err(io::Error::other)?;
                Ok(offset)
            });
            if moved.is_err() {
                host_protect(range, libc::PROT_READ | libc::PROT_WRITE)?;
            }
            moved
        })
    }

    /// Records that the host has moved the pages of a range. Where it had mapped an image, it has left
    /// that: it becomes fresh memory.
    ///
    /// # Errors
    /// [`MemoryError::Host`].
    pub(super) fn move_images(
        &self,
        from: GuestPhys,
        to: GuestPhys,
        len: u64,
    ) -> Result<(), MemoryError> {
        self.images.remove(to.raw()..to.raw() + len);
        for (piece, part) in self.images_in(from, len) {
            let at = to.raw() + (piece.start - from.raw());
            self.images.insert(at..at + (piece.end - piece.start), part);
        }
        self.drop_images(from, len)
    }

    /// Makes the parts of the range that are an image's fresh memory.
    pub(super) fn drop_images(&self, gpa: GuestPhys, len: u64) -> Result<(), MemoryError> {
        for (piece, _) in self.images_in(gpa, len) {
            self.unmap_file(GuestPhys::literal(piece.start), piece.end - piece.start)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use abi::PAGE_SIZE;
    use proptest::prelude::*;

    use super::{Image, ImagePart, ImageRanges};
    use crate::process_tree::{Member, Registry};
    use crate::vm::MemoryLedger;

    /// A sealed image of a process with this ledger.
    fn image_of(pages: u64, ledger: Arc<MemoryLedger>) -> Arc<Image> {
        let image = Image::begin(ledger.clone()).unwrap();
        rustix::fs::ftruncate(&image.file, pages * PAGE_SIZE).unwrap();
        ledger.charge_image(image.place, pages * PAGE_SIZE).unwrap();
        image.bytes.store(pages * PAGE_SIZE, std::sync::atomic::Ordering::Relaxed);
        image.seal().unwrap();
        image
    }

    fn image(pages: u64) -> Arc<Image> {
        image_of(pages, Arc::default())
    }

    #[test]
    fn what_can_still_be_changed_is_no_image() {
        let of_other = |file| Image::of_other(Arc::new(file), None, Arc::default());
        let unsealed = Image::begin(Arc::default()).unwrap();
        assert!(of_other(unsealed.file.try_clone().unwrap()).is_err());
        assert!(of_other(tempfile::tempfile().unwrap()).is_err());
        let sealed = image(1);
        assert!(rustix::fs::ftruncate(sealed.as_fd(), 0).is_err());
        assert!(rustix::io::pwrite(sealed.as_fd(), b"x", 0).is_err());
        assert!(of_other(sealed.file.try_clone().unwrap()).is_ok());
    }

    #[test]
    fn an_image_is_charged_as_long_as_it_is_used() {
        let ledger = Arc::new(MemoryLedger::default());
        let image = image_of(3, ledger.clone());
        let ranges = ImageRanges::default();
        ranges.insert(0..3, ImagePart { image: image.clone(), offset: 0 });
        drop(image);
        assert_eq!(ledger.total(), 3 * PAGE_SIZE);
        ranges.remove(0..1);
        ranges.remove(1..3);
        assert_eq!(ledger.total(), 0);
    }

    #[test]
    fn processes_that_share_an_image_are_charged_for_it_once_together() {
        let registry = Arc::new(Registry::new(2, u64::MAX).unwrap());
        let ledger_of = |member: &Member| {
            let ledger = Arc::new(MemoryLedger::default());
            ledger.begin(100 * PAGE_SIZE);
            ledger.share(member.clone());
            ledger
        };
        let (one, other) = (registry.take().unwrap(), registry.take().unwrap());
        let (parent, child) = (ledger_of(&one), ledger_of(&other));
        let image = image_of(60, parent.clone());
        let file = image.file.clone();
        let of_child = |place| Image::of_other(file.clone(), place, child.clone());
        assert!(of_child(image.place).is_err(), "it was not given to the child");
        assert!(other.give_image(image.place.unwrap()));
        let of_child = of_child(image.place).unwrap();
        assert_eq!(registry.total_bytes(), 60 * PAGE_SIZE);
        assert_eq!((parent.total(), child.total()), (60 * PAGE_SIZE, 60 * PAGE_SIZE));
        drop(image);
        assert_eq!((registry.total_bytes(), parent.total()), (60 * PAGE_SIZE, 0));
        drop(of_child);
        assert_eq!((registry.total_bytes(), child.total()), (0, 0));
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_a_list_of_pages(
            edits in prop::collection::vec((0..40_u64, 1..12_u64, any::<bool>()), 1..24),
            looked_at in (0..40_u64, 1..20_u64),
        ) {
            let image = image(1);
            let ranges = ImageRanges::default();
            let mut model = vec![None; 64];
            for (number, (at, len, adds)) in (1_u64..).zip(edits) {
                let offset = number * 1000;
                if adds {
                    ranges.insert(at..at + len, ImagePart { image: image.clone(), offset });
                } else {
                    ranges.remove(at..at + len);
                }
                for page in at..at + len {
                    model[page as usize] = adds.then_some(offset + (page - at));
                }
            }
            let (at, len) = looked_at;
            let mut found = vec![None; 64];
            for (range, part) in ranges.within(at..at + len) {
                for page in range.clone() {
                    found[page as usize] = Some(part.offset + (page - range.start));
                }
            }
            for page in 0..64 {
                let expected = model[page as usize].filter(|_| (at..at + len).contains(&page));
                prop_assert_eq!(found[page as usize], expected);
            }
        }
    }
}
