//! Fewer generations: what lies on top is written into one fresh layer. Nothing that exists changes:
//! who has the old files open goes on reading them.

use super::Segment;
use super::find::Step;
use super::install::generations_of;
use super::stack::Stack;
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::layer::{self, Layer, LayerId, LayerWriter, Pages, Presence};
use crate::page::{PAGE_BYTES, PageIndex, VersionNumber};
use crate::root::{GENERATIONS_MAX, Generation, LOGS_MAX};

/// A layer is merged with what lies above if it has at most so many times as many pages. Each page is
/// then written again at most a logarithmic number of times, and pages that lie in several layers
/// take at most about as much space as all others.
const RATIO: u64 = 2;
/// Most generations that are left below the merged one; the others may come before the next merge.
const LEFT_MAX: usize = GENERATIONS_MAX / 2;

/// What is merged: the top of a path.
struct Top {
    pages: Presence,
    /// The generations that stay below, from the top down.
    left: Vec<Step>,
    /// What the merged layer builds on.
    below: Option<VersionNumber>,
}

impl<D: Folder> Segment<D> {
    /// Whether a generation more can be named, and logs.
    pub(super) fn has_room(&self) -> bool {
        let root = &self.stack.root;
        root.generations.len() < GENERATIONS_MAX && root.logs().count() < LOGS_MAX
    }

    /// Makes sure of that, if need be by merging. What was appended must be durable.
    pub(super) fn make_room(&mut self) -> Result<()> {
        if self.has_room() { Ok(()) } else { self.merge() }
    }

    /// Writes the logs of the top and the small layers below them into a fresh layer. Versions that
    /// only what was merged has can not be read by those who come later. What was appended must be
    /// durable.
    pub(super) fn merge(&mut self) -> Result<()> {
        let version = self.appended();
        let path = self.path_of(version)?;
        let top = self.stack.top(&path)?;
        let facts = self.facts(version).cloned().unwrap_or_default();
        let layer = self.write_merged(&top, &path)?;
        let mut left = generations_of(&self.stack, &top.left);
        if let Some(highest) = left.last_mut()
            && top.below == Some(highest.base)
            && highest.base < version
        {
            // All of them are in the merged layer.
            highest.logs.clear();
        }
        let file = layer.map_or(Layer::Empty, Layer::File);
        let merged =
            Generation { layer: file, below: top.below, ..self.on_top_of(version, version) };
        let done = self.put_on_top(left, merged, facts);
        if let (Err(_), Some(id), false) = (&done, layer, self.has_failed) {
            layer::remove(&self.folder, id);
        }
        done
    }

    fn write_merged(&self, top: &Top, path: &[Step]) -> Result<Option<LayerId>> {
        let mut writer = None;
        let written = top.pages.iter().try_for_each(|page| {
            let content = self.read_from(self.stack.locate(page, path))?;
            if top.below.is_none() && content == [0; PAGE_BYTES] {
                return Ok(());
            }
            if writer.is_none() {
                writer = Some(LayerWriter::begin(&self.folder, LayerId(self.next_id()?))?);
            }
            writer.as_mut().map_or(Ok(()), |writer| writer.write(page, &content))
        });
        let Some(mut writer) = writer else { return written.map(|()| None) };
        let finished = written.and_then(|()| writer.finish(&self.folder));
        if finished.is_err() {
            writer.abort(&self.folder);
        }
        finished.map(|()| Some(writer.id()))
    }
}

impl<F: File> Stack<F> {
    /// What of a path is to be merged.
    fn top(&self, path: &[Step]) -> Result<Top> {
        let mut pages = Presence::default();
        for (index, &(generation, version)) in path.iter().enumerate() {
            self.add_logged(generation, version, &mut pages)?;
            let Some(layer) = self.layer(generation) else { continue };
            let is_small = layer.pages.count() <= RATIO * pages.count();
            if !is_small && path.len() - index <= LEFT_MAX {
                let below = self.root.generations[generation].base;
                let left =
                    [(generation, below)].into_iter().chain(path[index + 1..].iter().copied());
                return Ok(Top { pages, left: left.collect(), below: Some(below) });
            }
            self.add_layer(generation, &mut pages)?;
        }
        let lowest = path.last().map(|(generation, _)| &self.root.generations[*generation]);
        Ok(Top { pages, left: Vec::new(), below: lowest.and_then(|lowest| lowest.below) })
    }

    /// Adds the pages that a generation's logs have up to a version.
    pub(super) fn add_logged(
        &self,
        generation: usize,
        version: VersionNumber,
        pages: &mut Presence,
    ) -> Result<()> {
        let base = self.root.generations[generation].base;
        if version <= base {
            return Ok(());
        }
        let changed = self.placed.iter().filter(|(_, placed)| {
            placed.iter().any(|placed| placed.version > base && placed.version <= version)
        });
        changed.map(|(page, _)| *page).try_for_each(|page| pages.add(page))
    }

    /// Adds the pages that a generation's layer has.
    pub(super) fn add_layer(&self, generation: usize, pages: &mut Presence) -> Result<()> {
        let Some(layer) = self.layer(generation) else { return Ok(()) };
        match &layer.pages {
            Pages::Listed(presence) => {
                pages.add_all(presence);
                Ok(())
            }
            Pages::Below(bytes) => {
                let unreadable = |source| super::failed("read", &layer.name(), source);
                let mut at = 0;
                while let Some(data) = layer.file.data_from(at).map_err(unreadable)? {
                    let end = data.end.min(*bytes).div_ceil(PAGE_BYTES as u64);
                    let start = PageIndex(data.start / PAGE_BYTES as u64);
                    pages.add_range(start..PageIndex(end))?;
                    if data.end >= *bytes {
                        break;
                    }
                    at = data.end;
                }
                Ok(())
            }
        }
    }
}
