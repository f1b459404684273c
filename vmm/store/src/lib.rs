//! The store: VASes and segments in a folder of plain files, shared by all VMs of a host.
//!
//! ```text
//! STORE/format          text: version and id of the store
//! STORE/lock            the target of flock
//! STORE/live            change counters, mapped by every VM
//! STORE/tmp/            things being made, renamed into place when whole
//! STORE/vas/NAME/manifest    one VAS: checksummed text
//! STORE/segments/NAME        one segment: header, lock page, content from 2 MiB on
//! STORE/parts/SID.N          further content of segments beyond 8 TiB
//! STORE/versions/SID/        content of a versioned segment
//! STORE/snapshots/NAME/      a process that was snapshotted: what there is, and its memory
//! STORE/vms/ID               lease of a live VM: its program, what it has attached
//! ```
//!
//! 1. Every file is untrusted input: sizes are bounded, links are not followed, a damaged
//!    field is an error that names file and field and harms no other object.
//! 2. Whatever looks at more than one file holds the store's lock, shared or exclusive; the
//!    kernel drops it when a process dies, and no half-made object is ever visible.
//! 3. The host kernel checks permissions; nothing here decides by mode bits.
//! 4. A VM is alive as long as it holds the write lock on its lease, and no longer.
//! 5. Nothing waits without limit for what any user can hold.
//!
//! Mapping files into a VM is the VMM's business, and so is what the lock words in a
//! segment's lock page mean: here a segment is descriptors and offsets. `docs/src/store.md`
//! describes every field.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod archive;
mod format;
pub mod fuzz;
mod inspect;
mod objects;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use archive::{Exported, Imported, Progress, Survey, survey_archive};
pub use format::counted::counted;
pub use format::error::{Busy, Holder, Object, StoreError};
pub use format::extent::{DATA_OFFSET, LOCK_PAGE_OFFSET, PART_BYTES};
pub use format::header::{BootId, Header, KeptVersion, SegmentState};
pub use format::lease::{INSTANCES_OFFSET, LeaseInfo, SEGMENTS_OFFSET, VCPU_STATUSES_OFFSET};
pub use format::name::{Mode, Name, NameError};
pub use format::record::{
    Access, SegmentEntry, SegmentRecord, VasContent, VasEntry, VasRecord, VasSegment,
};
pub use inspect::check::{CheckReport, Finding, Severity, check_store};
pub use inspect::heap::{HeapView, LeakView};
pub use inspect::lease_view::LeaseView;
pub use objects::attach::OtherWriters;
pub use objects::copy_vas::CopiedVas;
pub use objects::create::SegmentSpec;
pub use objects::diff::{DiffRange, SegmentDiff, diff};
pub use objects::gc::GcReport;
pub use objects::kept::content::HeldAlone;
pub use objects::kept::find::{Chosen, Kept};
pub use objects::kept::names::{TagName, VersionChoice};
pub use objects::kept::numbers::{MemberVersion, VasAt, VasVersion};
pub use objects::kept::rollback::VasTarget;
pub use objects::kept::vas::{MemberHeld, Removed};
pub use objects::lease::Lease;
pub use objects::leases::Inside;
pub use objects::lock::{HeldForAll, SharedLock};
pub use objects::looked_at::SeenVersions;
pub use objects::newest::VersionRecord;
pub use objects::patience::Patience;
pub use objects::private::PrivateStore;
pub use objects::segment::{Location, PartFile, SegmentFile};
pub use objects::snapshots::{NewSnapshot, SnapshotEntry, SnapshotFiles};
pub use objects::store::{FOLDERS, Store};
pub use objects::view::SegmentView;
pub use objects::words::{LostVersions, Publication, StoreWord, Tidings, VersionWords};
