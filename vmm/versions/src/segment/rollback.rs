//! Making an old version the newest again, under the next number.

use super::files::Known;
use super::install::{file_names, generations_of};
use super::open::open;
use super::stack::Stack;
use super::{Segment, failed, now};
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::log::record::VersionFacts;
use crate::log::scan::Content;
use crate::page::VersionNumber;
use crate::root::{Generation, Root};

/// What a rollback goes back to.
#[derive(Debug)]
pub enum RollbackTo<'a, D> {
    /// A version of the segment itself.
    Version(VersionNumber),
    /// The newest version of a segment whose folder was linked from this one: a tag.
    Tag(&'a D),
}

impl<D: Folder> Segment<D> {
    /// Makes the content of an older version the newest one, under the next number, durably. `facts`
    /// gets size and root object as that version has them, this process and this moment. Versions
    /// in between are kept as far as there is room, until a checkpoint.
    ///
    /// # Errors
    /// The host's; newer versions elsewhere that were not taken in; [`VersionsError::Gone`] for a
    /// version that cannot be read; [`VersionsError::Unrelated`] for a tag of another segment; too
    /// many generations. Nothing has changed then, unless [`Segment::has_failed`].
    pub fn rollback(
        &mut self,
        to: &RollbackTo<'_, D>,
        facts: impl FnOnce(&mut VersionFacts),
    ) -> Result<VersionNumber> {
        self.check_writable()?;
        self.sync()?;
        match to {
            RollbackTo::Version(version) => self.rollback_to_version(*version, facts),
            RollbackTo::Tag(folder) => self.rollback_to_tag(folder, facts),
        }
    }

    fn next_version(&self) -> Result<VersionNumber> {
        let newest = self.appended();
        newest.next().ok_or(VersionsError::LastVersion(newest))
    }

    fn rollback_to_version(
        &mut self,
        version: VersionNumber,
        facts: impl FnOnce(&mut VersionFacts),
    ) -> Result<VersionNumber> {
        if !self.stack.has(version) {
            return Err(VersionsError::Gone { version, oldest: self.oldest() });
        }
        let base = self.next_version()?;
        let mut said = now(self.facts(version).cloned().unwrap_or_default());
        facts(&mut said);
        said.check()?;
        if self.has_room() {
            self.push_generation(self.on_top_of(base, version), None, said)?;
        } else {
            let kept = generations_of(&self.stack, &self.path_of(version)?);
            self.put_on_top(kept, self.on_top_of(base, version), said)?;
        }
        Ok(base)
    }

    fn rollback_to_tag(
        &mut self,
        folder: &D,
        facts: impl FnOnce(&mut VersionFacts),
    ) -> Result<VersionNumber> {
        let root = Root::read(&open(folder, crate::root::FILE_NAME)?)?;
        let mut tag = Stack::open(folder, &root, &Known(Vec::new()), Content::Trusted)?;
        tag.read_on(None, Content::Trusted)?;
        tag.check_reached(None)?;
        let version = tag.end.version;
        let gone = VersionsError::Gone { version, oldest: tag.oldest };
        let generations = generations_of(&tag, &tag.path(version).ok_or(gone)?);
        if self.has_the_same(version, &generations, folder)? {
            return self.rollback_to_version(version, facts);
        }
        let newest = self.appended().max(version);
        let base = newest.next().ok_or(VersionsError::LastVersion(newest))?;
        let noted = tag.versions.get(&version).map(|noted| noted.facts.clone());
        let mut said = now(noted.unwrap_or_default());
        facts(&mut said);
        said.check()?;
        let linked = self.link_back(folder, &generations)?;
        self.put_on_top(generations, self.on_top_of(base, version), said)
            .inspect_err(|_| {
                // After a root record that may count, what it names stays.
                if !self.has_failed {
                    linked.iter().for_each(|name| drop(self.folder.remove(name)));
                }
            })
            .map(|()| base)
    }

    /// Whether a version is still here, in the very files that `generations` name in `folder`.
    fn has_the_same(
        &self,
        version: VersionNumber,
        generations: &[Generation],
        folder: &D,
    ) -> Result<bool> {
        let Some(path) = self.stack.path(version).filter(|_| self.stack.has(version)) else {
            return Ok(false);
        };
        let here: Vec<_> = generations_of(&self.stack, &path).iter().flat_map(file_names).collect();
        let there: Vec<_> = generations.iter().flat_map(file_names).collect();
        if here != there {
            return Ok(false);
        }
        for name in &here {
            check_same(&open(&self.folder, name)?, &open(folder, name)?, name)?;
        }
        Ok(true)
    }

    /// Gives the files that `generations` name a name here; returns the names that were not there.
    fn link_back(&self, folder: &D, generations: &[Generation]) -> Result<Vec<String>> {
        let mut linked = Vec::new();
        for name in generations.iter().flat_map(file_names) {
            let done = match self.folder.open(&name) {
                Ok(here) => check_same(&here, &open(folder, &name)?, &name),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let done = folder.link(&name, &self.folder, &name);
                    done.map(|()| linked.push(name.clone()))
                        .map_err(|source| failed("link", &name, source))
                }
                Err(source) => Err(failed("open", &name, source)),
            };
            if let Err(error) = done {
                linked.iter().for_each(|name| drop(self.folder.remove(name)));
                return Err(error);
            }
        }
        Ok(linked)
    }
}

fn check_same<F: File>(here: &F, there: &F, name: &str) -> Result<()> {
    let identity = |file: &F| file.identity().map_err(|source| failed("look at", name, source));
    let file = name.to_owned();
    if identity(here)? == identity(there)? {
        Ok(())
    } else {
        Err(VersionsError::Unrelated { file })
    }
}
