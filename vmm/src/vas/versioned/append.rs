//! How changes become versions: of one segment, or of several as one commit.
//!
//! A commit of several is durable before anybody sees it, whatever the durability of the segments: so
//! nothing is ever appended behind one that a power cut could take away in one segment and leave in
//! another.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::objects::Durability;
use abi::{PAGE_SIZE, PAGE_SIZE_2M, SegId};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::Page;
use spacejmp_versions::segment::{Part, Source, append_together};
use spacejmp_versions::{Commit, LargeCommit, PageIndex, VersionNumber, VersionsError};

use super::segment::{Log, lock};
use super::spill::Layer;
use super::sync;
use crate::store::SegmentFile;
use crate::vas::VasError;
use crate::vm::windows::PinnedRange;

/// What a page has in the version that is to be made.
pub(super) enum NewPage {
    /// This.
    Taken(Box<Page>),
    /// What lies there when it is written.
    There(PinnedRange),
}

impl NewPage {
    fn read<R>(&self, f: impl FnOnce(&Page) -> R) -> R {
        match self {
            NewPage::Taken(page) => f(page),
            NewPage::There(at) => {
                // On the stack: a large commit reads a hundred thousand.
                let mut page = [0; PAGE_SIZE as usize];
                read(at, &mut page);
                f(&page)
            }
        }
    }

    fn take(self) -> Box<Page> {
        match self {
            NewPage::Taken(page) => page,
            NewPage::There(at) => content(&at),
        }
    }
}

/// What a thread has changed in one segment.
pub(super) struct Change {
    pub(super) sid: SegId,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) file: SegmentFile,
    pub(super) durability: Durability,
    pub(super) base: VersionNumber,
    /// What other VMs have told was read a moment ago.
    pub(super) is_looked_at: bool,
    pub(super) facts: VersionFacts,
    /// Rising. None any more when they are in memory a second time.
    pub(super) pages: Vec<(PageIndex, NewPage)>,
    /// How many of them are where nothing was.
    pub(super) new_pages: usize,
    /// Pages that are in a layer in the making already, but for those above that it has, too.
    pub(super) spilled: Option<Layer>,
}

/// From so many pages on a change is written page by page, to a layer of its own, and never all in
/// memory a second time: somewhat less than half a log holds.
const LARGE_PAGES: usize = 8000;
/// A change of so many pages is as well, if most of them are where nothing was: they need not be copied
/// out of a log later, and lie as the segment does, so that readers have large pages there.
const FILLING_PAGES: usize = 2048;

/// Pages in 2 MiB.
pub(super) const GROUP_PAGES: u64 = PAGE_SIZE_2M / PAGE_SIZE;

pub(super) fn group_of(page: PageIndex) -> u64 {
    page.0 / GROUP_PAGES
}

fn in_the_making(layer: &Layer) -> MutexGuard<'_, LargeCommit<HostFolder>> {
    layer.lock().unwrap_or_else(|poison| poison.into_inner())
}

fn content(pinned: &PinnedRange) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE as usize]);
    read(pinned, &mut page);
    page
}

fn read(pinned: &PinnedRange, page: &mut Page) {
    pinned.range().read(page).expect("a frame has a page's length");
}

/// Pages in memory.
pub(super) type Contents = Vec<(PageIndex, Box<Page>)>;

/// What a change has become.
pub(super) struct Appended {
    pub(super) version: VersionNumber,
    /// The pages in which it differs from the one before, if they are in memory.
    pub(super) contents: Option<Contents>,
}

