//! Which files a program is made of, looked up as the program itself would: the executable, a
//! script's interpreter, the dynamic loader. What is in them is not looked at here.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use abi::Errno;
use rustix::fs::{Access, FileType, Mode, OFlags};

use super::attr::by_number;
use super::files::Files;
use super::host;
use super::off_limits::OffLimits;
use super::open_file::Origin;
use super::resolve::{Found, HostAt, Step};
use super::tree::{Leaf, Link};

/// A file that may be executed.
#[derive(Debug)]
pub struct ToExecute {
    /// Its guest path, links followed.
    pub path: Vec<u8>,
    /// The file, open for reading.
    pub file: Arc<File>,
}

impl Files {
    /// Opens a file that is to be executed, by its guest path; a relative one begins at the current
    /// directory.
    ///
    /// # Errors
    /// As `execve`: `EACCES` for what is no regular file, may not be executed, or is in memory
    /// (`/dev/shm`), and those of path resolution.
    pub fn open_to_execute(&self, path: &[u8]) -> Result<ToExecute, Errno> {
        self.open_to_execute_at(libc::AT_FDCWD, path, true)
    }

    /// The same with a path that, if it is relative, begins at a descriptor's directory, and with a
    /// choice whether a link at its end is followed.
    ///
    /// # Errors
    /// As [`Files::open_to_execute`]; `EBADF`, `ENOTDIR`; `ELOOP` for a link that is not followed.
    pub fn open_to_execute_at(
        &self,
        dirfd: i32,
        path: &[u8],
        follow: bool,
    ) -> Result<ToExecute, Errno> {
        self.open_whole(dirfd, path, follow, Access::EXEC_OK)
    }

    /// Opens a regular file of the host by its guest path, as [`Files::open_to_execute`] does, but one
    /// that need not be executable.
    ///
    /// # Errors
    /// Likewise.
    pub fn open_to_read(&self, path: &[u8]) -> Result<ToExecute, Errno> {
        self.open_whole(libc::AT_FDCWD, path, true, Access::READ_OK)
    }

    fn open_whole(
        &self,
        dirfd: i32,
        path: &[u8],
        follow: bool,
        access: Access,
    ) -> Result<ToExecute, Errno> {
        if self.memory(dirfd, path)?.is_some() {
            return Err(Errno::EACCES);
        }
        let base = self.base(dirfd, path)?;
        let off_limits = &self.namespace.off_limits;
        match self
            .lookup(&base, path, follow, |at, follow| open_entry(at, follow, off_limits, access))?
        {
            Found::Host(fd) => self.opened(fd),
            Found::Leaf(Leaf::Link(_)) if !follow => Err(Errno::ELOOP),
            // `fexecve`.
            Found::Leaf(Leaf::Link(Link::Descriptor(fd))) => self.opened(self.again(fd, access)?),
            Found::Leaf(leaf @ (Leaf::Shown(_) | Leaf::Link(Link::Exe))) => {
                let file = self.namespace.shown_file(leaf)?.clone();
                rustix::fs::access(by_number(file.as_fd()), access).map_err(host)?;
                Ok(ToExecute { path: path.to_vec(), file })
            }
            Found::Node(_) | Found::Leaf(_) => Err(Errno::EACCES),
            Found::Absent => Err(Errno::ENOENT),
        }
    }

    fn opened(&self, fd: OwnedFd) -> Result<ToExecute, Errno> {
        let name = std::fs::read_link(by_number(fd.as_fd()));
        let name = name.map_err(|error| super::confined(&error))?.into_os_string();
        let path = self.namespace.inside(&name.into_vec());
        Ok(ToExecute { path, file: Arc::new(File::from(fd)) })
    }

    /// The file behind a descriptor, opened once more, if it is one of a granted directory.
    fn again(&self, fd: u32, access: Access) -> Result<OwnedFd, Errno> {
        let open = self.descriptor(fd)?;
        let stat = match open.origin {
            Origin::Grant(_) if open.node().is_none() => rustix::fs::fstat(open.host_fd()),
            _ => return Err(Errno::EACCES),
        };
        if FileType::from_raw_mode(stat.map_err(host)?.st_mode) != FileType::RegularFile {
            return Err(Errno::EACCES);
        }
        if open.can_write().is_ok() {
            return Err(Errno::ETXTBSY);
        }
        let file = by_number(open.host_fd());
        rustix::fs::access(&file, access).map_err(host)?;
        rustix::fs::open(&file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(host)
    }

    /// The file that the program runs.
    #[must_use]
    pub fn executable(&self) -> Option<Arc<File>> {
        self.namespace.exe.as_ref().map(|exe| exe.file.clone())
    }

    /// See [`Namespace::set_executable`]; before the files are those of a running program.
    ///
    /// [`Namespace::set_executable`]: super::Namespace::set_executable
    pub fn set_executable(&mut self, path: &[u8], file: Arc<File>) {
        if let Some(namespace) = Arc::get_mut(&mut self.namespace) {
            namespace.set_executable(path, file);
        }
    }

    /// See [`Namespace::show`]; likewise.
    ///
    /// [`Namespace::show`]: super::Namespace::show
    pub fn show(&mut self, path: &[u8], file: Arc<File>) {
        if let Some(namespace) = Arc::get_mut(&mut self.namespace) {
            namespace.show(path, file);
        }
    }
}

fn open_entry(
    at: &HostAt,
    follow: bool,
    off_limits: &OffLimits,
    access: Access,
) -> Result<Step<OwnedFd>, Errno> {
    if at.slash() {
        return Err(Errno::ENOTDIR);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    // Opening a FIFO must not wait for a writer.
    let flags = flags | OFlags::NONBLOCK;
    let fd = match rustix::fs::openat(at.dir(), at.name(), flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::LOOP) if follow && at.is_link() => return Ok(Step::Link),
        Err(error) => return Err(host(error)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(host)?;
    off_limits.check_opened_by_name(&stat)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::EACCES);
    }
    // Also refused where the file system is mounted `noexec`.
    rustix::fs::access(by_number(fd.as_fd()), access).map_err(host)?;
    Ok(Step::Done(fd))
}
