//! The newest version of a versioned segment, for a user who only looks: read from its
//! files, which stay as they are.
//!
//! While a live VM can write the segment, its log may have more than is published, and its files
//! change under the reader: that is tried again. What the files say is checked as every other file
//! of the store is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi::addr::PAGE_SIZE;
use abi::objects::{Right, SegId, SegRoot};
use rustix::fs::{OFlags, Stat};
use serde::Serialize;
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::PAGE_BYTES;
use spacejmp_versions::root::FILE_NAME as ROOT;
use spacejmp_versions::segment::{Limits, Source};
use spacejmp_versions::{PageIndex, Segment, VersionNumber, VersionsError};

use crate::format::error::{StoreError, bad_field, io_error};
use crate::format::header::Header;
use crate::objects::dir::{denied, read_up_to};
use crate::objects::lock::Locked;
use crate::objects::segment::SegmentFile;
use crate::objects::sparse::runs;
use crate::objects::store::Store;
use crate::objects::words::VersionWords;

/// How often somebody looks while a writer changes the files.
const TRIES: u32 = 20;

/// What the newest version of some segments was, and what their files said then.
pub(crate) type KnownNewest = BTreeMap<SegId, (State, VersionFacts, u64)>;

/// Segments of which that is remembered.
const KNOWN_MAX: usize = 64;
/// Two places for root records, with room to spare.
const ROOT_BYTES_MAX: u64 = 1 << 20;

/// More than a tick of the host's clock takes, and than what file systems round times to that keep whole seconds.
const TICK: Duration = Duration::from_millis(40);
const WHOLE_SECONDS: Duration = Duration::from_secs(3);

/// The root record's file: another one may have the same bytes, and logs that differ, such as one from
/// a backup. The time tells it from one whose inode was used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl FileId {
    pub(crate) fn of(stat: &Stat) -> FileId {
        let changed = (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or_default());
        FileId { device: stat.st_dev, inode: stat.st_ino, changed }
    }

    /// Whether any change after a moment shows another time, so that what was read then is what the file has
    /// as long as that is the same. Changes within one tick of the host's clock may show the same. The file was asked
    /// for it before it was read, and nobody was writing meanwhile.
    pub(crate) fn tells_of_changes_since(&self, moment: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        // File systems that keep whole seconds have no parts of one.
        let tick = if nanoseconds == 0 { WHOLE_SECONDS } else { TICK };
        let whole = Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX));
        let part = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or_default());
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        whole.checked_add(part).and_then(|changed| changed.checked_add(tick)) <= Some(since)
            && seconds >= 0
    }
}

/// What the newest version follows from: nothing is appended without a live writer, and by one
/// nothing that readers may see without being published.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct State {
    file: FileId,
    root: Vec<u8>,
    is_written: bool,
    words: Option<VersionWords>,
}

/// The newest version of a segment.
#[derive(Debug)]
pub(crate) struct Newest {
    content: Segment<HostFolder>,
    version: VersionNumber,
}

