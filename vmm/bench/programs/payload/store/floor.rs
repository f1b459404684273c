//! `store-floor`, natively: the least that a durable commit can cost on this disk: one write behind
//! the end of a log that was written with zeros before, and one `fdatasync`. Pages of content, and
//! one that says which they are; no database is needed for that, and none can do with less.
//!
//! With `--compared` nobody has told it which pages have changed: of [`PAGES`] in memory, each is compared with what it
//! was, and those that differ are copied, to be appended. Ours does that before a commit.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use super::pages::{PAGES, WORDS};
use crate::json::Object;
use crate::random::Random;
use crate::samples::Samples;

const PAGE_BYTES: u64 = 4096;
type Page = [u64; PAGE_BYTES as usize / 8];
const WARM_UP: u64 = 8;
/// A log is not longer; the next commit goes to a new one.
const LOG_BYTES: u64 = 16 << 20;

/// `count` of them with so many pages, in a file in `dir`, which is removed.
///
/// # Errors
/// The host's.
pub(super) fn commit(
    dir: &Path,
    pages: u32,
    count: u64,
    is_compared: bool,
) -> Result<Object, String> {
    commit_in(dir, pages, count, is_compared).map_err(|err| format!("{}: {err}", dir.display()))
}

fn commit_in(dir: &Path, pages: u32, count: u64, is_compared: bool) -> io::Result<Object> {
    let path = dir.join("floor.log");
    let mut record = vec![0x5a; (PAGE_BYTES * u64::from(pages + 1)) as usize];
    let mut log = zeros(&path)?;
    let (mut at, mut samples) = (0, Samples::default());
    let mut memory = is_compared.then(|| Memory::new(pages));
    for round in 0..count + WARM_UP {
        if at + record.len() as u64 > LOG_BYTES {
            (log, at) = (zeros(&path)?, 0);
        }
        memory.iter_mut().for_each(|memory| memory.change(pages, round));
        let begin = Instant::now();
        memory.iter().for_each(|memory| memory.copy_changed(&mut record));
        log.write_all_at(&record, at)?;
        log.sync_data()?;
        if round >= WARM_UP {
            samples.push(begin.elapsed().as_nanos() as u64);
        }
        memory.iter_mut().for_each(Memory::note);
        at += record.len() as u64;
    }
    std::fs::remove_file(&path)?;
    Ok(samples.into(Object::new("store-floor").number("pages", pages), "commit"))
}

/// Pages as they are, and as they were.
struct Memory {
    now: Vec<Page>,
    before: Vec<Page>,
    random: Random,
}

impl Memory {
    fn new(seed: u32) -> Memory {
        let zeros = || vec![[0; PAGE_BYTES as usize / 8]; PAGES as usize];
        Memory { now: zeros(), before: zeros(), random: Random::new(seed.into()) }
    }

    /// Gives some pages a content that they do not have, as a transaction of ours does.
    fn change(&mut self, pages: u32, round: u64) {
        for page in self.random.distinct(PAGES, pages) {
            let words = self.now[page as usize].iter_mut().take(WORDS as usize);
            words.enumerate().for_each(|(index, word)| *word = (round + 1) * WORDS + index as u64);
        }
    }

    /// Copies those that differ behind the record's first page, which says which they are.
    fn copy_changed(&self, record: &mut [u8]) {
        let (head, content) = record.split_at_mut(PAGE_BYTES as usize);
        let differing =
            (0_u64..).zip(self.now.iter().zip(&self.before)).filter(|(_, (a, b))| a != b);
        let places = head.as_chunks_mut::<8>().0.iter_mut();
        let places = places.zip(content.chunks_exact_mut(PAGE_BYTES as usize));
        for ((number, to), (index, (page, _))) in places.zip(differing) {
            *number = index.to_le_bytes();
            for (to, word) in to.as_chunks_mut::<8>().0.iter_mut().zip(page) {
                *to = word.to_ne_bytes();
            }
        }
    }

    /// They are committed.
    fn note(&mut self) {
        self.before.copy_from_slice(&self.now);
    }
}

/// A new log, whose blocks exist and are on the disk.
fn zeros(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let piece = vec![0; 1 << 20];
    for _ in 0..LOG_BYTES >> 20 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_commit_is_timed_also_over_the_end_of_a_log_and_the_file_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        for is_compared in [false, true] {
            let done = commit(dir.path(), PAGES, 20, is_compared).expect("the disk works");
            let text = done.to_string();
            assert!(text.contains("\"commit_samples\":20"), "{text}");
            assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
        }
        let missing =
            commit(&dir.path().join("none"), 1, 1, false).expect_err("there is no folder");
        assert!(missing.contains("none"), "{missing}");
    }

    #[test]
    fn what_has_changed_is_found_and_copied_each_time() {
        let mut memory = Memory::new(7);
        let mut record = vec![0; 65 * PAGE_BYTES as usize];
        for round in 0..3 {
            memory.change(64, round);
            memory.copy_changed(&mut record);
            let (head, content) = record.split_at(PAGE_BYTES as usize);
            let numbers = head.as_chunks::<8>().0.iter().take(64).map(|it| u64::from_le_bytes(*it));
            let mut numbers: Vec<u64> = numbers.collect();
            for (number, copy) in numbers.iter().zip(content.chunks_exact(PAGE_BYTES as usize)) {
                let page = memory.now[*number as usize];
                assert_eq!(copy, page.map(u64::to_ne_bytes).as_flattened());
                assert_ne!(page, memory.before[*number as usize]);
            }
            numbers.dedup();
            assert_eq!(numbers.len(), 64);
            memory.note();
            assert!(memory.now == memory.before);
        }
    }
}
