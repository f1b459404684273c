//! Finding pages: which generations a version consists of, and where each page of it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use super::files::OpenLayer;
use super::stack::{Placed, Stack};
use super::{Segment, Source, damaged, failed};
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::layer::{HOME_FILE_NAME, Layer, LayerId, Pages};
use crate::log::header::LogId;
use crate::log::record::VersionFacts;
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};

/// A generation, by number in the root record, and the newest version of it that counts.
pub(super) type Step = (usize, VersionNumber);

impl<F: File> Stack<F> {
    /// The generations that a version consists of, from the top down; `None` if it cannot be read.
    pub(super) fn path(&self, version: VersionNumber) -> Option<Vec<Step>> {
        if version < self.oldest || version > self.end.version {
            return None;
        }
        let generations = &self.root.generations;
        let (mut path, mut version, mut above) = (Vec::new(), version, generations.len());
        loop {
            let at = generations[..above].iter().rposition(|one| one.base <= version)?;
            if version > self.end_of(at) {
                return None;
            }
            path.push((at, version));
            let Some(below) = generations[at].below else { return Some(path) };
            (version, above) = (below, at);
        }
    }

    /// The newest version of a generation, as far as it was read.
    fn end_of(&self, generation: usize) -> VersionNumber {
        let current = self.open.get(self.at);
        if current.is_some_and(|log| log.generation == generation) {
            return self.end.version;
        }
        let base = self.root.generations[generation].base;
        let mut logs = self.open.iter().rev().filter(|log| log.generation == generation);
        logs.next().map_or(base, |log| log.up_to.unwrap_or(log.header.after))
    }

    pub(super) fn has(&self, version: VersionNumber) -> bool {
        self.versions.contains_key(&version) && self.path(version).is_some()
    }

    pub(super) fn layer(&self, generation: usize) -> Option<&OpenLayer<F>> {
        self.layers.get(generation).and_then(Option::as_deref)
    }

    /// Where a page of a version is that consists of `path`.
    pub(super) fn locate(&self, page: PageIndex, path: &[Step]) -> Source {
        for &(generation, version) in path {
            if let Some(placed) = self.newest(page, self.interval(generation, version)) {
                return Source::Log(placed.log, placed.offset);
            }
            if let Some(layer) = self.layer(generation).filter(|layer| layer.pages.has(page)) {
                return layer.source(page);
            }
        }
        Source::Zero
    }

    /// The versions of a generation's logs, up to one.
    fn interval(
        &self,
        generation: usize,
        version: VersionNumber,
    ) -> (VersionNumber, VersionNumber) {
        (self.root.generations[generation].base, version)
    }

    fn newest(&self, page: PageIndex, interval: (VersionNumber, VersionNumber)) -> Option<Placed> {
        self.placed.get(&page).and_then(|placed| newest_of(placed, interval))
    }

    /// Those of some pages of a version that lie above the home file.
    pub(super) fn above_home(
        &self,
        pages: &Range<PageIndex>,
        path: &[Step],
    ) -> BTreeMap<PageIndex, Source> {
        // A range that ends before it begins has no pages; the map would panic.
        let pages = pages.start..pages.end.max(pages.start);
        let mut found = BTreeMap::new();
        for &(generation, version) in path.iter().rev() {
            if let Some(layer) = self.layer(generation)
                && let Pages::Listed(presence) = &layer.pages
            {
                let listed = presence.range(pages.clone());
                found.extend(listed.map(|page| (page, layer.source(page))));
            }
            let interval = self.interval(generation, version);
            if interval.0 < interval.1 {
                for (page, placed) in self.placed.range(pages.clone()) {
                    if let Some(placed) = newest_of(placed, interval) {
                        found.insert(*page, Source::Log(placed.log, placed.offset));
                    }
                }
            }
        }
        found
    }

    /// Bytes of the home file that a version may show.
    pub(super) fn home_bytes(&self, path: &[Step]) -> u64 {
        let lowest = path.last().and_then(|(generation, _)| self.layer(*generation));
        match lowest.map(|layer| &layer.pages) {
            Some(Pages::Below(bytes)) => *bytes,
            _ => 0,
        }
    }

