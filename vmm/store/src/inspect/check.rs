//! Looking for damage, without changing anything and without stopping at the first find.
//!
//! What makes an object unusable is an error; what the next program, `gc` or a person repairs is a
//! warning: a killed writer, a dead holder of a lock, garbage. Content of segments is the programs'
//! and is not judged, except the heap of a segment that is checked individually.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use abi::objects::{Lifetime, SegId, VasId};
use rustix::fs::OFlags;
use serde::Serialize;
use spacejmp_versions::VersionsError;

use crate::format::counted::counted;
use crate::format::error::StoreError;
use crate::format::escape::{escape, parse_id};
use crate::format::extent::first_part;
use crate::format::header::SegmentState;
use crate::format::name::Name;
use crate::inspect::heap;
use crate::inspect::heap::HeapView;
use crate::objects::dir::held_by_another;
use crate::objects::leases::lease_id;
use crate::objects::liveness;
use crate::objects::lock::SharedLock;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something was left behind or could not be examined; nothing is lost.
    Warning,
    /// The object cannot be used as it is.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// In which file.
    pub file: PathBuf,
    /// Where in it.
    pub field: String,
    /// What is there.
    pub found: String,
    /// What should be.
    pub expected: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = escape(&self.file.to_string_lossy());
        write!(f, "{file}: {}: found {}, expected {}", self.field, self.found, self.expected)
    }
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CheckReport {
    /// VASes examined.
    pub vases: u32,
    /// Segments examined.
    pub segments: u32,
    /// Whatever is wrong, in the order of the files.
    pub findings: Vec<Finding>,
    /// Of one segment: its heap, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heap: Option<HeapView>,
    /// Of one segment: a live program has it writable, so its heap was not checked.
    pub heap_in_use: bool,
}

impl CheckReport {
    /// Whether every object can be used.
    #[must_use]
    pub fn sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    fn add(&mut self, severity: Severity, file: PathBuf, field: &str, found: &str, expected: &str) {
        let (field, found, expected) = (field.into(), found.into(), expected.into());
        self.findings.push(Finding { severity, file, field, found, expected });
    }

    fn warn(&mut self, file: PathBuf, field: &str, found: &str, expected: &str) {
        self.add(Severity::Warning, file, field, found, expected);
    }

    fn bad(&mut self, file: PathBuf, field: &str, found: &str, expected: &str) {
        self.add(Severity::Error, file, field, found, expected);
    }

    /// The error that kept us from an object.
    fn failed(&mut self, fallback: PathBuf, error: StoreError) {
        match error {
            StoreError::BadField { file, field, found, expected } => {
                self.bad(file, field, &found, &expected);
            }
            StoreError::Short { file, found_bytes, expected_bytes } => {
                let expected = format!(
                    "{expected_bytes} or more: an interrupted growth, which \
                     `truncate --size={expected_bytes}` ends, or an incomplete copy"
                );
                self.bad(file, "length", &found_bytes.to_string(), &expected);
            }
            StoreError::Newer { file, field, found, known } => {
                let expected = format!("{known}: made by a newer spacejmp, and whole");
                self.bad(file, field, &found, &expected);
            }
            StoreError::NotA { file, kind, found } => self.bad(file, "start", &found, kind),
            StoreError::PartMissing { file, index, .. } => {
                self.bad(file, "part", "nothing", &format!("part {index} of the segment"));
            }
            StoreError::Denied { .. } => {
                self.warn(fallback, "permission", "none to read it", "a user who may");
            }
            StoreError::Io { path, source, doing } => {
                self.bad(path, "file", &source.to_string(), &format!("to {doing} it"));
            }
            StoreError::Versions { source: VersionsError::Damaged { file, what }, .. } => {
                self.bad(fallback, &file, &what, "logs that follow one another");
            }
            StoreError::VersionsMissing { folder, .. } => {
                self.bad(folder, "folder", "nothing", "the content of a versioned segment");
            }
            other => self.bad(fallback, "file", &other.to_string(), "a usable object"),
        }
    }
}

