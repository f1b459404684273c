//! What can go wrong with the files of a versioned segment.

use std::io;

use crate::page::{PageIndex, VersionNumber};

/// An error about one file of a versioned segment.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum VersionsError {
    /// The host could not read, write or sync it.
    #[error("cannot {action} {file}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file's name in the segment's folder.
        file: String,
        /// The host's error.
        #[source]
        source: io::Error,
    },
    /// It is not what its name says, or what was written durably is not there.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The file's name in the segment's folder.
        file: String,
        /// What was found instead of what.
        what: String,
    },
    /// A page lies where no file can have one.
    #[error("there is no page {}", .0.0)]
    NoSuchPage(PageIndex),
    /// A version's note is too long.
    #[error("a note of {bytes} bytes is longer than {limit}")]
    NoteTooLong {
        /// Its bytes.
        bytes: usize,
        /// The most there can be.
        limit: usize,
    },
    /// A version names more segments as those of a VAS than a log's header has room for, or none.
    #[error("an entry of a VAS that names {segments} segments; it names 1 to {limit}")]
    TooManyMembers {
        /// How many.
        segments: usize,
        /// The most there can be.
        limit: usize,
    },
    /// A write or sync failed before; what was not durable then has to be settled first.
    #[error("the log has failed behind version {durable}; it must be renewed")]
    Failed {
        /// The newest version that is durable.
        durable: VersionNumber,
    },
    /// A version that a checkpoint or a rollback went past, or that is not there yet.
    #[error("version {version} is not there; the oldest that can be read is {oldest}")]
    Gone {
        /// The version asked for.
        version: VersionNumber,
        /// The oldest that can be read.
        oldest: VersionNumber,
    },
    /// The newest commit was one of several segments, and whether it is whole in the others cannot be
    /// told.
    #[error(
        "its newest commit was one of several segments, and segment {segment:016x} cannot be read"
    )]
    Companion {
        /// The other segment.
        segment: u64,
        /// What is wrong there.
        #[source]
        source: Box<VersionsError>,
    },
    /// A part of a commit of several segments has to fit into a log.
    #[error(
        "{pages} pages are too many for a commit of several segments, which has at most {limit} of each"
    )]
    TooLargeTogether {
        /// The pages that one segment's part has.
        pages: usize,
        /// The most there can be.
        limit: u64,
    },
    /// Newer versions were appended elsewhere; they must be taken in before anything is appended.
    #[error("version {0} is not the newest; the segment must be refreshed before it is written to")]
    Behind(VersionNumber),
    /// The root record holds no more.
    #[error("there are too many logs; a checkpoint makes place")]
    TooManyLogs,
    /// The root record holds no more generations: all of them are shared or in use.
    #[error("there are too many generations; a checkpoint makes place")]
    TooDeep,
    /// Files are to be linked back from a segment that was not linked from this one.
    #[error("{file} is another file here: the segment was not linked from this one")]
    Unrelated {
        /// The file's name in both folders.
        file: String,
    },
    /// All numbers are used.
    #[error("version {0} is the last there can be")]
    LastVersion(VersionNumber),
}

impl VersionsError {
    /// Whether the user may not read the other segment of a commit.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let VersionsError::Companion { source, .. } = self else { return false };
        matches!(&**source, VersionsError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

pub(crate) type Result<T> = std::result::Result<T, VersionsError>;
