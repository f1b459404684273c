//! The least that a durable commit can cost on this disk: one write behind the end of a log that
//! was written with zeros before, and one `fdatasync`. Pages of content, and one that says which they
//! are; no database is needed for that, and none can do with less.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::Result;
use crate::json::Object;
use crate::samples::Samples;
use crate::workload::PAGES;

const PAGE_BYTES: u64 = 4096;
const WARM_UP: u64 = 8;
/// A log is not longer; the next commit goes to a new one.
const LOG_BYTES: u64 = 16 << 20;

pub(crate) fn commit(dir: &Path, pages: u64, count: u64) -> Result<Object> {
    if !(1..=PAGES).contains(&pages) {
        return Err(format!("--pages is one of 1 to {PAGES}").into());
    }
    let path = dir.join("floor.log");
    let record = vec![0x5a; (PAGE_BYTES * (pages + 1)) as usize];
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
    Ok(samples.into(Object::new("commit").number("pages", pages), "commit"))
}

/// A new log, whose blocks exist and are on the disk.
fn zeros(path: &Path) -> Result<File> {
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
        let text = commit(dir.path(), PAGES, 20).expect("the disk works").to_string();
        assert!(text.contains("\"commit_samples\":20"), "{text}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
        assert!(commit(dir.path(), 0, 1).is_err());
    }
}
