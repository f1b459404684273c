//! Commits of more pages than fit into a log: a layer of their own, on top.

use std::sync::Arc;

use super::files::OpenLayer;
use super::{Commit, Segment};
use crate::disk::Folder;
use crate::error::{Result, VersionsError};
use crate::layer::{Layer, LayerId, LayerWriter, Pages};
use crate::log::record::VersionFacts;
use crate::page::{Page, PageIndex, VersionNumber};
use crate::root::Generation;

/// A commit whose pages are written as they come. Nobody sees anything of it before it is finished;
/// what a crash leaves of it goes with the next opening to write. A page that is written twice has
/// what was written last.
#[derive(Debug)]
pub struct LargeCommit<D: Folder> {
    writer: LayerWriter<D::File>,
    after: VersionNumber,
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
        let writer = LayerWriter::begin(&segment.folder, LayerId(segment.next_id()?))?;
        Ok(LargeCommit { writer, after: segment.appended() })
    }

    /// Adds a page.
    ///
    /// # Errors
    /// The host's, a full disk among them; [`VersionsError::NoSuchPage`]. The commit can only be
    /// aborted then.
    pub fn write(&mut self, page: PageIndex, content: &Page) -> Result<()> {
        self.writer.write(page, content)
    }

    /// Makes all that was written the next version, durably.
    ///
    /// # Errors
    /// The host's; a note that is too long; newer versions elsewhere, or made meanwhile; too many
    /// generations. The commit is gone then, and nothing has changed, unless
    /// [`Segment::has_failed`].
    pub fn finish(
        mut self,
        segment: &mut Segment<D>,
        facts: VersionFacts,
    ) -> Result<VersionNumber> {
        let finished = self.prepare(segment, &facts);
        if let Err(error) = finished {
            self.abort(segment);
            return Err(error);
        }
        let (id, below) = (self.writer.id(), self.after);
        let (file, presence) = self.writer.into_parts();
        let layer = Layer::File(id);
        let base = below.next().ok_or(VersionsError::LastVersion(below))?;
        let open = OpenLayer { layer, file, pages: Pages::Listed(presence), stored_bytes: None };
        let generation = Generation { layer, ..segment.on_top_of(base, below) };
        let pushed = segment.push_generation(generation, Some(Arc::new(open)), facts);
        if pushed.is_err() && !segment.has_failed {
            crate::layer::remove(&segment.folder, id);
        }
        pushed.map(|()| base)
    }

    fn prepare(&mut self, segment: &mut Segment<D>, facts: &VersionFacts) -> Result<()> {
        facts.check()?;
        segment.check_writable()?;
        if segment.appended() != self.after {
            return Err(VersionsError::Behind(self.after));
        }
        self.after.next().ok_or(VersionsError::LastVersion(self.after))?;
        self.writer.finish(&segment.folder)?;
        segment.sync()?;
        segment.make_room()
    }

    /// Throws it away.
    pub fn abort(self, segment: &Segment<D>) {
        self.writer.abort(&segment.folder);
    }
}

impl<D: Folder> Segment<D> {
    pub(super) fn append_large(&mut self, commit: &Commit<'_>) -> Result<VersionNumber> {
        let mut large = LargeCommit::begin(self)?;
        let mut pages = commit.pages.iter();
        if let Err(error) = pages.try_for_each(|(page, content)| large.write(*page, content)) {
            large.abort(self);
            return Err(error);
        }
        large.finish(self, commit.facts.clone())
    }
}
