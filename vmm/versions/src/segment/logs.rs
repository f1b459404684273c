//! The logs that a root record names, read as far as their user needs, and which page of which version
//! lies in them. Nothing here writes: it serves who recovers, who writes and who only reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::Arc;

use super::sync::LogFile;
use super::{damaged, failed};
use crate::checksum::Checksum;
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::log::header::{LogHeader, LogId};
use crate::log::record::VersionFacts;
use crate::log::scan::{self, Content, Found, Position};
use crate::page::{PAGE_BYTES, PageIndex, VersionNumber};
use crate::root::{FILE_NAME, Root};

/// A log that is open.
#[derive(Debug)]
pub(super) struct OpenLog<F> {
    pub(super) header: LogHeader,
    /// Where its first record goes.
    pub(super) first: Position,
    pub(super) file: Arc<LogFile<F>>,
    /// Bytes that the file has, at least; behind the records they are zeros. Never less than where
    /// the records end that are known.
    pub(super) prepared: u64,
}

impl<F: File> OpenLog<F> {
    fn open<D: Folder<File = F>>(folder: &D, id: LogId, segment: u64) -> Result<OpenLog<F>> {
        let name = id.file_name();
        let file = folder.open(&name).map_err(|source| failed("open", &name, source))?;
        let mut page = [0; PAGE_BYTES];
        file.read_at(&mut page, 0).map_err(|source| failed("read", &name, source))?;
        let (header, chain) = LogHeader::decode(&page).map_err(|what| damaged(&name, what))?;
        if header.id != id {
            return Err(damaged(&name, format!("it says it is {}", header.id.file_name())));
        }
        if header.segment != segment {
            return Err(damaged(&name, format!("it belongs to segment {:016x}", header.segment)));
        }
        let prepared = file.bytes().map_err(|source| failed("measure", &name, source))?;
        let first = Position::first(&header, chain);
        Ok(OpenLog { header, first, file: Arc::new(LogFile::new(file)), prepared })
    }
}

/// A version's page in a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) version: VersionNumber,
    pub(super) log: LogId,
    pub(super) offset: u64,
}

/// A version since the last checkpoint.
#[derive(Debug, Default)]
struct Noted {
    facts: VersionFacts,
    pages: Vec<PageIndex>,
}

/// The logs of a segment and what is known of them.
#[derive(Debug)]
pub(super) struct Logs<F> {
    pub(super) root: Root,
    /// As the root record has them.
    pub(super) open: Vec<OpenLog<F>>,
    /// The one that `end` lies in: the last, but for a reader that needs no more.
    at: usize,
    /// By page, versions rising.
    pub(super) placed: BTreeMap<PageIndex, Vec<Placed>>,
    /// Every version since the last checkpoint; that one, too, without its pages.
    versions: BTreeMap<VersionNumber, Noted>,
    /// Behind the newest version that was read or written.
    pub(super) end: Position,
    /// Where the log would have to end if all behind what is durable were lost.
    pub(super) durable: Position,
}

impl<F: File> Logs<F> {
    /// For a segment that has none yet.
    pub(super) fn none(root: Root, facts: VersionFacts) -> Logs<F> {
        let end = Position { offset: 0, version: root.applied, chain: Checksum::default() };
        let versions = BTreeMap::from([(end.version, Noted { facts, ..Noted::default() })]);
        let (open, placed) = (Vec::new(), BTreeMap::new());
        Logs { root, open, at: 0, placed, versions, end, durable: end }
    }

    /// Opens all logs, and has read nothing of them.
    pub(super) fn open<D: Folder<File = F>>(folder: &D, root: &Root) -> Result<Logs<F>> {
        let ids = root.logs.iter();
        let open: Result<Vec<_>> = ids.map(|id| OpenLog::open(folder, *id, root.segment)).collect();
        let open = open?;
        check_first(&open, root)?;
        let first = &open[0];
        let mut logs = Logs::none(root.clone(), first.header.facts.clone());
        (logs.end, logs.durable) = (first.first, first.first);
        logs.open = open;
        Ok(logs)
    }

