//! Snapshots of processes: a folder each, with a file that says what there is and one with the memory.
//!
//! What is in them is not looked at here. They hold whatever the process held, so only their owner can
//! read them, whatever the umask is and whoever else may use the store.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;

use abi::objects::VasId;
use rustix::fs::{FileType, FlockOperation, OFlags};

use crate::format::error::{Object, StoreError, bad_field};
use crate::format::name::Name;
use crate::objects::dir::{Dir, held_by_another, read_bounded};
use crate::objects::fresh::random_id;
use crate::objects::store::Store;

/// The folder. A store that an earlier version made gets it when it is needed.
pub(crate) const SNAPSHOTS: &str = "snapshots";
const HEAD: &str = "head";
const MEMORY: &str = "memory";
/// The numbers of the VASes with versions that it keeps, a line each. One that keeps none has no such file.
const VERSIONS: &str = "versions";
/// As many as a process can have attached, and more.
const VERSIONS_BYTES_MAX: u64 = 1 << 20;
/// How folders begin of snapshots that are not whole yet. No name of a snapshot does.
const UNFINISHED: char = '.';
/// A head has no more bytes: one for each page of a program with a terabyte, and its lists.
const HEAD_BYTES_MAX: u64 = 64 << 20;

/// A snapshot that is being made. It is removed again unless it is finished.
#[derive(Debug)]
pub struct NewSnapshot<'s> {
    store: &'s Store,
    name: Name,
    all: Dir,
    folder: String,
    /// With the flock that says that somebody is making it.
    memory: File,
    is_finished: bool,
}

/// A snapshot in a list.
#[derive(Clone, Debug)]
pub struct SnapshotEntry {
    /// Its name.
    pub name: Name,
    /// Bytes that it takes on the disk.
    pub disk_bytes: u64,
    /// What its head says, or why it cannot be read.
    pub head: Result<Vec<u8>, String>,
}

/// What a snapshot is made of.
#[derive(Debug)]
pub struct SnapshotFiles {
    /// What there is.
    pub head: Vec<u8>,
    /// Its memory, open for reading.
    pub memory: File,
}

impl Store {
    fn snapshots_folder(&self) -> Result<Option<Dir>, StoreError> {
        match self.root.stat(SNAPSHOTS)? {
            Some(_) => self.root.sub(SNAPSHOTS).map(Some),
            None => Ok(None),
        }
    }

