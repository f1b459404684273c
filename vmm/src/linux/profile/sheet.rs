//! What the processes of a run have collected, a line for each stack: memory of the host's that they have in
//! common, to which each adds at its end.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};

/// Bytes that all processes of a run leave. A program can start any number of them.
const BYTES_MAX: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub struct Sheet(File);

impl Sheet {
    /// Empty, for the calling process and those that it forks.
    ///
    /// # Errors
    /// The host has no memory or no descriptor.
    pub fn new() -> io::Result<Sheet> {
        let made = memfd_create("profile", MemfdFlags::CLOEXEC)?;
        // What one writes at once is not torn by another.
        fcntl_setfl(&made, OFlags::APPEND)?;
        Ok(Sheet(File::from(made)))
    }

    /// Adds whole lines.
    ///
    /// # Errors
    /// There is no room, or the host's.
    pub fn add(&self, lines: &str) -> io::Result<()> {
        let bytes = self.0.metadata()?.len();
        if bytes.saturating_add(lines.len() as u64) > BYTES_MAX {
            return Err(io::Error::other("the run's processes have left more than 64 MiB of it"));
        }
        (&self.0).write_all(lines.as_bytes())
    }

    /// All that was added.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(self.0.metadata()?.len()).map_err(io::Error::other)?;
        let mut text = vec![0; bytes];
        self.0.read_exact_at(&mut text, 0)?;
        Ok(text)
    }
}

impl AsFd for Sheet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::Sheet;

    #[test]
    fn what_several_add_at_the_same_time_is_there_line_by_line() {
        let sheet = Sheet::new().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let sheet = &sheet;
                scope.spawn(move || {
                    for line in 0..100 {
                        sheet.add(&format!("{writer};{line} 1\n")).unwrap();
                    }
                });
            }
        });
        let text = String::from_utf8(sheet.read().unwrap()).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 400);
    }
}
