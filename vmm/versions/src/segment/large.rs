//! Commits of more pages than fit into a log, or into memory: a layer of their own, on top.

use std::sync::Arc;

use super::files::OpenLayer;
use super::{Commit, Segment};
use crate::disk::Folder;
use crate::error::{Result, VersionsError};
use crate::layer::{Layer, LayerId, LayerWriter, Pages};
use crate::log::record::VersionFacts;
use crate::page::{Page, PageIndex, VersionNumber};
use crate::root::Generation;

/// A commit whose pages are written as they come, and can be read again. Nobody else sees anything of it
/// before it is finished; what a crash leaves of it goes with the next opening to write, or when the lock
/// is taken over. A page that is written twice has what was written last.
#[derive(Debug)]
pub struct LargeCommit<D: Folder> {
    id: LayerId,
    /// `None` once it is a version, or was thrown away.
    writer: Option<LayerWriter<D::File>>,
    after: VersionNumber,
    /// A root record that could not be stored may name it all the same.
    may_be_named: bool,
}

impl<D: Folder> LargeCommit<D> {
    /// Begins one that follows the newest version. The caller keeps the segment's lock until it is
    /// finished or aborted.
    ///
    /// # Errors
    /// The host's; a log that has failed; newer versions elsewhere that were not taken in.
    pub fn begin(segment: &Segment<D>) -> Result<LargeCommit<D>> {
        segment.check_writable()?;
        segment.check_failed()?;
        let id = LayerId(segment.next_id()?);
        let writer = Some(LayerWriter::begin(&segment.folder, id)?);
        Ok(LargeCommit { id, writer, after: segment.appended(), may_be_named: false })
    }

    /// The layer that it becomes.
    #[must_use]
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// Adds a page.
    ///
    /// # Errors
    /// The host's, a full disk among them; [`VersionsError::NoSuchPage`]. What was written of pages that
    /// were kept back is not known then: they are to be written again, or all is to be aborted.
    pub fn write(&mut self, page: PageIndex, content: &Page) -> Result<()> {
        self.writer()?.write(page, content)
    }

    /// Writes to the file what was kept back to be written at once: from then on it can be mapped.
    ///
    /// # Errors
    /// As [`LargeCommit::write`].
    pub fn flush(&mut self) -> Result<()> {
        self.writer()?.flush()
    }

    /// Whether a page was added.
    #[must_use]
    pub fn has(&self, page: PageIndex) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.has(page))
    }

    /// The pages that were added, rising.
    pub fn pages(&self) -> impl Iterator<Item = PageIndex> {
        self.writer.iter().flat_map(|writer| writer.presence().iter())
    }

    /// How many pages among some were added.
    #[must_use]
    pub fn count_in(&self, pages: std::ops::Range<PageIndex>) -> usize {
        self.writer.as_ref().map_or(0, |writer| writer.presence().range(pages).count())
    }

    /// What a page has that was added.
    ///
    /// # Errors
    /// The host's; as [`LargeCommit::write`].
    pub fn read(&mut self, page: PageIndex) -> Result<Page> {
        self.writer()?.read(page)
    }

    /// The file, with each page at its own offset. It is never written behind this commit's back, so it may
    /// be mapped to be read; after [`LargeCommit::finish`] a version shows it.
    #[must_use]
    pub fn file(&self) -> Option<&D::File> {
        self.writer.as_ref().map(LayerWriter::file)
    }

    /// Makes all that was written the next version, durably.
    ///
    /// # Errors
    /// The host's; a note that is too long; newer versions elsewhere, or made meanwhile; too many
    /// generations. Nothing has changed then: it can be tried again, in vain if the layer's sync has failed, or
    /// aborted. After a failure of the log ([`Segment::has_failed`]) nothing is to be added before
    /// [`Segment::renew`].
    pub fn finish(
        &mut self,
        segment: &mut Segment<D>,
        facts: VersionFacts,
    ) -> Result<VersionNumber> {
        self.prepare(segment, &facts)?;
        let base = self.after.next().ok_or(VersionsError::LastVersion(self.after))?;
        let writer = self.writer.take().ok_or(VersionsError::Behind(self.after))?;
        let (file, presence) = writer.into_parts();
        let layer = Layer::File(self.id);
        let pages = Pages::Listed(presence);
        let open = Arc::new(OpenLayer { layer, file, pages, stored_bytes: None });
        let generation = Generation { layer, ..segment.on_top_of(base, self.after) };
        let pushed = segment.push_generation(generation, Some(open.clone()), facts);
        if pushed.is_err() {
            self.may_be_named = segment.has_failed;
            if let Some(OpenLayer { file, pages: Pages::Listed(presence), .. }) =
                Arc::into_inner(open)
            {
                self.writer = Some(LayerWriter::from_parts(self.id, file, presence));
            }
        }
        pushed.map(|()| base)
    }

    fn prepare(&mut self, segment: &mut Segment<D>, facts: &VersionFacts) -> Result<()> {
        facts.check()?;
        segment.check_writable()?;
        segment.check_failed()?;
        if segment.appended() != self.after {
            return Err(VersionsError::Behind(self.after));
        }
        self.after.next().ok_or(VersionsError::LastVersion(self.after))?;
        self.writer()?.finish(&segment.folder)?;
        segment.sync()?;
        segment.make_room()
    }

    fn writer(&mut self) -> Result<&mut LayerWriter<D::File>> {
        // Nothing follows what was finished or thrown away.
        self.writer.as_mut().ok_or(VersionsError::Behind(self.after))
    }

    /// Throws it away, unless it is a version.
    pub fn abort(&mut self, segment: &Segment<D>) {
        let Some(writer) = self.writer.take() else { return };
        if !(self.may_be_named && segment.has_failed) {
            writer.abort(&segment.folder);
        }
    }
}

impl<D: Folder> Segment<D> {
    pub(super) fn append_large(&mut self, commit: &Commit<'_>) -> Result<VersionNumber> {
        let mut large = LargeCommit::begin(self)?;
        let mut pages = commit.pages.iter();
        let appended = pages
            .try_for_each(|(page, content)| large.write(*page, content))
            .and_then(|()| large.finish(self, commit.facts.clone()));
        if appended.is_err() {
            large.abort(self);
        }
        appended
    }
}
