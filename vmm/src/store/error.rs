//! What can go wrong in a store; each error names its object.

use std::io;
use std::path::PathBuf;

use abi::{Errno, SegId, VasId};

use super::name::{Name, NameError};
use crate::error::Remedy;

/// An operation on a store failed, and nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A host call on a file.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The directory is no store, or one of another version.
    #[error("{} is not a store of this version: its format file says `{found}`", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// First line of its format file.
        found: String,
    },
    /// A name that cannot be.
    #[error("`{}` is no name", text.escape_debug())]
    BadName {
        /// As given.
        text: String,
        /// Why.
        #[source]
        source: NameError,
    },
    /// A file that is not what it should be.
    #[error("{} is damaged: {field} is {found}, expected {expected}", file.display())]
    BadField {
        /// The file.
        file: PathBuf,
        /// Which field of it.
        field: &'static str,
        /// What is there.
        found: String,
        /// What could be there.
        expected: String,
    },
    /// Nothing has this name.
    #[error("there is no {what} named {name}")]
    NoSuchName {
        /// VAS or segment.
        what: &'static str,
        /// The name.
        name: Name,
    },
    /// No VAS has this id.
    #[error("there is no VAS {vid}")]
    NoSuchVas {
        /// The id.
        vid: VasId,
    },
    /// No segment has this id.
    #[error("there is no segment {sid}")]
    NoSuchSegment {
        /// The id.
        sid: SegId,
    },
    /// The name is taken.
    #[error("there is a {what} named {name} already")]
    NameTaken {
        /// VAS or segment.
        what: &'static str,
        /// The name.
        name: Name,
    },
    /// An address range that cannot be.
    #[error("{field} {value:#x} is impossible: {rule}")]
    BadPlace {
        /// Base, size or reserve.
        field: &'static str,
        /// What was asked.
        value: u64,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A segment cannot grow so far.
    #[error("segment {name} cannot grow to {bytes} bytes: its reserve is {reserve_bytes}")]
    BeyondReserve {
        /// The segment.
        name: Name,
        /// What was asked.
        bytes: u64,
        /// What it can have.
        reserve_bytes: u64,
    },
    /// No addresses are left.
    #[error("no {bytes} free bytes of addresses are left for a segment")]
    NoRoom {
        /// How many were wanted.
        bytes: u64,
    },
    /// Two segments of one VAS would share addresses.
    #[error("segment {segment} overlaps segment {other} in VAS {vas}")]
    Overlap {
        /// The VAS.
        vas: Name,
        /// The newcomer.
        segment: Name,
        /// The one in the way.
        other: Name,
    },
    /// The VAS has the segment already.
    #[error("VAS {vas} has segment {segment} already")]
    AlreadyAttached {
        /// The VAS.
        vas: Name,
        /// The segment.
        segment: Name,
    },
    /// The VAS does not have the segment.
    #[error("VAS {vas} does not have segment {sid}")]
    NotAttached {
        /// The VAS.
        vas: Name,
        /// The segment.
        sid: SegId,
    },
    /// Somebody uses it.
    #[error("{what} {name} is in use: {by}")]
    Busy {
        /// VAS or segment.
        what: &'static str,
        /// Its name.
        name: Name,
        /// By whom.
        by: String,
    },
    /// The user may not.
    #[error("this user may not {action} {what} {name}")]
    Denied {
        /// Read, write.
        action: &'static str,
        /// VAS or segment.
        what: &'static str,
        /// Its name.
        name: Name,
    },
}

impl StoreError {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io { action, path: path.into(), source }
    }

    /// What a program gets.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            StoreError::Io { source, .. } => {
                source.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
            }
            StoreError::NotAStore { .. } | StoreError::BadField { .. } => Errno::EIO,
            StoreError::BadName { source: NameError::TooLong { .. }, .. } => Errno::ENAMETOOLONG,
            StoreError::BadName { .. } | StoreError::BadPlace { .. } => Errno::EINVAL,
            StoreError::BeyondReserve { .. } => Errno::EFBIG,
            StoreError::NoSuchName { .. }
            | StoreError::NoSuchVas { .. }
            | StoreError::NoSuchSegment { .. }
            | StoreError::NotAttached { .. } => Errno::ENOENT,
            StoreError::NameTaken { .. }
            | StoreError::Overlap { .. }
            | StoreError::AlreadyAttached { .. } => Errno::EEXIST,
            StoreError::NoRoom { .. } => Errno::ENOSPC,
            StoreError::Busy { .. } => Errno::EBUSY,
            StoreError::Denied { .. } => Errno::EACCES,
        }
    }
}

impl Remedy for StoreError {
    fn remedy(&self) -> Option<String> {
        let text = match self {
            StoreError::NotAStore { .. } => {
                "name another directory with --store or SPACEJMP_STORE; a new one is made a store"
            }
            StoreError::BadField { .. } => {
                "see what else is damaged with `spacejmp store check`; other objects are not affected"
            }
            StoreError::NoSuchName { what: "VAS", .. } | StoreError::NoSuchVas { .. } => {
                "see which there are with `spacejmp vas ls`"
            }
            StoreError::NoSuchName { .. } | StoreError::NoSuchSegment { .. } => {
                "see which there are with `spacejmp seg ls`"
            }
            StoreError::NameTaken { what: "VAS", .. } => {
                "choose another name, or delete it with `spacejmp vas rm NAME`"
            }
            StoreError::NameTaken { .. } => {
                "choose another name, or delete it with `spacejmp seg rm NAME`"
            }
            StoreError::Busy { .. } => "try again when the programs named have ended",
            StoreError::Overlap { .. } => {
                "put one of them into another VAS, or make it anew without --base"
            }
            StoreError::Denied { .. } => {
                "permissions are those of the file in the store: ask its owner, or chmod it"
            }
            StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "permissions are those of the files in the store: ask their owner, or chmod them"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}
