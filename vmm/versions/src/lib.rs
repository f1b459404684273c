//! Versioned segments on disk: what a commit writes, what a crash leaves, what opening makes of it.
//!
//! It knows files, pages and version numbers; no VM, no lock, no page table. One thread at a time
//! writes a segment: the caller holds its lock.
//!
//! 1. Nothing that a published version shows is overwritten before another place has it, durably.
//! 2. A file that somebody may have mapped is never truncated and never reused: it is unlinked.
//! 3. On disk, a file comes before what names it, and goes after.
//!
//! From the lowest layer up:
//!
//! - [`page`], [`checksum`]: the units
//! - [`disk`]: the one interface through which everything here reaches files, and what implements
//!   it: the host, and [`disk::simulated`], which enumerates what a power cut may leave
//! - [`log`]: the format of a log of commits; reading one to its end
//! - [`layer`]: the pages below the logs, and which of them there are
//! - [`root`]: the record that names the generations: layers, each with the logs that follow it
//! - [`segment`]: committing, finding pages by version, freezing, links, rollback, checkpoints, recovery
//! - [`crashes`]: workloads cut at every point, and the demands on what opens afterwards
//! - [`fuzz`]: files with any bytes

pub mod checksum;
pub mod crashes;
pub mod disk;
pub mod error;
pub mod fuzz;
pub mod layer;
pub mod log;
pub mod page;
pub mod root;
pub mod segment;

pub use error::VersionsError;
pub use layer::LayerId;
pub use page::{PageIndex, VersionNumber};
pub use segment::{Commit, LargeCommit, RollbackTo, Segment, Sharing, SyncTicket};
