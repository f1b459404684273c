//! A store in its own folder, for tests.

use super::{Mode, Name, SegmentSpec, Store};
use abi::objects::SegId;

/// The folder is removed when this is dropped, together with volatile content that tests left.
pub(super) struct TestStore {
    pub(super) store: Store,
    pub(super) folder: tempfile::TempDir,
}

impl std::ops::Deref for TestStore {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        let prefix = format!("spacejmp-{:016x}-", self.store.id());
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

pub(super) fn store() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&folder.path().join("store")).unwrap();
    TestStore { store, folder }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub(super) fn mode(bits: u32) -> Mode {
    Mode::new(bits).unwrap()
}

pub(super) fn segment(store: &Store, text: &str) -> SegId {
    store.create_segment(&name(text), &SegmentSpec::new(1 << 20)).unwrap()
}

pub(super) fn versioned(store: &Store, text: &str) -> SegId {
    let spec =
        SegmentSpec { lifetime: abi::objects::Lifetime::Versioned, ..SegmentSpec::new(1 << 20) };
    store.create_segment(&name(text), &spec).unwrap()
}