    /// See [`Segment::changed_between`].
    pub(super) fn changed_between(
        &self,
        after: VersionNumber,
        up_to: VersionNumber,
    ) -> Option<BTreeSet<PageIndex>> {
        if self.end.version < up_to || !self.versions.contains_key(&after) {
            return None;
        }
        let between = self.versions.range((Bound::Excluded(after), Bound::Included(up_to)));
        let (mut changed, mut before) = (BTreeSet::new(), after);
        for (version, noted) in between {
            if before.next() != Some(*version) {
                return None;
            }
            before = *version;
            changed.extend(noted.pages.as_ref()?.iter());
        }
        (before == up_to).then_some(changed)
    }
}

impl<F> OpenLayer<F> {
    fn source(&self, page: PageIndex) -> Source {
        // One that a layer has lies where a file can have it.
        let offset = page.offset().unwrap_or_default();
        match self.layer {
            Layer::File(id) => Source::Layer(id, offset),
            Layer::Home | Layer::Empty => Source::Home(offset),
        }
    }
}

fn newest_of(placed: &[Placed], (after, up_to): (VersionNumber, VersionNumber)) -> Option<Placed> {
    let newest = placed.iter().rev().find(|placed| placed.version <= up_to);
    newest.filter(|placed| placed.version > after).copied()
}

impl<D: Folder> Segment<D> {
    /// What has a version, and the generations it consists of there: the newest root record's, or one
    /// before it whose files are still open.
    fn having(&self, version: VersionNumber) -> Result<(&Stack<D::File>, Vec<Step>)> {
        let mut stacks = std::iter::once(&self.stack).chain(self.older.iter().rev());
        let found = stacks.find_map(|stack| Some((stack, stack.path(version)?)));
        found.ok_or(VersionsError::Gone { version, oldest: self.oldest() })
    }

    /// Whether a version can be read.
    #[must_use]
    pub fn has(&self, version: VersionNumber) -> bool {
        self.stack.has(version) || self.older.iter().any(|stack| stack.has(version))
    }

    /// What a version says besides its pages; `None` for one that is gone or not there yet.
    #[must_use]
    pub fn facts(&self, version: VersionNumber) -> Option<&VersionFacts> {
        let stacks = std::iter::once(&self.stack).chain(self.older.iter().rev());
        let mut noted = stacks.filter_map(|stack| stack.versions.get(&version));
        noted.next().map(|noted| &noted.facts)
    }

    /// Where a page of a version is.
    ///
    /// # Errors
    /// [`VersionsError::Gone`] for a version that cannot be read.
    pub fn locate(&self, page: PageIndex, version: VersionNumber) -> Result<Source> {
        let (stack, path) = self.having(version)?;
        Ok(stack.locate(page, &path))
    }

    /// Those of some pages of a version that lie in logs and in layers above the home file, rising.
    /// Of the others the home file has what lies below [`Segment::home_bytes`] of that version, and
    /// the rest are zeros.
    ///
    /// # Errors
    /// [`VersionsError::Gone`] for a version that cannot be read.
    pub fn above_home(
        &self,
        pages: Range<PageIndex>,
        version: VersionNumber,
    ) -> Result<impl Iterator<Item = (PageIndex, Source)> + use<D>> {
        let (stack, path) = self.having(version)?;
        Ok(stack.above_home(&pages, &path).into_iter())
    }

    /// Bytes of the home file that a version shows.
    ///
    /// # Errors
    /// [`VersionsError::Gone`] for a version that cannot be read.
    pub fn home_bytes(&self, version: VersionNumber) -> Result<u64> {
        let (stack, path) = self.having(version)?;
        Ok(stack.home_bytes(&path))
    }

    /// Where each of some pages of a version is, in order.
    ///
    /// # Errors
    /// [`VersionsError::Gone`] for a version that cannot be read.
    pub fn sources(&self, pages: Range<PageIndex>, version: VersionNumber) -> Result<Vec<Source>> {
        let (stack, path) = self.having(version)?;
        let home = Pages::Below(stack.home_bytes(&path));
        let below = |page: PageIndex| match page.offset().filter(|_| home.has(page)) {
            Some(offset) => Source::Home(offset),
            None => Source::Zero,
        };
        let first = pages.start.0;
        let mut sources: Vec<Source> =
            (first..pages.end.0).map(|page| below(PageIndex(page))).collect();
        for (page, source) in stack.above_home(&pages, &path) {
            if let Some(place) = sources.get_mut((page.0 - first) as usize) {
                *place = source;
            }
        }
        Ok(sources)
    }

