//! Building the index: files are divided into chunks of whole lines, threads take the next
//! chunk until none is left, and the results are joined in the order of the chunks. So the
//! index does not depend on how many threads there were or who was fast.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::index::{ChunkResult, Entry, Index, Interner, PLACES};
use crate::scan::{FoundFile, Problem};
use crate::words::Splitter;

/// Large files are read by several threads, in chunks of about this size.
const CHUNK: u64 = 4 << 20;
/// Bytes a read call.
const BUFFER: usize = 1 << 20;
/// A NUL byte this near to the beginning makes a file binary.
const SNIFFED: usize = 8192;

/// The lines of one file that begin in `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    file: u32,
    start: u64,
    /// `None` for the last of a file, which goes on to the end whatever the size was.
    end: Option<u64>,
}

/// What a thread found in a chunk of a text file, or why it found nothing.
enum Outcome {
    Text(ChunkResult),
    Binary { file: u32 },
    Failed { file: u32, err: io::Error },
}

/// Reads and indexes `files` (sorted by path) with `threads` threads. Returns the index
/// of those that are text and could be read to their end, and what could not be read.
pub(crate) fn build(files: Vec<FoundFile>, threads: usize) -> (Index, Vec<Problem>) {
    build_in_chunks(files, threads, CHUNK)
}

fn build_in_chunks(files: Vec<FoundFile>, threads: usize, size: u64) -> (Index, Vec<Problem>) {
    let chunks = divide(&files, size);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let (interners, outcomes) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(chunks.len()))
            .map(|thread| {
                let (sender, next, chunks, files) = (sender.clone(), &next, &chunks, &files);
                scope.spawn(move || {
                    let mut reader = Reader::new(thread);
                    loop {
                        // Relaxed: only the number matters, results go by the channel.
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(chunk) = chunks.get(number) else {
                            break;
                        };
                        let outcome = reader.read(files, number, *chunk);
                        sender.send(outcome).expect("the receiver outlives the threads");
                    }
                    reader.words
                })
            })
            .collect();
        drop(sender);
        let outcomes: Vec<Outcome> = receiver.iter().collect();
        let interners = workers.into_iter().map(|worker| worker.join().expect("no reader panics"));
        (interners.collect::<Vec<_>>(), outcomes)
    });

    let mut is_text = vec![true; files.len()];
    let mut problems = Vec::new();
    let mut results = Vec::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Text(result) => results.push(result),
            Outcome::Binary { file } => is_text[file as usize] = false,
            Outcome::Failed { file, err } => {
                problems.push(Problem::new(&files[file as usize].path, &err));
                // One unreadable chunk makes one unreadable file, not many.
                is_text[file as usize] = false;
            }
        }
    }
    problems.sort();
    problems.dedup_by(|a, b| a.path == b.path);
    results.retain(|result| is_text[result.file as usize]);
    results.sort_unstable_by_key(|result| result.number);
    let files = renumber(files, &is_text, &mut results);
    (Index::join(files, &results, interners), problems)
}

fn divide(files: &[FoundFile], size: u64) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (file, found) in (0_u32..).zip(files) {
        let mut start = 0;
        while found.size.saturating_sub(start) > size {
            chunks.push(Chunk { file, start, end: Some(start + size) });
            start += size;
        }
        chunks.push(Chunk { file, start, end: None });
    }
    chunks
}

/// Keeps the files that are text, and gives the results their new numbers.
fn renumber(
    files: Vec<FoundFile>,
    is_text: &[bool],
    results: &mut [ChunkResult],
) -> Vec<FoundFile> {
    let mut numbers = Vec::with_capacity(files.len());
    let mut kept = 0;
    for text in is_text {
        numbers.push(kept);
        kept += u32::from(*text);
    }
    for result in results {
        result.file = numbers[result.file as usize];
    }
    files.into_iter().zip(is_text).filter(|(_, text)| **text).map(|(file, _)| file).collect()
}

/// Counts of one word in the current chunk.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u32,
    places: u32,
    lines: [u32; PLACES],
}

/// One thread's buffer, words and counters, reused for all its chunks.
struct Reader {
    thread: usize,
    words: Interner,
    buffer: Vec<u8>,
    tallies: Vec<Tally>,
    /// Words with a count in the current chunk, in the order they were met.
    met: Vec<u32>,
    open: Option<(u32, File)>,
}