    /// Takes a newer root record if reading can go on from where it is: from the same log, none of
    /// whose versions were given up. Otherwise nothing has changed.
    pub(super) fn follow<D: Folder<File = F>>(
        &mut self,
        folder: &D,
        root: &Root,
    ) -> Result<Followed> {
        let Some(current) = self.open.get(self.at) else { return Ok(Followed::No) };
        let place = root.logs.iter().position(|id| *id == current.header.id);
        let Some(place) = place else { return Ok(Followed::No) };
        let is_open = |id: &LogId| self.open.iter().any(|log| log.header.id == *id);
        if !root.logs[..place].iter().all(is_open) {
            return Ok(Followed::No);
        }
        let new = root.logs.iter().filter(|id| !is_open(id));
        let new: Result<Vec<_>> = new.map(|id| OpenLog::open(folder, *id, root.segment)).collect();
        let mut new = new?;
        let has = |id: LogId| move |log: &OpenLog<F>| log.header.id == id;
        let next = root.logs.get(place + 1);
        let next = next.and_then(|id| self.open.iter().chain(&new).find(|log| has(*id)(log)));
        if next.is_some_and(|next| next.header.after < self.end.version) {
            return Ok(Followed::No);
        }
        let oldest = self.open.iter().find(|log| has(root.logs[0])(log));
        check_first(oldest, root)?;
        new.append(&mut self.open);
        let all = root.logs.iter();
        self.open =
            all.filter_map(|id| Some(new.swap_remove(new.iter().position(has(*id))?))).collect();
        self.at = place;
        self.root = root.clone();
        self.forget_applied();
        Ok(Followed::Yes)
    }

    /// Reads on: as far as `up_to` if it is given, else to the end of the last log.
    pub(super) fn read_on(&mut self, up_to: Option<VersionNumber>, content: Content) -> Result<()> {
        loop {
            if let Some(next) = self.open.get(self.at + 1)
                && next.header.after == self.end.version
            {
                if next.header.chain != self.end.chain {
                    return Err(self.misfit());
                }
                self.at += 1;
                (self.end, self.durable) = (next.first, next.first);
                continue;
            }
            if up_to.is_some_and(|up_to| self.end.version >= up_to) {
                break;
            }
            let Some(log) = self.open.get_mut(self.at) else { break };
            let (id, file) = (log.header.id, &log.file.file);
            let next = scan::next(file, &id.file_name(), self.end, &mut log.prepared, content)?;
            let Some((found, behind)) = next else { break };
            self.note(id, &found);
            self.end = behind;
        }
        if !self.is_at_last() {
            // A log is synced before a root record names another behind it.
            self.durable = self.end;
        }
        Ok(())
    }

    /// After [`Logs::read_on`]: an error if it did not come as far as it had to.
    pub(super) fn check_reached(&self, up_to: Option<VersionNumber>) -> Result<()> {
        match up_to {
            None if !self.is_at_last() => Err(self.misfit()),
            Some(up_to) if self.end.version < up_to => {
                let what =
                    format!("version {up_to} was made known, and {} is the last", self.end.version);
                Err(damaged(&self.current().header.id.file_name(), what))
            }
            _ => Ok(()),
        }
    }

    /// The next log does not go on where the one before it ends.
    fn misfit(&self) -> crate::error::VersionsError {
        let next = &self.open[(self.at + 1).min(self.open.len() - 1)].header;
        let what = format!(
            "it follows version {}, and the log before it ends at {}",
            next.after, self.end.version
        );
        damaged(&next.id.file_name(), what)
    }

    /// Whether `end` lies in the log that is written to.
    pub(super) fn is_at_last(&self) -> bool {
        self.at + 1 >= self.open.len()
    }

    /// The log that `end` lies in.
    pub(super) fn current(&self) -> &OpenLog<F> {
        self.open.get(self.at).expect("a segment has a log from the start on")
    }

    /// The same, to change it.
    pub(super) fn current_mut(&mut self) -> &mut OpenLog<F> {
        self.open.get_mut(self.at).expect("a segment has a log from the start on")
    }

    pub(super) fn find(&self, id: LogId) -> Option<&OpenLog<F>> {
        self.open.iter().find(|log| log.header.id == id)
    }

