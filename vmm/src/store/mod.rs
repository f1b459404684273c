//! The store: a directory of plain files that keeps address spaces and segments.
//!
//! ```text
//!  format            which store this is            lock   whose flock orders everybody
//!  live              counters of changes            tmp/   what is being made
//!  vas/NAME/manifest which segments a VAS has
//!  segments/NAME     header, lock page, data        parts/ further parts of large segments
//!  vms/LEASE         one live VM: what it has attached and who is inside what
//! ```
//!
//! Names are file names, permissions are the files', and only the host kernel judges them.
//! Every file here may be damaged or hostile: it is checked field by field, and what is wrong
//! with it is said by file and field. Mapping memory is not done here but in `crate::vas`.
//!
//! - [`name`], [`error`]; [`header`], [`manifest`]: the formats
//! - [`dir`]: the directory itself, its lock and counters
//! - [`vas`], [`segment`], [`create`]: what can be done with VASes and segments
//! - [`index`]: finding by id; [`files`]: a segment's parts; [`lease`]: live VMs

pub mod create;
pub mod dir;
pub mod error;
pub mod files;
pub mod header;
pub mod index;
pub mod lease;
pub mod manifest;
pub mod name;
pub mod segment;
#[cfg(test)]
mod tests;
pub mod vas;

pub use create::SegmentSpec;
pub use dir::Store;
pub use error::StoreError;
pub use files::SegmentFile;
pub use header::Header;
pub use lease::{LEASE_INSTANCES, LEASE_LINES, LEASE_SEGMENTS, Lease, LeaseInfo, LeaseView};
pub use name::Name;
pub use segment::SegmentRecord;
pub use vas::{VasRecord, VasSegment};

/// What the calling user may do with something, by its file's permissions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    Write,
}

impl Access {
    /// As the stat structures have it: 0, 1, 3.
    #[must_use]
    pub fn raw(self) -> u8 {
        match self {
            Access::None => 0,
            Access::Read => 1,
            Access::Write => 3,
        }
    }

    /// What the effective user may do with the file at `path`.
    #[must_use]
    pub fn of(path: &std::path::Path) -> Access {
        use rustix::fs::{Access as Test, AtFlags, CWD, accessat};
        let may = |test| accessat(CWD, path, test, AtFlags::EACCESS).is_ok();
        match (may(Test::READ_OK), may(Test::READ_OK | Test::WRITE_OK)) {
            (_, true) => Access::Write,
            (true, false) => Access::Read,
            (false, false) => Access::None,
        }
    }
}
