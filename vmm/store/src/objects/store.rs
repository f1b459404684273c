//! A store: found, created and opened. Its content is in the other files of `objects`.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use abi::objects::{Lifetime, Right};
use rustix::fs::{Access, FlockOperation, OFlags};
use spacejmp_versions::disk::host::Growth;
use spacejmp_versions::segment::Verified;

use crate::format::counters::COUNTERS_BYTES;
use crate::format::error::{StoreError, bad_field};
use crate::format::escape::{parse_id, shorten};
use crate::format::header::BootId;
use crate::format::text::later;
use crate::objects::dir::{Dir, denied};
use crate::objects::fresh::random_id;
use crate::objects::hints::Hints;
use crate::objects::index::{SegmentIndex, VasIndex};
use crate::objects::last_segment::LastSegment;
use crate::objects::lock::LockFiles;
use crate::objects::looked_at::LookedAt;
use crate::objects::lookup::LastManifest;
use crate::objects::newest::KnownNewest;
use crate::objects::patience::Patience;
use crate::objects::segment::check_len;
use crate::objects::snapshots::SNAPSHOTS;

const FORMAT: &str = "spacejmp store 1";
/// The file that says so has less.
const FORMAT_BYTES_MAX: usize = 4096;
/// The folders of a store.
pub const FOLDERS: [&str; 7] = ["tmp", "vas", SEGMENTS, "parts", VERSIONS, "vms", SNAPSHOTS];
/// Folders of versioned segments. A store that an earlier version made gets it when it is needed.
pub(crate) const VERSIONS: &str = "versions";
/// Files of segments.
pub(crate) const SEGMENTS: &str = "segments";
const FILES: [&str; 3] = ["format", "lock", "live"];

/// An open store. All methods may be called from any thread.
///
/// Nothing is kept that would have to be correct: ids and names are looked up in the files, and
/// what is cached is checked against them.
#[derive(Debug)]
pub struct Store {
    id: u64,
    pub(crate) root: Arc<Dir>,
    pub(crate) counters: Arc<File>,
    /// What the host said when they were to be opened to be written.
    counters_refusal: Option<i32>,
    pub(crate) tmp: Dir,
    pub(crate) vas: Dir,
    pub(crate) segments: Dir,
    pub(crate) parts: Arc<Dir>,
    pub(crate) versions_by_sid: Arc<Dir>,
    shm: OnceLock<Option<Arc<Dir>>>,
    /// Who counts what the files of versioned segments grow by.
    pub(crate) growth: Option<Arc<dyn Growth>>,
    boot: OnceLock<BootId>,
    pub(crate) vms: Arc<Dir>,
    pub(crate) lock_files: Arc<LockFiles>,
    pub(crate) patience: Arc<Patience>,
    pub(crate) hints: Mutex<Hints>,
    verified: Verified,
    pub(crate) segment_index: Mutex<SegmentIndex>,
    pub(crate) vas_index: Mutex<VasIndex>,
    pub(crate) known_newest: Mutex<KnownNewest>,
    pub(crate) looked_at: Mutex<Option<LookedAt>>,
    pub(crate) last_manifest: Mutex<Option<LastManifest>>,
    pub(crate) last_segment: Mutex<Option<LastSegment>>,
}

impl Store {
    /// Where the user's store is by default: `$SPACEJMP_STORE`, else
    /// `$XDG_DATA_HOME/spacejmp`, else `~/.local/share/spacejmp`.
    ///
    /// # Errors
    /// If none of the variables is set.
    pub fn default_path() -> Result<PathBuf, StoreError> {
        default_path(|name| std::env::var_os(name))
    }

    /// Where this user's stores are unless an option says otherwise, the variable
    /// with `SPACEJMP_STORE` and without.
    #[must_use]
    pub fn usual_paths() -> Vec<PathBuf> {
        let variable = |name: &str| std::env::var_os(name);
        let without = |name: &str| variable(name).filter(|_| name != "SPACEJMP_STORE");
        [default_path(variable), default_path(without)].into_iter().flatten().collect()
    }

