//! What of a private region is copied when its process forks, and how.
//!
//! Two steps: find out what has content of the program's own, then write that into an image. Where
//! there is much of it, the process itself has it from the image afterwards: there is one copy for it and
//! all its children, and the next fork copies only what has changed since.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use abi::{GuestPhys, PAGE_SIZE};

use super::charge::part;
use super::fork::Piece;
use super::held::BLOCK_PAGES;
use super::region::{BLOCK, Inner, PrivateRegion, blocks_of};
use super::vma::{MemoryLock, Vma};
use crate::vm::images::{Image, ImagePart, ImageWriter, Part};
use crate::vm::page_map::PageMap;

/// Pages without content of their own that are copied along if there are no more between two that
/// have some: a mapping more costs as much.
const GAP_BYTES: u64 = 16 * PAGE_SIZE;
/// From here on the parent has the content from the image, too. Below that, to touch its pages again would
/// cost it more than another copy.
const SHARED_FROM_BYTES: u64 = 8 << 20;
/// How much more images may contain than twice what is used of them.
const UNUSED_BYTES: u64 = 32 << 20;
/// Ranges that are mapped anew for that, at most.
const SHARED_RANGES_MAX: usize = 8192;
/// Images that a process has parts of, at most, before all of it goes into one.
const IMAGES_MAX: usize = 8;

/// Memory that is to be copied.
#[derive(Clone, Copy, Debug)]
struct Own {
    at: u64,
    part: Part,
    /// Whether this process may have it from the image afterwards.
    may_share: bool,
}

/// What was found, in ascending order.
pub(super) struct Copying<'a> {
    region: &'a PrivateRegion,
    pages: Option<PageMap>,
    /// Images are not passed on: they are many, or mostly replaced.
    consolidates: bool,
    own: Vec<Own>,
    /// The images that are passed on, and the parts of them.
    known: Vec<(Arc<Image>, Arc<File>)>,
    passed_on: Vec<Piece>,
}

/// The result.
pub(super) struct Copied {
    /// The new image first.
    pub(super) images: Vec<Arc<File>>,
    pub(super) pieces: Vec<Piece>,
}