    /// Writing goes on in this log.
    pub(super) fn begin(&mut self, log: OpenLog<F>) {
        (self.end, self.durable) = (log.first, log.first);
        self.open.push(log);
        self.at = self.open.len() - 1;
        self.forget_behind(self.end.version);
    }

    /// Closes the first so many logs, which have been applied; says which they were.
    pub(super) fn drop_first(&mut self, count: usize) -> Vec<LogId> {
        self.at -= count;
        self.open.drain(..count).map(|log| log.header.id).collect()
    }

    /// Notes a whole record.
    pub(super) fn note(&mut self, log: LogId, found: &Found) {
        let version = found.head.version;
        for (page, offset) in found.places() {
            self.placed.entry(page).or_default().push(Placed { version, log, offset });
        }
        let pages = found.head.pages.iter().map(|(page, _)| *page).collect();
        self.versions.insert(version, Noted { facts: found.head.facts.clone(), pages });
    }

    /// Forgets all versions behind `last`, which were lost.
    fn forget_behind(&mut self, last: VersionNumber) {
        self.versions.retain(|version, _| *version <= last);
        self.retain_placed(|placed| placed.version <= last);
    }

    /// Forgets what the home file has.
    pub(super) fn forget_applied(&mut self) {
        let applied = self.root.applied;
        if self.versions.first_key_value().is_some_and(|(oldest, _)| *oldest < applied) {
            self.versions.retain(|version, _| *version >= applied);
            self.retain_placed(|placed| placed.version > applied);
        }
    }

    fn retain_placed(&mut self, is_kept: impl Fn(&Placed) -> bool) {
        self.placed.retain(|_, placed| {
            placed.retain(&is_kept);
            !placed.is_empty()
        });
    }

    pub(super) fn facts(&self, version: VersionNumber) -> Option<&VersionFacts> {
        self.versions.get(&version).map(|noted| &noted.facts)
    }

    /// Every version since the last checkpoint, and how many pages it has changed.
    pub(super) fn history(
        &self,
    ) -> impl DoubleEndedIterator<Item = (VersionNumber, &VersionFacts, usize)> {
        self.versions.iter().map(|(&version, noted)| (version, &noted.facts, noted.pages.len()))
    }

    /// The newest place of a page at or below `version`.
    pub(super) fn newest(&self, page: PageIndex, version: VersionNumber) -> Option<Placed> {
        self.placed.get(&page).and_then(|placed| newest_of(placed, version))
    }

    /// The same of many pages.
    pub(super) fn newest_in(
        &self,
        pages: Range<PageIndex>,
        version: VersionNumber,
    ) -> impl Iterator<Item = (PageIndex, Placed)> {
        // A range that ends before it begins has no pages; the map would panic.
        let pages = pages.start..pages.end.max(pages.start);
        let found = self.placed.range(pages);
        found.filter_map(move |(page, placed)| Some((*page, newest_of(placed, version)?)))
    }

    /// The pages that versions behind `after` changed, up to `up_to`; `None` if some of these
    /// versions are known no more.
    pub(super) fn changed_between(
        &self,
        after: VersionNumber,
        up_to: VersionNumber,
    ) -> Option<BTreeSet<PageIndex>> {
        let (oldest, _) = self.versions.first_key_value()?;
        if up_to <= after {
            return Some(BTreeSet::new());
        }
        if after < *oldest || self.end.version < up_to {
            return None;
        }
        let between = self.versions.range((Bound::Excluded(after), Bound::Included(up_to)));
        Some(between.flat_map(|(_, noted)| &noted.pages).copied().collect())
    }
}

/// Whether a newer root record could be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Followed {
    /// Reading goes on.
    Yes,
    /// All must be read anew.
    No,
}

fn newest_of(placed: &[Placed], version: VersionNumber) -> Option<Placed> {
    placed.iter().rev().find(|placed| placed.version <= version).copied()
}

/// The oldest log begins where the home file is.
fn check_first<'a, F: 'a>(
    logs: impl IntoIterator<Item = &'a OpenLog<F>>,
    root: &Root,
) -> Result<()> {
    let after = logs.into_iter().next().map(|log| log.header.after);
    if after == Some(root.applied) {
        return Ok(());
    }
    let what = format!("applied up to version {}, which no log has", root.applied);
    Err(damaged(FILE_NAME, what))
}
