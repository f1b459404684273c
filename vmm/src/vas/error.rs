//! What can go wrong with address spaces and segments, and what the program is told.

use abi::{Errno, Right, SegId};
use seg_lock::LockOutcome;

use crate::error::Remedy;
use crate::files::OverDisk;
use crate::store::{Object, StoreError};
use crate::vm::{MemoryError, VmError};
use spacejmp_versions::VersionsError;

/// A call on a VAS or segment failed; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VasError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It would take more of the disk than the run may.
    #[error(transparent)]
    Disk(#[from] OverDisk),
    /// Guest memory, windows, page tables.
    #[error("cannot map a segment")]
    Memory(#[from] MemoryError),
    /// A vCPU.
    #[error("cannot switch the vCPU")]
    Vm(#[from] VmError),
    /// No instance has this handle.
    #[error("handle {vh} is not attached")]
    NoInstance {
        /// The handle.
        vh: u64,
    },
    /// A thread of the process is inside.
    #[error("a thread is inside instance {vh}")]
    Inside {
        /// The handle.
        vh: u32,
    },
    /// An instance with another owner.
    #[error("instance {vh} belongs to another part of the program")]
    Owned {
        /// The handle.
        vh: u32,
    },
    /// A pinned instance keeps the segments it was made with.
    #[error("instance {vh} is pinned: it keeps the segments it was made with")]
    Pinned {
        /// The handle.
        vh: u32,
    },
    /// A pinned instance whose VAS has changed.
    #[error("the segments of pinned instance {vh} are not in its VAS any more as they were")]
    Changed {
        /// The handle.
        vh: u32,
    },
    /// Home cannot be detached or changed.
    #[error("home is not an instance of a VAS")]
    Home,
    /// All handles are in use.
    #[error("all {limit} handles of the process are in use")]
    TooManyInstances {
        /// How many there are.
        limit: u32,
    },
    /// Addresses are already in use in the instance.
    #[error("segment {sid} overlaps segment {other}, which the instance has")]
    Overlap {
        /// The new segment.
        sid: SegId,
        /// The one in the way.
        other: SegId,
    },
    /// The instance does not have the segment as its own.
    #[error("segment {sid} is not attached to the instance itself")]
    NotMember {
        /// The segment.
        sid: SegId,
    },
    /// The files of a versioned segment.
    #[error("cannot use the versions of a segment")]
    Versions(#[from] VersionsError),
    /// A failed sync took versions that the process has seen.
    #[error(
        "versions of segment {sid} that the process has seen are lost: a sync has failed, and they \
         could not be read back"
    )]
    Lost {
        /// The segment.
        sid: SegId,
    },
    /// A thread that reads would write something newer than it has read.
    #[error("there is a newer version of segment {sid} than the calling thread sees")]
    Newer {
        /// The segment.
        sid: SegId,
    },
    /// The instance has nothing that has versions.
    #[error("instance {vh} has no versioned segment")]
    NoVersions {
        /// The handle.
        vh: u32,
    },
    /// The thread would wait for what it keeps others from doing.
    #[error("a thread that writes versioned segments would wait for itself")]
    Deadlock,
    /// A lock that the thread holds in a suspended visit, or that it waited for too long with others in hand.
    #[error(
        "a lock is held by a visit that the thread has suspended, or was not free in {} seconds, \
         which is as long as a thread waits that holds others", limit.as_secs()
    )]
    Suspended {
        /// How long such a thread waits.
        limit: std::time::Duration,
    },
    /// As many visits as can be are suspended.
    #[error("the thread has suspended {limit} visits")]
    TooDeep {
        /// How many there may be.
        limit: usize,
    },
    /// There is nothing to return to.
    #[error("the thread has suspended no visit")]
    NoneSuspended,
    /// Nothing new came in time.
    #[error("there is no newer version")]
    NothingNew,
    /// A signal came first.
    #[error("a signal arrived")]
    Interrupted,
    /// Only a thread inside changes a versioned segment.
    #[error(
        "the calling thread is not inside an instance in which it may write versioned segments"
    )]
    NotWriting,
    /// The thread has declared its changes inconsistent.
    #[error("the changes were declared inconsistent: they can only be thrown away")]
    Spoilt,
    /// The visit has changed more than it may hold in memory, and the rest cannot be written out.
    #[error(
        "what was changed in segment {sid} does not fit into memory, and cannot be kept on the store's disk"
    )]
    NoRoom {
        /// The segment.
        sid: SegId,
        /// Why.
        source: VersionsError,
    },
    /// More than it may ever have.
    #[error("segment {sid} cannot grow beyond its reserve")]
    BeyondReserve {
        /// The segment.
        sid: SegId,
    },
    /// The segment may only be read.
    #[error("segment {sid} may only be read by this user")]
    ReadOnly {
        /// The segment.
        sid: SegId,
    },
    /// The user has not granted it to the program.
    #[error("the program was not granted {object} to {verb}: see `--vas`", verb = verb(*right))]
    NotGranted {
        /// What was to be used.
        object: Object,
        /// How.
        right: Right,
    },
    /// An argument means nothing.
    #[error("{what} is invalid")]
    Invalid {
        /// Which.
        what: &'static str,
    },
    /// Lock pages, references or slots are used up.
    #[error("no more {what}")]
    Full {
        /// Of what.
        what: &'static str,
    },
    /// The caller does not hold the lock it must hold.
    #[error("segment {sid} is not locked exclusively by the calling thread")]
    NotLocked {
        /// The segment.
        sid: SegId,
    },
    /// What became of a lock: not acquired, or, with the thread inside, a dead holder's.
    #[error("{0}")]
    Lock(LockOutcome),
    /// The program's memory is not accessible.
    #[error("{len} bytes of the program's memory at {gva:#x} are not accessible")]
    Buffer {
        /// Where it begins.
        gva: u64,
        /// Its length.
        len: u64,
        /// Why: `EFAULT`, or what mapping it met.
        errno: Errno,
    },
    /// A number that no object has.
    #[error("there is no {kind} {raw:#x}")]
    NoSuchId {
        /// Of what.
        kind: &'static str,
        /// The number.
        raw: u64,
    },
    /// Longer than any name.
    #[error("a name of {bytes} bytes is longer than any object's")]
    NameTooLong {
        /// Its length.
        bytes: u64,
    },
    /// The snapshot that the run wants when its program is ready cannot be made; the reason was told.
    #[error("the snapshot that was asked for cannot be made")]
    NotKept {
        /// What the program is told.
        errno: Errno,
    },
    /// The process was not started as a copy of one that was ready.
    #[error("the process is no copy of one that was ready")]
    NoCopy,
    /// A segment's lifetime is fixed when it is created.
    #[error("the lifetime of segment {sid} cannot be changed")]
    LifetimeFixed {
        /// The segment.
        sid: SegId,
    },
}

