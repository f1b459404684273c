//! Bringing what the logs have to a layer, so that they can go.

use std::io::IoSlice;

use super::find::Step;
use super::install::generations_of;
use super::{Segment, failed};
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::layer::{Layer, Pages, Presence, write_map};
use crate::page::{PAGE_BYTES, PageIndex, VersionNumber};
use crate::root::Generation;
use crate::segment::open::open;

/// Who else has the segment open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// Nobody; or nobody who looks at versions older than those that are said to be in use.
    Alone,
    /// Others, who may look at any version. What they see must stay as it is.
    Shared,
}

impl<D: Folder> Segment<D> {
    /// Brings what is durable to a layer; logs that are then of no use go. `oldest_used` is the oldest
    /// version that this VM, and with [`Sharing::Alone`] anybody, may look at.
    ///
    /// Alone, no version from `oldest_used` on is lost, for whoever opens the segment: the pages are
    /// written over those of the lowest layer whose file no other segment has, and everything above it
    /// goes, as far as no version in use is spoilt. Otherwise they, and the small layers below them, are
    /// written to a fresh layer, and nothing that exists is changed.
    ///
    /// # Errors
    /// The host's; newer versions elsewhere that were not taken in. Nothing is lost: what was not
    /// finished is done again by the next.
    pub fn checkpoint(&mut self, oldest_used: VersionNumber, sharing: Sharing) -> Result<()> {
        self.checkpoint_asking(oldest_used, &mut || sharing)
    }

    /// The same where others may come while it is under way. `who` is asked, and before anything is overwritten once more, when
    /// the root record says which versions can be read no more: who comes after that, and looks there once they
    /// can be seen, reads none of those.
    ///
    /// # Errors
    /// Likewise.
    pub fn checkpoint_asking(
        &mut self,
        oldest_used: VersionNumber,
        who: &mut dyn FnMut() -> Sharing,
    ) -> Result<()> {
        self.check_writable()?;
        self.sync()?;
        let applied = match who() {
            Sharing::Alone => self.apply(oldest_used, who)?,
            Sharing::Shared => Applied::Refused,
        };
        match applied {
            Applied::Refused if self.is_worth_merging() => self.merge()?,
            Applied::Yes | Applied::Later | Applied::Refused => {}
        }
        self.forget_older(oldest_used);
        Ok(())
    }

    /// Whether a merge would make anything less.
    fn is_worth_merging(&self) -> bool {
        let has_records = self.stack.open.iter().any(|log| log.header.after < self.appended());
        has_records || self.stack.root.generations.len() > 1
    }

    /// Applies what all look at to a layer that only this segment has.
    fn apply(
        &mut self,
        oldest_used: VersionNumber,
        who: &mut dyn FnMut() -> Sharing,
    ) -> Result<Applied> {
        let path = self.path_of(self.appended())?;
        let Some(target) = self.own_layer(&path)? else {
            let all_are_there = oldest_used >= self.appended();
            return Ok(if all_are_there { Applied::Refused } else { Applied::Later });
        };
        let top = path[0].0;
        if self.stack.current().header.after < self.appended() && oldest_used >= self.appended() {
            self.begin_log(&[])?;
        }
        // A log goes as a whole, when the one behind it begins at a version that all have reached.
        let logs = self.stack.open.iter().filter(|log| log.generation == top);
        let starts = logs.map(|log| log.header.after).filter(|after| *after <= oldest_used);
        let Some(applied) = starts.max() else { return Ok(Applied::Later) };
        if target == 0 && applied == self.stack.root.generations[top].base {
            return Ok(Applied::Later);
        }
        let mut path = path;
        path[0].1 = applied;
        self.say_oldest(applied)?;
        if who() == Sharing::Shared {
            return Ok(Applied::Refused);
        }
        self.overwrite(&path, target)?;
        let onto = &self.stack.root.generations[path[target].0];
        let (layer, below) = (onto.layer, onto.below);
        let kept = self.stack.root.generations[top].clone();
        let logs = kept.logs.iter().filter(|log| {
            let open = self.stack.find(log.id);
            open.is_some_and(|open| open.header.after >= applied)
        });
        let logs = logs.copied().collect();
        let mut generations = generations_of(&self.stack, &path[target + 1..]);
        generations.push(Generation { layer, base: applied, below, origin: kept.origin, logs });
        self.install(generations)?;
        Ok(Applied::Yes)
    }

    /// The lowest layer of a path with none above it that another segment has, too.
    fn own_layer(&self, path: &[Step]) -> Result<Option<usize>> {
        let mut own = None;
        for (index, (generation, _)) in path.iter().enumerate() {
            let Some(layer) = self.stack.layer(*generation) else { continue };
            let links = layer.file.links();
            if links.map_err(|source| failed("look at", &layer.name(), source))? != 1 {
                break;
            }
            own = Some(index);
        }
        Ok(own)
    }

    /// Has the root record say that older versions cannot be read: from here on, a layer that they see
    /// has newer pages.
    fn say_oldest(&mut self, oldest: VersionNumber) -> Result<()> {
        if self.stack.oldest < oldest {
            let mut root = self.next_root(self.stack.root.generations.clone());
            root.oldest = Some(oldest);
            self.stack.root = self.store_root(root)?;
            self.stack.oldest = oldest;
        }
        // All that they have and nobody else has is older.
        self.older.clear();
        Ok(())
    }

    /// Writes the pages of a path that lie above a layer of it to their places there.
    fn overwrite(&self, path: &[Step], target: usize) -> Result<()> {
        let mut pages = Presence::default();
        for (index, &(generation, version)) in path[..=target].iter().enumerate() {
            self.stack.add_logged(generation, version, &mut pages)?;
            if index < target {
                self.stack.add_layer(generation, &mut pages)?;
            }
        }
        let Some(layer) = self.stack.layer(path[target].0) else { return Ok(()) };
        let unwritten = |source| failed("write", &layer.name(), source);
        let mut zeros = 0..0;
        for page in pages.iter() {
            let (content, at) = (self.read_from(self.stack.locate(page, path))?, offset_of(page));
            if content != [0; PAGE_BYTES] {
                layer.file.write_at(&[IoSlice::new(&content)], at).map_err(unwritten)?;
                continue;
            }
            if zeros.end != at {
                layer.clear(zeros).map_err(unwritten)?;
                zeros = at..at;
            }
            zeros.end += PAGE_BYTES as u64;
        }
        layer.clear(zeros).map_err(unwritten)?;
        layer.file.sync().map_err(|source| failed("sync", &layer.name(), source))?;
        if let (Layer::File(id), Pages::Listed(presence)) = (layer.layer, &layer.pages) {
            pages.add_all(presence);
            write_map(&pages, &open(&self.folder, &id.map_name())?, &id.map_name())?;
        }
        Ok(())
    }
}

/// What came of writing to a layer in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Applied {
    /// It has the pages.
    Yes,
    /// There is nothing to write, or somebody looks at a version that it would spoil.
    Later,
    /// There is no layer that may be written to, or somebody has come who reads it.
    Refused,
}

fn offset_of(page: PageIndex) -> u64 {
    // A presence has no page that no file can have.
    page.offset().unwrap_or(u64::MAX)
}
