//! The folder with the content of a versioned segment: `versions/SID`.
//!
//! What is in it is the business of `spacejmp_versions`. Here it is made, found, given a mode and
//! removed: it is complete and durable before a segment's file names it, and goes after that file.
//! What a crash leaves is a folder without a segment, which `gc` removes.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use abi::objects::{Lifetime, Right, SegId, SegRoot};
use rustix::fs::OFlags;
use spacejmp_versions::Segment;
use spacejmp_versions::disk::host::{HostFolder, OwnerOf};
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::PAGE_BYTES;
use spacejmp_versions::segment::{HOME_FILE_NAME, Limits};

use crate::format::error::{Object, StoreError, bad_field, invalid, io_error};
use crate::format::escape::parse_id;
use crate::format::header::{Header, read_header};
use crate::format::name::Mode;
use crate::objects::clone::{MadeVersions, Unfinished};
use crate::objects::create::set_mode;
use crate::objects::dir::{Dir, or_denied};
use crate::objects::fresh::now_ns;
use crate::objects::lock::{Exclusive, Locked};
use crate::objects::segment::SegmentFile;
use crate::objects::store::{SEGMENTS, Store, VERSIONS};

/// The first log is replaced at the first opening: it needs no space beforehand.
pub(crate) const FIRST_LOG: Limits =
    Limits { log_bytes: spacejmp_versions::log::LOG_BYTES_MAX, ahead_bytes: PAGE_BYTES as u64 };

impl SegmentFile {
    /// Whether it is changed by commits only.
    #[must_use]
    pub fn is_versioned(&self) -> bool {
        self.header().lifetime == Lifetime::Versioned
    }

    /// The folder with the files of a versioned segment, opened below the store's own descriptor.
    ///
    /// # Errors
    /// [`StoreError::VersionsMissing`] with its path; [`StoreError::BadField`] for one that another
    /// user has put there; [`StoreError::Denied`]; [`StoreError::Invalid`] for a segment that is not
    /// versioned.
    pub fn versions_folder(&self) -> Result<OwnedFd, StoreError> {
        self.versions_dir()?.into_fd()
    }

    /// The files in it, as those of one of the segments of this store.
    ///
    /// # Errors
    /// Likewise.
    pub fn versions_files(&self) -> Result<HostFolder, StoreError> {
        let segments = Dir::when_used(self.root(), SEGMENTS);
        let folder = HostFolder::from_new_fd(self.versions_folder()?);
        let folder = folder.counted_by(self.growth.clone());
        Ok(folder.beside(move |segment| owner_of(&segments, segment)))
    }

    /// The folder, for messages.
    pub(crate) fn versions_path(&self) -> PathBuf {
        self.versions().path_of(&self.sid().to_string())
    }

    pub(crate) fn versions_dir(&self) -> Result<Dir, StoreError> {
        self.check_versioned()?;
        let folder = self.versions().sub(&self.sid().to_string());
        let folder = folder.map_err(|error| match error {
            StoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                let folder = self.versions_path();
                StoreError::VersionsMissing { segment: self.name().clone(), folder }
            }
            other => or_denied(other, || {
                let object = Object::SegmentName(self.name().clone());
                StoreError::Denied { object, right: Right::Read }
            }),
        })?;
        // In a store that many users share, everybody can make a folder with an id that they have
        // read in a segment's file, before the file comes from elsewhere or comes back.
        let (found, owner) = (folder.stat_self()?.st_uid, self.owner());
        if found != owner && found != 0 {
            return Err(bad_field(folder.path(), "owner", found, owner));
        }
        Ok(folder)
    }

    pub(crate) fn check_versioned(&self) -> Result<(), StoreError> {
        if self.is_versioned() {
            return Ok(());
        }
        let found = format!("{:?}", self.header().lifetime).to_lowercase();
        Err(invalid("the lifetime of the segment", found, "versioned"))
    }

    /// That a program of this store does not change it: only commits do.
    pub(crate) fn check_raw(&self, doing: &'static str) -> Result<(), StoreError> {
        const WHY: &str = "changes are made inside a visit, by a program that has entered a VAS with \
                           it for writing";
        if self.is_versioned() { Err(self.refused(doing, WHY)) } else { Ok(()) }
    }

    /// The error of what is not done with versioned segments.
    pub(crate) fn refused(&self, doing: &'static str, why: &'static str) -> StoreError {
        StoreError::Versioned { segment: self.name().clone(), doing, why }
    }
}

