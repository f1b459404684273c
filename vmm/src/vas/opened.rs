//! Store and lease of a process that has attached something; acquiring a segment needs both.

use std::sync::Arc;

use crate::store::{Lease, Store};

/// See the module. Both are there from the first `vas_attach` to the end of the process.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Arc<Store>,
    pub(crate) lease: Lease,
}
