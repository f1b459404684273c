//! The files that gdb reads by the protocol: those that the program sees, its own executable, and its `/proc`.
#![forbid(unsafe_code)]

use std::os::unix::fs::FileExt;

use abi::Errno;

use super::target::File;
use crate::files::{View, Whose};
use crate::linux::proc::text_files;
use crate::linux::task::Process;

/// Bytes of the protocol's `struct stat`.
const STAT_BYTES: usize = 64;
/// Of it, where mode and size are.
const MODE: usize = 8;
const SIZE: usize = 28;
const REGULAR_READABLE: u32 = 0o100_444;

/// Opens what `path` is for the process, on one of its threads.
///
/// # Errors
/// As for the program itself; `EACCES` for what is no regular file.
pub(super) fn open(process: &Process, path: &[u8]) -> Result<File, Errno> {
    if let Some(text) = generated(process, path) {
        return text.map(|text| File::Text(text.into()));
    }
    // It may be one that the program does not see.
    if path == executable(process) {
        return Ok(File::Host(process.executable.file.clone()));
    }
    process.files.open_to_read(path).map(|opened| File::Host(opened.file))
}

/// The path of its executable.
pub(super) fn executable(process: &Process) -> Vec<u8> {
    process.files.program_path()
}

/// A file of its own `/proc`, by its number or `self`.
fn generated(process: &Process, path: &[u8]) -> Option<Result<Vec<u8>, Errno>> {
    let rest = path.strip_prefix(b"/proc/")?;
    let at = rest.iter().position(|byte| *byte == b'/')?;
    let (number, rest) = rest.split_at_checked(at)?;
    if number != b"self" && number != process.pid().to_string().as_bytes() {
        return None;
    }
    // Of a thread, what the process has: gdb asks for its mappings so.
    let rest = match rest.strip_prefix(b"/task/") {
        Some(rest) => rest.get(rest.iter().position(|byte| *byte == b'/')?..)?,
        None => rest,
    };
    let wanted = [&b"/proc/#"[..], rest].concat();
    let row = text_files().iter().position(|file| file.path.as_bytes() == wanted)?;
    Some(process.text(row, Whose::Process))
}

impl File {
    /// Reads at `at`, at most `len` bytes.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        match self {
            File::Text(text) => {
                let rest = usize::try_from(at).ok().and_then(|at| text.get(at..));
                let rest = rest.unwrap_or_default();
                Ok(rest.get(..len).unwrap_or(rest).to_vec())
            }
            File::Host(file) => {
                let mut bytes = vec![0; len];
                let read = file.read_at(&mut bytes, at);
                let read =
                    read.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
                bytes.truncate(read);
                Ok(bytes)
            }
        }
    }

    fn size(&self) -> u64 {
        match self {
            File::Text(text) => text.len() as u64,
            File::Host(file) => file.metadata().map_or(0, |metadata| metadata.len()),
        }
    }

    /// As the protocol has `struct stat`, with the mode and the size alone.
    pub(super) fn stat(&self) -> Vec<u8> {
        let mut stat = vec![0; STAT_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = stat.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(MODE, &REGULAR_READABLE.to_be_bytes());
        put(SIZE, &self.size().to_be_bytes());
        stat
    }
}

impl File {
    /// Generated text.
    #[cfg(test)]
    pub(super) fn of(text: &str) -> File {
        File::Text(text.as_bytes().into())
    }
}
