//! A segment's lock page for people and checks: a copy of the page, read and interpreted.
//!
//! The live page belongs to `vas`, which maps it. Here it is file content, and the copy is not a
//! consistent snapshot.

use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

use seg_lock::{AtomicWords, LockView, WORDS, inspect};

use crate::format::error::{StoreError, io_error};
use crate::format::extent::LOCK_PAGE_OFFSET;
use crate::objects::segment::SegmentFile;

/// Words that nothing else changes.
struct Copied(Vec<AtomicU64>);

impl AtomicWords for Copied {
    fn word(&self, index: usize) -> &AtomicU64 {
        // What a truncated file does not hold.
        static NOTHING: AtomicU64 = AtomicU64::new(0);
        self.0.get(index).unwrap_or(&NOTHING)
    }
}

impl SegmentFile {
    /// The holder of the segment's lock, and what waits for it. Read while others change it; VMs
    /// that died are still in it until the next VM that attaches the segment reaps them.
    ///
    /// # Errors
    /// If the host fails.
    pub fn lock_view(&self) -> Result<LockView, StoreError> {
        let mut page = vec![0; WORDS * 8];
        self.file()
            .read_exact_at(&mut page, LOCK_PAGE_OFFSET)
            .map_err(|e| io_error("read", self.path(), e))?;
        let words = page.as_chunks::<8>().0.iter();
        Ok(inspect(&Copied(words.map(|word| AtomicU64::new(u64::from_le_bytes(*word))).collect())))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use seg_lock::{state, word};

    use super::LOCK_PAGE_OFFSET;
    use crate::testing::{segment, store};

    #[test]
    fn a_page_shows_owner_readers_and_what_is_wrong() {
        let store = store();
        let file = store.open_segment(segment(&store, "s")).unwrap();
        let view = file.lock_view().unwrap();
        assert!(view.owner.is_none() && !view.inconsistent);
        let put = |word: usize, value: u64| {
            let at = LOCK_PAGE_OFFSET + word as u64 * 8;
            file.file().write_all_at(&value.to_le_bytes(), at).unwrap();
        };
        put(word::STATE, 3 | state::INCONSISTENT);
        put(word::LEASES + 2, 0x77);
        put(word::READER_COUNTS + 5, 4);
        let view = file.lock_view().unwrap();
        assert_eq!(view.owner_lease().map(|lease| lease.raw()), Some(0x77));
        assert!(view.inconsistent && !view.entering);
        assert_eq!(view.readers[5], 4);
    }
}