impl<'a> Copying<'a> {
    pub(super) fn new(region: &'a PrivateRegion) -> Copying<'a> {
        let used = region.mem().images_used();
        let consolidates =
            used.images > IMAGES_MAX || used.bytes > 2 * used.mapped_bytes + UNUSED_BYTES;
        let (own, known, passed_on) = (Vec::new(), Vec::new(), Vec::new());
        Copying { region, pages: PageMap::open(), consolidates, own, known, passed_on }
    }

    /// Finds what has content in one area.
    pub(super) fn area(&mut self, inner: &Inner, range: &Range<u64>, vma: &Vma) -> io::Result<()> {
        let has_file = !matches!(vma.backing, super::vma::Backing::Anonymous);
        let may_share = !has_file && vma.lock == MemoryLock::Unlocked;
        for (&index, block) in inner.blocks.range(blocks_of(range)) {
            let piece = part(index, range);
            // What is not charged has not been touched.
            let touched = block.held.count(0..BLOCK_PAGES) > 0;
            let part =
                Part { gpa: block.gpa.offset(piece.start % BLOCK), len: piece.end - piece.start };
            let images = self.region.mem().images_in(part.gpa, part.len);
            if touched || !images.is_empty() {
                self.block(Own { at: piece.start, part, may_share }, &images, has_file)?;
            }
        }
        Ok(())
    }

    fn block(
        &mut self,
        whole: Own,
        images: &[(Range<u64>, ImagePart)],
        has_file: bool,
    ) -> io::Result<()> {
        let Own { at, part: Part { gpa, len }, may_share } = whole;
        let range = self.region.mem().host_range(gpa, len as usize).map_err(io::Error::other)?;
        let mut own = match &self.pages {
            Some(pages) => pages.own_runs(range),
            None => std::iter::once(0..len).collect(),
        };
        let no_images: &[_] = &[];
        let mut images = images;
        if self.consolidates && !images.is_empty() {
            let all =
                images.iter().map(|(range, _)| range.start - gpa.raw()..range.end - gpa.raw());
            own = union(own, all);
            images = no_images;
        }
        // Where an image shows through between own pages, it is passed on.
        let mut done = 0;
        let mut runs = own.into_iter().peekable();
        while let Some(mut run) = runs.next() {
            while let Some(next) = runs.peek()
                && !has_file
                && next.start - run.end <= GAP_BYTES
            {
                run.end = next.end;
                runs.next();
            }
            self.pass_on(at, gpa, done..run.start, images);
            done = run.end;
            let part = Part { gpa: gpa.offset(run.start), len: run.end - run.start };
            self.push(Own { at: at + run.start, part, may_share });
        }
        self.pass_on(at, gpa, done..len, images);
        Ok(())
    }

    /// Appends memory to be copied, or extends the last one.
    fn push(&mut self, own: Own) {
        match self.own.last_mut() {
            Some(last)
                if last.at + last.part.len == own.at
                    && last.part.gpa.offset(last.part.len) == own.part.gpa
                    && last.may_share == own.may_share =>
            {
                last.part.len += own.part.len;
            }
            _ => self.own.push(own),
        }
    }

    fn pass_on(
        &mut self,
        at: u64,
        gpa: GuestPhys,
        wanted: Range<u64>,
        images: &[(Range<u64>, ImagePart)],
    ) {
        for (range, part) in images {
            let start = (range.start - gpa.raw()).max(wanted.start);
            let end = (range.end - gpa.raw()).min(wanted.end);
            if start >= end {
                continue;
            }
            let offset = part.offset + (start - (range.start - gpa.raw()));
            let Some(image) = self.known(&part.image) else { continue };
            let piece = Piece { at: at + start, len: end - start, image, offset };
            match self.passed_on.last_mut() {
                Some(last) if last.continues_in(&piece) => last.len += piece.len,
                _ => self.passed_on.push(piece),
            }
        }
    }

    /// The number of one of this process's own images.
    fn known(&mut self, image: &Arc<Image>) -> Option<usize> {
        let known = self.known.iter().position(|(other, _)| Arc::ptr_eq(other, image));
        if let Some(number) = known {
            return Some(number + 1);
        }
        let file = File::from(image.as_fd().try_clone_to_owned().ok()?);
        self.known.push((image.clone(), Arc::new(file)));
        Some(self.known.len())
    }

    /// Bytes that the child is charged with for what was found.
    pub(super) fn bytes(&self) -> u64 {
        let own: u64 = self.own.iter().map(|own| own.part.len).sum();
        own + self.known.iter().map(|(image, _)| image.bytes()).sum::<u64>()
    }

    /// Writes the image.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn copy(self) -> io::Result<Copied> {
        let Copying { region, own, known, passed_on, .. } = self;
        let (shared, copied): (Vec<Own>, Vec<Own>) = own.into_iter().partition(|own| own.may_share);
        let bytes: u64 = shared.iter().map(|own| own.part.len).sum();
        let mut writer = ImageWriter::new()?;
        let mut pieces = Vec::new();
        for Own { at, part, .. } in copied {
            let range = region.mem().host_range(part.gpa, part.len as usize);
            let offset = writer.append(range.map_err(io::Error::other)?)?;
            pieces.push(Piece { at, len: part.len, image: 0, offset });
        }
        let parts: Vec<Part> = shared.iter().map(|own| own.part).collect();
        let (file, offsets) = match bytes >= SHARED_FROM_BYTES && parts.len() <= SHARED_RANGES_MAX {
            true => region.mem().share_image(writer, &parts)?,
            false => region.mem().write_image(writer, &parts)?,
        };
        for (Own { at, part, .. }, offset) in shared.iter().zip(offsets) {
            pieces.push(Piece { at: *at, len: part.len, image: 0, offset });
        }
        pieces.extend(passed_on);
        let images = std::iter::once(Arc::new(file)).chain(known.into_iter().map(|(_, file)| file));
        Ok(Copied { images: images.collect(), pieces })
    }
}

/// Two ascending lists of ranges as one.
fn union(one: Vec<Range<u64>>, other: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = one.into_iter().chain(other).collect();
    all.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in all {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::union;

    #[test]
    fn ranges_that_touch_or_overlap_are_one() {
        let joined = union(vec![0..2, 8..9], [1..3, 3..4, 20..21].into_iter());
        assert_eq!(joined, [0..4, 8..9, 20..21]);
    }
}
