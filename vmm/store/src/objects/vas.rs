//! Making, changing and deleting VASes.
//!
//! A VAS is a folder with a manifest. The folder carries the permissions: a user who may write it
//! may change the VAS. A manifest is never written in place.

use std::io::{self, Write};

use abi::objects::{Right, SegId, VasId};
use rustix::fs::{Gid, OFlags, Uid};

use crate::format::counters::Counted;
use crate::format::error::{Busy, Object, StoreError, io_error};
use crate::format::escape::parse_id;
use crate::format::manifest::{MAX_SEGMENTS, Manifest};
use crate::format::name::{Mode, Name};
use crate::format::record::{Access, VasContent, VasRecord, VasSegment};
use crate::objects::create::set_mode;
use crate::objects::dir::{Dir, or_denied};
use crate::objects::fresh::random;
use crate::objects::lock::{Exclusive, Locked};
use crate::objects::lookup::MANIFEST;
use crate::objects::store::Store;

impl Store {
    /// Makes an empty VAS.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Name`], and the host's errors.
    pub fn create_vas(&self, name: &Name, mode: Mode) -> Result<VasId, StoreError> {
        name.check_new()?;
        self.make_vas(name, mode, Vec::new(), true, None, &self.lock_exclusive()?)
    }

    /// A new VAS with the same segments, tag setting and permission bits.
    ///
    /// # Errors
    /// As [`Store::vas`] and [`Store::create_vas`]; [`StoreError::Passing`].
    pub fn clone_vas(&self, vid: VasId, name: &Name) -> Result<VasId, StoreError> {
        name.check_new()?;
        let lock = self.lock_exclusive()?;
        let vas = self.vas_by_id(vid, &lock)?;
        if self.is_passing_vas(&vas, &lock) {
            return Err(StoreError::Passing(vas.name));
        }
        self.make_vas(name, vas.mode, vas.segments, vas.tagged, None, &lock)
    }

    /// The id of the VAS with this name. A copied folder gets its own name and id now, if
    /// the caller may write it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`], [`StoreError::BadField`].
    pub fn find_vas(&self, name: &Name) -> Result<VasId, StoreError> {
        // A manifest is whole whenever it is read, so one that needs no change needs no lock.
        if let Ok(manifest) = self.read_manifest(name)
            && manifest.name == *name
        {
            self.hints().note_vas(manifest.vid, name);
            return Ok(manifest.vid);
        }
        {
            let _lock = self.lock_shared()?;
            let manifest = self.read_manifest(name)?;
            if manifest.name == *name {
                self.hints().note_vas(manifest.vid, name);
                return Ok(manifest.vid);
            }
        }
        self.adopt_vas(name, &self.lock_exclusive()?)
    }

    /// What a VAS is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`], [`StoreError::BadField`].
    pub fn vas(&self, vid: VasId) -> Result<VasRecord, StoreError> {
        self.vas_by_id(vid, &self.lock_shared()?)
    }

    /// What an attachment of a VAS has to know: all but who may do what with it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`], [`StoreError::BadField`].
    pub fn vas_content(&self, vid: VasId) -> Result<VasContent, StoreError> {
        let (name, manifest) = self.manifest_by_id(vid, &self.lock_shared()?)?;
        self.note_segments(&manifest);
        let Manifest { tagged, numbers_after, segments, .. } = manifest;
        Ok(VasContent { name, tagged, numbers_after, segments })
    }

    /// What the VAS with this name is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`], [`StoreError::BadField`].
    pub fn vas_named(&self, name: &Name) -> Result<VasRecord, StoreError> {
        let _lock = self.lock_shared()?;
        self.vas_record(name)
    }

