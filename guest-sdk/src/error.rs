//! What can go wrong with objects and spaces; every error names the object.

use std::fmt;
use std::time::Duration;

use abi::{Errno, SegId};

use crate::alloc::AllocError;
use crate::call_page::NotUnderSpacejmp;

/// What kind of object an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// An address space.
    Vas,
    /// A segment.
    Segment,
    /// The store as a whole.
    Store,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ObjectKind::Vas => "address space",
            ObjectKind::Segment => "segment",
            ObjectKind::Store => "store",
        })
    }
}

/// What `main` prints of an error that it returns is its `Debug`; that is to help as much as its `Display`.
macro_rules! debug_as_display {
    ($($error:ty),*) => {$(
        impl fmt::Debug for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

debug_as_display!(Error, AllocError, NotUnderSpacejmp);

/// The error of objects and spaces.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program runs as a plain process.
    #[error(transparent)]
    NotUnderSpacejmp(#[from] NotUnderSpacejmp),

    /// A call failed.
    #[error("cannot {verb} {kind} `{name}`: {errno}{}", explain(*errno))]
    Call {
        /// What was to be done.
        verb: &'static str,
        /// To what kind of object.
        kind: ObjectKind,
        /// To which one.
        name: String,
        /// The reason.
        errno: Errno,
    },

    /// A second chain of tokens was asked for: the thread is inside already. From inside,
    /// [`In::read`](crate::In::read) goes on.
    #[error("cannot enter `{space}`: the thread is inside `{inside}`; use its token's `read`")]
    AlreadyInside {
        /// The space that was to be entered.
        space: String,
        /// The brand of where the thread is.
        inside: &'static str,
    },

    /// The thread would wait for itself: a visit that it is in the middle of has the lock. Or others may be waiting
    /// for it: it has locks, and this one was not free in ten seconds.
    #[error(
        "cannot enter `{space}` from inside `{inside}`: the thread has its lock, or has others and did not get \
         it in 10 seconds; visit them one after the other"
    )]
    WouldDeadlock {
        /// The space that was to be entered.
        space: String,
        /// The brand of where the thread is.
        inside: &'static str,
    },

    /// The thread is inside the space to read, would write it from there, and there is a newer version than it
    /// sees: what it has read would not hold.
    #[error(
        "there is a newer version of `{space}` than the thread reads; leave, and enter to write"
    )]
    Newer {
        /// The space.
        space: String,
    },

    /// The brand stands for another VAS in this process.
    #[error("brand `{brand}` stands for address space `{taken_by}` already, not for `{space}`")]
    BrandTaken {
        /// The brand.
        brand: &'static str,
        /// The VAS it was to be used for.
        space: String,
        /// The VAS it stands for.
        taken_by: String,
    },

    /// The brand stands for this VAS with another data segment, which has been detached since:
    /// pointers into that one may still be in use. Another process, or another brand, can open it.
    #[error(
        "`{space}` has another data segment than when this process first opened it as `{brand}`; \
         open it in a new process"
    )]
    Replaced {
        /// The brand.
        brand: &'static str,
        /// The space.
        space: String,
    },

    /// An `init` with this brand failed, or panicked, and left memory allocated: pointers to it
    /// may still be in use, so no other memory may be given out under the brand. Another
    /// process, or another brand, can make or open the space.
    #[error(
        "an `init` with brand `{brand}` failed in this process and left memory behind, so the brand \
         cannot be used for `{space}`; open it in a new process"
    )]
    BrandSpent {
        /// The brand.
        brand: &'static str,
        /// The space.
        space: String,
    },

    /// The VAS no longer has the segments it had when this [`Space`](crate::Space) attached it,
    /// or has them with other rights; or its data segment was converted, or rolled back to a version
    /// without this root object.
    #[error("the segments of `{space}` have been changed since it was opened; open it again")]
    Changed {
        /// The space.
        space: String,
    },

    /// A thread of this process is inside a space whose segments are at the same addresses, and
    /// stays: references it may have given to other threads would point to something else.
    #[error(
        "cannot enter `{space}`: a thread of this process is inside another space at the same \
         addresses, and did not leave within {} seconds",
        crate::location::occupancy::PATIENCE.as_secs()
    )]
    SameAddresses {
        /// The space that was to be entered.
        space: String,
    },

    /// The lock could not be acquired immediately, or not in time.
    #[error("`{space}` is locked by others (waited {waited:?})")]
    Locked {
        /// The space.
        space: String,
        /// How long the caller was willing to wait.
        waited: Duration,
    },

    /// A program died while it was writing; the content may be half-changed.
    #[error("`{space}` is inconsistent: a program died while it was writing; see `Space::recover`")]
    Inconsistent {
        /// The space.
        space: String,
    },

    /// The space is versioned: changes can be taken back, and pointers made in them with it. The brand lets
    /// pointers be kept between visits.
    #[error(
        "`{space}` is versioned, and pointers of brand `{brand}` may be kept between visits: give \
         the brand a lifetime, as in `brand! {{ {brand}<'v> => ... }}`"
    )]
    KeptHandles {
        /// The brand.
        brand: &'static str,
        /// The space.
        space: String,
    },

    /// The space has no versions: its segment is raw, volatile, or memory of this process.
    #[error("`{space}` is not versioned")]
    NotVersioned {
        /// The space.
        space: String,
    },

    /// A visit to write a versioned space could not be committed; its changes are thrown away.
    #[error("the changes to `{space}` cannot be stored, and are thrown away: {errno}")]
    NotCommitted {
        /// The space.
        space: String,
        /// Why: any error of leaving. `ENOSPC`, `EDQUOT`, `EFBIG`, `EIO`; `ESTALE` if a failed disk
        /// has lost what the changes are to; `ENOMEM`.
        errno: Errno,
    },

    /// The data segment has no lock, so nothing keeps writers from readers.
    #[error("segment `{space}` is not lockable: typed access needs its lock")]
    NotLockable {
        /// The space.
        space: String,
    },

    /// The VAS lists a segment whose file is no longer in the store. Nothing was created in its
    /// place.
    #[error(
        "segment {sid} of address space `{space}` is not in the store: restore its file, or give it \
         up with `spacejmp vas detach {space} {sid}`"
    )]
    SegmentLost {
        /// The space.
        space: String,
        /// The segment's id.
        sid: SegId,
    },

    /// There is a VAS of that name, but it has no root object.
    #[error("`{space}` has no root object")]
    NoRoot {
        /// The space.
        space: String,
    },

    /// The root object is of another type, or of the same one in an incompatible build.
    #[error(
        "the root object of `{space}` is `{found}`, not `{wanted}`\n  expected: {expected_line}\n     \
         found: {found_line}"
    )]
    WrongRoot {
        /// The space.
        space: String,
        /// The type that was asked for.
        wanted: String,
        /// The type that is there.
        found: String,
        /// The first line of the layout that differs, as asked for.
        expected_line: String,
        /// That line as it is there.
        found_line: String,
    },

    /// The root object is of another version of this program's type: of a later one; or of an earlier one that the
    /// type does not say how to be made from.
    #[error(
        "the root object of `{space}` is `{name}` of version {found}, and this program has version \
         {wanted} of it{}{}",
        if found > wanted { ": use a newer build of the program" } else { ", which is not made from that one" },
        lines(changes)
    )]
    WrongVersion {
        /// The space.
        space: String,
        /// The type's name.
        name: String,
        /// The version that the program has.
        wanted: u32,
        /// The version that is there.
        found: u32,
        /// What the later of the two has in place of the earlier one's fields.
        changes: Vec<String>,
    },

    /// The root object is of an earlier version of this program's type, and opening the space to write would make
    /// one of this version of it. Here that must not be, or cannot be.
    #[error(
        "the root object of `{space}` is `{name}` of version {found}; this program would make version \
         {wanted} of it, but {reason}{}",
        lines(changes)
    )]
    NotUpgraded {
        /// The space.
        space: String,
        /// The type's name.
        name: String,
        /// The version that is there.
        found: u32,
        /// The version that it would be.
        wanted: u32,
        /// Why it stays, and what to do.
        reason: String,
        /// What would be in place of the fields that are there.
        changes: Vec<String>,
    },

    /// What is in the segment is no heap that this program can use.
    #[error("segment `{space}` holds no heap that this program can use: {reason}")]
    Damaged {
        /// The space.
        space: String,
        /// What is wrong.
        reason: String,
    },

    /// What has the name of a [`Shared`](crate::Shared) value is none, or not one of this type.
    #[error("`{space}` is no shared value that can be used: {reason}")]
    NotShared {
        /// The name.
        space: String,
        /// What is there.
        reason: String,
    },

    /// The snapshot that the run was to make where the program is [`ready`](crate::ready()), or what a copy was started
    /// with, could not be had.
    #[error("the program cannot be copied where it is ready: {errno}")]
    NotKept {
        /// The reason. What the run was to do and why it could not is on its stderr.
        errno: Errno,
    },

    /// There is no room.
    #[error(transparent)]
    Alloc(#[from] AllocError),
}