impl Reader {
    fn new(thread: usize) -> Self {
        Self {
            thread,
            words: Interner::default(),
            buffer: vec![0; BUFFER],
            tallies: Vec::new(),
            met: Vec::new(),
            open: None,
        }
    }

    fn read(&mut self, files: &[FoundFile], number: usize, chunk: Chunk) -> Outcome {
        let result = self.try_read(files, chunk);
        let file = chunk.file;
        match result {
            Ok(Some((bytes, newlines, open_line))) => {
                let (entries, lines) = self.take_tallies();
                let thread = self.thread;
                Outcome::Text(ChunkResult {
                    number,
                    file,
                    thread,
                    bytes,
                    newlines,
                    open_line,
                    entries,
                    lines,
                })
            }
            Ok(None) => Outcome::Binary { file },
            Err(err) => {
                self.take_tallies();
                Outcome::Failed { file, err }
            }
        }
    }

    /// Counts the words of a chunk; gives its bytes, newlines and whether it ends without
    /// one, or `None` if the file is not text.
    fn try_read(
        &mut self,
        files: &[FoundFile],
        chunk: Chunk,
    ) -> io::Result<Option<(u64, u32, bool)>> {
        let file = match self.open.take() {
            Some((number, file)) if number == chunk.file => file,
            _ => File::open(&files[chunk.file as usize].path)?,
        };
        let Self { words, buffer, tallies, met, open, .. } = self;
        let (_, file) = open.insert((chunk.file, file));
        let mut count_word = |word: &[u8], line| {
            let id = words.intern(word);
            if id as usize == tallies.len() {
                tallies.push(Tally::default());
            }
            let tally = &mut tallies[id as usize];
            if tally.count == 0 {
                met.push(id);
            }
            tally.count += 1;
            let places = tally.places as usize;
            let is_new_line = places == 0 || places < PLACES && tally.lines[places - 1] != line;
            if is_new_line {
                tally.lines[places] = line;
                tally.places += 1;
            }
        };

        let mut splitter = Splitter::default();
        // A line begins in this chunk if the newline before it lies in start-1..stop_at.
        let stop_at = chunk.end.map_or(u64::MAX, |end| end - 1);
        let mut offset = chunk.start.saturating_sub(1);
        let mut in_line = chunk.start == 0;
        let mut bytes = 0;
        let mut last = b'\n';
        loop {
            let count = match file.read_at(buffer, offset) {
                Ok(count) => count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            let piece = &buffer[..count];
            if offset == 0 && chunk.start == 0 && piece[..count.min(SNIFFED)].contains(&0) {
                return Ok(None);
            }
            if count == 0 {
                break;
            }
            let mut from = 0;
            if !in_line {
                from = find_newline(piece, 0).map_or(count, |newline| newline + 1);
                in_line = from > 0 && piece[from - 1] == b'\n';
                if offset + from as u64 > stop_at {
                    // No line begins in this chunk.
                    return Ok(Some((0, 0, false)));
                }
            }
            // The last line that begins here is read to its end, wherever that is.
            let stop = stop_at.saturating_sub(offset).min(count as u64) as usize;
            let end = find_newline(piece, stop.max(from)).map(|newline| newline + 1);
            let whole_lines = &piece[from..end.unwrap_or(count)];
            splitter.push(whole_lines, &mut count_word);
            bytes += whole_lines.len() as u64;
            last = whole_lines.last().copied().unwrap_or(last);
            if end.is_some() {
                break;
            }
            offset += count as u64;
        }
        splitter.finish(&mut count_word);
        Ok(Some((bytes, splitter.newlines(), last != b'\n')))
    }

    /// Takes the counts of the chunk, ready for the next one.
    fn take_tallies(&mut self) -> (Vec<Entry>, Vec<u32>) {
        let mut entries = Vec::with_capacity(self.met.len());
        let mut lines = Vec::with_capacity(self.met.len());
        for word in self.met.drain(..) {
            let tally = std::mem::take(&mut self.tallies[word as usize]);
            entries.push(Entry { word, count: tally.count, places: tally.places });
            lines.extend_from_slice(&tally.lines[..tally.places as usize]);
        }
        (entries, lines)
    }
}

/// The position of the first newline at or after `from`.
fn find_newline(piece: &[u8], from: usize) -> Option<usize> {
    piece[from..].iter().position(|byte| *byte == b'\n').map(|newline| from + newline)
}

#[cfg(test)]
#[path = "build_tests.rs"]
pub(crate) mod tests;