/// Checks a whole store, also one that cannot be opened because its own files are damaged: then
/// that is the finding, and nothing else was examined.
///
/// # Errors
/// If there is no store, or the host does not let us look.
pub fn check_store(path: &Path) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    let store = match Store::open(path) {
        Ok(store) => store,
        Err(error @ StoreError::BadField { .. }) => {
            report.failed(path.to_owned(), error);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let lock = store.lock_shared()?;
    let mut seen = Seen::default();
    for name in store.segments.names()? {
        store.check_one_segment(&name, &mut seen, &lock, &mut report);
    }
    for name in store.vas.names()? {
        store.check_one_vas(&name, &mut seen, &lock, &mut report);
    }
    store.check_parts(&seen, &mut report)?;
    store.check_orphans(&seen, &mut report)?;
    store.check_leases(&mut report)?;
    for (name, _) in store.orphans_of_imports()? {
        let file = store.segments.path_of(name.as_str());
        let expected = "one that a VAS lists (`store gc` removes others)";
        report.warn(file, "import", "a segment of an import that was killed", expected);
    }
    for name in store.tmp.names()? {
        let held = match store.tmp.find_file(&name.to_string_lossy(), OFlags::RDONLY) {
            Ok(Some(file)) => held_by_another(&file),
            _ => false,
        };
        if !held {
            let file = store.tmp.path().join(&name);
            report.warn(file, "file", "something unfinished", "nothing (`store gc` removes it)");
        }
    }
    Ok(report)
}

/// Which file has which id.
#[derive(Default)]
struct Seen {
    segments: HashMap<SegId, String>,
    vases: HashMap<VasId, String>,
    /// A damaged header hides an id: the parts may belong to it.
    unknown: bool,
    /// Those of the segments that are versioned.
    versioned: HashSet<SegId>,
}

impl Store {
    /// Checks one segment, and the heap in it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; if the host does not let us look.
    pub fn check_segment(&self, name: &Name) -> Result<CheckReport, StoreError> {
        let lock = self.lock_shared()?;
        if self.segments.stat(name.as_str())?.is_none() {
            self.open_named(name, &lock)?;
        }
        let mut report = CheckReport::default();
        self.check_one_segment(name.as_str().as_ref(), &mut Seen::default(), &lock, &mut report);
        // Without the store's lock: a large heap takes time.
        drop(lock);
        if report.sound() {
            self.check_heap(name, &mut report);
        }
        Ok(report)
    }

    /// Checks the heap in a segment, unless a program may be changing it.
    fn check_heap(&self, name: &Name, report: &mut CheckReport) {
        let opened = self.lock_shared().and_then(|lock| self.open_named(name, &lock));
        let Ok(mut segment) = opened else { return };
        report.heap_in_use = self.is_written(segment.sid());
        if report.heap_in_use {
            return;
        }
        let file = segment.path().to_owned();
        let newest = match self.show_newest(&mut segment) {
            Ok(newest) => newest,
            Err(error) => return report.failed(file, error),
        };
        let Some((view, heap)) = heap::look(&segment, newest) else { return };
        for damage in &heap.damage {
            let place = format!("heap +{:#x}, {}", damage.offset, damage.field);
            report.bad(file.clone(), &place, &format!("{:#x}", damage.found), damage.expected);
        }
        if let Some(blocks @ 1..) = view.leaked_blocks {
            let bytes = view.leaked_bytes.unwrap_or(0);
            let (blocks, bytes) = (counted(blocks, "block"), counted(bytes, "byte"));
            let found = format!("{blocks}, {bytes}, that nothing leads to");
            report.warn(file, "heap", &found, "blocks that the root object leads to");
        }
        report.heap = Some(view);
    }

    /// Checks one VAS and the segments it lists.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; if the host does not let us look.
    pub fn check_vas(&self, name: &Name) -> Result<CheckReport, StoreError> {
        let lock = self.lock_shared()?;
        if self.vas.stat(name.as_str())?.is_none() {
            self.read_manifest(name)?;
        }
        let mut report = CheckReport::default();
        let mut seen = Seen::default();
        if let Ok(manifest) = self.read_manifest(name) {
            for segment in &manifest.segments {
                if let Ok(Some(file)) = self.segment_name(segment.sid, &lock) {
                    let file = file.as_str().as_ref();
                    self.check_one_segment(file, &mut seen, &lock, &mut report);
                }
            }
        }
        self.check_one_vas(name.as_str().as_ref(), &mut seen, &lock, &mut report);
        Ok(report)
    }

    fn check_one_segment(
        &self,
        file_name: &std::ffi::OsStr,
        seen: &mut Seen,
        lock: &SharedLock,
        report: &mut CheckReport,
    ) {
        use std::os::unix::ffi::OsStrExt;
        let file = self.segments.path().join(file_name);
        let name = match Name::new(file_name.as_bytes()) {
            Ok(name) => name,
            Err(error) => return report.warn(file, "name", &error.to_string(), "a name"),
        };
        report.segments += 1;
        let mut segment = match self.open_named(&name, lock) {
            Ok(segment) => segment,
            Err(error) => {
                seen.unknown = true;
                return report.failed(file, error);
            }
        };
        if segment.is_versioned() {
            seen.versioned.insert(segment.sid());
        }
        let header = segment.header();
        for index in first_part(header.lifetime)..header.parts() {
            if let Err(error) = segment.part(index) {
                // Memory that was freed with its last holder or the last boot is not damage.
                if header.lifetime == Lifetime::Volatile && self.is_gone(header, lock) {
                    break;
                }
                report.failed(file.clone(), error);
            }
        }
        let content = self.check_content(&segment, lock);
        if let Err(error) = content.and_then(|()| self.check_versions(&mut segment)) {
            // A copy has the id of its original.
            if !matches!(error, StoreError::VersionedCopy { .. }) {
                seen.segments.insert(segment.sid(), name.to_string());
            }
            return report.failed(file, error);
        }
        let header = segment.header();
        if header.name != name {
            report.warn(file.clone(), "name", &format!("'{}'", header.name), "the file's name");
        }
        if let Some(other) = seen.segments.insert(header.sid, name.to_string()) {
            let found = format!("{}, which '{other}' has too", header.sid);
            report.warn(file.clone(), "sid", &found, "an id of its own (its next user gives one)");
        }
        self.check_use(&segment, file, lock, report);
    }

    /// Reads the logs of a versioned segment to their end, unless a program may be changing them.
    fn check_versions(&self, segment: &mut SegmentFile) -> Result<(), StoreError> {
        if self.is_written(segment.sid()) {
            return Ok(());
        }
        self.show_newest(segment).map(drop)
    }

    /// How programs left it.
    fn check_use(
        &self,
        segment: &SegmentFile,
        file: PathBuf,
        lock: &SharedLock,
        report: &mut CheckReport,
    ) {
        let header = segment.header();
        if self.is_gone(header, lock) {
            let expected = "a live program that has it (`store gc` removes it)";
            return report.warn(file, "lifetime", "volatile, and no program has it", expected);
        }
        let of_another_boot = self.is_of_another_boot(header);
        if header.state == SegmentState::Dirty && !self.is_written(header.sid) {
            let expected = match of_another_boot {
                true => "clean: the host lost power, or was started anew, while a program had it",
                false => "clean: its last writer was killed",
            };
            report.warn(file.clone(), "state", "dirty", expected);
        }
        match segment.lock_view() {
            Err(error) => report.failed(file, error),
            Ok(view) => {
                if let Some(owner) = view.owner_lease().filter(|lease| !self.is_alive(*lease)) {
                    let found = format!("held by VM {owner}, which is dead");
                    report.warn(file.clone(), "lock", &found, "free (its next user frees it)");
                }
                let is_torn = header.lockable && of_another_boot;
                if (view.inconsistent || is_torn) && !segment.is_versioned() {
                    let expected = "consistent: look at its content, then let a program recover \
                                    it, or `spacejmp seg recover`";
                    report.warn(file, "lock", "inconsistent", expected);
                }
            }
        }
    }

    fn check_one_vas(
        &self,
        file_name: &std::ffi::OsStr,
        seen: &mut Seen,
        lock: &SharedLock,
        report: &mut CheckReport,
    ) {
        use std::os::unix::ffi::OsStrExt;
        let file = self.vas.path().join(file_name);
        let name = match Name::new(file_name.as_bytes()) {
            Ok(name) => name,
            Err(error) => return report.warn(file, "name", &error.to_string(), "a name"),
        };
        report.vases += 1;
        let manifest = match self.read_manifest(&name) {
            Ok(manifest) => manifest,
            Err(error) => return report.failed(file, error),
        };
        let file = file.join("manifest");
        if manifest.name != name {
            report.warn(file.clone(), "name", &format!("'{}'", manifest.name), "the folder's");
        }
        if let Some(other) = seen.vases.insert(manifest.vid, name.to_string()) {
            let found = format!("{}, which '{other}' has too", manifest.vid);
            report.warn(file.clone(), "vid", &found, "an id of its own (its next user gives one)");
        }
        let mut ranges = Vec::new();
        for segment in &manifest.segments {
            let found = format!("{} ('{}')", segment.sid, segment.name);
            match self.segment_name(segment.sid, lock) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let why = self.open_by_id(segment.sid, lock).err();
                    let expected = match why {
                        None | Some(StoreError::NotFound(_)) => format!(
                            "a segment of this store: restore segments/{} from a backup, or give \
                             it up with `spacejmp vas detach {name} {}` (the content of a \
                             volatile one is gone with its last user)",
                            escape(segment.name.as_str()),
                            segment.sid
                        ),
                        Some(error) => format!("a usable segment, but {error}"),
                    };
                    report.bad(file.clone(), "segment", &found, &expected);
                }
                Err(error) => report.failed(file.clone(), error),
            }
            let range = self.segment_index(lock).ok().and_then(|index| index.range(segment.sid));
            ranges.extend(range.map(|(base, end)| (base, end, found)));
        }
        ranges.sort();
        for pair in ranges.windows(2) {
            if let [(_, end, one), (base, _, other)] = pair
                && base < end
            {
                let found = format!("{one} overlaps {other}");
                report.bad(file.clone(), "segment", &found, "addresses of its own");
            }
        }
    }

    fn check_parts(&self, seen: &Seen, report: &mut CheckReport) -> Result<(), StoreError> {
        let known: HashSet<_> = seen.segments.keys().collect();
        for name in self.parts.names()? {
            let file = self.parts.path().join(&name);
            let sid = name
                .to_str()
                .and_then(|name| name.split_once('.'))
                .and_then(|(sid, _)| SegId::new(parse_id(sid)?));
            // A conversion that was killed leaves what the segment would have had.
            let is_raw = |sid| known.contains(&sid) && !seen.versioned.contains(&sid);
            let owned = sid.is_some_and(is_raw);
            if !owned && !seen.unknown {
                let expected = "a part of a segment (`store gc` removes others)";
                report.warn(file, "file", "a part of no segment", expected);
            }
        }
        Ok(())
    }

    /// Folders of versioned segments that are there no more.
    fn check_orphans(&self, seen: &Seen, report: &mut CheckReport) -> Result<(), StoreError> {
        let Some(versions) = self.versions()? else { return Ok(()) };
        for (name, sid) in self.versions_by_id(&versions)? {
            if !seen.versioned.contains(&sid) && !seen.unknown {
                let expected = "the content of a versioned segment (`store gc` removes others)";
                report.warn(
                    versions.path_of(&name),
                    "folder",
                    "the content of no versioned segment",
                    expected,
                );
            }
        }
        Ok(())
    }

    fn check_leases(&self, report: &mut CheckReport) -> Result<(), StoreError> {
        for name in self.vms.names()? {
            let file = self.vms.path().join(&name);
            let Some((name, _)) = lease_id(&name) else {
                report.warn(file, "name", "no id", "a lease");
                continue;
            };
            if let Ok(Some(lease)) = self.vms.find_file(name, OFlags::RDONLY)
                && !liveness::is_alive(&lease)
            {
                report.warn(file, "liveness", "none", "a live VM's (`store gc` removes others)");
            }
        }
        Ok(())
    }
}
