//! Another stack for a segment: generations that are put together anew, from a path through those that
//! are there, and the root record that names them. Merging, checkpoints, links and rollback end here.

use std::collections::BTreeSet;

use super::begin::{adds_nothing, check_room, salt, stack_of};
use super::find::Step;
use super::stack::Stack;
use super::{Segment, damaged};
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::layer::{HOME_FILE_NAME, Layer};
use crate::log::header::{FORMAT, LogHeader, LogId};
use crate::log::record::VersionFacts;
use crate::log::scan::Content;
use crate::page::VersionNumber;
use crate::root::{Generation, LogRef, Root};

impl<D: Folder> Segment<D> {
    /// Has a root record name `generations`, whose files are durable, and `top` with a log of its own.
    pub(super) fn put_on_top(
        &mut self,
        mut generations: Vec<Generation>,
        top: Generation,
        facts: VersionFacts,
    ) -> Result<()> {
        let (after, segment, chain) = (top.base, top.origin, self.chain());
        let index = generations.len();
        generations.push(top);
        let id = LogId(self.next_id_beside(&generations)?);
        let marks = self.stack.marks_up_to(self.appended());
        let (format, salt) = (FORMAT, salt());
        let header = LogHeader { format, id, segment, salt, after, chain, facts, marks };
        drop(self.make_log(&self.folder, header, index, self.limits, &[])?);
        generations[index].logs.push(LogRef { id, up_to: None });
        let installed = self.install(generations);
        if installed.is_err() && !self.has_failed {
            let _ = self.folder.remove(&id.file_name());
        }
        installed
    }

    /// Has a root record name `generations`, whose files are all there and durable, and takes them for
    /// what the segment is. Files that are not named any more go.
    pub(super) fn install(&mut self, generations: Vec<Generation>) -> Result<()> {
        let root = self.next_root(generations);
        check_room(&root)?;
        let mut stack = stack_of(self, &root)?;
        stack.read_on(None, Content::Trusted)?;
        stack.check_reached(None)?;
        stack.durable = stack.end;
        self.keep_memos(&mut stack)?;
        stack.root = self.store_root(root)?;
        let names =
            |root: &Root| root.generations.iter().flat_map(file_names).collect::<BTreeSet<_>>();
        let gone = &names(&self.stack.root) - &names(&stack.root);
        self.replace_stack(stack);
        for name in gone.into_iter().chain(self.stack.joints.old_memos()) {
            // Should this fail, the next opening does it.
            let _ = self.folder.remove(&name);
        }
        Ok(())
    }

    pub(super) fn path_of(&self, version: VersionNumber) -> Result<Vec<Step>> {
        let oldest = self.stack.oldest;
        self.stack.path(version).ok_or(VersionsError::Gone { version, oldest })
    }

    fn next_id_beside(&self, generations: &[Generation]) -> Result<u64> {
        let root = Root { generations: generations.to_vec(), ..self.stack.root.clone() };
        let next = root.highest_id().checked_add(1);
        let next = next.ok_or_else(|| damaged(".", "a file has the highest number there is"))?;
        Ok(self.next_id()?.max(next))
    }
}

/// The generations of a path, from the lowest up, each cut off where it ends for that path.
pub(super) fn generations_of<F: File>(stack: &Stack<F>, path: &[Step]) -> Vec<Generation> {
    let cut = |&(index, up_to): &Step| {
        let mut one = stack.root.generations[index].clone();
        // The first log of a generation has what its first version says besides its pages.
        let first = (one.below != Some(one.base)).then_some(one.base);
        let logs = stack.open.iter().filter(|log| log.generation == index);
        let used = logs.filter(|log| log.header.after < up_to || first == Some(log.header.after));
        let used = used.map(|log| LogRef {
            id: log.header.id,
            up_to: Some(log.up_to.map_or(up_to, |end| end.min(up_to))),
        });
        one.logs = used.collect();
        one
    };
    let mut generations: Vec<_> = path.iter().rev().map(cut).collect();
    // One that adds nothing would only take room.
    generations.retain(|one| !adds_nothing(one));
    generations
}

/// The names of a generation's files.
pub(super) fn file_names(generation: &Generation) -> Vec<String> {
    let layer = match generation.layer {
        Layer::Empty => Vec::new(),
        Layer::Home => vec![HOME_FILE_NAME.to_owned()],
        Layer::File(id) => vec![id.file_name(), id.map_name()],
    };
    layer.into_iter().chain(generation.logs.iter().map(|log| log.id.file_name())).collect()
}
