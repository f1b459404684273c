//! Everything that can go wrong in a store, and the error number a program sees for each.
//!
//! An error names the object or the file it is about. A guest sees only its number
//! ([`StoreError::errno`]); the command line also prints text and remedy (`remedy`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use abi::Errno;
use abi::objects::{LeaseId, Right, SegId, VasId};

use spacejmp_versions::VersionsError;

use crate::format::counted::counted;
use crate::format::name::{Name, NameError};

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
    /// A snapshot of a process.
    Snapshot(Name),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Vas(vid) => write!(f, "VAS {vid}"),
            Object::VasName(name) => write!(f, "VAS '{name}'"),
            Object::Segment(sid) => write!(f, "segment {sid}"),
            Object::SegmentName(name) => write!(f, "segment '{name}'"),
            Object::Snapshot(name) => write!(f, "snapshot '{name}'"),
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
    /// Live VMs can write it, and it has no lock that would keep them out.
    Written(Vec<Holder>),
    /// VASes list it.
    Listed(Vec<Name>),
    /// Live VMs have it attached, whose programs know its root object, and what it is to become has
    /// another one.
    OtherRoot(Vec<Holder>),
    /// A program has changed it since the work on it began.
    Changed,
    /// A program reads it that has no lease, since the disk took none; this is its file or folder.
    WithoutLease(PathBuf),
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Busy::Attached(holders) => write!(f, "attached by{}", list(holders)),
            Busy::Written(holders) => {
                write!(f, "it cannot be locked, and can be written by{}", list(holders))
            }
            Busy::OtherRoot(holders) => {
                write!(
                    f,
                    "that version has another root object, and it is attached by{}",
                    list(holders)
                )
            }
            Busy::Changed => f.write_str("a program has changed it meanwhile"),
            Busy::WithoutLease(_) => f.write_str(
                "a program reads it that came when the store's disk was full, or through a read-only mount",
            ),
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

fn list(holders: &[Holder]) -> String {
    let each = holders.iter().map(|h| format!(" process {} ({})", h.pid, h.program));
    each.collect::<Vec<_>>().join(",")
}