    /// Opens an existing store.
    ///
    /// # Errors
    /// If there is none, it is from another version, or the host does not permit it.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let not_a_store = |why| StoreError::NotAStore { path: path.to_owned(), why };
        let root = Dir::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => not_a_store("there is nothing"),
            io::ErrorKind::NotADirectory => not_a_store("it is not a folder"),
            _ => StoreError::Io { doing: "open", path: path.to_owned(), source },
        })?;
        let format = root
            .find_small("format", FORMAT_BYTES_MAX)?
            .ok_or_else(|| not_a_store("it has no file `format`"))?;
        let id = read_format(&root, format)?;
        let ((counters, stat), counters_refusal) = match root.open_file_stat("live", OFlags::RDWR) {
            // Enough to use VASes; the store's lock keeps everything else consistent.
            Err(StoreError::Io { source, .. }) if denied(&source) => {
                (root.open_file_stat("live", OFlags::RDONLY)?, source.raw_os_error())
            }
            other => (other?, None),
        };
        check_len(&stat, &root.path_of("live"), COUNTERS_BYTES)?;
        let root = Arc::new(root);
        let when_used = |name| Dir::when_used(&root, name);
        Ok(Store {
            id,
            counters: Arc::new(counters),
            counters_refusal,
            tmp: when_used("tmp"),
            vas: when_used("vas"),
            segments: when_used(SEGMENTS),
            parts: Arc::new(when_used("parts")),
            versions_by_sid: Arc::new(when_used(VERSIONS)),
            shm: OnceLock::new(),
            growth: None,
            boot: OnceLock::new(),
            vms: Arc::new(when_used("vms")),
            lock_files: Arc::default(),
            patience: Arc::default(),
            hints: Mutex::default(),
            verified: Verified::new(),
            root,
            segment_index: Mutex::default(),
            vas_index: Mutex::default(),
            known_newest: Mutex::default(),
            looked_at: Mutex::default(),
            last_manifest: Mutex::default(),
            last_segment: Mutex::default(),
        })
    }

    /// Opens a store, after making it in a folder that is empty or does not exist.
    ///
    /// Safe to call from many processes at once. The new folders' modes follow the umask.
    ///
    /// # Errors
    /// As [`Store::open`]; a folder with other things in it is refused.
    pub fn open_or_create(path: &Path) -> Result<Store, StoreError> {
        Store::open_or_create_with(path, Arc::default(), 0)
    }

    /// As [`Store::open_or_create`], with another patience for the lock, and without the
    /// permission bits of `umask` on what is made. That is for a process whose own umask is the
    /// program's no longer (`spacejmp_files::take_over_umask`).
    ///
    /// # Errors
    /// As [`Store::open_or_create`].
    pub fn open_or_create_with(
        path: &Path,
        patience: Arc<Patience>,
        umask: u32,
    ) -> Result<Store, StoreError> {
        Self::open_or_make(path, &patience, umask).map(|store| store.with_patience(patience))
    }

    /// The same store, with what the files of its versioned segments grow by counted.
    #[must_use]
    pub fn counted_by(self, growth: Option<Arc<dyn Growth>>) -> Store {
        Store { growth, ..self }
    }

    fn open_or_make(path: &Path, patience: &Patience, umask: u32) -> Result<Store, StoreError> {
        match Store::open(path) {
            Err(StoreError::NotAStore { .. }) => {}
            other => return other,
        }
        let failed = |source| StoreError::Io { doing: "create", path: path.to_owned(), source };
        let mut folders = DirBuilder::new();
        folders.recursive(true).mode(0o777 & !umask).create(path).map_err(failed)?;
        let root = Dir::open(path).map_err(failed)?;
        check_no_foreign(&root)?;
        create_in(&root, patience, umask)?;
        Store::open(path)
    }

    /// Whether [`Store::open_or_create`] would find or could make a store at `path`, as far as that can be told without
    /// changing anything: for a path that somebody has just named, and uses later.
    ///
    /// # Errors
    /// As [`Store::open_or_create`].
    pub fn check_place(path: &Path) -> Result<(), StoreError> {
        match Store::open(path) {
            Err(StoreError::NotAStore { .. }) => {}
            other => return other.map(drop),
        }
        let failed = |source| StoreError::Io { doing: "create", path: path.to_owned(), source };
        // The folder, or the nearest one around it that is there.
        let absolute = std::path::absolute(path).map_err(failed)?;
        for place in absolute.ancestors() {
            match Dir::open(place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    let why = "it, or what it is to be made in, is not a folder";
                    return Err(StoreError::NotAStore { path: path.to_owned(), why });
                }
                opened => {
                    let folder = opened.map_err(failed)?;
                    if place == absolute {
                        check_no_foreign(&folder)?;
                    }
                }
            }
            let may_make = Access::WRITE_OK | Access::EXEC_OK;
            return rustix::fs::access(place, may_make).map_err(|errno| failed(errno.into()));
        }
        Ok(())
    }

    /// The same store, its lock waited for with another patience.
    #[must_use]
    pub fn with_patience(self, patience: Arc<Patience>) -> Store {
        Store { patience, ..self }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Whether the store at `path` is a private one: all of it is in its own folder.
    #[must_use]
    pub fn is_private(path: &Path) -> bool {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.starts_with(PRIVATE_PREFIX))
    }

    /// The store's own number, never the same for two stores.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The boot that the header of a new segment names: a volatile one ends with it.
    pub(crate) fn boot_of(&self, lifetime: Lifetime) -> BootId {
        match lifetime {
            Lifetime::Volatile => self.boot(),
            Lifetime::Persistent | Lifetime::Versioned => BootId::default(),
        }
    }

    /// The boot of the host.
    pub(crate) fn boot(&self) -> BootId {
        *self.boot.get_or_init(BootId::current)
    }

    /// What this user may do with the change counters.
    #[must_use]
    pub fn counters_right(&self) -> Right {
        if self.counters_refusal.is_some() { Right::Read } else { Right::Write }
    }

    /// Checks that this user may write them, as whoever writes a segment does.
    ///
    /// # Errors
    /// What the host said when they were opened.
    pub fn check_counters_writable(&self) -> Result<(), StoreError> {
        let error = |errno| {
            let refusal = io::Error::from_raw_os_error(errno);
            self.root.error("open to write", "live", refusal)
        };
        self.counters_refusal.map_or(Ok(()), |errno| Err(error(errno)))
    }

    /// Where volatile content goes, if the host has it.
    pub(crate) fn shm(&self) -> Option<&Arc<Dir>> {
        self.shm.get_or_init(|| shm_for(self.path())).as_ref()
    }

    /// Records that were found whole while this store is open.
    #[must_use]
    pub fn verified(&self) -> &Verified {
        &self.verified
    }
}

