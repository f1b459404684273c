//! `map`, run natively: the cost of the alternative, `mmap` of a file with all its pages
//! present in the page cache and `MAP_POPULATE`, and `munmap`, in nanoseconds.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::json::Object;
use crate::space::{median, timed};

/// Maps `bytes` of a warm memfd, or of `file` if there is one, `rounds` times. Only whole pages of
/// 2 MiB in a file of that alignment can be mapped huge; `huge` returns how many bytes were.
pub(crate) fn run(bytes: u64, rounds: u64, file: Option<&str>) -> Result<Object, String> {
    let file = file_or_memory(file, bytes)?;
    // Warms up: every page is in the page cache from then on.
    let mut mapping = Mapping::new(&file, 0, bytes)?;
    mapping.write_each_page();
    let huge = mapping.huge_bytes();
    drop(mapping);
    let (map, unmap) = times(&file, bytes, rounds)?;
    Ok(Object::new("map")
        .number("bytes", bytes)
        .number("rounds", rounds)
        .number("huge", huge)
        .number("map", map)
        .number("unmap", unmap))
}

/// Maps the first `bytes` of a file and unmaps them, `rounds` times: the median of each.
pub(crate) fn times(file: &File, bytes: u64, rounds: u64) -> Result<(u64, u64), String> {
    let (mut map, mut unmap) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mapping = timed(&mut map, || Mapping::new(file, 0, bytes))?;
        timed(&mut unmap, || drop(mapping));
    }
    Ok((median(map), median(unmap)))
}

/// An existing file of that path, to be read and written.
pub(crate) fn open(path: &str) -> Result<File, String> {
    let file = File::options().read(true).write(true).open(path);
    file.map_err(|err| format!("cannot open {path}: {err}"))
}

/// The file, if there is one, or a memfd of `bytes`.
pub(crate) fn file_or_memory(file: Option<&str>, bytes: u64) -> Result<File, String> {
    file.map_or_else(|| memory(bytes).map(File::from), open)
}

/// A file that is memory only, of `bytes` zeros.
pub(crate) fn memory(bytes: u64) -> Result<OwnedFd, String> {
    let memory = memfd_create("payload", MemfdFlags::CLOEXEC)
        .map_err(|err| format!("memfd_create: {err}"))?;
    ftruncate(&memory, bytes).map_err(|err| format!("ftruncate: {err}"))?;
    Ok(memory)
}

/// A shared mapping, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    at: *mut core::ffi::c_void,
    bytes: usize,
}

// SAFETY: only an address and a size; what other threads see through it are atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `bytes` of a file from `offset` on, all pages present.
    pub(crate) fn new(file: &impl AsFd, offset: u64, bytes: u64) -> Result<Mapping, String> {
        let bytes = bytes as usize;
        let (rights, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a fresh mapping where the kernel likes replaces nothing.
        let at = unsafe { mmap(std::ptr::null_mut(), bytes, rights, flags, file, offset) };
        Ok(Mapping { at: at.map_err(|err| format!("mmap: {err}"))?, bytes })
    }

    /// Anonymous memory whose words threads share; in large pages if the kernel chooses.
    pub(crate) fn shared_memory(bytes: u64) -> Result<Mapping, String> {
        let bytes = bytes as usize;
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a fresh mapping where the kernel likes replaces nothing.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, rights, flags) };
        let at = at.map_err(|err| format!("mmap: {err}"))?;
        // SAFETY: our own fresh mapping; advice about speed changes no content. It may be
        // refused: then pages are small.
        let _ = unsafe { madvise(at, bytes, Advice::LinuxHugepage) };
        Ok(Mapping { at, bytes })
    }

    /// Keeps it until the process ends.
    pub(crate) fn kept(self) -> &'static Mapping {
        Box::leak(Box::new(self))
    }

    /// Maps other parts of a file at the same addresses, in place of the old ones.
    pub(crate) fn replace(
        &mut self,
        file: &impl AsFd,
        offset: u64,
        is_populated: bool,
    ) -> Result<(), String> {
        let mut flags = MapFlags::SHARED | MapFlags::FIXED;
        flags.set(MapFlags::POPULATE, is_populated);
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: replaces exactly our own mapping, to which no reference is left: they borrow
        // from `self`.
        let at = unsafe { mmap(self.at, self.bytes, rights, flags, file, offset) };
        at.map(|_| ()).map_err(|err| format!("mmap: {err}"))
    }

    /// Where it begins.
    pub(crate) fn base(&self) -> usize {
        self.at.expose_provenance()
    }

    /// How large it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// A word of it as [`Mapping::word`], of 8 bytes.
    #[inline]
    pub(crate) fn long(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.bytes / 8, "word {index} is not in the mapping");
        // SAFETY: within the mapping (above).
        let word = unsafe { self.at.cast::<u64>().add(index) };
        // SAFETY: aligned as the mapping is, alive as long as `self`; all use atomics.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// A word of it that other processes may use too.
    pub(crate) fn word(&self, index: usize) -> &std::sync::atomic::AtomicU32 {
        assert!(index < self.bytes / 4, "word {index} is not in the mapping");
        // SAFETY: within the mapping (above).
        let word = unsafe { self.at.cast::<u32>().add(index) };
        // SAFETY: aligned as the mapping is, alive as long as `self`; all use atomics.
        unsafe { std::sync::atomic::AtomicU32::from_ptr(word) }
    }

    /// Copies `data` to `offset`. Only one of two parties may access it at a time, which
    /// adjacent words ensure.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, data: &[u8]) {
        assert!(offset <= self.bytes && data.len() <= self.bytes - offset, "it is that large");
        let to = self.at.cast::<u8>().wrapping_add(offset);
        // SAFETY: within the mapping (above), to which no references exist but to atomics; the
        // caller keeps readers away meanwhile; `data` is elsewhere.
        unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) }
    }

    /// Fills `buffer` from `offset`, as [`Mapping::copy_in`].
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, buffer: &mut [u8]) {
        assert!(offset <= self.bytes && buffer.len() <= self.bytes - offset, "it is that large");
        let from = self.at.cast::<u8>().wrapping_add(offset);
        // SAFETY: as above.
        unsafe { from.copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) }
    }

    fn write_each_page(&mut self) {
        for page in 0..self.bytes / 4096 {
            self.word(page * 1024).store(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// How much of it the kernel maps with pages of 2 MiB, as it reports.
    fn huge_bytes(&self) -> u64 {
        let Ok(text) = std::fs::read_to_string("/proc/self/smaps") else { return 0 };
        let start = format!("{:x}-", self.at.addr());
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
        let is_key = |line: &&str| line.split_whitespace().next().is_some_and(|w| w.ends_with(':'));
        let own = lines.by_ref().take_while(is_key);
        own.filter(|line| line.starts_with("FilePmdMapped:") || line.starts_with("ShmemPmdMapped:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>()
            * 1024
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left: they borrow from `self`.
        let _ = unsafe { munmap(self.at, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_a_file_show_the_same_words() {
        let memory = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, 8192).unwrap();
        let (one, other) =
            (Mapping::new(&memory, 0, 8192).unwrap(), Mapping::new(&memory, 0, 8192));
        one.word(2047).store(7, std::sync::atomic::Ordering::SeqCst);
        let seen = other.unwrap().word(2047).load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(seen, 7);
    }
}
