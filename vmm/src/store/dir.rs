//! The store's directory: opening, the lock that orders everybody, the counters of changes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use super::StoreError;
use super::index::Index;

const FORMAT: &str = "spacejmp store 1";
/// Bytes of the counters' file: the page that VMs map.
const LIVE_BYTES: u64 = 4096;

/// A store that is open.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    id: u64,
    /// Its own description of the lock file: `flock` belongs to that, so that within this
    /// process the mutex around it is what orders.
    lock: Mutex<File>,
    live: File,
    pub(super) index: Mutex<Index>,
}

/// While it lives, the store's files are the holder's.
#[derive(Debug)]
pub(super) struct Locked<'a>(MutexGuard<'a, File>);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Closing would release it too; a failure has no remedy.
        let _ = self.0.unlock();
    }
}

impl Store {
    /// The user's own store: `$SPACEJMP_STORE`, else `spacejmp` in `$XDG_DATA_HOME`, else in
    /// `~/.local/share`.
    #[must_use]
    pub fn default_path() -> PathBuf {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = set("SPACEJMP_STORE") {
            return path.into();
        }
        let data = set("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || PathBuf::from(set("HOME").unwrap_or_else(|| ".".into())).join(".local/share");
        data.unwrap_or_else(home).join("spacejmp")
    }

    /// Opens the store at `path`.
    ///
    /// # Errors
    /// There is none, or it is not ours.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let format = path.join("format");
        let mut text = String::new();
        open_plain(&format, false)
            .and_then(|file| file.take(4096).read_to_string(&mut text))
            .map_err(StoreError::io("open the store's", &format))?;
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let id = lines.next().and_then(|line| line.strip_prefix("id "));
        let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
        let (FORMAT, Some(id)) = (first, id) else {
            let found = first.chars().take(60).collect::<String>().escape_debug().to_string();
            return Err(StoreError::NotAStore { path: path.to_owned(), found });
        };
        let lock = path.join("lock");
        let live = path.join("live");
        let open = |path: &Path| {
            open_plain(path, true)
                .or_else(|_| open_plain(path, false))
                .map_err(StoreError::io("open", path))
        };
        let store = Store {
            path: path.to_owned(),
            id,
            lock: Mutex::new(open(&lock)?),
            live: open(&live)?,
            index: Mutex::default(),
        };
        let bytes = store.live.metadata().map_err(StoreError::io("look at", &live))?.len();
        if bytes < LIVE_BYTES {
            return Err(StoreError::BadField {
                file: live,
                field: "length",
                found: bytes.to_string(),
                expected: LIVE_BYTES.to_string(),
            });
        }
        Ok(store)
    }

    /// Opens the store at `path`, or makes one: for its owner alone, unless the directory is
    /// there already with other permissions.
    ///
    /// # Errors
    /// It can be neither opened nor made.
    pub fn open_or_create(path: &Path) -> Result<Store, StoreError> {
        if path.join("format").symlink_metadata().is_err() {
            Store::create(path)?;
        }
        Store::open(path)
    }