fn default_path(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, StoreError> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("SPACEJMP_STORE") {
        return Ok(path);
    }
    // The XDG base directory specification requires relative paths to be ignored.
    let data = set("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(set("HOME")?.join(".local/share")));
    Ok(data.ok_or(StoreError::NoPlace)?.join("spacejmp"))
}

/// How names of private stores' folders begin (`private`). In `/dev/shm`, names that begin with
/// `spacejmp-` are out of reach for programs (`spacejmp_files::OffLimits`).
pub(crate) const PRIVATE_PREFIX: &str = "spacejmp-run-";

/// Where volatile content goes; that of a private store stays in its folder, to be removed with it.
fn shm_for(path: &Path) -> Option<Arc<Dir>> {
    if Store::is_private(path) {
        return None;
    }
    Dir::open(Path::new("/dev/shm")).ok().map(Arc::new)
}

/// Whether a folder holds nothing but what a store consists of.
fn check_no_foreign(folder: &Dir) -> Result<(), StoreError> {
    if folder.names()?.iter().any(is_foreign) {
        let why = "the folder holds other files; a store needs a folder of its own";
        return Err(StoreError::NotAStore { path: folder.path().to_owned(), why });
    }
    Ok(())
}

fn is_foreign(name: &OsString) -> bool {
    !FOLDERS.iter().chain(&FILES).any(|ours| name == *ours)
}

fn read_format(root: &Dir, bytes: Vec<u8>) -> Result<u64, StoreError> {
    let text = String::from_utf8(bytes).unwrap_or_default();
    let path = root.path_of("format");
    let bad =
        |field, found: &str, expected: &str| bad_field(&path, field, shorten(found), expected);
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default();
    if version != FORMAT {
        return Err(match later(version, "spacejmp store ", 1) {
            Some(found) => StoreError::Newer {
                file: path,
                field: "version",
                found: found.to_string(),
                known: "1".into(),
            },
            None => bad("version", version, FORMAT),
        });
    }
    let line = lines.next().unwrap_or_default();
    line.strip_prefix("id ")
        .and_then(parse_id)
        .filter(|_| text.ends_with('\n') && lines.next().is_none())
        .ok_or_else(|| bad("id", line, "`id` and 16 hexadecimal digits"))
}

/// Creates everything; the file `format`, which makes it a store, comes last.
fn create_in(root: &Dir, patience: &Patience, umask: u32) -> Result<(), StoreError> {
    let lock = root.shared_file("lock", umask)?;
    patience.lock(&lock, &root.path_of("lock"), FlockOperation::NonBlockingLockExclusive)?;
    if root.find_file("format", OFlags::RDONLY)?.is_some() {
        return Ok(());
    }
    for folder in FOLDERS {
        if root.stat(folder)?.is_none() {
            root.new_folder(folder, 0o777 & !umask)?;
        }
    }
    let counters = root.shared_file("live", umask)?;
    counters.set_len(COUNTERS_BYTES).map_err(|e| root.error("write", "live", e))?;
    let tmp = root.sub("tmp")?;
    // A crash may have left one.
    if tmp.stat("format")?.is_some() {
        tmp.remove_file("format")?;
    }
    let mut format = tmp.shared_file("format", umask)?;
    let id = random_id()?;
    write!(format, "{FORMAT}\nid {id:016x}\n")
        .and_then(|()| format.sync_all())
        .map_err(|e| tmp.error("write", "format", e))?;
    tmp.move_over("format", root, "format")?;
    root.sync()
}
