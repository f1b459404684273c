//! The programs that benchmarks time and the demo shows, carried inside this binary.
//!
//! They are ordinary static executables, built by `build.rs` and carried compressed, and run
//! unchanged natively and in a VM: whatever differs between the two is ours.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::BenchError;

// Each program's name and length, in the order in which they follow one another in `PACKED`.
include!(concat!(env!("OUT_DIR"), "/programs.rs"));

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/programs.zst"));

/// A directory with the programs in it, removed when dropped.
#[derive(Debug)]
pub struct Unpacked {
    dir: PathBuf,
}

impl Unpacked {
    /// Unpacks them into a fresh directory under the system's temporary one.
    ///
    /// # Errors
    /// [`BenchError::Unpack`].
    pub fn new() -> Result<Unpacked, BenchError> {
        let dir = std::env::temp_dir().join(format!("spacejmp-{}", std::process::id()));
        let fail = |source| BenchError::Unpack { dir: dir.display().to_string(), source };
        // Not `create_dir_all`: a directory somebody else put there is not ours to use.
        fs::create_dir(&dir).map_err(fail)?;
        let unpacked = Unpacked { dir: dir.clone() };
        let all = zstd::decode_all(PACKED).map_err(fail)?;
        let mut rest = all.as_slice();
        for &(name, len) in PROGRAMS {
            let cut = || fail(std::io::ErrorKind::UnexpectedEof.into());
            let (program, after) = rest.split_at_checked(len).ok_or_else(cut)?;
            rest = after;
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o755).open(unpacked.path(name));
            file.and_then(|mut file| file.write_all(program)).map_err(fail)?;
        }
        Ok(unpacked)
    }

    /// Where a program or any other file of the directory lies.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
