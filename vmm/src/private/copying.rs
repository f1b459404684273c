//! What of a private region is copied when its process forks, and how.
//!
//! Two steps: find out what has content of the program's own, then write that into an image. Where
//! there is much of it, the process itself has it from the image afterwards: there is one copy for it and
//! all its children, and the next fork copies only what has changed since.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use abi::{GuestPhys, PAGE_SIZE, Rights};

use super::charge::part;
use super::fork::Piece;
use super::held::BLOCK_PAGES;
use super::region::{BLOCK, Inner, PrivateRegion, blocks_of};
use super::vma::{MemoryLock, Vma};
use crate::vm::images::{Image, ImagePart, Part};
use crate::vm::page_map::PageMap;

/// Pages without content of their own that are copied along if there are no more between two that
/// have some: a mapping more costs as much.
const GAP_BYTES: u64 = 16 * PAGE_SIZE;
/// From here on the parent has the content from the image, too. Below that, to touch its pages again would
/// cost it more than another copy.
const SHARED_FROM_BYTES: u64 = 8 << 20;
/// And of that, parts of this size; smaller ones are copied.
const MOVED_FROM_BYTES: u64 = 256 << 10;
/// A part of this size gets an image of its own, but no more than so many do.
const ALONE_FROM_BYTES: u64 = 32 << 20;
const ALONE_MAX: usize = 3;
/// How much more images may contain than twice what is used of them.
const UNUSED_BYTES: u64 = 32 << 20;
/// Ranges that are mapped anew for that, at most.
const SHARED_RANGES_MAX: usize = 8192;
/// So much is moved into an image at once: for that long there are two copies of it.
const MOVED_AT_ONCE: u64 = 4 << 20;
/// Images that a process has parts of, at most, before all of it goes into one.
const IMAGES_MAX: usize = 8;

/// Memory that is to be copied.
#[derive(Clone, Copy, Debug)]
struct Own {
    at: u64,
    part: Part,
    /// Whether this process may have it from the image afterwards.
    may_share: bool,
    /// What the program may do there, if anything.
    rights: Option<Rights>,
}

/// What was found, in ascending order.
pub(super) struct Copying<'a> {
    region: &'a PrivateRegion,
    pages: Option<PageMap>,
    /// Blocks that system calls use, and have been charged for.
    pinned: Vec<Range<u64>>,
    /// Images are not passed on: they are many, or mostly replaced.
    consolidates: bool,
    own: Vec<Own>,
    /// The images that are passed on, and the parts of them.
    known: Vec<Arc<Image>>,
    passed_on: Vec<Piece>,
}

/// The result.
pub(super) struct Copied {
    pub(super) images: Vec<Arc<Image>>,
    pub(super) pieces: Vec<Piece>,
}