impl Store {
    /// The folder with the folders of versioned segments; `None` in a store that an earlier version
    /// made, and that has no such segment.
    pub(crate) fn versions(&self) -> Result<Option<Dir>, StoreError> {
        match self.root.stat(VERSIONS)? {
            Some(_) => self.root.sub(VERSIONS).map(Some),
            None => Ok(None),
        }
    }

    /// The same; made as the folder of parts is, for the same users.
    fn versions_or_new(&self, _lock: &Exclusive) -> Result<Dir, StoreError> {
        if let Some(versions) = self.versions()? {
            return Ok(versions);
        }
        self.root.new_folder(VERSIONS, 0o700)?;
        self.root.chmod(VERSIONS, self.parts.stat_self()?.st_mode & 0o7777)?;
        self.root.sync()?;
        self.root.sub(VERSIONS)
    }

    /// The folders that a versioned segment may have or have had, by name.
    pub(crate) fn versions_by_id(
        &self,
        versions: &Dir,
    ) -> Result<Vec<(String, SegId)>, StoreError> {
        let names = versions.names()?.into_iter().filter_map(|name| name.into_string().ok());
        let by_id = |name: String| {
            let sid = SegId::new(parse_id(&name)?)?;
            Some((name, sid))
        };
        Ok(names.filter_map(by_id).collect())
    }

    /// Whether the content of a versioned segment is there. A copied file is a segment of its own only
    /// with a folder of its own, which a copy in the same store cannot have: it has the same id.
    pub(crate) fn check_content(
        &self,
        segment: &SegmentFile,
        lock: &impl Locked,
    ) -> Result<(), StoreError> {
        if !segment.is_versioned() {
            return Ok(());
        }
        if segment.header().name != *segment.name()
            && let Some(original) = self.segment_name(segment.sid(), lock)?
            && original != *segment.name()
        {
            return Err(StoreError::VersionedCopy { file: segment.path().to_owned(), original });
        }
        segment.versions_dir().map(drop)
    }