    fn create(path: &Path) -> Result<(), StoreError> {
        let failed = |path: &Path| StoreError::io("make the store's", path.to_path_buf());
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(failed(path))?;
        // Whoever may make files in the directory may make objects in the store: the folders
        // follow it, sticky where several users share it.
        let mode = fs::metadata(path).map_err(failed(path))?.permissions().mode() & 0o777;
        let shared = mode & 0o022 != 0;
        for name in ["tmp", "vas", "segments", "parts", "vms"] {
            let folder = path.join(name);
            match fs::create_dir(&folder) {
                Ok(()) => {
                    let bits = if shared { mode | 0o1000 } else { mode };
                    let bits = fs::Permissions::from_mode(bits);
                    fs::set_permissions(&folder, bits).map_err(failed(&folder))?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&folder)(error)),
            }
        }
        for (name, bytes) in [("lock", 0), ("live", LIVE_BYTES)] {
            let path = path.join(name);
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .map_err(failed(&path))?;
            if bytes > 0 && file.metadata().is_ok_and(|meta| meta.len() == 0) {
                file.set_len(bytes).map_err(failed(&path))?;
            }
            let bits = fs::Permissions::from_mode(mode & 0o666);
            file.set_permissions(bits).map_err(failed(&path))?;
        }
        // The format file last, and whole: where it is, the rest is.
        let id = random_id();
        let temporary = path.join("tmp").join(format!("format.{id:016x}"));
        let format = path.join("format");
        let written = File::create_new(&temporary).and_then(|mut file| {
            file.write_all(format!("{FORMAT}\nid {id:016x}\n").as_bytes())?;
            file.set_permissions(fs::Permissions::from_mode(mode & 0o666))?;
            file.sync_all()
        });
        written.map_err(failed(&temporary))?;
        // Somebody else may be making the same store: the first one counts.
        let placed = fs::hard_link(&temporary, &format);
        let _ = fs::remove_file(&temporary);
        match placed {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(failed(&format)(error))
            }
            _ => Ok(()),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number of its own.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The page of counters, to be mapped: the first word counts changes of VASes.
    #[must_use]
    pub fn live_fd(&self) -> BorrowedFd<'_> {
        self.live.as_fd()
    }

    /// Waits until nobody changes the store.
    pub(super) fn shared(&self) -> Result<Locked<'_>, StoreError> {
        self.locked(File::lock_shared)
    }

    /// Waits until nobody uses the store.
    pub(super) fn exclusive(&self) -> Result<Locked<'_>, StoreError> {
        self.locked(File::lock)
    }

    fn locked(&self, how: fn(&File) -> std::io::Result<()>) -> Result<Locked<'_>, StoreError> {
        let file = self.lock.lock().unwrap_or_else(|poison| poison.into_inner());
        loop {
            match how(&file) {
                Ok(()) => return Ok(Locked(file)),
                // A kick.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("lock", self.path.join("lock"))(error)),
            }
        }
    }

    /// Counts a change of some VAS: before it is carried out, so that nobody enters by what he
    /// has seen, and after it, so that everybody looks again.
    pub(super) fn count_change(&self) -> Result<(), StoreError> {
        self.count(0)
    }

    /// Counts a change of the folder of segments.
    pub(super) fn count_segments(&self) -> Result<(), StoreError> {
        self.count(8)
    }

    /// How often the folder of segments has changed.
    pub(super) fn segment_changes(&self) -> u64 {
        self.counter(8)
    }

    /// How often a VAS has changed, twice for each change.
    #[must_use]
    pub fn vas_changes(&self) -> u64 {
        self.counter(0)
    }

    fn counter(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        // The file is ours and long enough; a broken disk reads as "no change seen".
        let _ = self.live.read_exact_at(&mut bytes, at);
        u64::from_le_bytes(bytes)
    }

    /// Only with the store locked exclusively: nobody else writes.
    fn count(&self, at: u64) -> Result<(), StoreError> {
        let next = self.counter(at).wrapping_add(1);
        self.live
            .write_all_at(&next.to_le_bytes(), at)
            .map_err(StoreError::io("write", self.path.join("live")))
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A place for something that is being made.
    pub(super) fn temporary(&self) -> PathBuf {
        self.path.join("tmp").join(format!("{:016x}", random_id()))
    }
}

/// Opens an existing file that is not a link.
pub(super) fn open_plain(path: &Path, write: bool) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(std::io::Error::from_raw_os_error(libc::EINVAL))
    }
}

/// A random number from 1 to 2^63 - 1.
pub(super) fn random_id() -> u64 {
    loop {
        let mut bytes = [0; 8];
        // Flags 0 never fail for 8 bytes once the host has booted.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        let id = u64::from_le_bytes(bytes) >> 1;
        if id != 0 {
            return id;
        }
    }
}

/// The host's boot id, so that marks left by a crash of the machine are known as such.
#[must_use]
pub fn boot_id() -> [u64; 2] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half =
        |range| digits.get(range).and_then(|half| u64::from_str_radix(half, 16).ok()).unwrap_or(0);
    [half(0..16), half(16..32)]
}