impl Newest {
    /// Fills `buffer` from `offset` on, both whole pages.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), VersionsError> {
        let first = offset / PAGE_SIZE;
        for (index, page) in (first..).zip(buffer.as_chunks_mut::<PAGE_BYTES>().0) {
            *page = self.content.read(PageIndex(index), self.version)?;
        }
        Ok(())
    }

    /// All versions that can be read.
    pub(crate) fn content(&self) -> &Segment<HostFolder> {
        &self.content
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.version.0
    }

    /// Takes in the versions up to one that is known to be whole, if it is newer.
    pub(crate) fn reach(&mut self, number: u64) -> Result<(), VersionsError> {
        let version = VersionNumber(number);
        if self.version < version {
            self.content.refresh(version)?;
            self.version = self.content.appended();
        }
        Ok(())
    }

    /// The version of another segment that belongs to one of this.
    pub(crate) fn partner(&self, other: SegId, number: u64) -> Option<u64> {
        self.content.partner(other.raw(), VersionNumber(number)).map(|partner| partner.version.0)
    }

    /// The segments that there were commits with.
    pub(crate) fn partners(&self) -> impl Iterator<Item = u64> + '_ {
        self.content.partners()
    }

    /// The oldest version that can be read.
    pub(crate) fn oldest(&self) -> VersionNumber {
        self.content.oldest()
    }

    /// What one of the versions says that can be read.
    pub(crate) fn facts_of(&self, number: u64) -> Option<&VersionFacts> {
        let version = VersionNumber(number);
        self.content.facts(version).filter(|_| self.content.has(version))
    }

    /// Calls `each` with what a version has in its first bytes, in runs of whole pages that are not all
    /// zeros, rising. Its error ends it.
    pub(crate) fn each_run<E>(
        &self,
        number: u64,
        size_bytes: u64,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, VersionsError> {
        const PAGES: u64 = 256;
        let version = VersionNumber(number);
        let end = size_bytes.div_ceil(PAGE_SIZE);
        let mut buffer = vec![0; PAGES as usize * PAGE_BYTES];
        for first in (0..end).step_by(PAGES as usize) {
            let pages = first..end.min(first + PAGES);
            let sources =
                self.content.sources(PageIndex(pages.start)..PageIndex(pages.end), version)?;
            if sources.iter().all(|source| *source == Source::Zero) {
                continue;
            }
            let places = pages.clone().zip(&sources).zip(buffer.as_chunks_mut::<PAGE_BYTES>().0);
            for ((index, source), page) in places {
                *page = match source {
                    Source::Zero => [0; PAGE_BYTES],
                    _ => self.content.read(PageIndex(index), version)?,
                };
            }
            let filled = (pages.end - pages.start) as usize * PAGE_BYTES;
            for (skip, run) in runs(buffer.get(..filled).unwrap_or_default()) {
                let done = each(first * PAGE_SIZE + skip as u64, run);
                if done.is_err() {
                    return Ok(done);
                }
            }
        }
        Ok(Ok(()))
    }

    pub(crate) fn facts(&self) -> Option<&VersionFacts> {
        self.content.facts(self.version)
    }
}

/// A version of a segment, as its history has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VersionRecord {
    /// Its number.
    pub number: u64,
    /// Nanoseconds since 1970 at its commit.
    pub time_ns: u64,
    /// The process that made it.
    pub pid: u32,
    /// The name of its program.
    pub program: String,
    /// What that said that it is for; empty if it said nothing.
    pub message: String,
    /// How many pages it has changed.
    pub pages: u64,
    /// Bytes of the segment.
    pub size_bytes: u64,
    /// Whether it can still be opened, by its number or a tag.
    pub opens: bool,
    /// Its tags; `VAS@TAG` for one of a VAS's.
    pub tags: Vec<String>,
}

impl VersionRecord {
    fn of(number: u64, facts: &VersionFacts, pages: usize) -> VersionRecord {
        VersionRecord {
            number,
            time_ns: facts.time_ns,
            pid: facts.pid,
            program: facts.program(),
            message: facts.message(),
            pages: pages as u64,
            size_bytes: facts.size_bytes,
            opens: true,
            tags: Vec::new(),
        }
    }
}

impl Store {
    /// The number of a segment's newest version, if it is versioned.
    ///
    /// # Errors
    /// [`StoreError::Versions`], and those of opening its folder.
    pub fn newest_number(&self, segment: &SegmentFile) -> Result<Option<u64>, StoreError> {
        if !segment.is_versioned() {
            return Ok(None);
        }
        Ok(Some(self.newest(segment)?.number()))
    }

    /// The versions of a segment since its last checkpoint and those that have tags, the newest first;
    /// none but versioned segments have any.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a segment that is not versioned; as [`Store::open_segment`].
    pub fn history(&self, sid: SegId) -> Result<Vec<VersionRecord>, StoreError> {
        let segment = self.open_segment(sid)?;
        segment.check_versioned()?;
        let newest = self.newest(&segment)?;
        let mut records: BTreeMap<u64, VersionRecord> = BTreeMap::new();
        for (version, facts, pages) in newest.content.history() {
            let opens = newest.content.has(version);
            let record = VersionRecord { opens, ..VersionRecord::of(version.0, facts, pages) };
            records.insert(version.0, record);
        }
        for kept in self.kept_of(sid)? {
            if let Entry::Vacant(vacant) = records.entry(kept.number) {
                // One that cannot be read is named all the same.
                let of_kept = self.open_segment(kept.sid).and_then(|it| self.newest(&it));
                let facts = of_kept.ok().and_then(|it| it.facts().cloned()).unwrap_or_default();
                vacant.insert(VersionRecord::of(kept.number, &facts, 0));
            }
            if let Some(record) = records.get_mut(&kept.number) {
                record.opens = true;
                record.tags.extend((!kept.is_passing).then_some(kept.tag));
            }
        }
        Ok(records.into_values().rev().collect())
    }

