//! `mremap`: changing the size of a mapping, moving it if need be.
//!
//! A slot's chunk never moves, so a mapping moves by moving the *pages* behind it from one
//! chunk to another, which the host does without a copy.

use std::ops::Range;

use abi::Errno;

use super::charge::check_area_count;
use super::private::{Inner, PROGRAM_END, Space, checked_range, errno_of};
use super::vma::{Backing, page_up};
use crate::vm::memory::FileMapping;

impl Space {
    /// `mremap`: changes the size of the mapping at `start`, moving it when `may_move`, to
    /// `fixed` when given. The content moves with it, without a copy where the host can.
    ///
    /// # Errors
    /// `EFAULT` when the old range is not one mapping, `ENOMEM`, `EINVAL`.
    pub fn remap(
        &self,
        start: u64,
        old_len: u64,
        new_len: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64, Errno> {
        let old_len = page_up(old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_up(new_len).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        let old = checked_range(start, old_len)?;
        self.edit(|inner| self.remap_locked(inner, old, new_len, may_move, fixed))
    }

    fn remap_locked(
        &self,
        inner: &mut Inner,
        old: Range<u64>,
        new_len: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64, Errno> {
        let (start, old_len) = (old.start, old.end - old.start);
        check_area_count(inner, &old)?;
        let (area, vma) = inner.areas.find(start).ok_or(Errno::EFAULT)?;
        if vma.end < old.end {
            return Err(Errno::EFAULT);
        }
        let mut vma = vma.clone();
        let area_end = vma.end;
        if let Backing::File { offset, .. } = &mut vma.backing {
            *offset += start - area;
        }
        if fixed.is_none() {
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
                let mut tail = vma.clone();
                if let Backing::File { offset, .. } = &mut tail.backing {
                    *offset += old_len;
                }
                self.insert(inner, more, tail)?;
                return Ok(start);
            }
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        let target = match fixed {
            Some(at) => {
                let range = checked_range(at, new_len)?;
                if range.start < old.end && old.start < range.end {
                    return Err(Errno::EINVAL);
                }
                self.unmap_locked(inner, range)?;
                at
            }
            None => inner.find_room(new_len).ok_or(Errno::ENOMEM)?,
        };
        let extra = target + old_len.min(new_len)..target + new_len;
        self.check_limit(inner, &extra, vma.prot, &vma.backing)?;
        self.trim_heap(inner, &(target..target + new_len))?;
        let anonymous = matches!(vma.backing, Backing::Anonymous);
        if !anonymous && let Backing::File { kind: FileMapping::Private, .. } = vma.backing {
            // The private copies of a file's pages cannot follow into a new mapping of it.
            return Err(Errno::ENOMEM);
        }
        self.insert(inner, target..target + new_len, vma)?;
        if anonymous {
            self.move_content(inner, start, target, old_len.min(new_len))?;
        }
        self.unmap_locked(inner, old)?;
        Ok(target)
    }

    /// Moves the pages of `len` bytes at `from` to `to`, leaving zeroes behind.
    pub(super) fn move_content(
        &self,
        inner: &mut Inner,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<(), Errno> {
        self.bind(inner, to..to + len).map_err(|e| errno_of(&e))?;
        let shared: &Inner = inner;
        // Slots of `from` that were never bound have nothing to move.
        Self::each_run(shared, from..from + len, |run, source| {
            let into = to + (run.start - from);
            let mut done = 0;
            Self::each_run(shared, into..into + (run.end - run.start), |piece, dest| {
                let bytes = piece.end - piece.start;
                let moved = self.mem().move_pages(source.offset(done), dest, bytes);
                done += bytes;
                moved
            })
        })
        .map_err(|e| errno_of(&e))?;
        self.move_held(inner, from, to, len);
        Ok(())
    }
}
