//! The programs that benchmarks time and the demo shows, carried inside this binary.
//!
//! They are ordinary static executables, built by `build.rs` and carried compressed, and run
//! unchanged natively and in a VM: whatever differs between the two is ours.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::BenchError;

macro_rules! program {
    ($name:literal) => {
        ($name, include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".zst")).as_slice())
    };
}

const PROGRAMS: [(&str, &[u8]); 3] =
    [program!("hello"), program!("payload"), program!("wordindex")];

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
        for (name, bytes) in PROGRAMS {
            let path = unpacked.path(name);
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o755).open(path);
            let write = |mut file: fs::File| file.write_all(&zstd::decode_all(bytes)?);
            file.and_then(write).map_err(fail)?;
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
