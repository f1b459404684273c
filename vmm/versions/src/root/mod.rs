//! The record that names a segment's generations, from the lowest up: two places in one file, used in
//! turns, so that a torn write leaves the previous one.
//!
//! - `record`: its bytes
//!
//! A *generation* is a layer and the logs that follow it. It builds on a version of the generations
//! below. What lies below the top one never changes.

use std::io::ErrorKind;

use crate::disk::File;
use crate::error::{Result, VersionsError};
use crate::layer::Layer;
use crate::log::header::LogId;
use crate::page::{PAGE_BYTES, VersionNumber};

mod record;

/// Its file.
pub const FILE_NAME: &str = "root";
/// Most generations at once.
pub const GENERATIONS_MAX: usize = 16;
/// Most logs of all generations together.
pub const LOGS_MAX: usize = 200;

/// What is true of a segment's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// Counts the records; the newer of two that are whole counts.
    pub counter: u64,
    /// The segment.
    pub segment: u64,
    /// Older versions cannot be read, even if their logs are there: a layer below them has newer
    /// pages. `None` in a record of the first format, which did not say: all but the newest.
    pub oldest: Option<VersionNumber>,
    /// No log and no layer of this segment, or of one that it was linked from, has a higher number.
    pub last_id: u64,
    /// From the lowest up, never none. The last log of the last one is written to.
    pub generations: Vec<Generation>,
}

/// A layer and the logs that follow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generation {
    /// The pages it has besides those of its logs.
    pub layer: Layer,
    /// The version that the layer makes of what is below; its logs follow that.
    pub base: VersionNumber,
    /// The version of the generations below that it builds on. `None`: what the layer has not is zero.
    pub below: Option<VersionNumber>,
    /// The segment that its logs were written for.
    pub origin: u64,
    /// In order.
    pub logs: Vec<LogRef>,
}

/// A log, and how much of it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogRef {
    /// Its number.
    pub id: LogId,
    /// Records of newer versions are none of this generation. `None` while it is written to, and in
    /// records of the first format: there the next log says it.
    pub up_to: Option<VersionNumber>,
}

impl Root {
    /// All logs in order, each with its generation.
    pub fn logs(&self) -> impl Iterator<Item = (usize, LogRef)> {
        let generations = self.generations.iter().enumerate();
        generations
            .flat_map(|(index, generation)| generation.logs.iter().map(move |log| (index, *log)))
    }

    /// Whether it names a log.
    #[must_use]
    pub fn has_log(&self, id: LogId) -> bool {
        self.logs().any(|(_, log)| log.id == id)
    }

    /// The highest number of a log or a layer.
    #[must_use]
    pub fn highest_id(&self) -> u64 {
        let layer = |generation: &Generation| match generation.layer {
            Layer::File(id) => id.0,
            Layer::Empty | Layer::Home => 0,
        };
        let layers = self.generations.iter().map(layer);
        self.logs().map(|(_, log)| log.id.0).chain(layers).max().unwrap_or(0).max(self.last_id)
    }

    /// Why it can not be true, if it cannot. Whoever may write the file may write anything.
    fn fault(&self) -> Option<&'static str> {
        let generations = &self.generations;
        let mut ids: Vec<u64> = self.logs().map(|(_, log)| log.id.0).collect();
        ids.sort_unstable();
        let builds = |(index, one): (usize, &Generation)| match one.below {
            None => true,
            Some(below) => {
                below <= one.base && generations[..index].iter().any(|other| other.base <= below)
            }
        };
        if generations.last().is_none_or(|last| last.logs.is_empty()) {
            Some("no log to write to")
        } else if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            Some("a log twice")
        } else if !generations.is_sorted_by_key(|one| one.base) {
            Some("out of order")
        } else if !generations.iter().enumerate().all(builds) {
            Some("one that builds on nothing")
        } else {
            None
        }
    }

    /// Makes this the record that counts, durably.
    ///
    /// # Errors
    /// The host's. Either this or the previous one counts then.
    pub fn store<F: File>(&self, file: &F) -> Result<()> {
        let offset = (self.counter % 2) * PAGE_BYTES as u64;
        let page = record::encode(self);
        let stored = file.write_durably(&[std::io::IoSlice::new(&page)], offset);
        stored.map_err(|source| failed("store", source))
    }

    /// The record that counts, as `file` has it now. While another VM writes a record, it is the
    /// previous one.
    ///
    /// # Errors
    /// The host's; there is none, which no power cut leaves.
    pub fn read<F: File>(file: &F) -> Result<Root> {
        let mut pages = [[0; PAGE_BYTES]; 2];
        let read = match file.read_at(pages.as_flattened_mut(), 0) {
            // The second place is written at the first change.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                pages = [[0; PAGE_BYTES]; 2];
                file.read_at(&mut pages[0], 0)
            }
            read => read,
        };
        if let Err(source) = read
            && source.kind() != ErrorKind::UnexpectedEof
        {
            return Err(failed("read", source));
        }
        let whole = pages.iter().filter_map(record::decode);
        // Of two with the same number the first counts.
        let found =
            whole.reduce(|one, other| if other.counter > one.counter { other } else { one });
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
