//! Windows that many have: onto pieces of files that nobody writes through them, and onto zeros.
//!
//! Copies of a versioned segment have the same files, by hard links. A piece of a file is mapped once in a VM,
//! whoever shows it, so a hundred copies cost the host one mapping, one memslot and one set of translations.
//! A file is known by its number on its device, which is used for no other one as long as it is mapped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use abi::PAGE_SIZE;

use super::memory::MemoryError;
use super::windows::{FilePiece, Window, Windows};

/// What a window shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Shown {
    Piece { device: u64, inode: u64, offset: u64, bytes: u64 },
    Zeros,
}

/// All windows of a VM that are shared.
#[derive(Debug, Default)]
pub struct SharedWindows(Mutex<BTreeMap<Shown, Weak<Window>>>);

impl SharedWindows {
    /// The window onto a piece of a file, to be read only; mapped if nobody has it. Device and inode of the file,
    /// where the caller has asked for them since it was opened.
    ///
    /// # Errors
    /// As [`Windows::map`]; the host's.
    pub fn of_file(
        &self,
        windows: &Windows,
        piece: FilePiece<'_>,
        identity: Option<(u64, u64)>,
    ) -> Result<Arc<Window>, MemoryError> {
        let FilePiece { file, offset, bytes, .. } = piece;
        let (device, inode) = match identity {
            Some(identity) => identity,
            None => rustix::fs::fstat(file)
                .map(|about| (about.st_dev, about.st_ino))
                .map_err(|errno| MemoryError::Reserve { len_bytes: bytes, source: errno.into() })?,
        };
        let shown = Shown::Piece { device, inode, offset, bytes };
        self.find(shown, || windows.map(FilePiece { writable: false, ..piece }))
    }

    /// The window onto a page of zeros, likewise.
    ///
    /// # Errors
    /// As [`Windows::map`].
    pub fn zeros(&self, windows: &Windows) -> Result<Arc<Window>, MemoryError> {
        self.find(Shown::Zeros, || windows.map_anonymous(PAGE_SIZE))
    }

    fn find(
        &self,
        shown: Shown,
        map: impl FnOnce() -> Result<Window, MemoryError>,
    ) -> Result<Arc<Window>, MemoryError> {
        let mut known = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(window) = known.get(&shown).and_then(Weak::upgrade) {
            return Ok(window);
        }
        let window = Arc::new(map()?);
        known.retain(|_, window| window.strong_count() > 0);
        known.insert(shown, Arc::downgrade(&window));
        Ok(window)
    }

    /// Of windows that somebody has no longer, those that nobody else has: to be unmapped.
    #[must_use]
    pub fn give_back(&self, windows: impl IntoIterator<Item = Arc<Window>>) -> Vec<Window> {
        // Nobody is given one meanwhile.
        let _known = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        windows.into_iter().filter_map(Arc::into_inner).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use crate::vm::Machine;
    use crate::vm::windows::{FilePiece, Usage};

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_file_with_two_names_has_one_window_until_the_last_has_given_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let mut written = std::fs::File::create(&one).unwrap();
        written.write_all(b"content").unwrap();
        std::fs::hard_link(&one, &other).unwrap();
        let machine = Machine::new().unwrap();
        let map = |path, offset, bytes| {
            let file = std::fs::File::open(path).unwrap();
            let (file, writable) = (file.as_fd(), false);
            let piece = FilePiece { file, offset, bytes, writable, usage: Usage::Sparse };
            machine.shared.of_file(&machine.windows, piece, None).unwrap()
        };
        let (a, b) = (map(&one, 0, 4 * MIB), map(&other, 0, 4 * MIB));
        assert_eq!((a.gpa(), machine.windows.count()), (b.gpa(), 1));
        // Another part of it, or another file, is another window.
        let parts = [map(&one, 4 * MIB, 4 * MIB), map(&one, 0, 2 * MIB)];
        let third = dir.path().join("third");
        std::fs::write(&third, b"content").unwrap();
        let third = map(&third, 0, 4 * MIB);
        assert_eq!(machine.windows.count(), 4);

        let free = |windows| {
            let free = machine.shared.give_back(windows);
            let count = free.len();
            machine.windows.unmap(free);
            count
        };
        assert_eq!(free([a].into()), 0, "the other has it");
        let mut found = [0; 7];
        b.pin(0, 7).range().read(&mut found).unwrap();
        assert_eq!(&found, b"content");
        assert_eq!(free(vec![b, third]), 2);
        assert_eq!(free(parts.into()), 2);
        assert_eq!(machine.windows.count(), 0);
        assert_eq!(free([map(&one, 0, 4 * MIB)].into()), 1, "one that is gone is not given out");
    }

    #[test]
    fn all_have_the_same_zeros() {
        let machine = Machine::new().unwrap();
        let zeros = || machine.shared.zeros(&machine.windows).unwrap();
        assert_eq!(zeros().gpa(), zeros().gpa());
        let (a, b) = (zeros(), zeros());
        assert_eq!(machine.shared.give_back([a, b]).len(), 1);
    }
}
