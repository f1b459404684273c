//! Files of the host.

use std::fs::File as StdFile;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{File, Folder};

/// A folder of the host.
#[derive(Debug)]
pub struct HostFolder(OwnedFd);

impl HostFolder {
    /// Opens a folder.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &std::path::Path) -> io::Result<HostFolder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(HostFolder(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }
}

/// A file of the host.
#[derive(Debug)]
pub struct HostFile(StdFile);

const OPEN: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Folder for HostFolder {
    type File = HostFile;

    fn create(&self, name: &str) -> io::Result<HostFile> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OPEN | OFlags::CREATE | OFlags::EXCL;
        Ok(HostFile(rustix::fs::openat(&self.0, name, flags, mode)?.into()))
    }

    fn open(&self, name: &str) -> io::Result<HostFile> {
        Ok(HostFile(rustix::fs::openat(&self.0, name, OPEN, Mode::empty())?.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}

impl File for HostFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut pieces = pieces.to_vec();
        let mut rest = &mut pieces[..];
        // So that an empty piece in front does not look like a device that takes nothing.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // The host takes no more than IOV_MAX pieces at once.
            let batch = &rest[..rest.len().min(1024)];
            match rustix::io::pwritev(&self.0, batch, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut rest, written);
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
