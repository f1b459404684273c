//! The record that says which logs count and how far the home file is: two places in one file, used
//! in turns, so that a torn write leaves the previous one.

use crate::checksum::Checksum;
use crate::disk::File;
use crate::error::{Result, VersionsError};
use crate::log::header::LogId;
use crate::page::{PAGE_BYTES, Page, VersionNumber};

/// Its file.
pub const FILE_NAME: &str = "root";
const MAGIC: &[u8; 8] = b"SJMPROT\n";
const CHECKSUM: usize = PAGE_BYTES - 8;
const LOGS: usize = 48;
/// Most logs at once: closed ones that still wait to be applied, and the open one.
pub const LOGS_MAX: usize = (CHECKSUM - LOGS) / 8;

/// What is true of a segment's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// Counts the records; the newer of two that are whole counts.
    pub counter: u64,
    /// The segment.
    pub segment: u64,
    /// The home file has every page of every version up to this one.
    pub applied: VersionNumber,
    /// The logs, in order; the last is written to. Never empty.
    pub logs: Vec<LogId>,
}

impl Root {
    fn encode(&self) -> Page {
        let mut page = [0; PAGE_BYTES];
        page[..8].copy_from_slice(MAGIC);
        let count = self.logs.len() as u64;
        let words = [self.counter, self.segment, self.applied.0, count].into_iter();
        let all = words.chain([0]).chain(self.logs.iter().map(|log| log.0));
        for (index, word) in all.enumerate() {
            page[8 + 8 * index..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let checksum = Checksum::of(&page[..CHECKSUM]);
        page[CHECKSUM..].copy_from_slice(&checksum.0.to_le_bytes());
        page
    }

    fn decode(page: &Page) -> Option<Root> {
        let word = |index: usize| -> u64 {
            let bytes = page[8 * index..].first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        let whole = page[..8] == *MAGIC && word(CHECKSUM / 8) == Checksum::of(&page[..CHECKSUM]).0;
        let count = usize::try_from(word(4)).ok().filter(|count| (1..=LOGS_MAX).contains(count))?;
        let logs = (0..count).map(|index| LogId(word(LOGS / 8 + index))).collect();
        let (counter, segment, applied) = (word(1), word(2), VersionNumber(word(3)));
        whole.then_some(Root { counter, segment, applied, logs })
    }

    /// Makes this the record that counts, durably.
    ///
    /// # Errors
    /// The host's. Either this or the previous one counts then.
    pub fn store<F: File>(&self, file: &F) -> Result<()> {
        let offset = (self.counter % 2) * PAGE_BYTES as u64;
        let page = self.encode();
        let failed = |action| move |source| failed(action, source);
        file.write_at(&[std::io::IoSlice::new(&page)], offset).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))
    }

    /// The record that counts, as `file` has it now. While another VM writes a record, it is the
    /// previous one.
    ///
    /// # Errors
    /// The host's; there is none, which no power cut leaves.
    pub fn read<F: File>(file: &F) -> Result<Root> {
        let mut found = None;
        for place in 0..2 {
            let mut page = [0; PAGE_BYTES];
            match file.read_at(&mut page, place * PAGE_BYTES as u64) {
                Ok(()) => {}
                // The second place is written at the first change.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
                Err(source) => return Err(failed("read", source)),
            }
            let newer = |root: &Root| {
                found.as_ref().is_none_or(|other: &Root| root.counter > other.counter)
            };
            if let Some(root) = Root::decode(&page).filter(newer) {
                found = Some(root);
            }
        }
        let damaged = || VersionsError::Damaged {
            file: FILE_NAME.to_owned(),
            what: "neither of its two records is whole".to_owned(),
        };
        found.ok_or_else(damaged)
    }
}

fn failed(action: &'static str, source: std::io::Error) -> VersionsError {
    VersionsError::Io { action, file: FILE_NAME.to_owned(), source }
}
