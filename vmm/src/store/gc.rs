//! Collecting what the dead left: leases, half-made things, memory of volatile segments.
//!
//! Nothing depends on this: what it removes already means nothing to anybody.

use std::collections::HashSet;

use abi::objects::SegId;
use rustix::fs::{FileType, OFlags};

use super::clone::parts_mark;
use super::dir::{Dir, held_by_another};
use super::error::StoreError;
use super::lease_view::lease_id;
use super::lock::Exclusive;
use super::open::Store;
use super::text::parse_id;

/// How much was collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GcReport {
    /// Leases of dead VMs.
    pub leases: u32,
    /// Things that were being made or removed when their maker died.
    pub unfinished: u32,
    /// Volatile segments that nobody has any more.
    pub volatile: u32,
    /// Files with content of segments that are gone.
    pub parts: u32,
}

impl Store {
    /// Removes what the dead left, as far as the caller may.
    ///
    /// # Errors
    /// If the host does not even let us look.
    pub fn gc(&self) -> Result<GcReport, StoreError> {
        let lock = self.lock_exclusive()?;
        let mut report = GcReport::default();
        for name in self.vms.names()? {
            let Some((name, _)) = lease_id(&name) else { continue };
            let Ok(Some(file)) = self.vms.find_file(name, OFlags::RDONLY) else { continue };
            if !held_by_another(&file) && self.vms.remove_file(name).is_ok() {
                report.leases += 1;
            }
        }
        for name in self.names_in(&self.segments)? {
            let there = |name: &str| matches!(self.segments.stat(name), Ok(Some(_)));
            self.reap_volatile(&name, &lock);
            report.volatile += u32::from(!there(name.as_str()));
        }
        report.parts = self.collect_parts(&lock)?;
        report.unfinished = self.collect_unfinished()?;
        Ok(report)
    }

    fn collect_unfinished(&self) -> Result<u32, StoreError> {
        let mut count = 0;
        for name in self.tmp.names()? {
            let Some(name) = name.to_str() else { continue };
            let Ok(Some(stat)) = self.tmp.stat(name) else { continue };
            let removed = match FileType::from_raw_mode(stat.st_mode) {
                // Made and removed under the exclusive lock, which we hold.
                FileType::Directory => self.tmp.remove_folder(name),
                FileType::RegularFile if self.at_work_on(name) => continue,
                _ => self.tmp.remove_file(name),
            };
            count += u32::from(removed.is_ok());
        }
        Ok(count)
    }

    /// Whether a live process holds a file in `tmp/`.
    fn at_work_on(&self, name: &str) -> bool {
        match self.tmp.find_file(name, OFlags::RDONLY) {
            Ok(Some(file)) => held_by_another(&file),
            Ok(None) => false,
            // Somebody else's; if it is garbage, they can remove it.
            Err(_) => true,
        }
    }

    fn collect_parts(&self, lock: &Exclusive) -> Result<u32, StoreError> {
        // Of a segment that cannot be read, the id is not known: better keep everything.
        let mut known = HashSet::new();
        for name in self.names_in(&self.segments)? {
            match self.open_named(&name, lock) {
                Ok(segment) => known.insert(segment.sid()),
                Err(_) => return Ok(0),
            };
        }
        let mut count = collect_from(self, &self.parts, "", &known)?;
        if let Some(shm) = &self.shm {
            count += collect_from(self, shm, &format!("spacejmp-{:016x}-", self.id()), &known)?;
        }
        Ok(count)
    }
}

fn collect_from(
    store: &Store,
    dir: &Dir,
    prefix: &str,
    known: &HashSet<SegId>,
) -> Result<u32, StoreError> {
    let mut count = 0;
    for name in dir.names()? {
        let Some(name) = name.to_str() else { continue };
        let sid = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.split_once('.'))
            .filter(|(_, index)| index.parse::<u64>().is_ok())
            .and_then(|(sid, _)| SegId::new(parse_id(sid)?));
        let garbage =
            sid.is_some_and(|sid| !known.contains(&sid) && !store.at_work_on(&parts_mark(sid)));
        if garbage && dir.remove_file(name).is_ok() {
            count += 1;
        }
    }
    Ok(count)
}
