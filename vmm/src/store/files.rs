//! A segment's files: the one with the header, and further parts.
//!
//! Data offset `d` of a persistent segment lies in part `d / 8 TiB`: part 0 behind the header
//! and lock page, part *n* in `parts/SID.n`. Parts of a volatile segment lie in memory, in
//! `/dev/shm`, so that they are never written to a disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use abi::objects::Lifetime;
use abi::{PAGE_SIZE, Right, SegId};

use super::StoreError;
use super::dir::{Store, open_plain};
use super::header::{DATA_OFFSET, HEADER_BYTES, Header, PART_BYTES};

/// Where memory files are made.
const MEMORY_FOLDER: &str = "/dev/shm";

/// Where a byte of a segment lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Located {
    /// In which part.
    pub part: u64,
    /// At which offset of its file.
    pub offset: u64,
    /// Bytes from there to the end of what the part can hold.
    pub left_bytes: u64,
}

/// A segment that is open.
#[derive(Debug)]
pub struct SegmentFile {
    path: PathBuf,
    file: Arc<File>,
    header: Header,
    right: Right,
    parts: PartPaths,
    open: Mutex<BTreeMap<u64, Arc<File>>>,
}

/// Names of a segment's parts.
#[derive(Clone, Debug)]
pub(super) struct PartPaths {
    folder: PathBuf,
    stem: String,
    volatile: bool,
}

impl PartPaths {
    pub(super) fn new(store: &Store, sid: SegId, lifetime: Lifetime) -> PartPaths {
        let memory = Path::new(MEMORY_FOLDER);
        match lifetime {
            Lifetime::Volatile if memory.is_dir() => PartPaths {
                folder: memory.to_owned(),
                stem: format!("spacejmp-{:016x}-{sid}", store.id()),
                volatile: true,
            },
            lifetime => PartPaths {
                folder: store.folder("parts"),
                stem: sid.to_string(),
                volatile: lifetime == Lifetime::Volatile,
            },
        }
    }

    /// The file of a part; `None` for the one with the header.
    pub(super) fn path(&self, part: u64) -> Option<PathBuf> {
        (self.volatile || part > 0).then(|| self.folder.join(format!("{}.{part}", self.stem)))
    }

    /// Makes or extends the files so that they hold `size` of at most `reserve` bytes.
    pub(super) fn resize(&self, size: u64, main: &File, mode: u32) -> std::io::Result<()> {
        for part in 0..size.div_ceil(PART_BYTES) {
            let bytes = (size - part * PART_BYTES).min(PART_BYTES);
            let Some(path) = self.path(part) else {
                main.set_len(DATA_OFFSET + bytes)?;
                continue;
            };
            let file = match open_plain(&path, true) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let file = fs::OpenOptions::new()
                        .read(true)
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .custom_flags(libc::O_NOFOLLOW)
                        .open(&path)?;
                    file.set_permissions(fs::Permissions::from_mode(mode))?;
                    file
                }
                opened => opened?,
            };
            if file.metadata()?.len() < bytes {
                file.set_len(bytes)?;
            }
        }
        if self.volatile {
            main.set_len(DATA_OFFSET)?;
        }
        Ok(())
    }

    /// Removes the files of all parts but the one with the header.
    pub(super) fn remove(&self, parts: u64) {
        for path in (0..parts).filter_map(|part| self.path(part)) {
            let _ = fs::remove_file(path);
        }
    }

    /// All parts that exist beside the one with the header.
    pub(super) fn existing(&self, parts: u64) -> impl Iterator<Item = PathBuf> + '_ {
        (0..parts).filter_map(|part| self.path(part)).filter(|path| path.exists())
    }
}

