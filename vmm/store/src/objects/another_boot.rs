//! Segments that an earlier boot of the host has left while a program could write them: after a
//! power cut, any part of what was written may be missing.
//!
//! Such a header is dirty and names that boot. The first program of this boot that attaches the
//! segment finds its lock as a dead holder leaves it, and so does every other until one recovers
//! it. Where there is no lock nobody can be told so; the checks do.

use std::os::unix::fs::FileExt;

use abi::objects::{Lifetime, Right};
use seg_lock::{state, word};

use crate::format::error::{StoreError, io_error};
use crate::format::extent::LOCK_PAGE_OFFSET;
use crate::format::header::{BootId, Header, SegmentState, read_header};
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

impl Store {
    /// Whether an earlier boot left it in the middle of changes, and nobody has had it since.
    /// Of a boot that is not known nothing is concluded.
    pub(crate) fn is_of_another_boot(&self, header: &Header) -> bool {
        let unknown = BootId::default();
        header.lifetime == Lifetime::Persistent
            && header.state == SegmentState::Dirty
            && header.boot != self.boot()
            && ![header.boot, self.boot()].contains(&unknown)
            // On a folder that several kernels share, another boot can be a running one. If it
            // cannot be told who has it, nobody is known to.
            && self.live_leases().map_or(true, |leases| {
                leases.iter().all(|lease| lease.right_of(header.sid).is_none())
            })
    }

    /// Makes a lockable segment of an earlier boot inconsistent; other segments are left alone. To
    /// be called before the lock page is mapped ([`Store::join`] does).
    ///
    /// # Errors
    /// If the host fails.
    pub fn note_another_boot(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        // The header as of opening tells: no segment gets into this state while the host runs.
        let is_meant = |header: &Header| header.lockable && self.is_of_another_boot(header);
        if segment.right() == Right::Read || !is_meant(segment.header()) {
            return Ok(());
        }
        let lock = self.lock_exclusive()?;
        if !is_meant(&read_header(segment.file(), segment.path())?) {
            return Ok(());
        }
        // Nobody of this boot has the page mapped yet: all come here first. What stays in it is
        // of the dead, and goes when the first one joins it.
        let (file, at) = (segment.file(), LOCK_PAGE_OFFSET + word::STATE as u64 * 8);
        let mut seen = [0; 8];
        file.read_exact_at(&mut seen, at).map_err(|e| io_error("read", segment.path(), e))?;
        let marked = u64::from_le_bytes(seen) | state::INCONSISTENT;
        file.write_all_at(&marked.to_le_bytes(), at)
            .map_err(|e| io_error("write", segment.path(), e))?;
        // The mark first: what is interrupted here is done again. It stays dirty.
        self.change_header(segment, &lock, |header| header.boot = self.boot())
    }
}
