//! Storage for a part of a segment before it is written.
//!
//! Files of segments are sparse, and a page that the disk has no room for is a bus error for the
//! program that touches it. A program that wants an error beforehand, as heaps do when they grow,
//! reserves it.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use abi::SegId;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::format::error::{StoreError, invalid};
use crate::format::extent::PART_BYTES;
use crate::objects::store::Store;

impl Store {
    /// Has the host reserve storage for `bytes` bytes at `offset` of a segment. What is there stays
    /// as it is. Reserving what is reserved changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for no bytes, and for a range that is not all of the segment's;
    /// [`StoreError::Denied`]; [`StoreError::Versioned`]; [`StoreError::Io`], of which a full disk
    /// is one: what was reserved until then may stay reserved.
    pub fn reserve_segment(&self, sid: SegId, offset: u64, bytes: u64) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let segment = self.open_writable(sid, &lock)?;
        segment.check_raw("reserve storage for")?;
        // A segment does not shrink, and one that is deleted meanwhile stays while it is open: no
        // lock has to be held while we wait for the disk.
        drop(lock);
        let size_bytes = segment.header().size_bytes;
        let end = offset.checked_add(bytes).filter(|&end| bytes > 0 && end <= size_bytes);
        let Some(end) = end else {
            let found = format!("{bytes:#x} bytes at {offset:#x}");
            let expected = format!("some of the segment's {size_bytes:#x} bytes");
            return Err(invalid("the range to reserve", found, expected));
        };
        let mut at = offset;
        while at < end {
            let index = at / PART_BYTES;
            let part = segment.part(index)?;
            let part_end = end.min((index + 1).saturating_mul(PART_BYTES));
            reserve(part.fd(), part.offset() + at % PART_BYTES, part_end - at)
                .map_err(|errno| segment.error("reserve storage for", errno.into()))?;
            at = part_end;
        }
        Ok(())
    }
}

/// How much is requested at a time, and the least that this shrinks to when signals interrupt it:
/// some file systems undo what they had done, and would never finish a large request.
const PIECE_BYTES: u64 = 64 << 20;
const LEAST_BYTES: u64 = 1 << 20;

/// By the file system or, where it cannot, by checking how much it has left.
fn reserve(file: BorrowedFd<'_>, mut offset: u64, mut bytes: u64) -> Result<(), Errno> {
    let mut piece = PIECE_BYTES;
    while bytes > 0 {
        let now = bytes.min(piece);
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, now) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return has_room(file, bytes),
            Err(Errno::INTR) => piece = (piece / 2).max(LEAST_BYTES),
            done => {
                done?;
                offset += now;
                bytes -= now;
            }
        }
    }
    Ok(())
}

/// Whether the file system has this much left. No guarantee: others may use it up.
fn has_room(file: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
    let left = rustix::fs::fstatvfs(file)?;
    if left.f_bavail.saturating_mul(left.f_frsize) < bytes { Err(Errno::NOSPC) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::has_room;
    use crate::testing::{name, store};
    use crate::{SegmentSpec, Store};
    use abi::{Errno, SegId};

    fn stored(store: &Store, sid: SegId) -> u64 {
        store.segment(sid).unwrap().stored_bytes
    }

    #[test]
    fn what_is_reserved_is_stored_and_nothing_else() {
        let s = store();
        let sid = s.create_segment(&name("x"), &SegmentSpec::new(1 << 40)).unwrap();
        let before = stored(&s, sid);
        s.reserve_segment(sid, 1 << 30, 3 << 20).unwrap();
        let after = stored(&s, sid);
        assert!((3 << 20..4 << 20).contains(&(after - before)), "{before}, then {after}");
        s.reserve_segment(sid, 1 << 30, 3 << 20).unwrap();
        assert_eq!(stored(&s, sid), after);
        assert_eq!(s.segment(sid).unwrap().header.size_bytes, 1 << 40);
    }

    #[test]
    fn a_range_across_files_is_reserved_in_both() {
        let s = store();
        let sid = s.create_segment(&name("x"), &SegmentSpec::new(9 << 40)).unwrap();
        let before = stored(&s, sid);
        s.reserve_segment(sid, (8 << 40) - (1 << 20), 2 << 20).unwrap();
        assert!(stored(&s, sid) - before >= 2 << 20);
    }

    #[test]
    fn ranges_that_are_not_the_segments_are_refused() {
        let s = store();
        let sid = s.create_segment(&name("x"), &SegmentSpec::new(1 << 20)).unwrap();
        for (offset, bytes) in
            [(0, 0), (0, (1 << 20) + 1), (1 << 20, 1), (u64::MAX, 1), (1, u64::MAX)]
        {
            let error = s.reserve_segment(sid, offset, bytes).unwrap_err();
            assert_eq!(error.errno(), Errno::EINVAL, "{offset:#x} {bytes:#x}: {error}");
        }
    }

    #[test]
    fn a_file_system_that_cannot_reserve_is_asked_for_what_it_has_left() {
        use std::os::fd::AsFd;
        let file = tempfile::tempfile().unwrap();
        assert_eq!(has_room(file.as_fd(), 1), Ok(()));
        assert_eq!(has_room(file.as_fd(), u64::MAX), Err(rustix::io::Errno::NOSPC));
    }
}
