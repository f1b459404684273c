//! Locked memory: which areas are locked, how much that is, and what is locked on the host.
//!
//! A lock is a property of an area, as on Linux, and the host's own lock on the pages behind it:
//! they stay in the host's memory, not only in the VM's. Where an area is inaccessible, or is to be
//! locked on fault, the pages that exist are locked on the host now; later ones are locked when
//! they are made present.
#![forbid(unsafe_code)]

use std::ops::Range;

use abi::Errno;
use abi::layout::PRIVATE_START;

use super::charge::{check_area_count, held_bytes};
use super::region::{Inner, PROGRAM_END, PrivateRegion};
use super::stack::LABEL as STACK;
use super::vma::{MemoryLock, Prot, Vma};
use crate::vm::HostLock;

impl PrivateRegion {
    /// `mlock` and `munlock` of entire pages, up to the first hole.
    ///
    /// # Errors
    /// `ENOMEM` when that makes more than `limit_bytes`, for a hole, for an inaccessible area, and
    /// at the run's memory limit; the host's error.
    pub fn set_lock(
        &self,
        range: Range<u64>,
        lock: MemoryLock,
        limit_bytes: u64,
    ) -> Result<(), Errno> {
        self.edit(|inner| {
            let within = range.start.max(PRIVATE_START.raw())..range.end.min(PROGRAM_END.raw());
            if lock != MemoryLock::Unlocked {
                let already = locked_in(inner, within.clone());
                let all = (range.end - range.start).saturating_add(all_locked(inner));
                if all - already > limit_bytes {
                    return Err(Errno::ENOMEM);
                }
            }
            let mut until = range.start;
            if !within.is_empty() {
                for (piece, _) in inner.areas.overlapping(within) {
                    until = if piece.start == until { piece.end } else { break };
                }
            }
            if until > range.start {
                let found = range.start..until;
                check_area_count(inner, &found)?;
                self.lock_areas(inner, found.clone(), lock)?;
                let shut = |(_, vma): (_, &Vma)| vma.prot == Prot::NONE;
                if lock == MemoryLock::Locked && inner.areas.overlapping(found).any(shut) {
                    // Marked, but its pages are inaccessible.
                    return Err(Errno::ENOMEM);
                }
            }
            if until < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
        })
    }

    /// `mlockall`: areas created from now on are locked as specified by `new`, existing ones by
    /// `now`.
    ///
    /// # Errors
    /// `ENOMEM` when all areas together exceed `limit_bytes`; `ENOMEM` at the run's memory limit.
    pub fn lock_all(
        &self,
        now: Option<MemoryLock>,
        new: MemoryLock,
        limit_bytes: u64,
    ) -> Result<(), Errno> {
        self.edit(|inner| {
            let all: u64 = inner.areas.iter().map(|(range, vma)| bytes_of(inner, range, vma)).sum();
            if now.is_some() && all > limit_bytes {
                return Err(Errno::ENOMEM);
            }
            inner.lock_new = new;
            let Some(lock) = now else { return Ok(()) };
            let areas: Vec<_> = inner.areas.iter().map(|(range, vma)| (range, vma.label)).collect();
            let mut result = Ok(());
            for (range, label) in areas {
                // The part that the stack has not grown into yet cannot be locked.
                let grows = label == STACK && lock == MemoryLock::Locked;
                let lock = if grows { MemoryLock::OnFault } else { lock };
                // The host's own refusals are ignored, as Linux ignores them here.
                if self.lock_areas(inner, range, lock) == Err(Errno::ENOMEM) {
                    result = Err(Errno::ENOMEM);
                }
            }
            result
        })
    }

    /// Locked bytes.
    #[must_use]
    pub fn locked_bytes(&self) -> u64 {
        all_locked(&self.lock())
    }

    /// Whether `len` more bytes may be mapped or grown into, if they are to be locked: because of
    /// `asked`, or because all new areas are.
    ///
    /// # Errors
    /// `EAGAIN`.
    pub fn check_lock(&self, asked: MemoryLock, len: u64, limit_bytes: u64) -> Result<(), Errno> {
        let inner = self.lock();
        let is_locked = asked != MemoryLock::Unlocked || inner.lock_new != MemoryLock::Unlocked;
        let over = len.saturating_add(all_locked(&inner)) > limit_bytes;
        if is_locked && over { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    fn lock_areas(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        lock: MemoryLock,
    ) -> Result<(), Errno> {
        inner.areas.set_lock(range.clone(), lock);
        if lock == MemoryLock::Unlocked {
            return Self::each_run(inner, range, |run, gpa| {
                self.mem().unlock(gpa, run.end - run.start)
            })
            .map_err(Errno::from);
        }
        let pieces: Vec<_> =
            inner.areas.overlapping(range).map(|(range, vma)| (range, vma.clone())).collect();
        for (piece, vma) in pieces {
            if lock == MemoryLock::Locked && vma.prot != Prot::NONE {
                // The host's lock makes copies of an image's pages.
                self.bind(inner, piece.clone())?;
                self.hold_range(inner, piece.clone())?;
                self.populate(inner, piece.clone(), &vma)?;
                self.lock_host(inner, piece, lock)?;
            } else {
                self.lock_host(inner, piece, MemoryLock::OnFault)?;
            }
        }
        Ok(())
    }

    /// Applies the lock on the host to what is bound of `range`.
    pub(super) fn lock_host(
        &self,
        inner: &Inner,
        range: Range<u64>,
        lock: MemoryLock,
    ) -> Result<(), Errno> {
        let how = match lock {
            MemoryLock::Unlocked => return Ok(()),
            MemoryLock::Locked => HostLock::Whole,
            MemoryLock::OnFault => HostLock::OnFault,
        };
        Self::each_run(inner, range, |run, gpa| self.mem().lock(gpa, run.end - run.start, how))
            .map_err(Errno::from)
    }
}

/// Bytes that an area counts for: for the stack, what it has grown to.
fn bytes_of(inner: &Inner, range: Range<u64>, vma: &Vma) -> u64 {
    if vma.label != STACK {
        return range.end - range.start;
    }
    held_bytes(inner, &range)
}

fn locked_in(inner: &Inner, range: Range<u64>) -> u64 {
    if range.is_empty() {
        return 0;
    }
    let areas = inner.areas.overlapping(range);
    let locked = areas.filter(|(_, vma)| vma.lock != MemoryLock::Unlocked);
    locked.map(|(range, vma)| bytes_of(inner, range, vma)).sum()
}

fn all_locked(inner: &Inner) -> u64 {
    locked_in(inner, PRIVATE_START.raw()..PROGRAM_END.raw())
}
