//! The index as it is built, in private memory; and the interface that queries need, wherever the
//! index lies.

use std::collections::HashMap;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::words::{lower, words};

/// Occurrences kept of each word.
pub(crate) const PLACES: usize = 5;

/// Where a word is: a file's number and a line, counted from 1.
#[cfg_attr(feature = "vas", derive(spacejmp::Storable))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) line: u32,
}

/// What was indexed.
#[cfg_attr(feature = "vas", derive(spacejmp::Storable))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) occurrences: u64,
    pub(crate) distinct: u64,
}

/// What an index knows about a word.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entry<'a> {
    pub(crate) count: u64,
    /// The numbers of the files it is in, ascending.
    pub(crate) files: &'a [u32],
    /// Its first places, at most [`PLACES`], at most one for a line.
    pub(crate) places: &'a [Place],
}

/// The interface that queries need.
pub(crate) trait Lookup {
    fn totals(&self) -> Totals;

    /// The path of a file in its own bytes, whether they are UTF-8 or not.
    fn path(&self, file: u32) -> &[u8];

    /// What is known about a word in lower case.
    fn find(&self, word: &str) -> Option<Entry<'_>>;

    /// All words, in no particular order, and how often each occurs.
    fn counts(&self) -> impl Iterator<Item = (&str, u64)>;
}

/// The first [`PLACES`] of what is pushed; the others are not kept. As a slice, those kept.
#[derive(Default)]
pub(crate) struct First<T> {
    kept: [T; PLACES],
    len: usize,
}

impl<T> First<T> {
    fn push(&mut self, item: T) {
        if let Some(free) = self.kept.get_mut(self.len) {
            *free = item;
            self.len += 1;
        }
    }
}

impl<T> Deref for First<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.kept[..self.len]
    }
}

/// The words of one chunk of a file.
#[derive(Default)]
pub(crate) struct Found {
    bytes: u64,
    lines: u32,
    /// All words one after another: a chunk is allocated and freed as three blocks.
    text: String,
    /// The length of each word and what is known about it.
    words: Vec<(usize, Tally)>,
}

/// How often a word occurs in a chunk, and the first lines that contain it, counted from 0.
#[derive(Default)]
struct Tally {
    count: u64,
    lines: First<u32>,
}

impl Found {
    /// Counts the words of whole lines.
    pub(crate) fn new(text: &[u8]) -> Found {
        let lower = lower(text);
        let capacity = text.len() / 64;
        let mut tallies = HashMap::<&str, Tally>::with_capacity(capacity);
        for (word, line) in words(&lower) {
            let tally = tallies.entry(word).or_default();
            tally.count += 1;
            if tally.lines.last() != Some(&line) {
                tally.lines.push(line);
            }
        }
        let newlines = text.iter().filter(|&&byte| byte == b'\n').count();
        let is_open = text.last().is_some_and(|&byte| byte != b'\n');
        let lines = newlines as u32 + u32::from(is_open);
        let mut found = Found { bytes: text.len() as u64, lines, ..Found::default() };
        for (word, tally) in tallies {
            found.text.push_str(word);
            found.words.push((word.len(), tally));
        }
        found
    }
}

/// The index in private memory.
#[derive(Default)]
pub(crate) struct Index {
    pub(crate) totals: Totals,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) words: HashMap<Box<str>, Word>,
}

/// One word of the index: [`Entry`] with memory of its own.
#[derive(Default)]
pub(crate) struct Word {
    pub(crate) count: u64,
    pub(crate) files: Vec<u32>,
    pub(crate) places: First<Place>,
}

impl Index {
    /// Adds a file, which comes after all those added before, with what was found in its chunks.
    pub(crate) fn add(&mut self, path: PathBuf, chunks: impl IntoIterator<Item = Found>) {
        let file = self.files.len() as u32;
        self.files.push(path);
        let mut before = 0_u32;
        for chunk in chunks {
            let mut rest = chunk.text.as_str();
            for (len, tally) in chunk.words {
                let (text, others) = rest.split_at(len);
                rest = others;
                let word = match self.words.get_mut(text) {
                    Some(word) => word,
                    None => self.words.entry(text.into()).or_default(),
                };
                word.count += tally.count;
                self.totals.occurrences += tally.count;
                if word.files.last() != Some(&file) {
                    word.files.push(file);
                }
                for &line in &*tally.lines {
                    let line = before.saturating_add(line).saturating_add(1);
                    word.places.push(Place { file, line });
                }
            }
            self.totals.bytes += chunk.bytes;
            self.totals.lines += u64::from(chunk.lines);
            before = before.saturating_add(chunk.lines);
        }
        self.totals.files = self.files.len() as u64;
        self.totals.distinct = self.words.len() as u64;
    }
}

impl Lookup for Index {
    fn totals(&self) -> Totals {
        self.totals
    }

    fn path(&self, file: u32) -> &[u8] {
        self.files[file as usize].as_os_str().as_bytes()
    }

    fn find(&self, word: &str) -> Option<Entry<'_>> {
        let Word { count, files, places } = self.words.get(word)?;
        Some(Entry { count: *count, files, places })
    }

    fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.words.iter().map(|(text, word)| (&**text, word.count))
    }
}
