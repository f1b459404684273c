//! What the fuzz targets in `fuzz/` and the smoke tests have in common: one input, judged.

use std::path::Path;
use std::time::Duration;

use abi::PAGE_SIZE;
use abi::layout::{MMAP_TOP, PIE_BASE};
use vmm::guest::elf::{self, Image};
use vmm::process::Outcome;
use vmm::store::fuzz as store;

use crate::vm::{Ended, Run};

/// A call that blocks for good ends here; the program interrupts all others itself.
const LIMIT: Duration = Duration::from_secs(3);

/// Has the guest program `fuzz_calls` at `program` make the calls `input` spells, with one
/// directory to work in, and judges how it ends.
///
/// # Panics
/// When the VMM failed: it panicked, hung, gave up on the guest, or let a file appear
/// outside the directory.
pub fn calls(program: &Path, input: &[u8]) -> Ended {
    let outside = tempfile::tempdir().expect("a temporary directory");
    let inside = outside.path().join("inside");
    std::fs::create_dir(&inside).expect("it is new");
    let canary = outside.path().join("canary");
    std::fs::write(&canary, b"sings").expect("it can be written");
    let grant = inside.to_str().expect("temporary names are ASCII").to_owned();
    let ended = Run::new(program).stdin(input).dir(grant).memory(256 << 20).timeout(LIMIT).in_vm();
    if let Outcome::HostFailed(text) = &ended.outcome {
        panic!("the VMM failed: {text}");
    }
    assert_eq!(std::fs::read(&canary).expect("it is still there"), b"sings");
    let names: Vec<_> = std::fs::read_dir(outside.path())
        .expect("it is still there")
        .map(|entry| entry.expect("it can be listed").file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    ended
}

/// As [`parse`], for a fuzz target.
///
/// # Panics
/// As [`parse`].
pub fn elf(bytes: &[u8]) {
    parse(bytes);
}

/// What must hold of any image that was accepted.
fn judge(image: &Image, file_len: u64) {
    let mut end = 0;
    for s in &image.segments {
        assert!(s.file_bytes <= s.mem_bytes, "{s:x?}");
        let last = s.offset.checked_add(s.file_bytes).expect("the file range does not wrap");
        assert!(last <= file_len, "{s:x?} in a file of {file_len} bytes");
        let top = s.vaddr.checked_add(s.mem_bytes).expect("the memory range does not wrap");
        assert!(top <= MMAP_TOP.raw() - PIE_BASE.raw(), "{s:x?}");
        assert!(s.vaddr >= end, "{s:x?} overlaps what ends at {end:#x}");
        assert!(s.vaddr / PAGE_SIZE > end.wrapping_sub(1) / PAGE_SIZE || end == 0, "{s:x?}");
        assert_eq!(s.vaddr % PAGE_SIZE, s.offset % PAGE_SIZE, "{s:x?}");
        end = top;
    }
    assert!(!image.segments.is_empty());
}

/// Parses `bytes` and judges what comes of it: an image that is sound, or an error.
///
/// # Panics
/// When an image was accepted that should not have been.
pub fn parse(bytes: &[u8]) -> Option<Image> {
    match elf::parse(bytes) {
        Ok(image) => {
            judge(&image, bytes.len() as u64);
            Some(image)
        }
        Err(err) => {
            assert!(!crate::vm::all(&err).is_empty());
            None
        }
    }
}

/// A segment's header on any bytes; with its checksum put right, the fields decide.
///
/// # Panics
/// When what was accepted is not written back as it was read.
pub fn header(bytes: &[u8]) {
    for read in [store::header, store::header_fields] {
        assert_ne!(read(bytes).ok(), Some(false));
    }
}

/// A VAS's manifest on any bytes; with version and checksum put right, the lines decide.
///
/// # Panics
/// When what was accepted is not written back as it was read.
pub fn manifest(bytes: &[u8]) {
    for read in [store::manifest, store::manifest_lines] {
        assert_ne!(read(bytes).ok(), Some(false));
    }
}

/// An archive on any bytes, as zstd and as what zstd would give. Any answer will do.
pub fn archive(bytes: &[u8]) {
    for compressed in [false, true] {
        let _ = store::archive(bytes, compressed);
    }
}