    /// Begins a snapshot. Nobody sees it before it is finished.
    ///
    /// # Errors
    /// One of that name is there, the name begins with a dot, and the host's.
    pub fn begin_snapshot(&self, name: &Name) -> Result<NewSnapshot<'_>, StoreError> {
        if name.as_str().starts_with(UNFINISHED) {
            let expected = "one that does not begin with a dot";
            return Err(bad_field(self.path(), "name of a snapshot", name.as_str(), expected));
        }
        let all = match self.snapshots_folder()? {
            Some(all) => all,
            None => {
                match self.root.new_folder(SNAPSHOTS, 0o700) {
                    // Another process may have been quicker.
                    Err(StoreError::Io { source, .. })
                        if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => {
                        made?;
                        // For the users that the store is for.
                        let mode = self.parts.stat_self()?.st_mode & 0o7777;
                        self.root.chmod(SNAPSHOTS, mode)?;
                    }
                }
                self.root.sub(SNAPSHOTS)?
            }
        };
        if all.stat(name.as_str())?.is_some() {
            return Err(StoreError::Exists(Object::Snapshot(name.clone())));
        }
        remove_left_behind(&all);
        // What it is about to keep does not depend on that.
        let _ = self.remove_forsaken();
        let folder = format!("{UNFINISHED}{:016x}", random_id()?);
        all.new_folder(&folder, 0o700)?;
        let memory = all.sub(&folder)?.new_file(MEMORY)?;
        rustix::fs::flock(&memory, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| all.error("lock", &folder, e))?;
        let is_finished = false;
        Ok(NewSnapshot { store: self, name: name.clone(), all, folder, memory, is_finished })
    }

    /// All snapshots, by name.
    ///
    /// # Errors
    /// The host's. One that cannot be read is in the list.
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>, StoreError> {
        let Some(all) = self.snapshots_folder()? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for name in all.names()? {
            let Ok(name) = Name::new(name.as_encoded_bytes()) else { continue };
            if name.as_str().starts_with(UNFINISHED) {
                continue;
            }
            let head = read_head(&all, &name);
            let stat = |file: &str| all.stat_at(&format!("{}/{file}", name.as_str()));
            let stats = [HEAD, MEMORY].into_iter().filter_map(stat);
            let disk_bytes = stats.map(|stat| stat.st_blocks.unsigned_abs() * 512).sum();
            let head = head.map_err(|error| error.to_string());
            entries.push(SnapshotEntry { name, disk_bytes, head });
        }
        Ok(entries)
    }

    /// The files of a snapshot.
    ///
    /// # Errors
    /// There is none of that name, it lacks a file, and the host's.
    pub fn open_snapshot(&self, name: &Name) -> Result<SnapshotFiles, StoreError> {
        let all = self.folder_with(name)?;
        let head = read_head(&all, name)?;
        let memory = all.sub(name.as_str())?.open_file(MEMORY, OFlags::RDONLY)?;
        Ok(SnapshotFiles { head, memory })
    }

    /// Removes a snapshot. Processes that were started from it keep its memory.
    ///
    /// # Errors
    /// There is none of that name, and the host's.
    pub fn remove_snapshot(&self, name: &Name) -> Result<(), StoreError> {
        let all = self.folder_with(name)?;
        // First out of sight: what is half removed is no snapshot.
        let gone = format!("{UNFINISHED}{:016x}", random_id()?);
        match all.move_new(name.as_str(), &all, &gone) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::NotFound(Object::Snapshot(name.clone())))
            }
            moved => {
                moved?;
                all.remove_folder(&gone)?;
                all.sync()?;
                self.remove_forsaken().map(drop)
            }
        }
    }

    /// Whether somebody is making a snapshot.
    pub(crate) fn is_making_snapshot(&self) -> Result<bool, StoreError> {
        let Some(all) = self.snapshots_folder()? else { return Ok(false) };
        let is_held = |name: &str| {
            let memory = all.sub(name).and_then(|dir| dir.find_file(MEMORY, OFlags::RDONLY));
            matches!(memory, Ok(Some(memory)) if held_by_another(&memory))
        };
        let names = all.names()?;
        let names = names.iter().filter_map(|name| name.to_str());
        Ok(names.filter(|name| name.starts_with(UNFINISHED)).any(is_held))
    }

    /// The VASes with versions that snapshots keep; `None` if one cannot be read that does.
    pub(crate) fn versions_of_snapshots(&self) -> Result<Option<HashSet<VasId>>, StoreError> {
        let mut had = HashSet::new();
        let Some(all) = self.snapshots_folder()? else { return Ok(Some(had)) };
        for name in all.names()? {
            let Some(name) = name.to_str().filter(|name| !name.starts_with(UNFINISHED)) else {
                continue;
            };
            match read_versions(&all, name) {
                Some(versions) => had.extend(versions),
                None => return Ok(None),
            }
        }
        Ok(Some(had))
    }

    fn folder_with(&self, name: &Name) -> Result<Dir, StoreError> {
        let not_found = || StoreError::NotFound(Object::Snapshot(name.clone()));
        let all = self.snapshots_folder()?.ok_or_else(not_found)?;
        if name.as_str().starts_with(UNFINISHED) || all.stat(name.as_str())?.is_none() {
            return Err(not_found());
        }
        Ok(all)
    }
}

