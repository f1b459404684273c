//! The inputs of a fuzz target that are kept: one file in the sources for each target, a folder for libFuzzer.
//!
//! One file, because there are thousands of inputs of a few bytes each. Each is its length, four bytes in little endian, and itself;
//! `tests::fuzz_corpus` reads the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// The file of a target.
pub(super) fn file(workspace: &Workspace, target: &str) -> PathBuf {
    workspace.file(&format!("fuzz/corpora/{target}"))
}

fn inputs(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk()?;
        let (input, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        all.push(input);
        bytes = rest;
    }
    Some(all)
}

/// Writes the inputs of `file`, which need not exist, into `folder`, and returns how many they are.
pub(super) fn unpack(file: &Path, folder: &Path) -> Result<usize> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if !file.exists() {
        return Ok(0);
    }
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let inputs = inputs(&bytes).with_context(|| format!("{} is cut off", file.display()))?;
    for (number, input) in inputs.iter().enumerate() {
        let path = folder.join(format!("kept-{number:05}"));
        fs::write(&path, input).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(inputs.len())
}

/// Keeps what is in `folder`, in an order that depends on the inputs alone. Returns how many they are.
pub(super) fn pack(folder: &Path, file: &Path) -> Result<u64> {
    let mut inputs = Vec::new();
    let entries = fs::read_dir(folder);
    for entry in entries.with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        inputs.push(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    ensure!(!inputs.is_empty(), "{} has no input", folder.display());
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let mut bytes = Vec::new();
    for input in &inputs {
        let len = u32::try_from(input.len()).context("an input of over 4 GiB")?;
        bytes.extend(len.to_le_bytes());
        bytes.extend(input);
    }
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(inputs.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_is_unpacked_and_a_file_that_is_cut_off_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let (from, to, file) =
            (place.path().join("from"), place.path().join("to"), place.path().join("file"));
        assert_eq!(unpack(&file, &from).unwrap(), 0);
        assert!(pack(&from, &file).is_err(), "nothing to keep");
        for (name, input) in [("a", &b"longer"[..]), ("b", b""), ("c", b"xy"), ("d", b"xy")] {
            fs::write(from.join(name), input).unwrap();
        }
        assert_eq!(pack(&from, &file).unwrap(), 3);
        let bytes = fs::read(&file).unwrap();
        assert_eq!(inputs(&bytes).unwrap(), [&b""[..], b"xy", b"longer"]);
        assert_eq!(unpack(&file, &to).unwrap(), 3);
        assert_eq!(fs::read(to.join("kept-00002")).unwrap(), b"longer");
        for len in 1..bytes.len() {
            // Where an input ends, nothing is missing.
            assert_eq!(inputs(&bytes[..len]).is_some(), [4, 10].contains(&len), "{len}");
        }
    }
}