impl SegmentFile {
    /// Opens the segment in the file at `path`, for writing if that is allowed.
    pub(super) fn open(store: &Store, path: &Path) -> Result<SegmentFile, StoreError> {
        let (file, right) = match open_plain(path, true) {
            Ok(file) => (file, Right::Write),
            Err(_) => {
                let file = open_plain(path, false).map_err(StoreError::io("open segment", path))?;
                (file, Right::Read)
            }
        };
        let header = read_header(&file, path)?;
        let parts = PartPaths::new(store, header.sid, header.lifetime);
        let open = Mutex::default();
        Ok(SegmentFile { path: path.to_owned(), file: Arc::new(file), header, right, parts, open })
    }

    /// Its header as it was when the file was opened.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the user may do with it.
    #[must_use]
    pub fn right(&self) -> Right {
        self.right
    }

    /// The file with header and lock page.
    #[must_use]
    pub fn main(&self) -> &File {
        &self.file
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is still in the store.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn is_current(&self, _store: &Store) -> Result<bool, StoreError> {
        let meta = self.file.metadata().map_err(StoreError::io("look at", &self.path))?;
        Ok(meta.nlink() > 0)
    }

    /// Its size now: another VM may have grown it.
    ///
    /// # Errors
    /// The header cannot be read, or is damaged.
    pub fn read_size(&self) -> Result<u64, StoreError> {
        Ok(read_header(&self.file, &self.path)?.size_bytes)
    }

    /// Where the byte at `offset` of the data lies.
    ///
    /// # Errors
    /// It is beyond the segment's reserve.
    pub fn locate(&self, offset: u64) -> Result<Located, StoreError> {
        if offset >= self.header.reserve_bytes {
            let rule = "it must be below the reserve";
            return Err(StoreError::BadPlace { field: "offset", value: offset, rule });
        }
        let part = offset / PART_BYTES;
        let within = offset % PART_BYTES;
        let before = if self.parts.path(part).is_none() { DATA_OFFSET } else { 0 };
        let left_bytes = PART_BYTES - within;
        Ok(Located { part, offset: before + within, left_bytes })
    }

    /// The file of a part.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn part(&self, part: u64) -> Result<Arc<File>, StoreError> {
        let Some(path) = self.parts.path(part) else { return Ok(self.file.clone()) };
        let mut open = self.open.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(file) = open.get(&part) {
            return Ok(file.clone());
        }
        let file = open_plain(&path, self.right == Right::Write)
            .map_err(StoreError::io("open a part of a segment", &path))?;
        let file = Arc::new(file);
        open.insert(part, file.clone());
        Ok(file)
    }

    /// Has the host store everything that was written.
    ///
    /// # Errors
    /// The host could not.
    pub fn sync(&self) -> Result<(), StoreError> {
        for part in 0..self.header.parts() {
            if self.parts.path(part).is_some_and(|path| !path.exists()) {
                continue;
            }
            let file = self.part(part)?;
            file.sync_all().map_err(StoreError::io("store", &self.path))?;
        }
        Ok(())
    }
}

/// Reads and checks the header of a segment's file.
pub(super) fn read_header(file: &File, path: &Path) -> Result<Header, StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(StoreError::BadField {
                file: path.to_owned(),
                field: "length",
                found: file.metadata().map_or(0, |meta| meta.len()).to_string(),
                expected: format!("at least {DATA_OFFSET}"),
            });
        }
        Err(error) => return Err(StoreError::io("read", path)(error)),
    }
    let header = Header::decode(&bytes, path)?;
    let len = file.metadata().map_err(StoreError::io("look at", path))?.len();
    // The lock page must be there to be mapped; missing data is a bus error where it is
    // touched, as for any mapped file.
    if len < 2 * PAGE_SIZE {
        return Err(StoreError::BadField {
            file: path.to_owned(),
            field: "length",
            found: len.to_string(),
            expected: format!("at least {DATA_OFFSET}"),
        });
    }
    Ok(header)
}

/// Replaces the header of a segment's file.
pub(super) fn write_header(file: &File, path: &Path, header: &Header) -> Result<(), StoreError> {
    file.write_all_at(&header.encode(), 0).map_err(StoreError::io("write", path))
}