impl<'a> Copying<'a> {
    pub(super) fn new(region: &'a PrivateRegion) -> Copying<'a> {
        let used = region.mem().images_used();
        let consolidates = used.any_on_disk
            || used.images > IMAGES_MAX
            || used.bytes > 2 * used.mapped_bytes + UNUSED_BYTES;
        Copying::begin(region, consolidates)
    }

    /// All of it is to be copied, also what is an image's.
    pub(super) fn all(region: &'a PrivateRegion) -> Copying<'a> {
        Copying::begin(region, true)
    }

    fn begin(region: &'a PrivateRegion, consolidates: bool) -> Copying<'a> {
        let (own, known, passed_on) = (Vec::new(), Vec::new(), Vec::new());
        let (pages, pinned) = (PageMap::open(), region.pins.runs());
        Copying { region, pages, pinned, consolidates, own, known, passed_on }
    }

    /// Finds what has content in one area.
    pub(super) fn area(&mut self, inner: &Inner, range: &Range<u64>, vma: &Vma) -> io::Result<()> {
        let has_file = !matches!(vma.backing, super::vma::Backing::Anonymous);
        let may_share = !has_file && vma.lock == MemoryLock::Unlocked;
        for (&index, block) in inner.blocks.range(blocks_of(range)) {
            let may_share = may_share && !self.pinned.iter().any(|run| run.contains(&index));
            let piece = part(index, range);
            // What is not charged has not been touched.
            let touched = block.held.count(0..BLOCK_PAGES) > 0;
            let part =
                Part { gpa: block.gpa.offset(piece.start % BLOCK), len: piece.end - piece.start };
            let images = self.region.mem().images_in(part.gpa, part.len);
            if touched || !images.is_empty() {
                let whole = Own { at: piece.start, part, may_share, rights: vma.prot.rights() };
                self.block(whole, &images, has_file)?;
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
        let Own { at, part: Part { gpa, len }, .. } = whole;
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
            self.push(Own { at: at + run.start, part, ..whole });
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
                    && last.may_share == own.may_share
                    && last.rights == own.rights =>
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
            let image = self.known(&part.image);
            let piece = Piece { at: at + start, len: end - start, image, offset };
            match self.passed_on.last_mut() {
                Some(last) if last.continues_in(&piece) => last.len += piece.len,
                _ => self.passed_on.push(piece),
            }
        }
    }

    /// The number of one of this process's own images.
    fn known(&mut self, image: &Arc<Image>) -> usize {
        if let Some(number) = self.known.iter().position(|other| Arc::ptr_eq(other, image)) {
            return number;
        }
        self.known.push(image.clone());
        self.known.len() - 1
    }

    /// Appends what was found by [`Copying::all`] to an image, and leaves it where it is.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn write(self, image: &Image) -> io::Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        for Own { at, part, .. } in self.own {
            let offset = self.region.mem().copy_to_image(image, part)?;
            let piece = Piece { at, len: part.len, image: 0, offset };
            match pieces.last_mut() {
                Some(last) if last.continues_in(&piece) => last.len += piece.len,
                _ => pieces.push(piece),
            }
        }
        Ok(pieces)
    }

    /// Writes the image.
    ///
    /// # Errors
    /// The host's; `OutOfMemory` if the limit does not allow for it.
    pub(super) fn copy(self, inner: &mut Inner) -> io::Result<Copied> {
        let Copying { region, own, known, passed_on, .. } = self;
        let is_large = |own: &Own| own.may_share && own.part.len >= MOVED_FROM_BYTES;
        let large: u64 = own.iter().filter(|own| is_large(own)).map(|own| own.part.len).sum();
        let moves = large >= SHARED_FROM_BYTES && own.len() <= SHARED_RANGES_MAX;
        let mut new = NewImages { images: known, copied: None, moved: None, alone: 0 };
        let first_new = new.images.len();
        let mut pieces: Vec<Piece> = Vec::new();
        for Own { at, part, may_share, rights } in own {
            let is_moved = moves && may_share && part.len >= MOVED_FROM_BYTES;
            let image = new.for_part(part, is_moved, region)?;
            let mut done = 0;
            while done < part.len {
                let len = (part.len - done).min(if is_moved { MOVED_AT_ONCE } else { u64::MAX });
                let now = Part { gpa: part.gpa.offset(done), len };
                let at = at + done;
                let of = &new.images[image];
                let offset = if is_moved {
                    let forbidden = region.forbid_writing(inner, at..at + len, rights);
                    forbidden.map_err(io::Error::other)?;
                    let offset = region.mem().move_to_image(of, now)?;
                    region.note_image(inner, at..at + len).map_err(io::Error::other)?;
                    offset
                } else {
                    region.mem().copy_to_image(of, now)?
                };
                let piece = Piece { at, len, image, offset };
                match pieces.last_mut() {
                    Some(last) if last.continues_in(&piece) => last.len += len,
                    _ => pieces.push(piece),
                }
                done += len;
            }
        }
        let NewImages { images, .. } = new;
        images.iter().skip(first_new).try_for_each(|image| image.seal())?;
        pieces.extend(passed_on);
        Ok(Copied { images, pieces })
    }
}

/// The images of a copy: those that are passed on, then new ones. An image is freed as a whole, when nobody shows
/// any of it. So what this process shows, too, is kept from what it does not, and large parts from each other.
struct NewImages {
    images: Vec<Arc<Image>>,
    /// Of what this process keeps for itself, and of what it shows, too.
    copied: Option<usize>,
    moved: Option<usize>,
    /// How many contain one part alone.
    alone: usize,
}

impl NewImages {
    /// Where a part goes.
    fn for_part(&mut self, part: Part, moves: bool, region: &PrivateRegion) -> io::Result<usize> {
        let is_alone = moves && part.len >= ALONE_FROM_BYTES && self.alone < ALONE_MAX;
        let known = match moves {
            _ if is_alone => None,
            true => self.moved,
            false => self.copied,
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let at = self.images.len();
        self.images.push(Image::begin(region.mem().ledger().clone())?);
        match moves {
            _ if is_alone => self.alone += 1,
            true => self.moved = Some(at),
            false => self.copied = Some(at),
        }
        Ok(at)
    }
}

/// Two ascending lists of ranges as one.
pub(super) fn union(
    one: Vec<Range<u64>>,
    other: impl Iterator<Item = Range<u64>>,
) -> Vec<Range<u64>> {
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