impl Change {
    fn commit<'a>(&self, pages: &'a Contents) -> Commit<'a> {
        let pages = pages.iter().map(|(page, content)| (*page, &**content)).collect();
        Commit { facts: self.facts.clone(), pages }
    }

    fn write(&mut self, log: &mut Log) -> Result<Appended, VersionsError> {
        let without_contents = |version| Appended { version, contents: None };
        if let Some(layer) = &self.spilled {
            // On failure what was written out is still needed.
            return self.write_large(&mut in_the_making(layer), log).map(without_contents);
        }
        if !self.is_large() {
            let pages = self.contents()?;
            let version = log.append(&self.commit(&pages))?;
            return Ok(Appended { version, contents: Some(pages) });
        }
        let mut large = LargeCommit::begin(log)?;
        let written = self.write_large(&mut large, log);
        if written.is_err() {
            large.abort(log);
        }
        written.map(without_contents)
    }

    fn write_large(
        &self,
        large: &mut LargeCommit<HostFolder>,
        log: &mut Log,
    ) -> Result<VersionNumber, VersionsError> {
        let mut groups = self.pages.chunk_by(|a, b| group_of(a.0) == group_of(b.0));
        groups.try_for_each(|group| self.write_group(large, group, log))?;
        large.finish(log, self.facts.clone())
    }

    fn is_large(&self) -> bool {
        let count = self.pages.len();
        count >= LARGE_PAGES || count >= FILLING_PAGES && self.new_pages >= count / 4 * 3
    }

    /// Writes what was changed in 2 MiB. If that is most of it and nothing else is there, the rest is
    /// written as zeros: then the layer has them all.
    fn write_group(
        &self,
        large: &mut LargeCommit<HostFolder>,
        group: &[(PageIndex, NewPage)],
        log: &Log,
    ) -> Result<(), VersionsError> {
        let Some((first, _)) = group.first() else { return Ok(()) };
        let start = group_of(*first) * GROUP_PAGES;
        let all = PageIndex(start)..PageIndex(start + GROUP_PAGES);
        let is_within = all.end.0 * PAGE_SIZE <= self.facts.size_bytes;
        let mut pages = group.iter().peekable();
        if !is_within || (group.len() as u64) < GROUP_PAGES / 2 {
            return pages.try_for_each(|(page, it)| it.read(|it| large.write(*page, it)));
        }
        let sources = log.sources(all, self.base)?;
        let is_new = |page: u64| sources.get((page - start) as usize) == Some(&Source::Zero);
        for page in (start..start + GROUP_PAGES).map(PageIndex) {
            match pages.next_if(|(changed, _)| *changed == page) {
                Some((_, it)) => it.read(|it| large.write(page, it))?,
                None if is_new(page.0) && !large.has(page) => {
                    large.write(page, &[0; PAGE_SIZE as usize])?
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Makes sure that the log can take it.
    fn make_ready(&self, log: &mut Log) -> Result<(), VasError> {
        if !self.is_looked_at {
            sync::take_note(log, self.file.failed_log()?);
        }
        // Since an earlier failure.
        if log.has_failed() {
            sync::renew(log, &self.file, self.base)?;
        }
        if log.appended() != self.base {
            // What the thread began with is lost.
            return Err(VasError::Lost { sid: self.sid });
        }
        Ok(())
    }

    /// Its pages, in memory a second time.
    fn contents(&mut self) -> Result<Contents, VersionsError> {
        let pages = std::mem::take(&mut self.pages);
        let mut contents: Contents =
            pages.into_iter().map(|(page, content)| (page, content.take())).collect();
        if let Some(layer) = &self.spilled {
            let mut layer = in_the_making(layer);
            let changed: BTreeSet<_> = contents.iter().map(|(page, _)| *page).collect();
            let rest: Vec<_> = layer.pages().filter(|page| !changed.contains(page)).collect();
            for page in rest {
                contents.push((page, Box::new(layer.read(page)?)));
            }
            contents.sort_unstable_by_key(|(page, _)| *page);
        }
        Ok(contents)
    }

    /// How many pages it has.
    pub(super) fn count(&self) -> usize {
        let Some(layer) = &self.spilled else { return self.pages.len() };
        let layer = in_the_making(layer);
        let again = self.pages.iter().filter(|(page, _)| layer.has(*page)).count();
        self.pages.len() - again + layer.pages().count()
    }

    /// Makes it a version, which a power cut leaves if the segment's commits wait for that. On failure
    /// nothing of it is to be seen.
    fn append(&mut self) -> Result<Appended, VasError> {
        let appended = {
            let shared = Arc::clone(&self.log);
            let mut log = lock(&shared);
            self.make_ready(&mut log)?;
            self.write(&mut log)
        };
        let done = appended.and_then(|appended| {
            // Others may look at older versions meanwhile.
            if self.durability == Durability::Each {
                sync::sync(&self.log, &self.file)?;
            }
            Ok(appended)
        });
        if done.is_err() {
            // What was appended must not be found by a later recovery. Should this fail as well, the
            // next who has the lock does it first.
            let _ = sync::renew(&mut lock(&self.log), &self.file, self.base);
        }
        Ok(done?)
    }
}

/// Makes changes a version of each segment, all of them or none: as durable as they have to be before others
/// see them. The thread holds the locks of all these segments.
pub(super) fn append(changes: &mut [Change]) -> Result<Vec<Appended>, VasError> {
    if let [change] = changes {
        return Ok(vec![change.append()?]);
    }
    let done = append_all(changes);
    if done.is_err() {
        for change in &*changes {
            // Should this fail, the next who has the lock does it first.
            let _ = sync::take_back(&mut lock(&change.log), &change.file, change.base);
        }
    }
    done
}

fn append_all(changes: &mut [Change]) -> Result<Vec<Appended>, VasError> {
    let appended = {
        let shared: Vec<_> = changes.iter().map(|change| Arc::clone(&change.log)).collect();
        // In the order of their numbers, so that two threads do not wait for each other.
        let mut logs: Vec<MutexGuard<'_, Log>> = shared.iter().map(|log| lock(log)).collect();
        for (change, log) in changes.iter().zip(&mut logs) {
            change.make_ready(log)?;
            log.check_together(change.count(), changes.len())?;
        }
        let contents: Result<Vec<_>, _> = changes.iter_mut().map(Change::contents).collect();
        let contents = contents?;
        let commits = changes.iter().zip(&contents).map(|(change, pages)| change.commit(pages));
        let commits: Vec<_> = commits.collect();
        let parts = logs.iter_mut().zip(&commits);
        let mut parts: Vec<_> =
            parts.map(|(log, commit)| Part { segment: &mut **log, commit }).collect();
        let versions = append_together(&mut parts)?;
        let contents = contents.into_iter().map(Some);
        let made = versions.into_iter().zip(contents);
        made.map(|(version, contents)| Appended { version, contents }).collect()
    };
    // Others may look at older versions meanwhile.
    for change in &*changes {
        sync::sync(&change.log, &change.file)?;
    }
    Ok(appended)
}
