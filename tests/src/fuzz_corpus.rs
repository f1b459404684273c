//! The inputs that libFuzzer's runs have left (`fuzz/corpora`): together they lead to all code that those have come to.

use std::fs;
use std::path::Path;

/// The names of the targets that have some.
///
/// # Panics
/// Where there is no such folder.
#[must_use]
pub fn targets() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpora");
    let files = fs::read_dir(folder).expect("the sources have it");
    let mut names: Vec<_> =
        files.map(|file| file.expect("it can be listed").file_name().into_string()).collect();
    names.sort();
    names.into_iter().map(|name| name.expect("it is text")).collect()
}

/// A target's inputs, the shortest first.
///
/// # Panics
/// Where the file cannot be read, or ends within one.
#[must_use]
pub fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpora");
    let bytes = fs::read(folder.join(target)).expect("it can be read");
    let (mut rest, mut inputs) = (&bytes[..], Vec::new());
    while let Some((len, after)) = rest.split_first_chunk() {
        let (input, after) = after.split_at(u32::from_le_bytes(*len) as usize);
        inputs.push(input.to_vec());
        rest = after;
    }
    assert!(rest.is_empty(), "{target}: the file ends within an input");
    inputs
}
