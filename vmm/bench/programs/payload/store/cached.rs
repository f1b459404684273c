//! `store-cached FOLDER`, natively: how much of a folder's files the host has in memory, each file once
//! however many names it has.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::json::Object;

const PAGE: usize = 4096;

/// Counts, after telling the host to forget what it can if that is wanted.
pub(super) fn count(folder: &Path, forgets: bool) -> Result<Object, String> {
    let (mut seen, mut bytes, mut folders) = (BTreeSet::new(), 0, vec![folder.to_owned()]);
    let mut all = 0;
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| format!("{folder:?}: {e}"))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let about = path.symlink_metadata().map_err(|e| format!("{path:?}: {e}"))?;
            if about.is_dir() {
                folders.push(path);
            } else if seen.insert((about.dev(), about.ino())) {
                let file = File::open(&path).map_err(|e| format!("{path:?}: {e}"))?;
                if forgets {
                    file.sync_all().map_err(|e| format!("{path:?}: {e}"))?;
                    let advice = rustix::fs::Advice::DontNeed;
                    rustix::fs::fadvise(&file, 0, None, advice)
                        .map_err(|e| format!("{path:?}: {e}"))?;
                }
                all += about.len();
                bytes += cached(&file, about.len() as usize)
                    .map_err(|e| format!("{path:?}: mincore: {e}"))?;
            }
        }
    }
    Ok(Object::new("store-cached").number("cached_bytes", bytes).number("bytes", all))
}

/// Bytes of whole pages.
fn cached(file: &File, bytes: usize) -> std::io::Result<u64> {
    if bytes == 0 {
        return Ok(0);
    }
    let mut pages = vec![0_u8; bytes.div_ceil(PAGE)];
    let none = std::ptr::null_mut();
    // SAFETY: a fresh mapping wherever the host puts it, of which nothing is ever read.
    let at =
        unsafe { libc::mmap(none, bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the range is the mapping just made, and the host writes one byte for each page of it.
    let asked = unsafe { libc::mincore(at, bytes, pages.as_mut_ptr()) };
    let error = std::io::Error::last_os_error();
    // SAFETY: that mapping, to which nothing points.
    unsafe { libc::munmap(at, bytes) };
    if asked != 0 {
        return Err(error);
    }
    Ok(pages.iter().filter(|page| **page & 1 != 0).count() as u64 * PAGE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_in_memory_and_counts_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        std::fs::write(&path, vec![1; 3 * PAGE]).expect("written");
        std::fs::hard_link(&path, folder.path().join("b")).expect("linked");
        std::fs::write(folder.path().join("empty"), []).expect("written");
        let said = count(folder.path(), false).expect("counted").to_string();
        assert!(said.contains(&format!("\"cached_bytes\":{}", 3 * PAGE)), "{said}");
        assert!(count(Path::new("/no/such/folder"), false).is_err());
    }
}
