//! `inotify`: the host's own, on files and directories of grants. Events name entries by the
//! names that they have in their directory, which are the same inside and outside.

use std::os::fd::AsFd;

use abi::Errno;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::attr::by_number;
use super::files::Files;
use super::host;
use super::open::pin;
use super::resolve::Found;

impl Files {
    /// `inotify_init1`.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags; `EMFILE`, also at the user's limit on the host.
    pub fn inotify_init1(&self, flags: i32) -> Result<i32, Errno> {
        if flags & !(libc::IN_CLOEXEC | libc::IN_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        let host_flags =
            CreateFlags::from_bits_retain(flags.cast_unsigned()) | CreateFlags::CLOEXEC;
        let fd = inotify::init(host_flags).map_err(host)?;
        self.own(fd, flags & libc::IN_CLOEXEC != 0)
    }

    /// `inotify_add_watch`: the watch's number.
    ///
    /// # Errors
    /// As Linux; `EACCES` for what is in no grant: nothing tells of changes there.
    pub fn inotify_add_watch(&self, fd: i32, path: &[u8], mask: u32) -> Result<i32, Errno> {
        let file = self.for_io(fd)?;
        let flags = WatchFlags::from_bits_retain(mask);
        // The file is pinned first, so that the host follows nothing: what it is then given is the
        // pinned file's number, which is a link that has to be followed.
        let follow = !flags.contains(WatchFlags::DONT_FOLLOW);
        let passed = flags - WatchFlags::DONT_FOLLOW;
        if let Some(at) = self.memory(libc::AT_FDCWD, path)? {
            let pinned = at.pin()?;
            let name = by_number(pinned.host_fd());
            return inotify::add_watch(file.host_fd(), name, passed).map_err(host);
        }
        let base = self.base(libc::AT_FDCWD, path)?;
        match self.lookup(&base, path, follow, pin)? {
            Found::Host(pinned) => {
                let name = by_number(pinned.as_fd());
                inotify::add_watch(file.host_fd(), name, passed).map_err(host)
            }
            Found::Node(_) | Found::Leaf(_) => Err(Errno::EACCES),
            Found::Absent => Err(Errno::ENOENT),
        }
    }

    /// `inotify_rm_watch`.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL` for another kind of file, or a number of no watch.
    pub fn inotify_rm_watch(&self, fd: i32, watch: i32) -> Result<(), Errno> {
        inotify::remove_watch(self.for_io(fd)?.host_fd(), watch).map_err(host)
    }
}
