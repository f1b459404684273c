//! Garbage collection of what dead processes left: leases, unfinished objects, memory of volatile
//! segments.
//!
//! Nothing depends on this: what it removes is unreachable already.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use abi::objects::SegId;
use rustix::fs::{FileType, OFlags};

use crate::format::error::StoreError;
use crate::format::escape::parse_id;
use crate::format::header::read_header;
use crate::format::name::Name;
use crate::objects::clone::parts_mark;
use crate::objects::dir::{Dir, held_by_another};
use crate::objects::leases::lease_id;
use crate::objects::liveness;
use crate::objects::lock::Exclusive;
use crate::objects::store::Store;

/// How much was collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct GcReport {
    /// Leases of dead VMs.
    pub leases: u32,
    /// Objects whose creator or deleter died half-way.
    pub unfinished: u32,
    /// Volatile segments that no VM has any more.
    pub volatile: u32,
    /// Files with content of segments that are gone; a versioned one's folder counts as one.
    pub parts: u32,
}

impl Store {
    /// Removes what dead processes left, as far as the caller may.
    ///
    /// # Errors
    /// If the host does not permit reading the store.
    pub fn gc(&self) -> Result<GcReport, StoreError> {
        let lock = self.lock_exclusive()?;
        let mut report = GcReport::default();
        for name in self.vms.names()? {
            let Some((name, _)) = lease_id(&name) else { continue };
            let Ok(Some(file)) = self.vms.find_file(name, OFlags::RDONLY) else { continue };
            if !liveness::is_alive(&file) && self.vms.remove_file(name).is_ok() {
                report.leases += 1;
            }
        }
        for name in self.names_in(&self.segments)? {
            let there = |name: &str| matches!(self.segments.stat(name), Ok(Some(_)));
            self.reap_volatile(&name, &lock);
            report.volatile += u32::from(!there(name.as_str()));
        }
        let imported = self.collect_imports(&lock)?;
        report.parts = self.collect_parts(&lock)?;
        report.unfinished = imported + self.collect_unfinished()?;
        drop(lock);
        let passed = self.remove_passing(Duration::ZERO)?;
        let forsaken = self.remove_forsaken()?;
        let all = [passed, forsaken].map(|it| it.vases.len() + it.segments.len());
        report.unfinished += all.iter().sum::<usize>() as u32;
        Ok(report)
    }

    /// Segments whose import was killed before their VAS was made, unless a program uses
    /// them since.
    fn collect_imports(&self, lock: &Exclusive) -> Result<u32, StoreError> {
        let mut count = 0;
        for (name, _) in self.orphans_of_imports()? {
            let Ok(segment) = self.open_named(&name, lock) else { continue };
            let is_used = self.check_unattached(&segment).is_err();
            if !is_used && self.remove_segment(&segment, lock).is_ok() {
                count += 1;
            }
        }
        Ok(count)
    }

    /// Names and ids of segments that an import has published and that no VAS lists, the importer
    /// being dead: files with a second name in `tmp/`. That the two are one file is checked here,
    /// so that no user can have another's segment removed by what they write into `tmp/`.
    pub(crate) fn orphans_of_imports(&self) -> Result<Vec<(Name, SegId)>, StoreError> {
        let mut orphans = Vec::new();
        for name in self.tmp.names()? {
            let Some(name) = name.to_str().filter(|name| name.ends_with(".import")) else {
                continue;
            };
            let Ok(Some(file)) = self.tmp.find_file(name, OFlags::RDONLY) else { continue };
            let Ok(ours) = file.metadata() else { continue };
            if ours.nlink() < 2 || held_by_another(&file) {
                continue;
            }
            let Ok(header) = read_header(&file, &self.tmp.path_of(name)) else { continue };
            let there = self.segments.stat(header.name.as_str());
            let is_same = matches!(there, Ok(Some(stat))
                if (stat.st_dev, stat.st_ino) == (ours.dev(), ours.ino()));
            if is_same && !self.may_be_listed(header.sid)? {
                orphans.push((header.name, header.sid));
            }
        }
        Ok(orphans)
    }

    /// Whether a VAS lists the segment; one that cannot be read may.
    fn may_be_listed(&self, sid: SegId) -> Result<bool, StoreError> {
        let lists = |name: Name| {
            let manifest = self.read_manifest(&name);
            manifest.map_or(true, |m| m.segments.iter().any(|s| s.sid == sid))
        };
        Ok(self.names_in(&self.vas)?.into_iter().any(lists))
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
            // Another user's; if it is garbage, they can remove it.
            Err(_) => true,
        }
    }

    fn collect_parts(&self, lock: &Exclusive) -> Result<u32, StoreError> {
        // The id of a segment that cannot be read is not known: better keep everything.
        let (mut known, mut versioned) = (HashSet::new(), HashSet::new());
        for name in self.names_in(&self.segments)? {
            match self.open_named(&name, lock) {
                // What one has of the other kind, a conversion that was killed has left.
                Ok(segment) if segment.is_versioned() => versioned.insert(segment.sid()),
                Ok(segment) => known.insert(segment.sid()),
                Err(_) => return Ok(0),
            };
        }
        let mut count = collect_from(self, &self.parts, "", &known)?;
        count += self.collect_versions(&versioned)?;
        if let Some(shm) = self.shm() {
            count += collect_from(self, shm, &format!("spacejmp-{:016x}-", self.id()), &known)?;
        }
        Ok(count)
    }
}

impl Store {
    /// Removes folders of versioned segments that are not among the known ones.
    fn collect_versions(&self, known: &HashSet<SegId>) -> Result<u32, StoreError> {
        let Some(versions) = self.versions()? else { return Ok(0) };
        let mut count = 0;
        for (name, sid) in self.versions_by_id(&versions)? {
            // Somebody may have taken the segment's file away from a live VM.
            let is_garbage = !known.contains(&sid) && self.check_in_no_lease(sid).is_ok();
            if is_garbage && versions.remove_folder(&name).is_ok() {
                count += 1;
            }
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
