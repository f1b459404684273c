//! The programs that benchmarks time, and a folder for the files they use.
//!
//! They are other programs of this package, ordinary static executables, next to `spacejmp-bench`,
//! where cargo builds and installs them. They run unchanged natively and in a VM: any difference
//! between the two is due to us.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::BenchError;

const HELLO: &str = "spacejmp-bench-hello";
const PAYLOAD: &str = "spacejmp-bench-payload";

/// Where they are, and a folder that is removed when this is dropped.
#[derive(Debug)]
pub struct Programs {
    lie_in: PathBuf,
    dir: PathBuf,
}

impl Programs {
    /// Finds them in `folder`, and makes a new folder in `within`, or in the system's temporary
    /// folder.
    ///
    /// # Errors
    /// [`BenchError::Missing`] when one is missing, [`BenchError::Folder`].
    pub fn find(folder: &Path, within: Option<&Path>) -> Result<Programs, BenchError> {
        for name in [HELLO, PAYLOAD] {
            let path = folder.join(name);
            if !path.is_file() {
                return Err(BenchError::Missing { path: path.display().to_string() });
            }
        }
        let within = within.map_or_else(std::env::temp_dir, Path::to_owned);
        // Programs in a VM are given it by its name from the root.
        let within = std::path::absolute(&within).unwrap_or(within);
        let dir = within.join(format!("spacejmp-{}", std::process::id()));
        // Not `create_dir_all`: a directory that another user put there must not be used.
        fs::create_dir(&dir)
            .map_err(|source| BenchError::Folder { dir: dir.display().to_string(), source })?;
        Ok(Programs { lie_in: folder.to_owned(), dir })
    }

    /// The program that does nothing.
    #[must_use]
    pub fn hello(&self) -> PathBuf {
        self.lie_in.join(HELLO)
    }

    /// The program that does the work it is told to do, and times it.
    #[must_use]
    pub fn payload(&self) -> PathBuf {
        self.lie_in.join(PAYLOAD)
    }

    /// The path of another program beside them, whether or not it exists.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.lie_in.join(name)
    }

    /// The path of a file in the folder, whether or not it exists.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new file of `bytes` bytes in the folder.
    ///
    /// # Errors
    /// [`BenchError::Folder`].
    pub fn fill(&self, name: &str, bytes: u64) -> Result<PathBuf, BenchError> {
        let path = self.file(name);
        let failed = |source| BenchError::Folder { dir: path.display().to_string(), source };
        let mut file = fs::File::create(&path).map_err(failed)?;
        // If it is written in pieces the size of a large page, the host keeps it in large
        // pages where it can.
        let piece = vec![0x5a; 1 << 21];
        (0..bytes >> 21).try_for_each(|_| file.write_all(&piece)).map_err(failed)?;
        Ok(path)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_named_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(HELLO), "").expect("write a file");
        let error =
            Programs::find(folder.path(), None).expect_err("there is no payload").to_string();
        assert!(error.contains(PAYLOAD) && !error.contains(HELLO), "{error}");
        fs::write(folder.path().join(PAYLOAD), "").expect("write a file");
        let programs = Programs::find(folder.path(), None).expect("both are there");
        let dir = programs.dir().to_owned();
        assert!(dir.is_dir());
        drop(programs);
        assert!(!dir.exists());
        let programs = Programs::find(folder.path(), Some(folder.path())).expect("both are there");
        assert!(programs.dir().starts_with(folder.path()));
        let nowhere = folder.path().join("none");
        let error = Programs::find(folder.path(), Some(&nowhere)).expect_err("no such folder");
        assert!(error.to_string().contains("none"), "{error}");
    }
}
