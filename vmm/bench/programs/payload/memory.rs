//! Memory and files: reading a file in pieces, touching fresh memory page by page.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Seek};
use std::time::Instant;

use crate::json::Object;

const PAGE: usize = 4096;

/// Reads `path` from beginning to end `passes` times, `piece` bytes a call, reading only
/// one byte of each piece: what is measured is `read(2)`.
///
/// # Errors
/// Errors of opening, seeking or reading.
pub(crate) fn read(path: &str, piece: usize, passes: u64) -> io::Result<Object> {
    let mut file = File::open(path)?;
    // Touched before the clock starts: first touch is measured elsewhere.
    let mut buffer = vec![1_u8; piece];
    let (mut bytes, mut calls, mut seen) = (0_u64, 0_u64, 0_u64);
    let mut best_ns = u64::MAX;
    let start = Instant::now();
    for _ in 0..passes {
        let pass = Instant::now();
        file.rewind()?;
        loop {
            let count = file.read(&mut buffer)?;
            calls += 1;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            seen += u64::from(buffer[count - 1]);
        }
        best_ns = best_ns.min(pass.elapsed().as_nanos() as u64);
    }
    let ns = start.elapsed().as_nanos() as u64;
    black_box(seen);
    let throughput = u128::from(bytes) * 1_000_000_000 / u128::from(ns.max(1));
    Ok(Object::new("read")
        .number("piece", piece as u64)
        .number("passes", passes)
        .number("calls", calls)
        .number("bytes", bytes)
        .number("bytes_per_s", throughput)
        .number("best_pass_ns", best_ns)
        .number("ns", ns))
}

/// Allocates `bytes` of zeroed memory fresh from the kernel and writes one byte to each
/// page, twice.
///
/// # Errors
/// When the memory is not available.
pub(crate) fn touch(bytes: usize) -> Result<Object, String> {
    let start = Instant::now();
    let mut memory: Vec<u8> = Vec::new();
    memory
        .try_reserve_exact(bytes)
        .map_err(|err| format!("cannot allocate {bytes} bytes: {err}"))?;
    drop(memory);
    // Above 32 MiB, zeroed memory is a separate mapping that has not been touched.
    let mut memory = vec![0_u8; bytes];
    let map_ns = start.elapsed().as_nanos() as u64;
    let first_ns = touch_pages(&mut memory);
    let again_ns = touch_pages(&mut memory);
    let pages = memory.len().div_ceil(PAGE);
    // Each page holds the 2 that two passes leave; otherwise the passes did not happen.
    let whole = memory.iter().step_by(PAGE).all(|byte| *byte == 2);
    if !whole {
        return Err("memory does not hold what was written to it".into());
    }
    Ok(Object::new("touch")
        .number("bytes", bytes as u64)
        .number("pages", pages as u64)
        .number("map_ns", map_ns)
        .number("again_ns", again_ns)
        .number("ns", first_ns))
}

fn touch_pages(memory: &mut [u8]) -> u64 {
    let start = Instant::now();
    for page in memory.chunks_mut(PAGE) {
        page[0] += 1;
    }
    black_box(memory);
    start.elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_every_pass_is_read() {
        let path = std::env::temp_dir().join(format!("payload-read-{}", std::process::id()));
        std::fs::write(&path, vec![7_u8; 10_001]).unwrap();
        let line = read(path.to_str().unwrap(), 1000, 3).unwrap().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(line.contains("\"bytes\":30003,"), "{line}");
        // Eleven pieces and the end of the file, three times.
        assert!(line.contains("\"calls\":36,"), "{line}");
    }

    #[test]
    fn memory_that_is_not_to_be_had_is_an_error() {
        assert!(touch(usize::MAX / 2).is_err());
        assert!(touch(10 * PAGE + 1).unwrap().to_string().contains("\"pages\":11,"));
    }
}
