//! Everything that can go wrong in a store, and what each error is to a program.
//!
//! An error names the object or the file it is about. A guest sees only its number
//! ([`StoreError::errno`]); the command line also prints text and remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

use abi::Errno;
use abi::objects::{LeaseId, Right, SegId, VasId};

use super::name::{Name, NameError};
use crate::error::Remedy;

/// What an error is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Object {
    /// A VAS by its id.
    Vas(VasId),
    /// A VAS by its name.
    VasName(Name),
    /// A segment by its id.
    Segment(SegId),
    /// A segment by its name.
    SegmentName(Name),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Vas(vid) => write!(f, "VAS {vid}"),
            Object::VasName(name) => write!(f, "VAS '{name}'"),
            Object::Segment(sid) => write!(f, "segment {sid}"),
            Object::SegmentName(name) => write!(f, "segment '{name}'"),
        }
    }
}

/// A live VM that is in the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its lease.
    pub lease: LeaseId,
    /// Its process.
    pub pid: u32,
    /// What it runs.
    pub program: String,
}

/// Why an object cannot be changed now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Busy {
    /// Live VMs have it attached.
    Attached(Vec<Holder>),
    /// A thread of a live VM is inside.
    Inside(Holder),
    /// VASes list it.
    Listed(Vec<Name>),
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Busy::Attached(holders) => {
                f.write_str("attached by")?;
                for (i, h) in holders.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma} process {} ({})", h.pid, h.program)?;
                }
                Ok(())
            }
            Busy::Inside(h) => write!(f, "a thread of process {} ({}) is inside", h.pid, h.program),
            Busy::Listed(names) => {
                f.write_str("it belongs to VAS")?;
                for (i, name) in names.iter().enumerate() {
                    write!(f, "{} '{name}'", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

/// Why something could not be done with a store. After an error nothing has changed, except
/// where an [`StoreError::Io`] says that the host failed half-way: then a later `gc` cleans up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store.
    #[error("{} is not a store: {why}", path.display())]
    NotAStore {
        /// Where one was expected.
        path: PathBuf,
        /// What is there instead.
        why: &'static str,
    },
    /// Neither `$SPACEJMP_STORE` nor a home directory is known.
    #[error("no place for a store is known: HOME is not set")]
    NoPlace,
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No such object.
    #[error("there is no {0}")]
    NotFound(Object),
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(Object),
    /// The host does not permit it.
    #[error("no permission to {right} {object}", right = right_text(*right))]
    Denied {
        /// What was to be used.
        object: Object,
        /// What was needed.
        right: Right,
    },
    /// Only its owner may do this.
    #[error("{0} belongs to somebody else")]
    NotOwner(Object),
    /// In use.
    #[error("{object} is busy: {why}")]
    Busy {
        /// What was to be changed.
        object: Object,
        /// By whom.
        why: Busy,
    },
    /// Two segments of one VAS cannot share addresses.
    #[error("segment '{segment}' overlaps segment '{other}' of VAS '{vas}'")]
    Overlap {
        /// The VAS.
        vas: Name,
        /// The segment that was to be attached.
        segment: Name,
        /// The one that is in the way.
        other: Name,
    },
    /// It is there already.
    #[error("segment '{segment}' belongs to VAS '{vas}' already")]
    AlreadyAttached {
        /// The VAS.
        vas: Name,
        /// The segment.
        segment: Name,
    },
    /// It is not there.
    #[error("segment {segment} does not belong to VAS '{vas}'")]
    NotAttached {
        /// The VAS.
        vas: Name,
        /// The segment.
        segment: SegId,
    },
    /// A file was damaged, or is from another version of the format.
    #[error("{}: {field} is damaged: found {found}, expected {expected}", file.display())]
    BadField {
        /// The file.
        file: PathBuf,
        /// The field in it.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// An argument is impossible.
    #[error("{what} is {found}; it must be {expected}")]
    Invalid {
        /// The argument.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// More than the segment's reserve.
    #[error("segment '{segment}' can grow to {reserve_bytes} bytes, not to {wanted_bytes}")]
    BeyondReserve {
        /// The segment.
        segment: Name,
        /// Its reserve.
        reserve_bytes: u64,
        /// What was asked for.
        wanted_bytes: u64,
    },
    /// Every address is used by some segment.
    #[error("no {reserve_bytes} bytes of addresses are free of other segments")]
    NoRoom {
        /// What was asked for.
        reserve_bytes: u64,
    },
    /// A VAS has as many segments as one can have.
    #[error("VAS '{0}' has the most segments possible")]
    TooMany(Name),
    /// A file that was copied inside a store still bears the id of its original.
    #[error("{} is a copy that nobody has opened for writing yet", file.display())]
    Copy {
        /// The copy.
        file: PathBuf,
    },
    /// A part of a segment is missing: only some of its files were copied.
    #[error("part {index} of segment '{segment}' is missing ({})", file.display())]
    PartMissing {
        /// The segment.
        segment: Name,
        /// Which part.
        index: u64,
        /// Where it should be.
        file: PathBuf,
    },
    /// The host failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

const fn right_text(right: Right) -> &'static str {
    match right {
        Right::Read => "read",
        Right::Write => "change",
    }
}

impl StoreError {
    /// The error number a program sees.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            StoreError::NotAStore { .. }
            | StoreError::NoPlace
            | StoreError::NotFound(_)
            | StoreError::NotAttached { .. } => Errno::ENOENT,
            StoreError::Name(error) => error.errno(),
            StoreError::Exists(_)
            | StoreError::Overlap { .. }
            | StoreError::AlreadyAttached { .. } => Errno::EEXIST,
            StoreError::Denied { .. } | StoreError::Copy { .. } => Errno::EACCES,
            StoreError::NotOwner(_) => Errno::EPERM,
            StoreError::Busy { .. } => Errno::EBUSY,
            StoreError::BadField { .. } | StoreError::PartMissing { .. } => Errno::EIO,
            StoreError::Invalid { .. } => Errno::EINVAL,
            StoreError::BeyondReserve { .. } => Errno::EFBIG,
            // Addresses, not bytes on a disk.
            StoreError::NoRoom { .. } => Errno::ENOMEM,
            StoreError::TooMany(_) => Errno::ENOSPC,
            StoreError::Io { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM) => Errno::EACCES,
                Some(raw) => Errno::from_raw(raw),
                None => Errno::EIO,
            },
        }
    }
}

impl Remedy for StoreError {
    fn remedy(&self) -> Option<String> {
        match self {
            StoreError::NotAStore { .. } | StoreError::NoPlace => {
                Some("choose a store with --store DIR or SPACEJMP_STORE; `spacejmp vas create` makes one".into())
            }
            StoreError::NotFound(Object::Vas(_) | Object::VasName(_)) => {
                Some("`spacejmp vas ls` lists what there is".into())
            }
            StoreError::NotFound(_) | StoreError::NotAttached { .. } => {
                Some("`spacejmp seg ls` lists what there is, `vas show` what a VAS has".into())
            }
            StoreError::Exists(_) => Some("choose another name".into()),
            StoreError::Denied { .. } => {
                Some("ask its owner to change its mode with `spacejmp seg chmod` or `vas chmod`".into())
            }
            StoreError::Busy { why: Busy::Listed(names), .. } => {
                let name = names.first()?;
                Some(format!("detach it first: `spacejmp vas detach`, from VAS '{name}'"))
            }
            StoreError::Busy { .. } => Some("try again when those programs have ended".into()),
            StoreError::BadField { .. } => {
                Some("restore the file from a backup, or delete it; others are unaffected".into())
            }
            StoreError::Overlap { .. } => {
                Some("put it into another VAS, or make it anew with another base".into())
            }
            StoreError::NoRoom { .. } => Some("give a base, or a smaller reserve".into()),
            StoreError::Copy { .. } => {
                Some("let someone who may write it use it once: it then gets its own id".into())
            }
            StoreError::PartMissing { .. } => {
                Some("copy segments with `spacejmp seg clone` or `vas export`".into())
            }
            StoreError::Io { source, .. } => match source.raw_os_error()? {
                libc::EMFILE => Some("raise the limit of open files (`ulimit -n`)".into()),
                libc::ENOSPC | libc::EDQUOT => Some("free space on the store's disk".into()),
                libc::EFBIG => Some(
                    "raise the limit of file sizes (`ulimit -f`), or use a file system that allows \
                     files of 8 TiB"
                        .into(),
                ),
                _ => None,
            },
            _ => None,
        }
    }
}
