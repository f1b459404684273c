//! `store-floor`, natively: the least that a durable commit can cost on this disk: one write behind
//! the end of a log that was written with zeros before, and one `fdatasync`. Pages of content, and
//! one that says which they are; no database is needed for that, and none can do with less.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::json::Object;
use crate::samples::Samples;

const PAGE_BYTES: u64 = 4096;
const WARM_UP: u64 = 8;
/// A log is not longer; the next commit goes to a new one.
const LOG_BYTES: u64 = 16 << 20;

/// `count` of them with so many pages, in a file in `dir`, which is removed.
///
/// # Errors
/// The host's.
pub(super) fn commit(dir: &Path, pages: u32, count: u64) -> Result<Object, String> {
    commit_in(dir, pages, count).map_err(|err| format!("{}: {err}", dir.display()))
}

fn commit_in(dir: &Path, pages: u32, count: u64) -> io::Result<Object> {
    let path = dir.join("floor.log");
    let record = vec![0x5a; (PAGE_BYTES * u64::from(pages + 1)) as usize];
    let mut log = zeros(&path)?;
    let (mut at, mut samples) = (0, Samples::default());
    for round in 0..count + WARM_UP {
        if at + record.len() as u64 > LOG_BYTES {
            (log, at) = (zeros(&path)?, 0);
        }
        let begin = Instant::now();
        log.write_all_at(&record, at)?;
        log.sync_data()?;
        if round >= WARM_UP {
            samples.push(begin.elapsed().as_nanos() as u64);
        }
        at += record.len() as u64;
    }
    std::fs::remove_file(&path)?;
    Ok(samples.into(Object::new("store-floor").number("pages", pages), "commit"))
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
    use super::super::pages::PAGES;
    use super::*;

    #[test]
    fn every_commit_is_timed_also_over_the_end_of_a_log_and_the_file_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = commit(dir.path(), PAGES, 20).expect("the disk works").to_string();
        assert!(text.contains("\"commit_samples\":20"), "{text}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
        let missing = commit(&dir.path().join("none"), 1, 1).expect_err("there is no such folder");
        assert!(missing.contains("none"), "{missing}");
    }
}
