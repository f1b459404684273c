//! Images of memory: what a process's memory contained when it forked.
//!
//! An image is a file in memory that nobody can change any more (it is sealed). A process that has
//! its content maps it privately: its own changes are copies of pages, which the host makes. Where
//! that is so is known here, because such a range does not behave like fresh memory: to be empty, it
//! has to be mapped anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use abi::{GuestPhys, PAGE_SIZE};
use rustix::fs::{MemfdFlags, SealFlags};

use super::host_pages::host_protect;
use super::host_range::HostRange;
use super::ledger::{MemoryKind, MemoryLedger};
use super::memory::{GuestMem, MemoryError};

/// What keeps an image as it is: without these, whoever else has it could truncate it under us.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// An image that is being made.
#[derive(Debug)]
pub struct ImageWriter {
    file: File,
    bytes: u64,
}

impl ImageWriter {
    /// An empty one.
    ///
    /// # Errors
    /// The host has no descriptor.
    pub fn new() -> io::Result<ImageWriter> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("image", flags)?;
        Ok(ImageWriter { file: file.into(), bytes: 0 })
    }

    /// Appends what the range contains now, whole pages; returns where that is.
    ///
    /// # Errors
    /// The host has no memory, or some of the range is not accessible.
    pub fn append(&mut self, range: HostRange<'_>) -> io::Result<u64> {
        let at = self.bytes;
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
        self.bytes += range.len() as u64;
        Ok(at)
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The finished image.
    ///
    /// # Errors
    /// The host's.
    pub fn seal(self) -> io::Result<File> {
        rustix::fs::fcntl_add_seals(&self.file, SEALS)?;
        Ok(self.file)
    }
}

/// An image that this process's memory is made of, in part; charged as long as it is.
#[derive(Debug)]
pub struct Image {
    file: File,
    bytes: u64,
    ledger: Arc<MemoryLedger>,
}

impl Image {
    /// An image that another process has made, and charged to this one's place in the run.
    ///
    /// # Errors
    /// `InvalidData` for a file that someone could still change.
    pub fn new(file: File, ledger: Arc<MemoryLedger>) -> io::Result<Arc<Image>> {
        let is_sealed = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS));
        let bytes = file.metadata()?.len();
        if !is_sealed || !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        ledger.adopt(MemoryKind::Private, bytes);
        Ok(Arc::new(Image { file, bytes, ledger }))
    }

    /// An image that this process has made and has been charged for.
    fn charged(file: File, bytes: u64, ledger: Arc<MemoryLedger>) -> Arc<Image> {
        Arc::new(Image { file, bytes, ledger })
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.ledger.release(MemoryKind::Private, self.bytes);
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
                used.bytes += part.image.bytes;
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

    /// Appends the content of these parts to an image, and completes it; with where each of them is.
    ///
    /// # Errors
    /// The host's.
    pub fn write_image(
        &self,
        mut writer: ImageWriter,
        parts: &[Part],
    ) -> io::Result<(File, Vec<u64>)> {
        let append = |part: &Part| {
            let range = self.host_range(part.gpa, part.len as usize);
            writer.append(range.map_err(io::Error::other)?)
        };
        let offsets = parts.iter().map(append).collect::<io::Result<_>>()?;
        Ok((writer.seal()?, offsets))
    }

    /// The same, and maps the image in the parts' place, if the limit allows for it: then there is one
    /// copy of their content for all who have the image.
    ///
    /// What is written there between the copy and the mapping would be lost. So the right to write is
    /// withheld: a vCPU or a host call that needs it tries again. The VMM's own stores are made with
    /// the areas locked, as they are now.
    ///
    /// # Errors
    /// The host's, with the parts as they were.
    pub fn share_image(&self, writer: ImageWriter, parts: &[Part]) -> io::Result<(File, Vec<u64>)> {
        let bytes = writer.bytes() + parts.iter().map(|part| part.len).sum::<u64>();
        if self.ledger().charge(MemoryKind::Private, bytes).is_err() {
            return self.write_image(writer, parts);
        }
        self.withholding(|| {
            let written = match self.protect_all(parts, libc::PROT_READ) {
                Ok(()) => self.write_image(writer, parts),
                Err(error) => Err(error),
            };
            let both = written.and_then(|(file, offsets)| Ok((file.try_clone()?, file, offsets)));
            let (own, file, offsets) = match both {
                Ok(both) => both,
                Err(error) => {
                    self.ledger().release(MemoryKind::Private, bytes);
                    self.protect_all(parts, libc::PROT_READ | libc::PROT_WRITE)?;
                    return Err(error);
                }
            };
            let image = Image::charged(own, bytes, self.ledger().clone());
            for (part, offset) in parts.iter().zip(&offsets) {
                let of = ImagePart { image: image.clone(), offset: *offset };
                if self.map_image(part.gpa, part.len, of).is_err() {
                    // The content is where it was.
                    self.protect_all(&[*part], libc::PROT_READ | libc::PROT_WRITE)?;
                }
            }
            Ok((file, offsets))
        })
    }

    fn protect_all(&self, parts: &[Part], rights: libc::c_int) -> io::Result<()> {
        for part in parts {
            let range = self.host_range(part.gpa, part.len as usize).map_err(io::Error::other)?;
            host_protect(range, rights)?;
        }
        Ok(())
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

    use super::{Image, ImagePart, ImageRanges, ImageWriter};
    use crate::vm::MemoryLedger;

    fn image(pages: u64) -> Arc<Image> {
        let writer = ImageWriter::new().unwrap();
        rustix::fs::ftruncate(&writer.file, pages * PAGE_SIZE).unwrap();
        Image::new(writer.seal().unwrap(), Arc::new(MemoryLedger::default())).unwrap()
    }

    #[test]
    fn what_can_still_be_changed_is_no_image() {
        let file = ImageWriter::new().unwrap().file;
        assert!(Image::new(file, Arc::default()).is_err());
        assert!(Image::new(tempfile::tempfile().unwrap(), Arc::default()).is_err());
        let sealed = image(1);
        assert!(rustix::fs::ftruncate(sealed.as_fd(), 0).is_err());
        assert!(rustix::io::pwrite(sealed.as_fd(), b"x", 0).is_err());
    }

    #[test]
    fn an_image_is_charged_as_long_as_it_is_used() {
        let ledger = Arc::new(MemoryLedger::default());
        let writer = ImageWriter::new().unwrap();
        rustix::fs::ftruncate(&writer.file, 3 * PAGE_SIZE).unwrap();
        let image = Image::new(writer.seal().unwrap(), ledger.clone()).unwrap();
        let ranges = ImageRanges::default();
        ranges.insert(0..3, ImagePart { image: image.clone(), offset: 0 });
        drop(image);
        assert_eq!(ledger.total(), 3 * PAGE_SIZE);
        ranges.remove(0..1);
        ranges.remove(1..3);
        assert_eq!(ledger.total(), 0);
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