    /// The pages that changed behind version `after`, up to `up_to`, rising. `None` if that is not
    /// known, or `up_to` does not go back to `after`: then any page may have changed.
    #[must_use]
    pub fn changed_between(
        &self,
        after: VersionNumber,
        up_to: VersionNumber,
    ) -> Option<BTreeSet<PageIndex>> {
        if up_to <= after {
            return Some(BTreeSet::new());
        }
        let mut stacks = std::iter::once(&self.stack).chain(self.older.iter().rev());
        stacks.find_map(|stack| stack.changed_between(after, up_to))
    }

    /// A log's file; `None` when it is of no use any more.
    #[must_use]
    pub fn log_file(&self, id: LogId) -> Option<&D::File> {
        let mut stacks = std::iter::once(&self.stack).chain(self.older.iter().rev());
        stacks.find_map(|stack| stack.find(id)).map(|log| &log.file.file)
    }

    /// Device and inode of that file, if they were asked for when it was opened.
    #[must_use]
    pub fn log_identity(&self, id: LogId) -> Option<(u64, u64)> {
        let mut stacks = std::iter::once(&self.stack).chain(self.older.iter().rev());
        stacks.find_map(|stack| stack.find(id))?.identity
    }

    /// The file with a layer's pages, each at its own offset; `None` when it is of no use any more.
    #[must_use]
    pub fn layer_file(&self, id: LayerId) -> Option<&D::File> {
        self.layer_of(Layer::File(id)).map(|layer| &layer.file)
    }

    /// The home file; `None` when no version shows it any more.
    #[must_use]
    pub fn home_file(&self) -> Option<&D::File> {
        self.layer_of(Layer::Home).map(|layer| &layer.file)
    }

    fn layer_of(&self, layer: Layer) -> Option<&OpenLayer<D::File>> {
        let stacks = std::iter::once(&self.stack).chain(self.older.iter().rev());
        let mut layers = stacks.flat_map(|stack| stack.layers.iter().flatten());
        layers.find(|other| other.layer == layer).map(|layer| &**layer)
    }

    /// A page of a version.
    ///
    /// # Errors
    /// The host's; [`VersionsError::Gone`] for a version that cannot be read.
    pub fn read(&self, page: PageIndex, version: VersionNumber) -> Result<Page> {
        self.read_from(self.locate(page, version)?)
    }

    /// What pages have, each where [`Segment::locate`] says: one read of the disk for pages that follow
    /// each other in a file, as those of a commit do.
    ///
    /// # Errors
    /// As [`Segment::read`].
    pub fn read_all(&self, sources: &[Source]) -> Result<Vec<Page>> {
        let mut content = vec![[0; PAGE_BYTES]; sources.len()];
        let mut rest = content.as_mut_slice();
        for run in sources.chunk_by(|page, next| page.is_followed_by(*next)) {
            let (pages, behind) = rest.split_at_mut(run.len());
            if let Some(first) = run.first() {
                self.read_into(*first, pages.as_flattened_mut())?;
            }
            rest = behind;
        }
        Ok(content)
    }

    pub(super) fn read_from(&self, source: Source) -> Result<Page> {
        let mut content = [0; PAGE_BYTES];
        self.read_into(source, &mut content)?;
        Ok(content)
    }

    /// Reads what is at `source` and behind it; zeros are left as they are.
    fn read_into(&self, source: Source, content: &mut [u8]) -> Result<()> {
        let (file, name, offset) = match source {
            Source::Zero => return Ok(()),
            Source::Home(offset) => (self.home_file(), HOME_FILE_NAME.to_owned(), offset),
            Source::Layer(id, offset) => (self.layer_file(id), id.file_name(), offset),
            Source::Log(id, offset) => (self.log_file(id), id.file_name(), offset),
        };
        let missing = || damaged(&name, "a page lies in it, but it is not open");
        let read = file.ok_or_else(missing)?.read_at(content, offset);
        read.map_err(|source| failed("read", &name, source))
    }
}