    /// Reads what the newest published version is.
    pub(crate) fn newest(&self, segment: &SegmentFile) -> Result<Newest, StoreError> {
        self.newest_beside(segment, self.is_written(segment.sid()))
    }

    fn newest_beside(
        &self,
        segment: &SegmentFile,
        mut is_written: bool,
    ) -> Result<Newest, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            if tries > 1 {
                is_written = self.is_written(segment.sid());
            }
            // Before its files, which have it then.
            let words = if is_written { segment.read_words()? } else { None };
            let published = words.map(|words| VersionNumber(words.published));
            match self.open_to_look(segment, published, is_written)? {
                Ok(newest) => return Ok(newest),
                Err(_) if is_written && tries < TRIES => {}
                Err(source) => return Err(segment.of_versions()(source)),
            }
        }
    }

    /// Whether it takes a look at `other` to say whether the last record of a segment counts, published or not.
    pub(crate) fn asks(&self, segment: &SegmentFile, other: SegId) -> Result<bool, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.open_newest(segment.versions_files()?.read_only(), None) {
                Ok(newest) => return Ok(newest.content.asks(other.raw())),
                Err(_) if tries < TRIES && self.is_written(segment.sid()) => {}
                Err(source) => return Err(segment.of_versions()(source)),
            }
        }
    }

    /// Has size and root of a versioned segment be those of its newest version. What was found for the
    /// same root record and the same published version is not looked for again: without a live writer,
    /// that means reading a log to its end.
    pub(crate) fn show_newest_known(
        &self,
        segment: &mut SegmentFile,
        _lock: &impl Locked,
    ) -> Result<(), StoreError> {
        if segment.is_versioned() {
            let is_written = self.is_written(segment.sid());
            self.show_known(segment, is_written)?;
        }
        Ok(())
    }

    /// Has size and root be those of the newest version, and returns its number and the bytes of disk space
    /// of its folder, if it is versioned: as it is known, if it was looked for before.
    pub(crate) fn show_newest_number(
        &self,
        segment: &mut SegmentFile,
        is_written: bool,
        _lock: &impl Locked,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        if !segment.is_versioned() {
            return Ok(None);
        }
        let begin = SystemTime::now();
        let known = self.known_newest.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = known.contains_key(&segment.sid());
        drop(known);
        if is_known {
            let number = self.show_known(segment, is_written)?;
            return Ok(Some((number, self.versions_bytes(segment)?)));
        }
        let newest = self.show_newest_beside(segment, is_written)?;
        let Some(newest) = newest else { return Ok(None) };
        let (number, folder) = (newest.number(), newest.content.folder());
        let (mut bytes, mut root) = (0, None);
        for name in newest.content.names() {
            if let Some(stored) = newest.content.stored_bytes(name) {
                bytes += stored;
                continue;
            }
            // A log may go meanwhile.
            if let Some(stat) = folder.stat(name).map_err(|e| segment.error("look into", e))? {
                bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
                root = root.or((name == ROOT).then_some(FileId::of(&stat)));
            }
        }
        if let (Some(root), false) = (root, is_written) {
            let tells = root.tells_of_changes_since(begin);
            self.keep_looked_at(segment, (root, tells), bytes, newest.content);
        }
        Ok(Some((number, bytes)))
    }

    /// The caller has the store's lock: no writer comes or goes.
    fn show_known(&self, segment: &mut SegmentFile, is_written: bool) -> Result<u64, StoreError> {
        let state = self.state(segment, is_written)?;
        // A writer that has published nothing may append all the same.
        let is_settled = !is_written || state.words.is_some();
        let known = self.known_newest.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&segment.sid()).filter(|known| is_settled && known.0 == state);
        if let Some(found) = found {
            return segment.show_version(&found.1).map(|()| found.2);
        }
        drop(known);
        let newest = self.newest_beside(segment, is_written)?;
        let number = newest.number();
        if let Some(facts) = newest.facts() {
            segment.show_version(facts)?;
            // Otherwise a writer may have made another one since.
            if !is_settled || is_written && self.state(segment, is_written)? != state {
                return Ok(number);
            }
            let mut known = self.known_newest.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(segment.sid(), (state, facts.clone(), number));
        }
        Ok(number)
    }

    fn state(&self, segment: &SegmentFile, is_written: bool) -> Result<State, StoreError> {
        let words = if is_written { segment.read_words()? } else { None };
        let (file, root) = segment.read_root()?;
        Ok(State { file, root, is_written, words })
    }

    /// Beside nobody who writes, so that it can be written later, if the user may: see `looked_at`.
    fn open_to_look(
        &self,
        segment: &SegmentFile,
        published: Option<VersionNumber>,
        is_written: bool,
    ) -> Result<Result<Newest, VersionsError>, StoreError> {
        if !is_written && segment.right() == Right::Write {
            match self.open_newest(segment.versions_files()?, published) {
                Err(VersionsError::Io { source, .. }) if denied(&source) => {}
                done => return Ok(done),
            }
        }
        Ok(self.open_newest(segment.versions_files()?.read_only(), published))
    }

    fn open_newest(
        &self,
        folder: HostFolder,
        published: Option<VersionNumber>,
    ) -> Result<Newest, VersionsError> {
        let (limits, verified) = (Limits::default(), self.verified());
        let content = Segment::open_shared_beside(folder, limits, published, verified)?;
        let version = content.appended();
        Ok(Newest { content, version })
    }

    /// Has size and root of a versioned segment be those of its newest version, and returns that.
    pub(crate) fn show_newest(
        &self,
        segment: &mut SegmentFile,
    ) -> Result<Option<Newest>, StoreError> {
        if !segment.is_versioned() {
            return Ok(None);
        }
        let is_written = self.is_written(segment.sid());
        self.show_newest_beside(segment, is_written)
    }

    /// The same, beside a program that can write it or none.
    pub(crate) fn show_newest_beside(
        &self,
        segment: &mut SegmentFile,
        is_written: bool,
    ) -> Result<Option<Newest>, StoreError> {
        if !segment.is_versioned() {
            return Ok(None);
        }
        let newest = self.newest_beside(segment, is_written)?;
        if let Some(facts) = newest.facts() {
            segment.show_version(facts)?;
        }
        Ok(Some(newest))
    }
}

