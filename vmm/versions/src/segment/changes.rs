//! What a commit has to change so that a segment has the content of another version again: for a rollback
//! that is part of a commit of several segments. (One of a single segment needs no pages: `rollback`.)

use std::collections::{BTreeMap, BTreeSet};

use super::{HOME_FILE_NAME, Segment, Source, failed};
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};

/// A place in a file, whatever its names.
type Place = ((u64, u64), u64);

/// Where the pages of a version lie.
struct Places {
    listed: BTreeMap<PageIndex, Place>,
    home: Option<(u64, u64)>,
    home_pages: u64,
}

impl Places {
    /// `None` for a page of zeros that lies nowhere.
    fn of(&self, page: PageIndex) -> Option<Place> {
        let in_home = || {
            let home = self.home.filter(|_| page.0 < self.home_pages)?;
            Some((home, page.0 * PAGE_BYTES as u64))
        };
        self.listed.get(&page).copied().or_else(in_home)
    }
}

impl<D: Folder> Segment<D> {
    /// The pages that differ between the newest version and `version` of `other`, which may be this segment,
    /// each with what it has there; compared byte by byte. What both have at the same place of the same file is
    /// not read.
    ///
    /// # Errors
    /// The host's; [`crate::VersionsError::Gone`]; [`crate::VersionsError::TooLargeTogether`] for more than a
    /// commit of so many segments can have of each.
    pub fn changes_to(
        &self,
        other: &Segment<D>,
        version: VersionNumber,
        segments: usize,
    ) -> Result<Vec<(PageIndex, Page)>> {
        let newest = self.appended();
        let (here, there) = (self.places(newest)?, other.places(version)?);
        let mut pages: BTreeSet<PageIndex> =
            here.listed.keys().chain(there.listed.keys()).copied().collect();
        let is_shared = here.home == there.home;
        let shared = if is_shared { here.home_pages.min(there.home_pages) } else { 0 };
        self.add_home(&here, shared, &mut pages)?;
        other.add_home(&there, shared, &mut pages)?;
        let mut changes = Vec::new();
        for page in pages.into_iter().filter(|page| here.of(*page) != there.of(*page)) {
            let content = other.read(page, version)?;
            if content != self.read(page, newest)? {
                changes.push((page, content));
                self.check_together(changes.len(), segments)?;
            }
        }
        Ok(changes)
    }

    fn places(&self, version: VersionNumber) -> Result<Places> {
        let identity = |file: &D::File, name: String| {
            file.identity().map_err(|source| failed("look at", &name, source))
        };
        let mut known = BTreeMap::new();
        let mut listed = BTreeMap::new();
        for (page, source) in self.above_home(PageIndex(0)..PageIndex(u64::MAX), version)? {
            // Logs and layers have numbers of one count.
            let (number, name, file, offset) = match source {
                Source::Log(id, offset) => (id.0, id.file_name(), self.log_file(id), offset),
                Source::Layer(id, offset) => (id.0, id.file_name(), self.layer_file(id), offset),
                Source::Home(_) | Source::Zero => continue,
            };
            let file = match (known.get(&number), file) {
                (Some(file), _) => *file,
                (None, Some(file)) => *known.entry(number).or_insert(identity(file, name)?),
                (None, None) => continue,
            };
            listed.insert(page, (file, offset));
        }
        let home = self.home_file().map(|file| identity(file, HOME_FILE_NAME.to_owned()));
        let home_pages = self.home_bytes(version)? / PAGE_BYTES as u64;
        Ok(Places { listed, home: home.transpose()?, home_pages })
    }

    /// Adds the pages that a version may have something in that its home file has, from `first` on.
    fn add_home(&self, at: &Places, first: u64, pages: &mut BTreeSet<PageIndex>) -> Result<()> {
        let Some(home) = self.home_file() else { return Ok(()) };
        let bytes = PAGE_BYTES as u64;
        let (mut next, end) = (first * bytes, at.home_pages * bytes);
        while next < end {
            let run = home.data_from(next);
            let run = run.map_err(|source| failed("look at", HOME_FILE_NAME, source))?;
            let Some(run) = run.filter(|run| run.start < end) else { break };
            let last = run.end.min(end).div_ceil(bytes);
            pages.extend((run.start.max(next) / bytes..last).map(PageIndex));
            next = run.end.max(next + bytes);
        }
        Ok(())
    }
}
