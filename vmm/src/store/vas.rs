//! What can be done with VASes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use abi::{Right, SegId, VasId};

use super::dir::{Store, open_plain, random_id};
use super::manifest::{MANIFEST_MAX_BYTES, Manifest};
use super::name::Name;
use super::{Access, StoreError};

/// One segment of a VAS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VasSegment {
    /// Which.
    pub sid: SegId,
    /// Its name when it was attached.
    pub name: Name,
    /// What attachers of the VAS may do with it.
    pub right: Right,
}

/// A VAS as it is in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VasRecord {
    /// Its id.
    pub vid: VasId,
    /// Its name.
    pub name: Name,
    /// Permission bits.
    pub mode: u32,
    /// Whether instances get a TLB tag.
    pub tagged: bool,
    /// Its segments.
    pub segments: Vec<VasSegment>,
    /// What the user may do with it.
    pub access: Access,
}

impl Store {
    fn vas_folder(&self, name: &Name) -> PathBuf {
        self.folder("vas").join(name.as_str())
    }

    fn manifest_path(&self, name: &Name) -> PathBuf {
        self.vas_folder(name).join("manifest")
    }

    pub(super) fn read_manifest(&self, name: &Name) -> Result<Manifest, StoreError> {
        let path = self.manifest_path(name);
        let file = match open_plain(&path, false) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NoSuchName { what: "VAS", name: name.clone() });
            }
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        let mut bytes = Vec::new();
        let read = file.take(MANIFEST_MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(StoreError::io("read", &path))?;
        if bytes.len() as u64 > MANIFEST_MAX_BYTES {
            return Err(StoreError::BadField {
                file: path,
                field: "length",
                found: bytes.len().to_string(),
                expected: format!("at most {MANIFEST_MAX_BYTES}"),
            });
        }
        let manifest = Manifest::decode(&bytes, &path)?;
        if manifest.name != *name {
            return Err(StoreError::BadField {
                file: path,
                field: "name",
                found: format!("`{}`", manifest.name.escaped()),
                expected: format!("`{}`, its folder's name", name.escaped()),
            });
        }
        Ok(manifest)
    }

    /// Makes an empty VAS.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], and what the host says.
    pub fn create_vas(&self, name: &Name, mode: u32) -> Result<VasId, StoreError> {
        let _locked = self.exclusive()?;
        self.make_vas(name, mode, true, Vec::new())
    }

    fn make_vas(
        &self,
        name: &Name,
        mode: u32,
        tagged: bool,
        segments: Vec<VasSegment>,
    ) -> Result<VasId, StoreError> {
        let folder = self.vas_folder(name);
        if folder.symlink_metadata().is_ok() {
            return Err(StoreError::NameTaken { what: "VAS", name: name.clone() });
        }
        let vid = VasId::new(random_id()).unwrap_or(VasId::new(1).expect("1 is an id"));
        let manifest = Manifest { vid, name: name.clone(), tagged, segments };
        let temporary = self.temporary();
        let failed = |source| StoreError::Io { action: "make VAS", path: folder.clone(), source };
        let made = fs::DirBuilder::new()
            .mode(0o700)
            .create(&temporary)
            .map_err(failed)
            .and_then(|()| {
                let path = temporary.join("manifest");
                write_new(&path, &manifest.encode(), mode, Durable::No)
            })
            .and_then(|()| {
                let bits = fs::Permissions::from_mode(folder_mode(mode));
                fs::set_permissions(&temporary, bits).map_err(failed)
            })
            .and_then(|()| fs::rename(&temporary, &folder).map_err(failed));
        if let Err(error) = made {
            let _ = fs::remove_file(temporary.join("manifest"));
            let _ = fs::remove_dir(&temporary);
            return Err(error);
        }
        self.remember_vas(vid, name);
        Ok(vid)
    }

    /// The id of the VAS with this name.
    ///
    /// # Errors
    /// [`StoreError::NoSuchName`], [`StoreError::BadField`].
    pub fn find_vas(&self, name: &Name) -> Result<VasId, StoreError> {
        let _locked = self.shared()?;
        let vid = self.read_manifest(name)?.vid;
        self.remember_vas(vid, name);
        Ok(vid)
    }

    /// What a VAS is.
    ///
    /// # Errors
    /// [`StoreError::NoSuchVas`], [`StoreError::BadField`], no right to read.
    pub fn vas(&self, vid: VasId) -> Result<VasRecord, StoreError> {
        let _locked = self.shared()?;
        let name = self.vas_name(vid)?;
        let manifest = self.read_manifest(&name)?;
        self.vas_record(name, manifest)
    }

    fn vas_record(&self, name: Name, manifest: Manifest) -> Result<VasRecord, StoreError> {
        let path = self.manifest_path(&name);
        let meta = fs::metadata(&path).map_err(StoreError::io("look at", &path))?;
        Ok(VasRecord {
            vid: manifest.vid,
            mode: meta.permissions().mode() & 0o777,
            tagged: manifest.tagged,
            segments: manifest.segments,
            access: Access::of(&path),
            name,
        })
    }

    /// All VASes that can be read, in the order of their names. Damaged ones are left out, with
    /// a warning.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list_vases(&self) -> Result<Vec<VasRecord>, StoreError> {
        let _locked = self.shared()?;
        let all = self.all_manifests()?.into_iter();
        all.map(|(name, manifest)| self.vas_record(name, manifest)).collect()
    }

    /// A new VAS with the same segments, for its maker.
    ///
    /// # Errors
    /// As [`Store::create_vas`].
    pub fn clone_vas(&self, vid: VasId, name: &Name) -> Result<VasId, StoreError> {
        let _locked = self.exclusive()?;
        let source = self.vas_name(vid)?;
        let manifest = self.read_manifest(&source)?;
        let record = self.vas_record(source, manifest)?;
        self.make_vas(name, record.mode, record.tagged, record.segments)
    }

    /// Deletes a VAS; its segments stay.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a live VM has it attached.
    pub fn delete_vas(&self, vid: VasId) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        let name = self.vas_name(vid)?;
        self.expect_writable(&name, "delete")?;
        if let Some(lease) = self.leases()?.into_iter().find(|lease| lease.has_vas(vid)) {
            return Err(StoreError::Busy { what: "VAS", name, by: lease.who() });
        }
        let folder = self.vas_folder(&name);
        // Out of sight at once, then away piece by piece.
        let temporary = self.temporary();
        fs::rename(&folder, &temporary).map_err(StoreError::io("delete VAS", &folder))?;
        let _ = fs::remove_file(temporary.join("manifest"));
        let _ = fs::remove_dir(&temporary);
        self.forget_vas(vid);
        self.count_change()
    }

    fn expect_writable(&self, name: &Name, action: &'static str) -> Result<(), StoreError> {
        if Access::of(&self.manifest_path(name)) == Access::Write {
            return Ok(());
        }
        Err(StoreError::Denied { action, what: "VAS", name: name.clone() })
    }

    /// Sets a VAS's permission bits.
    ///
    /// # Errors
    /// The host refuses: it belongs to somebody else.
    pub fn set_vas_mode(&self, vid: VasId, mode: u32) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        let name = self.vas_name(vid)?;
        let (folder, manifest) = (self.vas_folder(&name), self.manifest_path(&name));
        for (path, mode) in [(manifest, mode), (folder, folder_mode(mode))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .map_err(StoreError::io("change the permissions of", &path))?;
        }
        Ok(())
    }

    /// Sets whether instances of a VAS get a TLB tag; holds for later attaches.
    ///
    /// # Errors
    /// No right to write.
    pub fn set_vas_tagged(&self, vid: VasId, tagged: bool) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        self.change_vas(vid, |manifest| {
            manifest.tagged = tagged;
            Ok(())
        })
    }

    /// Attaches a segment to a VAS, for all who attach that.
    ///
    /// # Errors
    /// [`StoreError::Overlap`], [`StoreError::AlreadyAttached`], [`StoreError::Denied`] without
    /// the right on VAS or segment.
    pub fn attach_segment(&self, vid: VasId, sid: SegId, right: Right) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        let file = self.open_by_id(sid)?;
        let header = file.header().clone();
        if right == Right::Write && file.right() == Right::Read {
            let name = header.name;
            return Err(StoreError::Denied { action: "write", what: "segment", name });
        }
        self.change_vas(vid, |manifest| {
            let vas = manifest.name.clone();
            let segment = header.name.clone();
            if manifest.segments.iter().any(|other| other.sid == sid) {
                return Err(StoreError::AlreadyAttached { vas, segment });
            }
            for other in &manifest.segments {
                let Ok(theirs) = self.segment_range(other.sid) else { continue };
                if theirs.start < header.range().end && header.base < theirs.end {
                    let other = other.name.clone();
                    return Err(StoreError::Overlap { vas, segment, other });
                }
            }
            manifest.segments.push(VasSegment { sid, name: segment, right });
            let address = |s: &VasSegment| self.segment_range(s.sid).map_or(u64::MAX, |r| r.start);
            manifest.segments.sort_by_cached_key(address);
            Ok(())
        })
    }

    fn segment_range(&self, sid: SegId) -> Result<std::ops::Range<u64>, StoreError> {
        Ok(self.open_by_id(sid)?.header().range())
    }

    /// Takes a segment out of a VAS, for all who have that attached.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a thread of a live VM is inside the VAS;
    /// [`StoreError::NotAttached`].
    pub fn detach_segment(&self, vid: VasId, sid: SegId) -> Result<(), StoreError> {
        let _locked = self.exclusive()?;
        self.change_vas(vid, |manifest| {
            let before = manifest.segments.len();
            manifest.segments.retain(|segment| segment.sid != sid);
            if manifest.segments.len() == before {
                return Err(StoreError::NotAttached { vas: manifest.name.clone(), sid });
            }
            // The change is counted already: nobody gets in by what he has seen, and who got
            // in before has announced himself.
            let inside = |lease: &super::LeaseView| lease.inside.iter().any(|(v, _)| *v == vid);
            match self.leases()?.into_iter().find(inside) {
                Some(lease) => {
                    let by = format!("a thread of {} is inside", lease.who());
                    Err(StoreError::Busy { what: "VAS", name: manifest.name.clone(), by })
                }
                None => Ok(()),
            }
        })
    }

    /// Changes a manifest: counted before and after, written whole.
    fn change_vas(
        &self,
        vid: VasId,
        change: impl FnOnce(&mut Manifest) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let name = self.vas_name(vid)?;
        self.expect_writable(&name, "change")?;
        let mut manifest = self.read_manifest(&name)?;
        self.count_change()?;
        let changed = change(&mut manifest).and_then(|()| self.replace_manifest(&name, &manifest));
        self.count_change()?;
        changed
    }

    fn replace_manifest(&self, name: &Name, manifest: &Manifest) -> Result<(), StoreError> {
        let path = self.manifest_path(name);
        let failed = |source| StoreError::Io { action: "write", path: path.clone(), source };
        let mode = fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o777;
        let temporary = self.temporary();
        let written = write_new(&temporary, &manifest.encode(), mode, Durable::Yes)
            .and_then(|()| fs::rename(&temporary, &path).map_err(failed));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        // The rename itself may be undone by a crash of the machine, to the manifest before.
        written
    }
}

/// Who may read the manifest may enter its folder; who may write it may replace it there.
fn folder_mode(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

/// Whether a file must have reached the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Yes,
    /// A crash of the machine may undo its making: an empty VAS loses nothing, and the first
    /// change of it, which is durable, makes all before it durable.
    No,
}

fn write_new(path: &Path, text: &str, mode: u32, durable: Durable) -> Result<(), StoreError> {
    let mut options = fs::OpenOptions::new();
    let written =
        options.write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            if durable == Durable::Yes { file.sync_all() } else { Ok(()) }
        });
    written.map_err(StoreError::io("write", path))
}