impl NewSnapshot<'_> {
    /// Its memory, for somebody who may write there and nothing else.
    ///
    /// # Errors
    /// The host's.
    pub fn memory_to_write(&self) -> Result<File, StoreError> {
        self.all.sub(&self.folder)?.open_file(MEMORY, OFlags::WRONLY)
    }

    /// Bytes of its memory so far.
    ///
    /// # Errors
    /// The host's.
    pub fn memory_bytes(&self) -> Result<u64, StoreError> {
        let metadata = self.memory.metadata();
        Ok(metadata.map_err(|e| self.all.error("look at", MEMORY, e))?.len())
    }

    /// Completes it: it is on the disk, and in the list. From then on it keeps `versions`, which were kept for it
    /// ([`Store::keep_for_snapshot`]).
    ///
    /// # Errors
    /// Another one has got the name meanwhile, and the host's.
    pub fn finish(mut self, head: &[u8], versions: &[VasId]) -> Result<(), StoreError> {
        let folder = self.all.sub(&self.folder)?;
        let mut file = folder.new_file(HEAD)?;
        let sum = crc32fast::hash(head).to_le_bytes();
        let written = file.write_all(&[head, sum.as_slice()].concat());
        let written = written.and_then(|()| file.sync_all());
        written.map_err(|e| folder.error("write", HEAD, e))?;
        if !versions.is_empty() {
            let lines: String =
                versions.iter().map(|vid| format!("{:016x}\n", vid.raw())).collect();
            let mut file = folder.new_file(VERSIONS)?;
            let written = file.write_all(lines.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(|e| folder.error("write", VERSIONS, e))?;
        }
        self.memory.sync_all().map_err(|e| folder.error("write", MEMORY, e))?;
        folder.sync()?;
        if !self.all.move_new(&self.folder, &self.all, self.name.as_str())? {
            return Err(StoreError::Exists(Object::Snapshot(self.name.clone())));
        }
        self.is_finished = true;
        self.all.sync()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.store
    }
}

impl Drop for NewSnapshot<'_> {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(error) = self.all.remove_folder(&self.folder)
        {
            tracing::warn!("{error}");
        }
    }
}

/// What a snapshot keeps; `None` if that cannot be read.
fn read_versions(all: &Dir, name: &str) -> Option<Vec<VasId>> {
    let folder = all.sub(name).ok()?;
    let Some(_) = folder.stat(VERSIONS).ok()? else { return Some(Vec::new()) };
    let opened = folder.open_file_stat(VERSIONS, OFlags::RDONLY).ok()?;
    let bytes = read_bounded(&opened, VERSIONS_BYTES_MAX).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    let number = |line: &str| VasId::new(u64::from_str_radix(line, 16).ok()?);
    text.lines().map(number).collect()
}

fn read_head(all: &Dir, name: &Name) -> Result<Vec<u8>, StoreError> {
    let folder = all.sub(name.as_str())?;
    let (file, stat) = folder.open_file_stat(HEAD, OFlags::RDONLY)?;
    let found = stat.st_size.to_string();
    let path = folder.path_of(HEAD);
    let read = read_bounded(&(file, stat), HEAD_BYTES_MAX);
    let mut bytes = read
        .map_err(|e| folder.error("read", HEAD, e))?
        .ok_or_else(|| bad_field(&path, "length", &found, "at most 64 MiB"))?;
    let sum = bytes.split_last_chunk().map(|(head, sum)| (head.len(), u32::from_le_bytes(*sum)));
    let (len, sum) = sum.ok_or_else(|| bad_field(&path, "length", &found, "more"))?;
    bytes.truncate(len);
    let computed = crc32fast::hash(&bytes);
    if computed != sum {
        let (sum, computed) = (format!("{sum:#010x}"), format!("{computed:#010x}"));
        return Err(bad_field(&path, "checksum", &sum, &computed));
    }
    Ok(bytes)
}