/// Each in a line of its own, after the message.
fn lines(changes: &[String]) -> String {
    changes.iter().map(|change| format!("\n  {change}")).collect()
}

/// What the number means for an object of a store, where Linux's message does not fit.
fn explain(errno: Errno) -> &'static str {
    match errno {
        Errno::EUCLEAN => " (its file is damaged; `spacejmp store check` says where)",
        Errno::ENODATA => {
            " (its file is shorter than it must be, or a part of it is missing; `spacejmp store \
             check` says what to do)"
        }
        Errno::EOPNOTSUPP => " (made by a newer spacejmp, or for another machine; it is whole)",
        Errno::EOWNERDEAD => " (a program died while it was writing)",
        Errno::EIO => " (the host could not read or write its file)",
        _ => "",
    }
}

impl Error {
    /// The number that C programs would see, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::NotUnderSpacejmp(_) => Some(Errno::ENOSYS),
            Error::Call { errno, .. } => Some(*errno),
            Error::Locked { waited, .. } if waited.is_zero() => Some(Errno::EAGAIN),
            Error::Locked { .. } => Some(Errno::ETIMEDOUT),
            Error::Inconsistent { .. } => Some(Errno::EOWNERDEAD),
            Error::NotCommitted { errno, .. } | Error::NotKept { errno } => Some(*errno),
            Error::Changed { .. } => Some(Errno::ESTALE),
            Error::NotVersioned { .. } => Some(Errno::EINVAL),
            Error::SameAddresses { .. } | Error::WouldDeadlock { .. } => Some(Errno::EDEADLK),
            Error::Newer { .. } => Some(Errno::EBUSY),
            Error::SegmentLost { .. } => Some(Errno::ENODATA),
            Error::Alloc(_) => Some(Errno::ENOMEM),
            _ => None,
        }
    }
}

/// Shorthand of this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_that_returns_an_error_prints_what_is_wrong_and_not_how_it_is_stored() {
        let errno = Errno::ENOENT;
        let (verb, kind, name) = ("find", ObjectKind::Vas, "hits".to_owned());
        let error = Error::Call { verb, kind, name, errno };
        assert_eq!(format!("{error:?}"), error.to_string());
        assert!(error.to_string().starts_with("cannot find address space `hits`"), "{error}");
        assert_eq!(format!("{NotUnderSpacejmp:?}"), NotUnderSpacejmp.to_string());
    }
}
