//! Files: what a guest program sees of the host's file systems, and its descriptors.
//!
//! A program sees the directories granted to it ([`Grant`]), a few synthetic directories
//! above them, `/dev/null` and its like, and nothing else. [`Files`] serves the file calls
//! on that view. There is no guest memory and no KVM here: arguments arrive decoded, paths
//! as bytes without NUL, structures leave as bytes in Linux's layout.
//!
//! How confinement works. A path is walked only by `cap-std` (on Linux `openat2` with
//! `RESOLVE_BENEATH`), which yields an open directory; the call itself then acts on one last
//! component of that directory and never follows a link there. A link is followed by reading its
//! target and walking that in the program's own name space, so an absolute link means what it would
//! mean after `chroot`: the program's `/`, not the host's. A link to something outside therefore
//! usually gives `ENOENT`; what `cap-std` itself refuses as an escape (a rename at the wrong
//! moment) gives `EXDEV`.
//!
//! Files of the store give `EACCES` whatever path leads to them: see `off_limits`.
//!
//! The host's umask applies to what is created, after the program's own: see
//! [`take_over_umask`].

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod attr;
mod charge;
mod create;
mod data;
mod descriptor;
mod dirents;
mod disk;
mod edit;
mod encode;
mod epoll;
mod executable;
mod files;
mod grant;
mod handover;
mod inotify;
mod inspect;
mod memory_dir;
mod namespace;
mod off_limits;
mod open;
mod open_file;
mod owner;
mod passed;
mod pseudo;
mod resolve;
mod shared_names;
mod size_limit;
mod snapshot;
mod socket;
mod table;
mod terminal;
mod tree;
mod view;
mod walk;
mod way;
mod xattr;

#[cfg(test)]
mod tests;

pub use charge::{DescriptorCount, FileCharge, MemoryAccount, OverLimit, PendingWrite, Seen};
pub use descriptor::Flock;
pub use disk::{DiskAccount, NAME_BYTES, OverDisk, Stored};
pub use encode::{LinuxStat, Times, times_of};
pub use epoll::EpollChange;
pub use executable::ToExecute;
pub use files::{Files, FilesError, default_cwd, take_over_umask};
pub use grant::{Grant, GrantAccess, GrantError};
pub use handover::{HandedOver, Leaving, Sent};
pub use memory_dir::MemoryFile;
pub use namespace::{Mount, Namespace, NamespaceError, Tty};
pub use off_limits::OffLimits;
pub use open_file::{FileKind, OpenFile};
pub use owner::{F_GETOWN_EX, F_SETOWN_EX, OwnerEx};
pub use shared_names::{Answer, NameServer};
pub use size_limit::WriteAt;
pub use snapshot::{KeptFile, KeptFiles, KeptMapping, identity_of};
pub use socket::{Peers, SocketPlace};
pub use table::{DEFAULT_NOFILE, NOFILE_MAX};
pub use view::{TextFile, View, Whose};
pub use xattr::{XATTR_MAX, XattrOf};

use abi::Errno;

/// Longest path a call takes, without the NUL.
pub const PATH_MAX: usize = 4095;

/// The errno of a failed host call.
#[must_use]
pub fn host(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// The errno of a `cap-std` error. An error without a number comes from `cap-std` itself: it
/// refuses to leave the directory it was given.
fn confined(error: &std::io::Error) -> Errno {
    match error.raw_os_error() {
        Some(raw) => Errno::from_raw(raw),
        None if error.kind() == std::io::ErrorKind::PermissionDenied => Errno::EXDEV,
        None => Errno::EIO,
    }
}