/// Removes what processes have left that were killed while they made or removed one. What cannot be removed stays.
fn remove_left_behind(all: &Dir) {
    for name in all.names().unwrap_or_default() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(UNFINISHED)) else {
            continue;
        };
        let Ok(Some(stat)) = all.stat(name) else { continue };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            continue;
        }
        let memory = all.sub(name).and_then(|dir| dir.find_file(MEMORY, OFlags::RDONLY));
        // One that has no memory yet may be getting it.
        if let Ok(Some(memory)) = memory
            && !held_by_another(&memory)
        {
            let _ = all.remove_folder(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    use super::SNAPSHOTS;
    use crate::format::error::StoreError;
    use crate::format::name::Name;
    use crate::objects::store::Store;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(&folder.path().join("s")).unwrap();
        (folder, store)
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn make(store: &Store, text: &str) {
        let new = store.begin_snapshot(&name(text)).unwrap();
        new.memory_to_write().unwrap().write_all_at(&[7; 8192], 0).unwrap();
        assert_eq!(new.memory_bytes().unwrap(), 8192);
        new.finish(b"head", &[]).unwrap();
    }

    #[test]
    fn a_snapshot_is_its_owners_and_seen_when_it_is_whole() {
        let (_folder, store) = store();
        assert!(store.snapshots().unwrap().is_empty());
        let new = store.begin_snapshot(&name("one")).unwrap();
        assert!(store.snapshots().unwrap().is_empty());
        assert!(matches!(store.open_snapshot(&name("one")), Err(StoreError::NotFound(_))));
        new.finish(b"what there is", &[]).unwrap();
        let path = store.path().join(SNAPSHOTS);
        for file in ["one/head", "one/memory"] {
            let mode = std::fs::metadata(path.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let mode = std::fs::metadata(path.join("one")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let all = store.snapshots().unwrap();
        assert_eq!((all.len(), all[0].name.as_str()), (1, "one"));
        assert_eq!(all[0].head.as_deref(), Ok(&b"what there is"[..]));
        assert_eq!(store.open_snapshot(&name("one")).unwrap().head, b"what there is");
    }

    #[test]
    fn a_name_is_taken_until_it_is_removed_and_memory_that_is_open_stays() {
        let (_folder, store) = store();
        make(&store, "one");
        assert!(matches!(store.begin_snapshot(&name("one")), Err(StoreError::Exists(_))));
        let open = store.open_snapshot(&name("one")).unwrap();
        store.remove_snapshot(&name("one")).unwrap();
        assert!(matches!(store.remove_snapshot(&name("one")), Err(StoreError::NotFound(_))));
        let mut bytes = [0; 4];
        open.memory.read_exact_at(&mut bytes, 8188).unwrap();
        assert_eq!((bytes, open.memory.metadata().unwrap().nlink()), ([7; 4], 0));
        make(&store, "one");
    }

    #[test]
    fn what_was_not_finished_leaves_nothing() {
        let (_folder, store) = store();
        let path = store.path().join(SNAPSHOTS);
        drop(store.begin_snapshot(&name("one")).unwrap());
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        // As from a process that was killed; another one is at work.
        let left = store.begin_snapshot(&name("one")).unwrap();
        let folder = left.folder.clone();
        std::fs::create_dir(path.join(".dead")).unwrap();
        std::fs::write(path.join(".dead/memory"), "x").unwrap();
        make(&store, "two");
        assert!(!path.join(".dead").exists() && path.join(&folder).exists());
        assert!(store.begin_snapshot(&name(".x")).is_err());
    }

    #[test]
    fn one_that_lacks_a_file_is_listed_and_cannot_be_opened() {
        let (_folder, store) = store();
        make(&store, "one");
        std::fs::remove_file(store.path().join(SNAPSHOTS).join("one/head")).unwrap();
        assert!(store.snapshots().unwrap()[0].head.is_err());
        let error = store.open_snapshot(&name("one")).unwrap_err().to_string();
        assert!(error.contains("snapshots/one/head"), "{error}");
        store.remove_snapshot(&name("one")).unwrap();
    }

    #[test]
    fn a_head_with_any_bit_changed_or_cut_anywhere_is_refused() {
        let (_folder, store) = store();
        make(&store, "one");
        let path = store.path().join(SNAPSHOTS).join("one/head");
        let good = std::fs::read(&path).unwrap();
        let opens = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            store.open_snapshot(&name("one"))
        };
        assert!(opens(&good).is_ok());
        for at in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(matches!(opens(&bytes), Err(StoreError::BadField { .. })), "bit {at}");
        }
        for len in 0..good.len() {
            assert!(matches!(opens(&good[..len]), Err(StoreError::BadField { .. })), "{len}");
        }
    }
}