    /// Bytes that the host stores for the content of a versioned segment.
    pub(crate) fn versions_bytes(&self, segment: &SegmentFile) -> Result<u64, StoreError> {
        if !segment.is_versioned() {
            return Ok(0);
        }
        let folder = segment.versions_dir()?;
        let mut bytes = 0;
        for file in folder.names()? {
            // A log may go meanwhile.
            if let Some(stat) = folder.stat(&file.to_string_lossy())? {
                bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
        }
        Ok(bytes)
    }

    /// Whether there is a folder for this id, of a segment or left by one.
    pub(crate) fn has_versions(&self, sid: SegId) -> bool {
        let found = self.versions().and_then(|versions| match versions {
            Some(versions) => versions.stat(&sid.to_string()),
            None => Ok(None),
        });
        // If it cannot be told, there may be one.
        !matches!(found, Ok(None))
    }

    /// Makes the content of a new segment, durably: version 0, which is what the file `home` has, and
    /// all zeros without it.
    pub(crate) fn make_versions(
        &self,
        header: &Header,
        mode: Mode,
        home: Option<&mut Unfinished<'_>>,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let made = self.place_versions(header, mode, lock, |folder| {
            self.fill_versions(folder, header, home)
        })?;
        made.leave();
        Ok(())
    }

    /// Makes the folder of a new segment, filled by `fill`, durably, with permission bits for it and
    /// for the files that no other segment has. What is returned removes it unless it is told to stay.
    pub(crate) fn place_versions<'a>(
        &'a self,
        header: &Header,
        mode: Mode,
        lock: &Exclusive,
        fill: impl FnOnce(Dir) -> Result<(), StoreError>,
    ) -> Result<MadeVersions<'a>, StoreError> {
        let versions = self.versions_or_new(lock)?;
        let (unfinished, name) = (format!("{}.versions", header.sid), header.sid.to_string());
        let placed = self.tmp.new_folder(&unfinished, 0o700).and_then(|()| {
            fill(self.tmp.sub(&unfinished)?)?;
            let folder = self.tmp.sub(&unfinished)?;
            set_own_modes(&folder, mode)?;
            if self.tmp.move_new(&unfinished, &versions, &name)? {
                return Ok(folder);
            }
            Err(versions.error("create", &name, ErrorKind::AlreadyExists))
        });
        let folder = match placed {
            Ok(folder) => folder,
            Err(error) => {
                let _ = self.tmp.remove_folder(&unfinished);
                return Err(error);
            }
        };
        // Only now: the host moves no folder that its owner may not write.
        let settled = versions
            .chmod(&name, mode.of_folder())
            .and_then(|()| folder.sync())
            .and_then(|()| versions.sync());
        let made = MadeVersions::new(self, header);
        settled.map(|()| made)
    }

    fn fill_versions(
        &self,
        folder: Dir,
        header: &Header,
        home: Option<&mut Unfinished<'_>>,
    ) -> Result<(), StoreError> {
        let SegRoot { address, fingerprint: [low, high] } = header.root;
        let fingerprint = u128::from(high) << 64 | u128::from(low);
        let facts = VersionFacts {
            size_bytes: header.size_bytes,
            root_address: address,
            root_fingerprint: fingerprint.to_le_bytes(),
            time_ns: now_ns(),
            pid: std::process::id(),
            ..VersionFacts::default()
        };
        let failed = |source| StoreError::Versions { segment: header.name.clone(), source };
        let again = folder.again()?;
        let disk = HostFolder::from_fd(folder.into_fd()?).counted_by(self.growth.clone());
        Segment::create(disk, header.sid.raw(), facts, FIRST_LOG).map_err(failed)?;
        if let Some(home) = home {
            self.tmp.move_over(&home.name, &again, HOME_FILE_NAME)?;
            home.done = true;
        }
        Ok(())
    }

    /// Removes the content of a segment that nothing names any more. What cannot be removed is
    /// garbage for `gc`.
    pub(crate) fn remove_versions(&self, header: &Header) {
        self.forget_looked_at();
        self.forget_last_segment();
        if header.lifetime == Lifetime::Versioned
            && let Ok(Some(versions)) = self.versions()
        {
            let _ = versions.remove_folder(&header.sid.to_string());
        }
    }

    /// Permission bits of the folder and all in it.
    pub(crate) fn set_versions_mode(
        &self,
        segment: &SegmentFile,
        mode: Mode,
    ) -> Result<(), StoreError> {
        if !segment.is_versioned() {
            return Ok(());
        }
        let folder = segment.versions_dir()?;
        // The folder first: its owner may have taken away their own right to look into it.
        self.root.sub(VERSIONS)?.chmod(&segment.sid().to_string(), mode.of_folder())?;
        let mut failed = None;
        for file in folder.names()? {
            let file = file.to_string_lossy();
            let Some(stat) = folder.stat(&file)? else { continue };
            // What other segments have, too, keeps what they need: the folder keeps others out. A kept
            // version's is written by nobody who could not before.
            let shared = match (stat.st_nlink > 1, segment.header().kept.is_some()) {
                (true, true) => stat.st_mode & 0o666 | mode.of_file() & 0o444,
                (true, false) => stat.st_mode & 0o666 | mode.of_file(),
                (false, _) => mode.of_file(),
            };
            failed = folder.chmod(&file, shared).err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Sets the permission bits of files that belong to this folder alone, and stores them.
fn set_own_modes(folder: &Dir, mode: Mode) -> Result<(), StoreError> {
    for name in folder.names()? {
        let name = name.to_string_lossy();
        let (file, path) = (folder.open_file(&name, OFlags::RDONLY)?, folder.path_of(&name));
        let links = file.metadata().map_err(|e| io_error("look at", &path, e))?.nlink();
        if links == 1 {
            set_mode(&file, &path, mode)?;
            file.sync_all().map_err(|e| io_error("sync", &path, e))?;
        }
    }
    Ok(())
}

/// Who owns the file of a segment that has files in `versions/`. Read without a lock: who asks has found
/// such files, and asks again if it gets no answer.
fn owner_of(segments: &Dir, segment: u64) -> OwnerOf {
    let Ok(names) = segments.names() else { return OwnerOf::Unknown };
    let mut found = OwnerOf::Nobody;
    for name in names {
        let name = name.to_string_lossy();
        let header = segments.open_file(&name, OFlags::RDONLY).and_then(|file| {
            let owner = file.metadata().map_err(|e| io_error("look at", segments.path(), e))?.uid();
            Ok((owner, read_header(&file, segments.path())?))
        });
        match header {
            // One that is not called what it says is a copy.
            Ok((owner, header)) if header.sid.raw() == segment && header.name.as_str() == name => {
                return OwnerOf::User(owner);
            }
            Ok(_) => {}
            Err(_) => found = OwnerOf::Unknown,
        }
    }
    found
}
