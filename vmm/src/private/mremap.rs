//! `mremap`: changing the size of a mapping, and moving it if necessary.
//!
//! A block's GPA never changes, so a mapping moves by moving the *pages* behind it from one
//! block to another, which the host does without a copy. Of a private file mapping that is true
//! of the program's copies, too: the host takes them along.

use std::ops::Range;

use abi::Errno;

use super::charge::check_area_count;
use super::inspect::SHARED_LABEL;
use super::region::{Inner, PROGRAM_END, PrivateRegion, checked_range};
use super::vma::{Backing, page_up};
use crate::vm::memory::FileMapping;

/// Where a mapping may move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Nowhere: it grows where it is, or not at all.
    Stay,
    /// To any free address, if it has to move.
    Anywhere,
    /// To exactly this address, replacing what is mapped there (`MREMAP_FIXED`).
    At(u64),
}

/// What happens to the old range of a mapping that moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// It is unmapped.
    Unmap,
    /// It stays mapped without its pages (`MREMAP_DONTUNMAP`), so the mapping always moves: to this
    /// address if that is free and `Destination` allows any.
    Keep {
        /// The address; 0 for none.
        hint: u64,
    },
}

/// What backs the old mapping, and so what has to be moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Anonymous,
    Copies,
    File,
}

impl Content {
    fn of(backing: &Backing) -> Content {
        match backing {
            Backing::Anonymous => Content::Anonymous,
            Backing::File { kind: FileMapping::Private, .. } => Content::Copies,
            Backing::File { .. } => Content::File,
        }
    }
}

impl PrivateRegion {
    /// `mremap`: changes the size of the mapping at `start`, or moves it. The content moves with
    /// it, without a copy where the host can. An old length of 0 maps a shared file a second time.
    ///
    /// # Errors
    /// `EFAULT` when the old range is not one mapping, `ENOMEM`, `EINVAL`.
    pub fn remap(
        &self,
        start: u64,
        old_len: u64,
        new_len: u64,
        destination: Destination,
        source: Source,
    ) -> Result<u64, Errno> {
        let old_len = page_up(old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_up(new_len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        let old = match old_len {
            0 => start..start,
            _ => checked_range(start, old_len)?,
        };
        self.edit(|inner| self.remap_locked(inner, old, new_len, destination, source))
    }

    fn remap_locked(
        &self,
        inner: &mut Inner,
        old: Range<u64>,
        new_len: u64,
        destination: Destination,
        source: Source,
    ) -> Result<u64, Errno> {
        let (start, old_len) = (old.start, old.end - old.start);
        check_area_count(inner, &old)?;
        let (area, vma) = inner.areas.find(start).ok_or(Errno::EFAULT)?;
        if vma.end < old.end {
            return Err(Errno::EFAULT);
        }
        let area_end = vma.end;
        let vma = vma.advanced(start - area);
        let content = Content::of(&vma.backing);
        let again = old_len == 0;
        // Only a file can be mapped at two addresses.
        let is_file = content == Content::File;
        let keeps = matches!(source, Source::Keep { .. });
        if (again && !is_file) || (keeps && vma.label == SHARED_LABEL) {
            return Err(Errno::EINVAL);
        }
        if !matches!(destination, Destination::At(_)) && !keeps && !again {
            if new_len <= old_len {
                self.unmap_locked(inner, start + new_len..old.end)?;
                return Ok(start);
            }
            let more = old.end..start.checked_add(new_len).ok_or(Errno::ENOMEM)?;
            if old.end == area_end
                && more.end <= PROGRAM_END.raw()
                && inner.areas.is_free(more.clone())
            {
                self.check_limit(inner, &more, vma.prot, &vma.backing)?;
                self.trim_heap(inner, &more)?;
                self.insert(inner, more, vma.advanced(old_len))?;
                return Ok(start);
            }
        }
        let target = self.make_room(inner, &old, new_len, destination, source)?;
        let extra = target + old_len.min(new_len)..target + new_len;
        self.check_limit(inner, &extra, vma.prot, &vma.backing)?;
        self.trim_heap(inner, &(target..target + new_len))?;
        if !again {
            // A thread that touches it from here on waits for the lock that we hold.
            self.restrict(inner, old.clone(), None)?;
        }
        self.insert(inner, target..target + new_len, vma)?;
        self.move_content(inner, old.start..old.start + old_len.min(new_len), target, content)?;
        match source {
            Source::Unmap if !again => self.unmap_locked(inner, old)?,
            Source::Unmap => {}
            // No longer held; and accessing one of its pages must not allocate a huge page.
            Source::Keep { .. } => self.release(inner, old)?,
        }
        Ok(target)
    }

    /// Finds the new address for a mapping that moves, and unmaps what is there.
    fn make_room(
        &self,
        inner: &mut Inner,
        old: &Range<u64>,
        len: u64,
        destination: Destination,
        source: Source,
    ) -> Result<u64, Errno> {
        let at = match destination {
            Destination::Stay => return Err(Errno::ENOMEM),
            Destination::Anywhere => {
                let hint = match source {
                    Source::Keep { hint } if hint != 0 => checked_range(hint, len).ok(),
                    _ => None,
                };
                let hinted = hint.filter(|range| inner.areas.is_free(range.clone()));
                let found = hinted.map(|range| range.start).or_else(|| inner.find_room(len));
                return found.ok_or(Errno::ENOMEM);
            }
            Destination::At(at) => at,
        };
        let range = checked_range(at, len)?;
        if range.start < old.end && old.start < range.end {
            return Err(Errno::EINVAL);
        }
        self.unmap_locked(inner, range)?;
        Ok(at)
    }

    /// Moves the pages of `from` to `to`. The old range reverts to its initial content: zeroes, or
    /// the file.
    fn move_content(
        &self,
        inner: &mut Inner,
        from: Range<u64>,
        to: u64,
        content: Content,
    ) -> Result<(), Errno> {
        if content == Content::File || from.is_empty() {
            return Ok(());
        }
        let len = from.end - from.start;
        self.bind(inner, to..to + len)?;
        let shared: &Inner = inner;
        // Blocks of `from` that were never bound have nothing to move.
        Self::each_run(shared, from.clone(), |run, source| {
            let into = to + (run.start - from.start);
            let mut done = 0;
            Self::each_run(shared, into..into + (run.end - run.start), |piece, dest| {
                let bytes = piece.end - piece.start;
                let moved = match content {
                    Content::Anonymous => self.mem().move_pages(source.offset(done), dest, bytes),
                    _ => self.mem().move_file_pages(source.offset(done), dest, bytes),
                };
                done += bytes;
                moved
            })
        })?;
        self.move_held(inner, from.start, to, len);
        Ok(())
    }
}