impl SegmentFile {
    /// What the root record's file has: the record, and the one before it.
    pub(crate) fn root_record(&self) -> Result<Vec<u8>, StoreError> {
        Ok(self.read_root()?.1)
    }

    /// Which file it is, and what it has.
    fn read_root(&self) -> Result<(FileId, Vec<u8>), StoreError> {
        let folder = self.versions_dir()?;
        let (file, stat) = folder.open_file_stat(ROOT, OFlags::RDONLY)?;
        let path = folder.path_of(ROOT);
        let bytes = u64::try_from(stat.st_size).unwrap_or_default().min(ROOT_BYTES_MAX);
        let read = read_up_to(&file, 0, bytes);
        let file = FileId::of(&stat);
        Ok((file, read.map_err(|e| io_error("read", &path, e))?))
    }

    /// Has size and root be those of a version.
    ///
    /// # Errors
    /// [`StoreError::BadField`] for a size or a root that the segment cannot have;
    /// [`StoreError::Invalid`] for a segment that is not versioned.
    pub fn show_version(&mut self, facts: &VersionFacts) -> Result<(), StoreError> {
        self.check_versioned()?;
        let (folder, header) = (self.versions_path(), self.header());
        let bad = |field, found: u64, expected: String| {
            bad_field(&folder, field, format!("{found:#x}"), expected)
        };
        let (size_bytes, most) = (facts.size_bytes, header.reserve_bytes);
        if size_bytes == 0 || !size_bytes.is_multiple_of(PAGE_SIZE) || size_bytes > most {
            let expected = format!("a multiple of 0x1000 from 0x1000 to {most:#x}");
            return Err(bad("size of a version", size_bytes, expected));
        }
        let address = facts.root_address;
        let offset = address.checked_sub(header.base);
        if address != 0 && offset.is_none_or(|offset| offset >= size_bytes) {
            let expected = "0 or inside the segment".into();
            return Err(bad("root address of a version", address, expected));
        }
        let header = Header { size_bytes, root: root_of(facts), ..header.clone() };
        self.set_header(header);
        Ok(())
    }
}

/// The root object of a version.
pub(crate) fn root_of(facts: &VersionFacts) -> SegRoot {
    let (first, second) = facts.root_fingerprint.split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    SegRoot { address: facts.root_address, fingerprint: [word(first), word(second)] }
}
