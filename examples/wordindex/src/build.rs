//! Building the index: files are divided into chunks of whole lines, threads take the next chunk
//! until none is left, and their results are added in the order of the chunks. So the index does
//! not depend on the number of threads or on which of them was faster.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::index::{Found, Index};
use crate::scan::{FoundFile, Problem};

/// Large files are read by several threads, in chunks of about this size.
const CHUNK: u64 = 4 << 20;
/// A NUL byte this near to the beginning makes a file binary.
const SNIFFED: usize = 8192;

/// The lines of one file that begin in `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    file: usize,
    start: u64,
    /// `None` for the last chunk of a file, which extends to the end whatever the size was.
    end: Option<u64>,
}

/// The content of a chunk; nothing if the file is not text.
type Outcome = io::Result<Option<Found>>;

/// Reads and indexes `files` (sorted by path) with `threads` threads. Returns the index
/// of those that are text and could be read to their end, and what could not be read.
pub(crate) fn build(files: &[FoundFile], threads: usize) -> (Index, Vec<Problem>) {
    build_in_chunks(files, threads, CHUNK)
}

fn build_in_chunks(files: &[FoundFile], threads: usize, size: u64) -> (Index, Vec<Problem>) {
    let chunks = divide(files, size);
    let next = AtomicUsize::new(0);
    // Bounded, so that threads do not run far ahead of the one that joins.
    let (sender, receiver) = mpsc::sync_channel(4 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(chunks.len()) {
            let (sender, next, chunks) = (sender.clone(), &next, &chunks);
            scope.spawn(move || {
                let mut buffer = Vec::with_capacity(CHUNK as usize);
                loop {
                    // Relaxed: only the number matters, results go through the channel.
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(chunk) = chunks.get(number) else { break };
                    let text = read(&files[chunk.file].path, chunk, &mut buffer);
                    let outcome = text.map(|text| text.map(Found::new));
                    sender.send((number, outcome)).expect("the receiver outlives the threads");
                }
            });
        }
        drop(sender);
        join(files, &chunks, &receiver)
    })
}

/// Adds the outcomes in the order of the chunks, file by file.
fn join(
    files: &[FoundFile],
    chunks: &[Chunk],
    outcomes: &mpsc::Receiver<(usize, Outcome)>,
) -> (Index, Vec<Problem>) {
    let (mut index, mut problems) = (Index::default(), Vec::new());
    let mut early = BTreeMap::new();
    // The current file, as long as it is text and can be read.
    let mut held = Some(Vec::new());
    for (number, chunk) in chunks.iter().enumerate() {
        let outcome = loop {
            if let Some(outcome) = early.remove(&number) {
                break outcome;
            }
            early.extend([outcomes.recv().expect("there is an outcome for each chunk")]);
        };
        let path = &files[chunk.file].path;
        match (outcome, &mut held) {
            (Ok(Some(found)), Some(held)) => held.push(found),
            // One unreadable chunk makes one unreadable file.
            (Err(err), Some(_)) => {
                problems.push(Problem::new(path, &err));
                held = None;
            }
            (Ok(None), _) => held = None,
            (_, None) => {}
        }
        if chunk.end.is_none()
            && let Some(found) = held.replace(Vec::new())
        {
            index.add(path.clone(), found);
        }
    }
    (index, problems)
}

fn divide(files: &[FoundFile], size: u64) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (file, found) in files.iter().enumerate() {
        let mut start = 0;
        while found.size.saturating_sub(start) > size {
            chunks.push(Chunk { file, start, end: Some(start + size) });
            start += size;
        }
        chunks.push(Chunk { file, start, end: None });
    }
    chunks
}

/// The lines that begin in a chunk, the last one to its end wherever that is; `None` if the file
/// is not text.
fn read<'a>(path: &Path, chunk: &Chunk, buffer: &'a mut Vec<u8>) -> io::Result<Option<&'a [u8]>> {
    let mut file = File::open(path)?;
    buffer.clear();
    // A line begins in the chunk if the newline before it lies from here to the last byte but one.
    let start = chunk.start.saturating_sub(1);
    file.seek(SeekFrom::Start(start))?;
    let limit = chunk.end.map_or(u64::MAX, |end| end - 1 - start);
    file.by_ref().take(limit).read_to_end(buffer)?;
    let first = match buffer.iter().position(|&byte| byte == b'\n') {
        _ if chunk.start == 0 => 0,
        Some(newline) => newline + 1,
        // No line begins in this chunk.
        None => return Ok(Some(&[])),
    };
    if chunk.start == 0 && buffer[..buffer.len().min(SNIFFED)].contains(&0) {
        return Ok(None);
    }
    if chunk.end.is_some() {
        BufReader::new(file).read_until(b'\n', buffer)?;
    }
    Ok(Some(&buffer[first..]))
}

#[cfg(test)]
#[path = "build_tests.rs"]
pub(crate) mod tests;
