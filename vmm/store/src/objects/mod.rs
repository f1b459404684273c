//! Segments, VASes and leases of VMs: found, created, changed, copied and deleted, under the
//! store's lock. Read-only inspection is in `inspect`.

pub(crate) mod another_boot;
pub(crate) mod attach;
pub(crate) mod changes;
pub(crate) mod clone;
pub(crate) mod convert;
pub(crate) mod copy_vas;
pub(crate) mod create;
pub(crate) mod diff;
pub(crate) mod dir;
pub(crate) mod durable;
pub(crate) mod fresh;
pub(crate) mod gc;
pub(crate) mod hints;
pub(crate) mod index;
pub(crate) mod kept;
pub(crate) mod lease;
pub(crate) mod leases;
pub(crate) mod liveness;
pub(crate) mod lock;
pub(crate) mod lock_page;
pub(crate) mod looked_at;
pub(crate) mod lookup;
pub(crate) mod newest;
pub(crate) mod open;
mod partners;
pub(crate) mod patience;
pub(crate) mod private;
pub(crate) mod reserve;
pub(crate) mod segment;
pub(crate) mod segments;
pub(crate) mod sparse;
pub(crate) mod store;
pub(crate) mod vas;
pub(crate) mod versions;
pub(crate) mod view;
pub(crate) mod words;
