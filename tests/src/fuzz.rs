//! What the fuzz targets in `fuzz/` and the smoke tests have in common: one input, judged.

use std::path::Path;
use std::time::Duration;

use vmm::process::Outcome;

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
