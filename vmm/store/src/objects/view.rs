//! What a segment has, to be read from outside: one version of a versioned segment, or a raw one as it
//! is now; and where each page of it lies, so that two of them can be compared without reading what they
//! share.
//!
//! A version is pinned ([`Pinned`]). A raw segment is not: the caller keeps writers out (`vas::content`
//! in the VMM).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use abi::addr::PAGE_SIZE;
use abi::objects::SegId;
use spacejmp_versions::disk::File as _;
use spacejmp_versions::disk::host::HostFile;
use spacejmp_versions::page::{PAGE_BYTES, Page};
use spacejmp_versions::segment::Source;
use spacejmp_versions::{PageIndex, VersionNumber, VersionsError};

use crate::format::error::StoreError;
use crate::format::extent::PART_BYTES;
use crate::objects::kept::pinned::Pinned;
use crate::objects::segment::{PartFile, SegmentFile};
use crate::objects::sparse::next_data;
use crate::objects::store::Store;

/// Pages that are looked at together: where they lie is kept in memory. Parts of raw segments are a
/// multiple of it.
pub(crate) const WINDOW_PAGES: u64 = 1 << 16;
const _: () = assert!(PART_BYTES.is_multiple_of(WINDOW_PAGES * PAGE_SIZE));

/// A file of the host, whatever its names: device and inode.
pub(crate) type FileId = (u64, u64);

/// A version of a segment, or a raw segment, open to be read.
#[derive(Debug)]
pub struct SegmentView {
    segment: SegmentFile,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Version(Box<Pinned>),
    Raw(Vec<PartFile>),
}

/// Where the pages of a range lie, as far as that can be told without reading them.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Those in logs and layers: the file, and where in it.
    pub(crate) listed: BTreeMap<u64, (FileId, u64)>,
    /// The file that has the others, and where it has page 0, or would: counted modulo 2^64, since a part of
    /// a raw segment begins with another page.
    pub(crate) below: Option<(FileId, u64)>,
    /// Of the range, the pages that this file has.
    pub(crate) below_pages: Range<u64>,
    /// Pages of it that may be something else than zeros; rising.
    pub(crate) data: Vec<Range<u64>>,
}

