//! Freezing: from then on, nothing of what there is changes.

use super::Segment;
use crate::disk::Folder;
use crate::error::Result;
use crate::layer::Layer;
use crate::page::VersionNumber;
use crate::root::Generation;

impl<D: Folder> Segment<D> {
    /// Puts an empty generation on top, so that all below it stays as it is. Does nothing if the top
    /// one is empty already. What was appended is durable then.
    ///
    /// # Errors
    /// The host's; newer versions elsewhere that were not taken in; too many generations. Nothing has
    /// changed then.
    pub fn freeze(&mut self) -> Result<()> {
        self.check_writable()?;
        self.sync()?;
        let base = self.appended();
        if self.top_is_empty() {
            return Ok(());
        }
        self.make_room()?;
        let facts = self.facts(base).cloned().unwrap_or_default();
        self.push_generation(self.on_top_of(base, base), None, facts)
    }

    /// Whether the top generation adds nothing to those below.
    fn top_is_empty(&self) -> bool {
        let end = self.appended();
        let top = self.stack.root.generations.last();
        top.is_some_and(|top| {
            top.layer == Layer::Empty && top.below == Some(end) && top.base == end
        })
    }

    /// A generation without pages that makes `base` of the version `below`.
    pub(super) fn on_top_of(&self, base: VersionNumber, below: VersionNumber) -> Generation {
        let origin = self.stack.root.segment;
        Generation { layer: Layer::Empty, base, below: Some(below), origin, logs: Vec::new() }
    }
}
