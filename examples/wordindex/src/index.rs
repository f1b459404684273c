//! The index: interned words, how often each comes, the files it is in and its first
//! places. It is built once from the chunks' results and only read afterwards.

use crate::scan::FoundFile;

/// Places kept of each word.
pub(crate) const PLACES: usize = 5;

/// A number for every distinct word: an open-addressed table over one arena of bytes, so a
/// word costs its bytes and twelve more, with no allocation of its own.
#[derive(Default)]
pub(crate) struct Interner {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Word numbers plus one; 0 is free. The length is a power of two.
    table: Vec<u32>,
}

impl Interner {
    /// Distinct words.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a word.
    pub(crate) fn word(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..self.ends[id] as usize]
    }

    /// The number of a word, if it is there.
    pub(crate) fn get(&self, word: &[u8]) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        self.table[self.slot(word)].checked_sub(1)
    }

    /// The number of a word, new or not.
    pub(crate) fn intern(&mut self, word: &[u8]) -> u32 {
        if self.len() * 2 >= self.table.len() {
            self.grow();
        }
        let slot = self.slot(word);
        if self.table[slot] == 0 {
            self.bytes.extend_from_slice(word);
            let end = u32::try_from(self.bytes.len()).expect("4 GiB of distinct words");
            self.ends.push(end);
            self.table[slot] = self.ends.len() as u32;
        }
        self.table[slot] - 1
    }

    /// Where the word is, or the free slot where it belongs.
    fn slot(&self, word: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = hash(word) as usize & mask;
        while let Some(id) = self.table[slot].checked_sub(1) {
            if self.word(id) == word {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        let room = (self.table.len() * 2).max(1024);
        self.table.clear();
        self.table.resize(room, 0);
        for id in 0..self.ends.len() as u32 {
            let slot = self.slot(self.word(id));
            self.table[slot] = id + 1;
        }
    }
}

/// Eight bytes at a time, mixed by multiplication: words are short.
fn hash(word: &[u8]) -> u64 {
    let mut sum = word.len() as u64;
    let mut pieces = word.chunks_exact(8);
    let mut mix = |value: u64| {
        let wide = u128::from(sum ^ value) * 0x9e37_79b9_7f4a_7c15_u128;
        sum = (wide >> 64) as u64 ^ wide as u64;
    };
    for piece in &mut pieces {
        mix(u64::from_le_bytes(piece.try_into().expect("pieces have eight bytes")));
    }
    let mut rest = [0; 8];
    rest[..pieces.remainder().len()].copy_from_slice(pieces.remainder());
    mix(u64::from_le_bytes(rest));
    sum
}

/// A word in one chunk of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Number in the interner of the thread that read the chunk.
    pub(crate) word: u32,
    pub(crate) count: u32,
    /// How many of the chunk's `lines` are this entry's; they come in entry order.
    pub(crate) places: u32,
}

/// What one thread found in one chunk.
#[derive(Debug)]
pub(crate) struct ChunkResult {
    /// Position among all chunks, in the order of files and then of offsets.
    pub(crate) number: usize,
    pub(crate) file: u32,
    pub(crate) thread: usize,
    pub(crate) bytes: u64,
    pub(crate) newlines: u32,
    /// Whether the chunk has bytes after its last newline.
    pub(crate) open_line: bool,
    pub(crate) entries: Vec<Entry>,
    /// Newlines before each place, counted from the start of the chunk.
    pub(crate) lines: Vec<u32>,
}

/// Where a word is: a file's number and a line, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) line: u32,
}

/// Everything queries need.
pub(crate) struct Index {
    /// Files that were indexed as text, sorted by path.
    pub(crate) files: Vec<FoundFile>,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) occurrences: u64,
    words: Interner,
    counts: Vec<u64>,
    /// Ends of each word's run in `postings` and in `places`.
    posting_ends: Vec<usize>,
    place_ends: Vec<usize>,
    postings: Vec<u32>,
    places: Vec<Place>,
}