impl Places {
    /// The pages that may be something else than zeros, rising.
    fn pages(&self) -> Vec<u64> {
        let data = self.data.iter().flat_map(|run| run.clone());
        let mut pages: Vec<u64> = self.listed.keys().copied().chain(data).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// Where a page lies; `None` for one of zeros that lies nowhere.
    pub(crate) fn of(&self, page: u64) -> Option<(FileId, u64)> {
        self.listed.get(&page).copied().or_else(|| {
            let (file, start) = self.below.filter(|_| self.below_pages.contains(&page))?;
            Some((file, start.wrapping_add(page * PAGE_SIZE)))
        })
    }
}

impl Store {
    /// Opens a version of a segment to be read, by default its newest, or a raw segment. A version stays
    /// as it is for as long as it is open; what a raw segment has changes while somebody writes it.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`] for one that is gone; [`StoreError::Unversioned`] for a number of
    /// a raw segment; as [`Store::open_segment`].
    pub fn view_segment(&self, sid: SegId, number: Option<u64>) -> Result<SegmentView, StoreError> {
        let segment = self.open_segment(sid)?;
        if segment.is_versioned() {
            return Ok(SegmentView::of(self.pin_version(sid, number)?));
        }
        if let Some(number) = number {
            return Err(StoreError::Unversioned { segment: segment.name().clone(), number });
        }
        let parts: Result<_, _> =
            (0..segment.header().parts()).map(|index| segment.part(index)).collect();
        let content = Content::Raw(parts?);
        Ok(SegmentView { segment, content })
    }
}

impl Store {
    /// [`Store::view_segment`] of several. Of a commit of several segments, all their newest versions have
    /// their part or none, although a writer publishes the parts one by one.
    ///
    /// # Errors
    /// As there.
    pub fn view_segments(
        &self,
        wanted: &[(SegId, Option<u64>)],
    ) -> Result<Vec<SegmentView>, StoreError> {
        let views = wanted.iter().map(|(sid, number)| self.view_segment(*sid, *number));
        let mut views = views.collect::<Result<Vec<_>, _>>()?;
        let mut unknown = BTreeSet::new();
        while let Some((sid, least)) = missing_part(&views, wanted, &unknown) {
            let all = views.iter_mut().zip(wanted);
            for (view, _) in all.filter(|(_, wanted)| **wanted == (sid, None)) {
                match self.pin_at_least(sid, least) {
                    Ok(pinned) => *view = SegmentView::of(pinned),
                    // It was in files that the segment has no more: a part of a commit is whole
                    // before any of it is published.
                    Err(StoreError::Versions { source: VersionsError::Damaged { .. }, .. }) => {
                        unknown.insert((sid, least));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(views)
    }
}

/// A segment whose newest version is older than what belongs to another one's, and that version, unless it
/// is one of the `unknown`.
fn missing_part(
    views: &[SegmentView],
    wanted: &[(SegId, Option<u64>)],
    unknown: &BTreeSet<(SegId, u64)>,
) -> Option<(SegId, u64)> {
    let newest = || {
        let views = views.iter().zip(wanted).filter(|(_, (_, number))| number.is_none());
        views.filter_map(|(view, (sid, _))| Some((*sid, view.pinned()?)))
    };
    newest().find_map(|(_, pinned)| {
        newest().find_map(|(sid, other)| {
            let theirs = pinned.content.partner(sid, pinned.number)?;
            let is_missing = theirs > other.number && !unknown.contains(&(sid, theirs));
            is_missing.then_some((sid, theirs))
        })
    })
}

impl SegmentView {
    fn of(pinned: Pinned) -> SegmentView {
        let segment = pinned.segment.clone();
        SegmentView { segment, content: Content::Version(Box::new(pinned)) }
    }

    /// The segment, with size and root of what is read.
    #[must_use]
    pub fn segment(&self) -> &SegmentFile {
        &self.segment
    }

    /// The number of the version; `None` for a raw segment.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match &self.content {
            Content::Version(pinned) => Some(pinned.number),
            Content::Raw(_) => None,
        }
    }

    /// Whether what was read so far is what it has. To be asked when all is read.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`] for a version that a checkpoint has gone past meanwhile, which is possible
    /// only where no lease could be had, or in its first moment.
    pub fn check(&self) -> Result<(), StoreError> {
        match &self.content {
            Content::Version(pinned) => pinned.check(),
            Content::Raw(_) => Ok(()),
        }
    }

    /// The version, if it is one.
    pub(crate) fn pinned(&self) -> Option<&Pinned> {
        match &self.content {
            Content::Version(pinned) => Some(pinned),
            Content::Raw(_) => None,
        }
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u64 {
        self.segment.header().size_bytes.div_ceil(PAGE_SIZE)
    }

    /// Where the pages of a range lie. It reads no content.
    pub(crate) fn places(&self, pages: Range<u64>) -> Result<Places, StoreError> {
        let pages = pages.start..pages.end.min(self.pages()).max(pages.start);
        match &self.content {
            Content::Version(pinned) => {
                of_version(pinned, &pages).map_err(self.segment.of_versions())
            }
            Content::Raw(parts) => self.of_raw(parts, &pages),
        }
    }

    /// Of a range within one part of the segment.
    fn of_raw(&self, parts: &[PartFile], pages: &Range<u64>) -> Result<Places, StoreError> {
        let failed = |e| self.segment.error("read", e);
        let number = pages.start * PAGE_SIZE / PART_BYTES;
        let part = usize::try_from(number).ok().and_then(|number| parts.get(number));
        let Some(part) = part.filter(|_| !pages.is_empty()) else { return Ok(Places::default()) };
        let file = File::from(part.fd().try_clone_to_owned().map_err(failed)?);
        let stat = file.metadata().map_err(failed)?;
        // Part `number` begins at `part.offset()` of its file: where page 0 would be.
        let start = part.offset().wrapping_sub(number * PART_BYTES);
        let at = |page: u64| start.wrapping_add(page * PAGE_SIZE);
        let mut data = Vec::new();
        let (mut next, end) = (at(pages.start), at(pages.end));
        while let Some((from, until)) = next_data(&file, next, end) {
            let page = |offset: u64| offset.wrapping_sub(start).div_ceil(PAGE_SIZE);
            data.push(from.wrapping_sub(start) / PAGE_SIZE..page(until).min(pages.end));
            next = until;
        }
        let below = Some(((stat.dev(), stat.ino()), start));
        Ok(Places { listed: BTreeMap::new(), below, below_pages: pages.clone(), data })
    }

    /// Calls `each` with what there is, in runs of whole pages that are not all zeros, of at most so many
    /// bytes, rising. Its error ends it.
    pub(crate) fn each_run(
        &self,
        most_bytes: usize,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut run: (u64, Vec<u8>) = (0, Vec::new());
        for start in (0..self.pages()).step_by(WINDOW_PAGES as usize) {
            let places = self.places(start..start + WINDOW_PAGES)?;
            for page in places.pages() {
                let content = self.read(page)?;
                let offset = page * PAGE_SIZE;
                let goes_on =
                    run.0 + run.1.len() as u64 == offset && run.1.len() + PAGE_BYTES <= most_bytes;
                if !goes_on && !run.1.is_empty() {
                    each(run.0, &run.1)?;
                    run.1.clear();
                }
                if content.iter().any(|byte| *byte != 0) {
                    if run.1.is_empty() {
                        run.0 = offset;
                    }
                    run.1.extend_from_slice(&content);
                }
            }
        }
        if run.1.is_empty() { Ok(()) } else { each(run.0, &run.1) }
    }

    /// One page; behind the end there are zeros.
    pub(crate) fn read(&self, page: u64) -> Result<Page, StoreError> {
        let mut content = [0; PAGE_BYTES];
        if page >= self.pages() {
            return Ok(content);
        }
        match &self.content {
            Content::Version(pinned) => {
                let version = VersionNumber(pinned.number);
                let read = pinned.content.content().read(PageIndex(page), version);
                return read.map_err(self.segment.of_versions());
            }
            Content::Raw(parts) => {
                let (number, within) =
                    (page * PAGE_SIZE / PART_BYTES, page * PAGE_SIZE % PART_BYTES);
                let part = usize::try_from(number).ok().and_then(|number| parts.get(number));
                let Some(part) = part else { return Ok(content) };
                let failed = |e| self.segment.error("read", e);
                let file = File::from(part.fd().try_clone_to_owned().map_err(failed)?);
                file.read_exact_at(&mut content, part.offset() + within).map_err(failed)?;
            }
        }
        Ok(content)
    }
}

fn of_version(pinned: &Pinned, pages: &Range<u64>) -> Result<Places, VersionsError> {
    let (content, version) = (pinned.content.content(), VersionNumber(pinned.number));
    let mut ids: BTreeMap<u64, FileId> = BTreeMap::new();
    let mut places = Places::default();
    for (page, source) in
        content.above_home(PageIndex(pages.start)..PageIndex(pages.end), version)?
    {
        // Logs and layers have numbers of one count.
        let (number, file, offset) = match source {
            Source::Log(id, offset) => (id.0, content.log_file(id), offset),
            Source::Layer(id, offset) => (id.0, content.layer_file(id), offset),
            Source::Home(_) | Source::Zero => continue,
        };
        let id = match (ids.get(&number), file) {
            (Some(id), _) => *id,
            (None, Some(file)) => *ids.entry(number).or_insert(identity(file)?),
            (None, None) => continue,
        };
        places.listed.insert(page.0, (id, offset));
    }
    let home_pages = content.home_bytes(version)? / PAGE_SIZE;
    let below_pages = pages.start..pages.end.min(home_pages).max(pages.start);
    if let Some(home) = content.home_file().filter(|_| !below_pages.is_empty()) {
        places.below = Some((identity(home)?, 0));
        let mut next = below_pages.start * PAGE_SIZE;
        let end = below_pages.end * PAGE_SIZE;
        while let Some(run) = data_from(home, next)?.filter(|run| run.start < end) {
            let last = run.end.min(end).div_ceil(PAGE_SIZE);
            places.data.push(run.start.max(next) / PAGE_SIZE..last);
            next = run.end;
        }
        places.below_pages = below_pages;
    }
    Ok(places)
}

fn failed(source: std::io::Error) -> VersionsError {
    VersionsError::Io { action: "look at", file: "a file".to_owned(), source }
}

fn identity(file: &HostFile) -> Result<FileId, VersionsError> {
    file.identity().map_err(failed)
}

fn data_from(file: &HostFile, offset: u64) -> Result<Option<Range<u64>>, VersionsError> {
    file.data_from(offset).map_err(failed)
}
