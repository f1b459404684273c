//! The live VMs of a store, decoded for people.

use std::collections::BTreeSet;

use abi::objects::{LeaseId, Right, SegId, VasId};

use crate::format::error::StoreError;
use crate::objects::leases::Inside;
use crate::objects::store::Store;

/// A live VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseView {
    /// Its lease.
    pub id: LeaseId,
    /// Its process.
    pub pid: u32,
    /// What it runs.
    pub program: String,
    /// When it started, in nanoseconds since 1970.
    pub started_ns: u64,
    /// VASes it has attached.
    pub vases: BTreeSet<VasId>,
    /// Segments it has attached.
    pub segments: Vec<(SegId, Right)>,
    /// Its threads inside VASes.
    pub inside: Vec<Inside>,
}

impl Store {
    /// All live VMs.
    ///
    /// # Errors
    /// If the host fails.
    pub fn leases(&self) -> Result<Vec<LeaseView>, StoreError> {
        let mut views = Vec::new();
        for lease in self.live_leases()? {
            let (holder, started_ns) = lease.info();
            views.push(LeaseView {
                id: lease.id(),
                pid: holder.pid,
                program: holder.program,
                started_ns,
                vases: lease.vases()?,
                inside: {
                    let mut threads = lease.inside()?;
                    threads.retain(|thread| !thread.entering);
                    threads
                },
                segments: lease.segments().to_vec(),
            });
        }
        Ok(views)
    }
}
