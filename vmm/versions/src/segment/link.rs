//! A version as a segment of its own: hard links of the files it needs.

use std::io::ErrorKind;

use super::install::{file_names, generations_of};
use super::open::create;
use super::{Limits, Segment, failed};
use crate::disk::Folder;
use crate::error::{Result, VersionsError};
use crate::layer::Layer;
use crate::log::header::{FORMAT, LogHeader, LogId};
use crate::log::record::VersionFacts;
use crate::page::VersionNumber;
use crate::root::{FILE_NAME, GENERATIONS_MAX, Generation, LogRef, Root};
use crate::segment::begin::salt;

impl<D: Folder> Segment<D> {
    /// Makes a segment of its own from a version, in an empty folder of the same file system, in
    /// constant time: its newest version is `version`, with that number, and `facts` may change what
    /// it says. Older versions that it consists of can be read there, too. Durable when it returns,
    /// but for the folder's own name; what a crash or an error leaves is no segment and can be removed.
    ///
    /// Files that have several names are not overwritten: see [`Segment::checkpoint`]. A log that is
    /// written to goes on behind what counts for the new segment.
    ///
    /// # Errors
    /// The host's, among them that the folder is on another file system; newer versions elsewhere
    /// that were not taken in; [`VersionsError::Gone`] for a version that cannot be read, or only by
    /// those who opened the segment long ago; too many generations.
    pub fn link_version(
        &mut self,
        version: VersionNumber,
        into: &D,
        segment: u64,
        facts: impl FnOnce(&mut VersionFacts),
        limits: Limits,
    ) -> Result<()> {
        self.check_writable()?;
        self.sync()?;
        // Nothing may be linked that a power cut would take away.
        self.confirm_root()?;
        if !self.stack.has(version) {
            let mut there = self.stack.versions.keys().copied();
            let oldest = there.find(|it| self.stack.has(*it)).unwrap_or(self.appended());
            return Err(VersionsError::Gone { version, oldest });
        }
        if !into.names().map_err(|source| failed("list", ".", source))?.is_empty() {
            return Err(failed("link into", ".", ErrorKind::AlreadyExists.into()));
        }
        let mut said = self.facts(version).cloned().unwrap_or_default();
        facts(&mut said);
        said.check()?;
        let mut generations = generations_of(&self.stack, &self.path_of(version)?);
        if generations.len() >= GENERATIONS_MAX && version == self.appended() {
            self.make_room()?;
            generations = generations_of(&self.stack, &self.path_of(version)?);
        }
        if generations.len() >= GENERATIONS_MAX {
            return Err(VersionsError::TooDeep);
        }
        for name in generations.iter().flat_map(file_names) {
            let linked = self.folder.link(&name, into, &name);
            linked.map_err(|source| failed("link", &name, source))?;
        }
        let id = LogId(self.next_id()?);
        let (after, chain) = (version, self.chain());
        let (facts, marks) = (said, self.stack.marks_up_to(version));
        let (format, salt) = (FORMAT, salt());
        let header = LogHeader { format, id, segment, salt, after, chain, facts, marks };
        drop(self.make_log(into, header, generations.len(), limits, &[])?);
        generations.push(Generation {
            layer: Layer::Empty,
            base: version,
            below: Some(version),
            origin: segment,
            logs: vec![LogRef { id, up_to: None }],
        });
        let oldest = Some(self.stack.oldest);
        let root = Root { counter: 0, segment, oldest, last_id: id.0, generations };
        root.store(&create(into, FILE_NAME)?)?;
        into.sync().map_err(|source| failed("sync", ".", source))
    }
}
