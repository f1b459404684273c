//! `loads-fill`, `loads-open`: the map of `maps` in files, as a program without an address space
//! would store it, and the time until its first entry is found again.
//!
//! - `map.postcard`: through `serde` in a compact binary format, read and built anew. `bincode`
//!   is the best known of these formats, and its authors have given it up; `postcard` is
//!   specified, stable, maintained, and of the same kind.
//! - `map.rkyv`: `rkyv`'s archive, which is used in place in the mapped file, either after a check
//!   of all of it or without.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use foldhash::fast::RandomState;
use rkyv::collections::swiss_table::ArchivedHashMap;
use rkyv::rancor::Error as ArchiveError;
use rkyv::rend::u64_le;
use rkyv::ser::writer::IoWriter;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::json::Object;
use crate::keys::Keys;

/// The standard library's map, which is the same table as `maps` has at home, with the same hasher.
/// Each map has a different seed, as in any well-behaved program: entries that arrive in the order
/// of their hashes are slow to insert.
type Home = HashMap<u64, u64, RandomState>;
type Archived = ArchivedHashMap<u64_le, u64_le>;

const POSTCARD: &str = "map.postcard";
const RKYV: &str = "map.rkyv";

/// A file that is mapped to be read, for as long as this lives.
struct Mapped {
    at: *mut core::ffi::c_void,
    bytes: usize,
}

impl Mapped {
    fn new(path: &Path) -> Result<Mapped, String> {
        let say = |err: &dyn std::fmt::Display| format!("{}: {err}", path.display());
        let file = File::open(path).map_err(|err| say(&err))?;
        let bytes = file.metadata().map_err(|err| say(&err))?.len() as usize;
        // SAFETY: a fresh mapping where the kernel likes replaces nothing.
        let at = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, &file, 0)
        };
        Ok(Mapped { at: at.map_err(|err| say(&err))?, bytes })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped until `self` is dropped. The file is one that `fill` has
        // written for this benchmark, and nothing writes to it again.
        unsafe { std::slice::from_raw_parts(self.at.cast_const().cast(), self.bytes) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        let _ = unsafe { munmap(self.at, self.bytes) };
    }
}

/// Writes a map of `count` keys into `folder` in both formats.
///
/// # Errors
/// An error of a file or a format.
pub(crate) fn fill(folder: &str, count: u64) -> Result<Object, String> {
    let map: Home = Keys::new(count)?.inserted.into_iter().map(|key| (key, key >> 8)).collect();
    let folder = Path::new(folder);
    let create = |name: &str| {
        let file = File::create(folder.join(name)).map_err(|err| format!("{name}: {err}"))?;
        Ok::<_, String>(BufWriter::with_capacity(1 << 20, file))
    };
    let flush = |file: BufWriter<File>| {
        let file = file.into_inner().map_err(|err| err.to_string())?;
        file.metadata().map(|about| about.len()).map_err(|err| err.to_string())
    };
    let file = postcard::to_io(&map, create(POSTCARD)?).map_err(|err| err.to_string())?;
    let postcard_bytes = flush(file)?;
    let file = IoWriter::new(create(RKYV)?);
    let file = rkyv::api::high::to_bytes_in::<_, ArchiveError>(&map, file);
    let mut file = file.map_err(|err| err.to_string())?.into_inner();
    file.flush().map_err(|err| err.to_string())?;
    let rkyv_bytes = flush(file)?;
    Ok(Object::new("loads-fill")
        .number("entries", map.len() as u64)
        .number("postcard_bytes", postcard_bytes)
        .number("rkyv_bytes", rkyv_bytes))
}

/// Finds the map that [`fill`] left in one of its files, and looks one key up. If it
/// `is_checked`, the archive is fully checked before.
///
/// # Errors
/// An error of a file or a format; when the key is missing.
pub(crate) fn open(file: &str, is_checked: bool) -> Result<Object, String> {
    let (key, path) = (Keys::first(), Path::new(file));
    let say = |err: &dyn std::fmt::Display| format!("{file}: {err}");
    let start = Instant::now();
    // What was found is dropped after the clock has stopped: programs keep it.
    let (found, entries, taken) = if path.ends_with(POSTCARD) {
        let bytes = std::fs::read(path).map_err(|err| say(&err))?;
        let map: Home = postcard::from_bytes(&bytes).map_err(|err| say(&err))?;
        (map.get(&key).copied(), map.len(), start.elapsed())
    } else {
        let mapped = Mapped::new(path)?;
        let map = if is_checked {
            rkyv::access::<Archived, ArchiveError>(mapped.bytes()).map_err(|err| say(&err))?
        } else {
            // SAFETY: the file is what `fill` has written for this benchmark.
            unsafe { rkyv::access_unchecked::<Archived>(mapped.bytes()) }
        };
        let value = map.get(&u64_le::from_native(key));
        (value.map(|value| value.to_native()), map.len(), start.elapsed())
    };
    if found != Some(key >> 8) {
        return Err(format!("{file}: the first key is not there: {found:?}"));
    }
    Ok(Object::new("loads-open")
        .number("entries", entries as u64)
        .number("open_ns", taken.as_nanos() as u64))
}