/// Why an operation on a store failed. After an error nothing has changed, except after an
/// [`StoreError::Io`], when the host may have failed half-way: then a later `gc` cleans up.
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
    #[error("{0} belongs to another user")]
    NotOwner(Object),
    /// In use.
    #[error("{object} is busy: {why}")]
    Busy {
        /// What was to be changed.
        object: Object,
        /// What keeps it busy.
        why: Busy,
    },
    /// Its lock was not free in time.
    #[error("segment '{segment}' is locked by {by}")]
    Locked {
        /// The segment.
        segment: Name,
        /// The holder, if the host reports it.
        by: String,
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
    /// A later version of the format: the file is intact.
    #[error("{} was made by a newer spacejmp: its {field} is {found}, and this one knows {known}", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// What tells the version.
        field: &'static str,
        /// What it holds.
        found: String,
        /// The newest that can be used here.
        known: String,
    },
    /// For another kind of processor: the file is intact.
    #[error("{} holds memory of another processor architecture (number {found})", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// The architecture's number.
        found: u32,
    },
    /// A file of another kind altogether.
    #[error("{} is not {kind}: it begins with {found}", file.display())]
    NotA {
        /// The file.
        file: PathBuf,
        /// What it was taken for, with its article.
        kind: &'static str,
        /// Its first bytes.
        found: String,
    },
    /// The file is shorter than its content. What is there is as it was stored.
    #[error("{} is shorter than it must be: it has {} of {expected_bytes}", file.display(), counted(*found_bytes, "byte"))]
    Short {
        /// The file.
        file: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// The length that its header promises.
        expected_bytes: u64,
    },
    /// An archive that was not written or copied to its end.
    #[error("archive {} ends in the middle of {within}", file.display())]
    Truncated {
        /// The archive.
        file: PathBuf,
        /// What its end would have been part of.
        within: &'static str,
    },
    /// A VAS lists a segment whose file is not in the store.
    #[error("VAS '{vas}' lists segment '{segment}' ({sid}), whose file is not in the store")]
    Lost {
        /// The VAS.
        vas: Name,
        /// The segment's name when it was attached.
        segment: Name,
        /// Its id.
        sid: SegId,
    },
    /// Several segments that a VAS lists have this name.
    #[error("VAS '{vas}' lists several segments '{segment}': {sids}")]
    Ambiguous {
        /// The VAS.
        vas: Name,
        /// The name.
        segment: Name,
        /// Their ids.
        sids: String,
    },
    /// A field of a file has an invalid value.
    #[error("{}: {field} is damaged: found {found}, expected {expected}", file.display())]
    BadField {
        /// The file.
        file: PathBuf,
        /// The field.
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
        /// The permitted values.
        expected: String,
    },
    /// More than the segment's reserve.
    #[error("segment '{segment}' can grow to {}, not to {wanted_bytes}", counted(*reserve_bytes, "byte"))]
    BeyondReserve {
        /// The segment.
        segment: Name,
        /// Its reserve.
        reserve_bytes: u64,
        /// What was asked for.
        wanted_bytes: u64,
    },
    /// No range of addresses is free.
    #[error("no range of {} is free of other segments", counted(*reserve_bytes, "byte"))]
    NoRoom {
        /// What was asked for.
        reserve_bytes: u64,
    },
    /// A VAS has as many segments as one can have.
    #[error("VAS '{0}' has the most segments possible")]
    TooMany(Name),
    /// A file that was copied inside a store still has the id of its original.
    #[error("{} is a copy that has not been opened for writing yet", file.display())]
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
    /// The content of a versioned segment is missing: only its file was copied.
    #[error("segment '{segment}' is versioned, and the folder with its content is missing ({})", folder.display())]
    VersionsMissing {
        /// The segment.
        segment: Name,
        /// Where the folder should be.
        folder: PathBuf,
    },
    /// A file that was copied inside a store, of a versioned segment, whose content is elsewhere.
    #[error("{} is a copied file of versioned segment '{original}', without content of its own", file.display())]
    VersionedCopy {
        /// The copy.
        file: PathBuf,
        /// The segment that it was copied from.
        original: Name,
    },
    /// Not to be done with a versioned segment.
    #[error("cannot {doing} segment '{segment}': it is versioned, and {why}")]
    Versioned {
        /// The segment.
        segment: Name,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// There is no such tag.
    #[error("{object} has no tag '{}'", crate::format::escape::escape(tag))]
    NoTag {
        /// The segment or VAS.
        object: Object,
        /// The tag.
        tag: String,
    },
    /// A version of a segment that has none.
    #[error("segment '{segment}' is not versioned: it has no version {number}")]
    Unversioned {
        /// The segment.
        segment: Name,
        /// The version.
        number: u64,
    },
    /// A VAS without versioned segments.
    #[error("VAS '{0}' has no versioned segments, and so no versions")]
    NoVersions(Name),
    /// A version of a VAS that is kept for a while only, so that another VAS cannot rely on it.
    #[error(
        "VAS '{0}' is a version without a tag, which is not kept for long: no other VAS can share it"
    )]
    Passing(Name),
    /// Nothing is known of what several versioned segments of a VAS were at before.
    #[error("nothing says what the versioned segments of VAS '{0}' were at before")]
    NoNumbers(Name),
    /// A number that a VAS never had, or whose versions are gone.
    #[error("VAS '{vas}' has nothing to open under number {number}{}", nearest_number(vas, nearest.as_ref()))]
    NoVasVersion {
        /// The VAS.
        vas: Name,
        /// The number.
        number: u64,
        /// The nearest that can be opened, and a tag of it.
        nearest: Option<(u64, Option<String>)>,
    },
    /// A VAS is to go back to when it did not have one of its segments.
    #[error("VAS '{vas}' did not list segment '{segment}' at number {number}")]
    NotThen {
        /// The VAS.
        vas: Name,
        /// The number.
        number: u64,
        /// The segment.
        segment: Name,
    },
    /// A raw segment whose content may not be whole.
    #[error("segment '{segment}' is dirty or inconsistent")]
    Unsound {
        /// The segment.
        segment: Name,
    },
    /// A kept version of a segment, which nobody may write.
    #[error("segment '{segment}' is a kept version: it can only be read")]
    Kept {
        /// The kept version.
        segment: Name,
    },
    /// The files with a versioned segment's content cannot be used, or not now.
    #[error("the versions of segment '{segment}' cannot be used")]
    Versions {
        /// The segment.
        segment: Name,
        /// What is wrong.
        source: VersionsError,
    },
    /// A version that the segment no longer has, or not yet.
    #[error(
        "segment '{segment}' has no version {number}: the oldest in its log is {oldest}{}",
        nearest_text(segment, nearest.as_ref())
    )]
    NoVersion {
        /// The segment.
        segment: Name,
        /// The version's number.
        number: u64,
        /// The oldest that its log has.
        oldest: u64,
        /// Of those that have tags, the number nearest to it, and the tag.
        nearest: Option<(u64, String)>,
    },
    /// Another process has held the store's lock for too long.
    #[error("{} is held by {holder}", file.display())]
    LockHeld {
        /// The file that the lock is on.
        file: PathBuf,
        /// The holder, if the host reports it.
        holder: String,
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

fn nearest_number(vas: &Name, nearest: Option<&(u64, Option<String>)>) -> String {
    let text = |(number, tag): &(u64, Option<String>)| match tag {
        Some(tag) => {
            let tag = crate::format::escape::escape(tag);
            format!(", and the nearest that is kept is {number} ('{vas}@{tag}')")
        }
        None => format!(", and the nearest that can be opened is {number}"),
    };
    nearest.map(text).unwrap_or_default()
}

fn nearest_text(segment: &Name, nearest: Option<&(u64, String)>) -> String {
    let text = |(number, tag): &(u64, String)| {
        let tag = crate::format::escape::escape(tag);
        format!(", and the nearest that is kept is {number} ('{segment}@{tag}')")
    };
    nearest.map(text).unwrap_or_default()
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
            | StoreError::NoTag { .. }
            | StoreError::Unversioned { .. }
            | StoreError::NoVersion { .. }
            | StoreError::NoVasVersion { .. }
            | StoreError::NotAttached { .. } => Errno::ENOENT,
            StoreError::Name(error) => error.errno(),
            StoreError::Exists(_)
            | StoreError::Overlap { .. }
            | StoreError::AlreadyAttached { .. } => Errno::EEXIST,
            StoreError::Denied { .. } | StoreError::Copy { .. } => Errno::EACCES,
            StoreError::NotOwner(_) => Errno::EPERM,
            StoreError::Kept { .. } => Errno::EROFS,
            StoreError::Unsound { .. } => Errno::EUCLEAN,
            StoreError::Busy { .. } => Errno::EBUSY,
            StoreError::Locked { .. } => Errno::ETIMEDOUT,
            // As ext4 and XFS report damage; EIO is the host's own failure.
            StoreError::BadField { .. } | StoreError::NotA { .. } => Errno::EUCLEAN,
            StoreError::Short { .. }
            | StoreError::Truncated { .. }
            | StoreError::PartMissing { .. }
            | StoreError::VersionsMissing { .. }
            | StoreError::VersionedCopy { .. }
            | StoreError::Lost { .. } => Errno::ENODATA,
            StoreError::Newer { .. }
            | StoreError::Foreign { .. }
            | StoreError::Versioned { .. } => Errno::EOPNOTSUPP,
            StoreError::Versions { source, .. } => versions_errno(source),
            StoreError::Ambiguous { .. }
            | StoreError::NoVersions(_)
            | StoreError::Passing(_)
            | StoreError::NotThen { .. }
            | StoreError::NoNumbers(_) => Errno::EINVAL,
            StoreError::Invalid { .. } => Errno::EINVAL,
            StoreError::BeyondReserve { .. } => Errno::EFBIG,
            // Addresses, not bytes on a disk.
            StoreError::NoRoom { .. } => Errno::ENOMEM,
            StoreError::TooMany(_) => Errno::ENOSPC,
            StoreError::LockHeld { .. } => Errno::ETIMEDOUT,
            StoreError::Io { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM) => Errno::EACCES,
                Some(raw) => Errno::from_raw(raw),
                None => Errno::EIO,
            },
        }
    }
}

fn versions_errno(error: &VersionsError) -> Errno {
    match error {
        VersionsError::Io { source, .. } if is_full(source) => Errno::ENOSPC,
        VersionsError::Gone { .. } => Errno::ENOENT,
        VersionsError::TooManyLogs | VersionsError::TooDeep => Errno::ENOSPC,
        error if error.is_denied() => Errno::EACCES,
        _ => Errno::EIO,
    }
}

/// Whether the host has no more space for this user.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A field of a file that is not as it must be.
pub(crate) fn bad_field(
    file: &Path,
    field: &'static str,
    found: impl ToString,
    expected: impl ToString,
) -> StoreError {
    let (found, expected) = (found.to_string(), expected.to_string());
    StoreError::BadField { file: file.to_owned(), field, found, expected }
}

/// An argument that is not as it must be.
pub(crate) fn invalid(
    what: &'static str,
    found: impl ToString,
    expected: impl ToString,
) -> StoreError {
    StoreError::Invalid { what, found: found.to_string(), expected: expected.to_string() }
}

/// A host error from an operation on a file.
pub(crate) fn io_error(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { doing, path: path.to_owned(), source }
}