impl Index {
    /// Joins what the threads found. `chunks` must be sorted by number; `interners` are the
    /// threads'.
    pub(crate) fn join(
        files: Vec<FoundFile>,
        chunks: &[ChunkResult],
        interners: Vec<Interner>,
    ) -> Self {
        // Only words of these chunks: a thread also met words of files since left out.
        let mut words = Interner::default();
        let mut translations: Vec<Vec<u32>> =
            interners.iter().map(|from| vec![u32::MAX; from.len()]).collect();
        for chunk in chunks {
            let translation = &mut translations[chunk.thread];
            for entry in &chunk.entries {
                let global = &mut translation[entry.word as usize];
                if *global == u32::MAX {
                    *global = words.intern(interners[chunk.thread].word(entry.word));
                }
            }
        }
        drop(interners);

        // First how much each word needs, then, into runs of just that size, the rest.
        let mut counts = vec![0_u64; words.len()];
        let mut posting_ends = vec![0_usize; words.len()];
        let mut place_ends = vec![0_usize; words.len()];
        let mut last_file = vec![u32::MAX; words.len()];
        for chunk in chunks {
            for entry in &chunk.entries {
                let word = translations[chunk.thread][entry.word as usize] as usize;
                counts[word] += u64::from(entry.count);
                posting_ends[word] += usize::from(last_file[word] != chunk.file);
                last_file[word] = chunk.file;
                place_ends[word] = PLACES.min(place_ends[word] + entry.places as usize);
            }
        }
        let mut next_posting = start_runs(&mut posting_ends);
        let mut next_place = start_runs(&mut place_ends);
        let mut postings = vec![0; posting_ends.last().copied().unwrap_or(0)];
        let mut places = vec![Place { file: 0, line: 0 }; place_ends.last().copied().unwrap_or(0)];

        last_file.fill(u32::MAX);
        let (mut bytes, mut lines) = (0, 0);
        let mut file_so_far = u32::MAX;
        let mut lines_before = 0_u32;
        for chunk in chunks {
            if chunk.file != file_so_far {
                file_so_far = chunk.file;
                lines_before = 0;
            }
            let mut chunk_lines = chunk.lines.iter();
            for entry in &chunk.entries {
                let word = translations[chunk.thread][entry.word as usize] as usize;
                if last_file[word] != chunk.file {
                    last_file[word] = chunk.file;
                    postings[next_posting[word]] = chunk.file;
                    next_posting[word] += 1;
                }
                for line in chunk_lines.by_ref().take(entry.places as usize) {
                    if next_place[word] < place_ends[word] {
                        let line = lines_before.saturating_add(*line).saturating_add(1);
                        places[next_place[word]] = Place { file: chunk.file, line };
                        next_place[word] += 1;
                    }
                }
            }
            bytes += chunk.bytes;
            lines += u64::from(chunk.newlines) + u64::from(chunk.open_line);
            lines_before = lines_before.saturating_add(chunk.newlines);
        }
        let occurrences = counts.iter().sum();
        Self {
            files,
            bytes,
            lines,
            occurrences,
            words,
            counts,
            posting_ends,
            place_ends,
            postings,
            places,
        }
    }

    /// The number of a word in lower case.
    pub(crate) fn find(&self, word: &[u8]) -> Option<u32> {
        self.words.get(word)
    }

    /// A word's bytes, which are UTF-8.
    pub(crate) fn word(&self, id: u32) -> &[u8] {
        self.words.word(id)
    }

    /// Distinct words.
    pub(crate) fn distinct(&self) -> usize {
        self.words.len()
    }

    /// How often a word comes.
    pub(crate) fn count(&self, id: u32) -> u64 {
        self.counts[id as usize]
    }

    /// The numbers of the files a word is in, ascending.
    pub(crate) fn files_of(&self, id: u32) -> &[u32] {
        run(&self.postings, &self.posting_ends, id)
    }

    /// The first places of a word, at most [`PLACES`], at most one for a line.
    pub(crate) fn places_of(&self, id: u32) -> &[Place] {
        run(&self.places, &self.place_ends, id)
    }

    /// The most frequent words, the alphabetically first of equals first.
    pub(crate) fn top(&self, limit: usize) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..self.distinct() as u32).collect();
        let order = |a: &u32, b: &u32| {
            self.count(*b).cmp(&self.count(*a)).then_with(|| self.word(*a).cmp(self.word(*b)))
        };
        if limit < ids.len() {
            ids.select_nth_unstable_by(limit, order);
            ids.truncate(limit);
        }
        ids.sort_unstable_by(order);
        ids
    }
}

/// Turns lengths into ends of adjacent runs and returns their starts.
fn start_runs(lengths: &mut [usize]) -> Vec<usize> {
    let mut end = 0;
    let starts = lengths.iter_mut().map(|length| {
        let start = end;
        end += *length;
        *length = end;
        start
    });
    starts.collect()
}

fn run<'a, T>(all: &'a [T], ends: &[usize], id: u32) -> &'a [T] {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &all[start..ends[id]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_its_number_while_the_table_grows() {
        let mut interner = Interner::default();
        assert_eq!(interner.get(b"none"), None);
        let text = |n: u32| format!("word{n}").into_bytes();
        for n in 0..5000 {
            assert_eq!(interner.intern(&text(n)), n);
        }
        for n in 0..5000 {
            assert_eq!(interner.intern(&text(n)), n);
            assert_eq!(interner.get(&text(n)), Some(n));
            assert_eq!(interner.word(n), text(n));
        }
        assert_eq!(interner.get(b"word5000"), None);
        assert_eq!(interner.len(), 5000);
    }

    #[test]
    fn lengths_become_adjacent_runs() {
        let mut lengths = [2, 0, 3];
        assert_eq!(start_runs(&mut lengths), [0, 2, 2]);
        assert_eq!(lengths, [2, 2, 5]);
        assert_eq!(run(&[1, 2, 3, 4, 5], &lengths, 0), [1, 2]);
        assert_eq!(run(&[1, 2, 3, 4, 5], &lengths, 1), [0; 0]);
        assert_eq!(run(&[1, 2, 3, 4, 5], &lengths, 2), [3, 4, 5]);
    }
}