impl Remedy for VasError {
    fn remedy(&self) -> Option<String> {
        match self {
            VasError::Store(error) => error.remedy(),
            VasError::Lost { .. } => {
                Some("detach it and attach it anew: it then shows the newest version kept".into())
            }
            VasError::Newer { .. } => Some("leave, and enter to write".into()),
            VasError::Suspended { .. } => Some("return to it first, and leave it".into()),
            VasError::NoRoom { .. } => Some(
                "free space on the disk of the store, or give the program more memory (`--memory`)"
                    .into(),
            ),
            VasError::Full { .. } => Some("try again when fewer programs use it".into()),
            _ => None,
        }
    }
}

fn verb(right: Right) -> &'static str {
    match right {
        Right::Read => "read",
        Right::Write => "change",
    }
}

impl VasError {
    /// What the program gets.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            VasError::Store(error) => error.errno(),
            VasError::Memory(_) | VasError::Vm(_) => Errno::ENOMEM,
            VasError::Disk(error) => (*error).into(),
            VasError::NoInstance { .. } => Errno::EBADF,
            VasError::Home | VasError::Invalid { .. } => Errno::EINVAL,
            VasError::NotMember { .. } => Errno::ENOENT,
            VasError::Inside { .. }
            | VasError::Owned { .. }
            | VasError::Pinned { .. }
            | VasError::Newer { .. } => Errno::EBUSY,
            VasError::Changed { .. } => Errno::ESTALE,
            VasError::Lost { .. } => Errno::ESTALE,
            VasError::NoVersions { .. } => Errno::EINVAL,
            VasError::Deadlock | VasError::Suspended { .. } => Errno::EDEADLK,
            VasError::TooDeep { .. } => Errno::ELOOP,
            VasError::NothingNew => Errno::ETIMEDOUT,
            VasError::Interrupted => Errno::EINTR,
            VasError::TooManyInstances { .. } => Errno::EMFILE,
            VasError::Overlap { .. } => Errno::EEXIST,
            VasError::ReadOnly { .. } | VasError::NotGranted { .. } => Errno::EACCES,
            VasError::Full { .. } => Errno::ENOSPC,
            VasError::NotLocked { .. }
            | VasError::NotWriting
            | VasError::NoneSuspended
            | VasError::Spoilt => Errno::EPERM,
            VasError::Versions(error) | VasError::NoRoom { source: error, .. } => {
                versions_errno(error)
            }
            VasError::BeyondReserve { .. } => Errno::EFBIG,
            // A lock that was acquired without more to say is no error.
            VasError::Lock(outcome) => outcome.errno().unwrap_or(Errno::EAGAIN),
            VasError::Buffer { errno, .. } | VasError::NotKept { errno } => *errno,
            VasError::NoSuchId { .. } | VasError::NoCopy => Errno::ENOENT,
            VasError::NameTooLong { .. } => Errno::ENAMETOOLONG,
            VasError::LifetimeFixed { .. } => Errno::EOPNOTSUPP,
        }
    }
}

fn versions_errno(error: &VersionsError) -> Errno {
    match error {
        VersionsError::Io { source, .. } => match source.raw_os_error() {
            Some(libc::ENOSPC) => Errno::ENOSPC,
            Some(libc::EDQUOT) => Errno::EDQUOT,
            Some(libc::EFBIG) => Errno::EFBIG,
            Some(libc::ENOMEM) => Errno::ENOMEM,
            _ => Errno::EIO,
        },
        VersionsError::TooManyLogs | VersionsError::TooDeep => Errno::ENOSPC,
        VersionsError::TooLargeTogether { .. } => Errno::EFBIG,
        error if error.is_denied() => Errno::EACCES,
        _ => Errno::EIO,
    }
}

/// For errors that cannot be reported to any caller: they are logged.
pub(crate) fn warn_if_failed<E: std::error::Error>(doing: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!("cannot {doing}: {}", crate::error::chain(&error));
    }
}