    /// Deletes a VAS, not its segments.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a live VM has it attached, [`StoreError::Denied`].
    pub fn delete_vas(&self, vid: VasId) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let vas = self.writable_vas(vid, &lock)?;
        let mut index = self.vas_index(&lock)?;
        self.bump_changes(&lock)?;
        self.check_not_read(&vas.name)?;
        let mut holders = Vec::new();
        for lease in self.live_leases()? {
            if lease.vases()?.contains(&vid) {
                holders.push(lease.holder());
            }
        }
        if !holders.is_empty() {
            let object = Object::VasName(vas.name);
            return Err(StoreError::Busy { object, why: Busy::Attached(holders) });
        }
        self.bump_objects(Counted::Vas, &lock)?;
        let dead = format!("{vid}.deleted");
        if !self.vas.move_new(vas.name.as_str(), &self.tmp, &dead)? {
            return Err(self.tmp.error("create", &dead, io::ErrorKind::AlreadyExists));
        }
        index.remove(vid);
        index.restamp(self.stamp(Counted::Vas, &lock).ok());
        self.bump_changes(&lock)?;
        self.vas.sync()?;
        // It has left the store already; what cannot be removed now is garbage for `gc`.
        let _ = self.tmp.remove_folder(&dead);
        Ok(())
    }

    /// Changes the permission bits. Programs that have it attached keep what they have.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`].
    pub fn set_vas_mode(&self, vid: VasId, mode: Mode) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let name = self.vas_by_id(vid, &lock)?.name;
        let refusal = || StoreError::NotOwner(Object::VasName(name.clone()));
        let denied_to_change = |error| or_denied(error, refusal);
        let folder = self.vas.sub(name.as_str())?;
        self.vas.chmod(name.as_str(), mode.of_folder()).map_err(denied_to_change)?;
        folder.chmod(MANIFEST, mode.of_file()).map_err(denied_to_change)
    }

    /// Whether instances attached from now on get a TLB tag.
    ///
    /// # Errors
    /// [`StoreError::Denied`].
    pub fn set_vas_tagged(&self, vid: VasId, tagged: bool) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let mut manifest = self.changeable(vid, &lock)?;
        manifest.tagged = tagged;
        self.replace_manifest(&manifest, &lock)
    }

    /// Puts a segment into a VAS, for all its attachers.
    ///
    /// # Errors
    /// [`StoreError::Overlap`] with another segment of the VAS, reserves included;
    /// [`StoreError::AlreadyAttached`]; [`StoreError::Denied`] without the right to change the
    /// VAS or without `right` on the segment; [`StoreError::NotFound`].
    pub fn attach_segment(&self, vid: VasId, sid: SegId, right: Right) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let mut manifest = self.changeable(vid, &lock)?;
        let segment = self.open_present(sid, &lock)?;
        self.check_content(&segment, &lock)?;
        if right == Right::Write {
            segment.check_writable()?;
        }
        let (vas, name) = (manifest.name.clone(), segment.name().clone());
        if manifest.segments.len() >= MAX_SEGMENTS {
            return Err(StoreError::TooMany(vas));
        }
        let (base, end) = (segment.header().base, segment.header().reserve_end());
        if manifest.segments.iter().any(|other| other.sid == sid) {
            return Err(StoreError::AlreadyAttached { vas, segment: name });
        }
        let mut in_the_way = Vec::new();
        {
            let index = self.segment_index(&lock)?;
            for other in &manifest.segments {
                // What the caller cannot read is checked when the VAS is attached.
                let Some((other_base, other_end)) = index.range(other.sid) else { continue };
                if base < other_end && other_base < end {
                    let other_name = index.name(other.sid).unwrap_or(&other.name).clone();
                    in_the_way.push((other.sid, other_name));
                }
            }
        }
        for (other_sid, other) in in_the_way {
            // A volatile one may have been freed with its last VM and only still be listed.
            if !matches!(self.open_present(other_sid, &lock), Err(StoreError::NotFound(_))) {
                return Err(StoreError::Overlap { vas, segment: name, other });
            }
        }
        manifest.segments.push(VasSegment { sid, right, name });
        self.replace_manifest(&manifest, &lock)
    }

    /// Which of a VAS's segments a person means by `text`: one listed under that name, one whose
    /// file has it now, or one with that id.
    ///
    /// # Errors
    /// [`StoreError::Ambiguous`] when several have the name, such as one whose file was lost and
    /// another that was created in its place; [`StoreError::NotFound`].
    pub fn listed_segment(&self, vid: VasId, text: &Name) -> Result<SegId, StoreError> {
        let lock = self.lock_shared()?;
        let vas = self.vas_by_id(vid, &lock)?;
        let mut meant = Vec::new();
        for listed in &vas.segments {
            let now = self.segment_name(listed.sid, &lock)?;
            if now.as_ref().unwrap_or(&listed.name) == text {
                meant.push(listed.sid);
            }
        }
        if meant.is_empty() {
            let id = parse_id(text.as_str()).and_then(SegId::new);
            meant.extend(id.filter(|id| vas.segments.iter().any(|listed| listed.sid == *id)));
        }
        match *meant {
            [sid] => Ok(sid),
            [] => Err(match self.open_named(text, &lock) {
                Ok(segment) => StoreError::NotAttached { vas: vas.name, segment: segment.sid() },
                Err(error) => error,
            }),
            _ => Err(StoreError::Ambiguous {
                vas: vas.name,
                segment: text.clone(),
                sids: meant.iter().map(SegId::to_string).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Takes a segment out of a VAS, for all its attachers.
    ///
    /// # Errors
    /// [`StoreError::NotAttached`]; [`StoreError::Busy`] while a thread of a live VM is inside
    /// the VAS, or has suspended a visit there; [`StoreError::Denied`].
    pub fn detach_segment(&self, vid: VasId, sid: SegId) -> Result<(), StoreError> {
        let lock = self.lock_exclusive()?;
        let mut manifest = self.changeable(vid, &lock)?;
        let Some(at) = manifest.segments.iter().position(|segment| segment.sid == sid) else {
            return Err(StoreError::NotAttached { vas: manifest.name, segment: sid });
        };
        // First announce, then check: a thread that enters from now on sees the count and waits.
        self.bump_changes(&lock)?;
        self.check_not_read(&manifest.name)?;
        for lease in self.live_leases()? {
            if lease.is_used(vid)? {
                let object = Object::VasName(manifest.name);
                return Err(StoreError::Busy { object, why: Busy::Inside(lease.holder()) });
            }
        }
        let known = self.last_number_without(&manifest, sid, &lock);
        manifest.numbers_after = manifest.numbers_after.max(known);
        manifest.segments.remove(at);
        self.replace_manifest(&manifest, &lock)
    }
}

fn write_denied(name: &Name) -> StoreError {
    StoreError::Denied { object: Object::VasName(name.clone()), right: Right::Write }
}

/// For the rest of this crate, with the lock held.
impl Store {
    pub(crate) fn vas_record(&self, name: &Name) -> Result<VasRecord, StoreError> {
        self.vas_record_of(name, self.read_manifest(name)?)
    }

    fn vas_record_of(&self, name: &Name, manifest: Manifest) -> Result<VasRecord, StoreError> {
        self.note_segments(&manifest);
        let stat = self.vas.stat(name.as_str())?;
        let mode = stat.map_or(Mode::PRIVATE, |stat| Mode::from_stat(stat.st_mode));
        let writable = self.vas.writable(name.as_str());
        Ok(VasRecord {
            vid: manifest.vid,
            name: name.clone(),
            mode,
            tagged: manifest.tagged,
            numbers_after: manifest.numbers_after,
            segments: manifest.segments,
            access: if writable { Access::Write } else { Access::Read },
        })
    }

    fn note_segments(&self, manifest: &Manifest) {
        for listed in &manifest.segments {
            self.hints().note_segment(listed.sid, &listed.name);
        }
    }

    pub(crate) fn vas_by_id(
        &self,
        vid: VasId,
        lock: &impl Locked,
    ) -> Result<VasRecord, StoreError> {
        let (name, manifest) = self.manifest_by_id(vid, lock)?;
        self.vas_record_of(&name, manifest)
    }

    /// The name of its folder, and what its manifest says.
    pub(crate) fn manifest_by_id(
        &self,
        vid: VasId,
        lock: &impl Locked,
    ) -> Result<(Name, Manifest), StoreError> {
        let hint = self.hints().vas(vid);
        if let Some((name, manifest)) =
            hint.and_then(|name| self.read_manifest(&name).ok().map(|manifest| (name, manifest)))
            // A copied folder has the same id, and the name of the original in its manifest.
            && (manifest.vid, &manifest.name) == (vid, &name)
        {
            return Ok((name, manifest));
        }
        let not_found = || StoreError::NotFound(Object::Vas(vid));
        let name = self.vas_name(vid, lock)?.ok_or_else(not_found)?;
        self.hints().note_vas(vid, &name);
        let manifest = self.read_manifest(&name)?;
        Ok((name, manifest))
    }

    fn writable_vas(&self, vid: VasId, lock: &Exclusive) -> Result<VasRecord, StoreError> {
        let vas = self.vas_by_id(vid, lock)?;
        match vas.access {
            Access::Write => Ok(vas),
            Access::None | Access::Read => Err(write_denied(&vas.name)),
        }
    }

    /// The manifest of a VAS the caller may change.
    fn changeable(&self, vid: VasId, lock: &Exclusive) -> Result<Manifest, StoreError> {
        let vas = self.writable_vas(vid, lock)?;
        let VasRecord { name, tagged, numbers_after, segments, .. } = vas;
        Ok(Manifest { vid, name, tagged, numbers_after, segments })
    }

    /// No commit through a VAS gets a number up to this one.
    pub(crate) fn set_numbers_after(
        &self,
        vid: VasId,
        number: u64,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let mut manifest = self.changeable(vid, lock)?;
        manifest.numbers_after = number;
        self.replace_manifest(&manifest, lock)
    }

    /// With the id `wanted` if that is free.
    pub(crate) fn make_vas(
        &self,
        name: &Name,
        mode: Mode,
        segments: Vec<VasSegment>,
        tagged: bool,
        wanted: Option<VasId>,
        lock: &Exclusive,
    ) -> Result<VasId, StoreError> {
        let exists = || StoreError::Exists(Object::VasName(name.clone()));
        if self.vas.stat(name.as_str())?.is_some() {
            return Err(exists());
        }
        let mut index = self.vas_index(lock)?;
        let free = |vid: &VasId| !index.has(*vid);
        let vid = match wanted.filter(free) {
            Some(vid) => vid,
            None => random(|id| VasId::new(id).filter(free))?,
        };
        let manifest = Manifest { vid, name: name.clone(), tagged, numbers_after: 0, segments };
        let tmp_name = format!("{vid}.vas");
        // Moving a folder needs the right to write it, so it gets its mode afterwards.
        self.tmp.new_folder(&tmp_name, 0o700)?;
        let made = self
            .tmp
            .sub(&tmp_name)
            .and_then(|folder| write_new(&folder, MANIFEST, &manifest, mode))
            .and_then(|()| self.bump_objects(Counted::Vas, lock))
            .and_then(|()| self.tmp.move_new(&tmp_name, &self.vas, name.as_str()))
            .and_then(|moved| if moved { Ok(()) } else { Err(exists()) });
        if let Err(error) = made {
            let _ = self.tmp.remove_folder(&tmp_name);
            return Err(error);
        }
        index.insert(name, &manifest);
        index.restamp(self.stamp(Counted::Vas, lock).ok());
        let settled =
            self.vas.chmod(name.as_str(), mode.of_folder()).and_then(|()| self.vas.sync());
        settled.map(|()| vid).inspect_err(|_| {
            // The caller removes the segments that it has made for it.
            let _ = self.vas.remove_folder(name.as_str());
            index.restamp(None);
        })
    }

    fn replace_manifest(&self, manifest: &Manifest, lock: &Exclusive) -> Result<(), StoreError> {
        let folder = self.vas.sub(manifest.name.as_str())?;
        let stat = folder.stat_self()?;
        let tmp_name = format!("{}.manifest", manifest.vid);
        // One left by a crash; under the exclusive lock it is not in use.
        let _ = self.tmp.remove_file(&tmp_name);
        self.bump_changes(lock)?;
        let written = write_new(&self.tmp, &tmp_name, manifest, Mode::from_stat(stat.st_mode))
            .and_then(|()| {
                // So that the group keeps its rights whichever member writes. Only root can give
                // the owner back; the folder, which decides, keeps its owner anyway.
                if let Ok(file) = self.tmp.open_file(&tmp_name, OFlags::RDONLY) {
                    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                    if rustix::fs::fchown(&file, Some(uid), Some(gid)).is_err() {
                        let _ = rustix::fs::fchown(&file, None, Some(gid));
                    }
                }
                self.tmp.move_over(&tmp_name, &folder, MANIFEST)
            });
        if let Err(error) = written {
            let _ = self.tmp.remove_file(&tmp_name);
            return Err(error);
        }
        self.bump_changes(lock)?;
        folder.sync()
    }

    /// A copied or renamed folder gets its own name, and its own id if the original is here.
    fn adopt_vas(&self, name: &Name, lock: &Exclusive) -> Result<VasId, StoreError> {
        let mut manifest = self.read_manifest(name)?;
        if manifest.name == *name {
            return Ok(manifest.vid);
        }
        let original = self.vas_name(manifest.vid, lock)?.filter(|other| other != name);
        if !self.vas.writable(name.as_str()) {
            return match original {
                Some(_) => Err(StoreError::Copy { file: self.vas.path_of(name.as_str()) }),
                None => Ok(manifest.vid),
            };
        }
        manifest.name = name.clone();
        if original.is_some() {
            manifest.vid = random(VasId::new)?;
        }
        self.bump_objects(Counted::Vas, lock)?;
        self.replace_manifest(&manifest, lock)?;
        Ok(manifest.vid)
    }
}

fn write_new(dir: &Dir, name: &str, manifest: &Manifest, mode: Mode) -> Result<(), StoreError> {
    let path = dir.path_of(name);
    let mut file = dir.new_file(name)?;
    file.write_all(manifest.encode().as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| io_error("write", &path, e))?;
    set_mode(&file, &path, mode)
}
