//! Calls on descriptors as such: `close`, `dup`, `fcntl`.

use std::sync::Arc;

use abi::Errno;
use nix::fcntl::FcntlArg;
use rustix::fs::{OFlags, SealFlags};

use super::files::Files;
use super::host;
use super::open_file::OpenFile;

/// A pipe's size beyond which Linux does not even round.
const MAX_PIPE_BYTES: u32 = 1 << 31;

/// Of `F_NOTIFY`: a flag, not an event.
const DN_MULTISHOT: u32 = 1 << 31;

/// `struct flock`, word by word.
pub type Flock = [u64; 4];

impl Files {
    /// `close`.
    ///
    /// # Errors
    /// `EBADF`. An error of the host at the last reference is not reported.
    pub fn close(&self, fd: i32) -> Result<(), Errno> {
        self.closed(self.table.remove(fd)?);
        Ok(())
    }

    /// A descriptor was closed: the process's record locks on the file are gone, although it may have others.
    fn closed(&self, file: Arc<OpenFile>) {
        // Those of a process between `vfork` and `execve` are its parent's.
        if file.has_locks() && self.is_of_host_process {
            drop(file.host_fd().try_clone_to_owned());
        }
    }

    /// `close_range`.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags or `first` above `last`.
    pub fn close_range(&self, first: u32, last: u32, flags: u32) -> Result<(), Errno> {
        // The table is never shared with another process: nothing to unshare.
        let unshare = 1 << 1;
        let cloexec = 1 << 2;
        if flags & !(unshare | cloexec) != 0 || first > last {
            return Err(Errno::EINVAL);
        }
        for file in self.table.range(first, last, flags & cloexec != 0) {
            self.closed(file);
        }
        Ok(())
    }

    /// `dup`.
    ///
    /// # Errors
    /// `EBADF`, `EMFILE`.
    pub fn dup(&self, fd: i32) -> Result<i32, Errno> {
        self.table.insert(self.get(fd)?, false, 0)
    }

    /// `dup2`.
    ///
    /// # Errors
    /// `EBADF`, also for a new number out of range.
    pub fn dup2(&self, old: i32, new: i32) -> Result<i32, Errno> {
        let file = self.get(old)?;
        if old != new {
            let old = self.table.replace(new, file, false)?;
            old.into_iter().for_each(|old| self.closed(old));
        }
        Ok(new)
    }

    /// `dup3`.
    ///
    /// # Errors
    /// `EINVAL` for equal numbers and unknown flags, `EBADF`.
    pub fn dup3(&self, old: i32, new: i32, flags: i32) -> Result<i32, Errno> {
        if flags & !libc::O_CLOEXEC != 0 || old == new {
            return Err(Errno::EINVAL);
        }
        let file = self.get(old)?;
        let old = self.table.replace(new, file, flags & libc::O_CLOEXEC != 0)?;
        old.into_iter().for_each(|old| self.closed(old));
        Ok(new)
    }

    /// `fcntl`, except the commands that acquire a lock: see [`Files::is_lock_command`].
    ///
    /// # Errors
    /// `EINVAL` for commands not served (leases, notification).
    pub fn fcntl(&self, fd: i32, command: i32, argument: u64) -> Result<u64, Errno> {
        let file = self.get(fd)?;
        // Where `fcntl` expects a number, it is an int.
        let number = argument as u32;
        let word = number.cast_signed();
        match command {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
                if word < 0 || number >= self.nofile() {
                    return Err(Errno::EINVAL);
                }
                let cloexec = command == libc::F_DUPFD_CLOEXEC;
                let new = self.table.insert(file, cloexec, word)?;
                Ok(u64::from(new.cast_unsigned()))
            }
            libc::F_GETFD => Ok(u64::from(self.table.cloexec(fd)?)),
            libc::F_SETFD => {
                self.table.set_cloexec(fd, word & libc::FD_CLOEXEC != 0)?;
                Ok(0)
            }
            libc::F_GETFL => Ok(u64::from(file.flags()?.bits())),
            // All others are refused on an `O_PATH` description.
            _ if file.path_only() => Err(Errno::EBADF),
            libc::F_SETFL => {
                self.set_flags(&file, OFlags::from_bits_retain(number))?;
                Ok(0)
            }
            // Nothing is asked for any longer; nothing can be.
            libc::F_NOTIFY if number & !DN_MULTISHOT == 0 => Ok(0),
            // Leases cannot be requested: none is held.
            libc::F_GETLEASE => Ok(u64::from(libc::F_UNLCK.cast_unsigned())),
            libc::F_GETPIPE_SZ => {
                let size = rustix::pipe::fcntl_getpipe_size(file.host_fd());
                size.map(|size| size as u64).map_err(host)
            }
            libc::F_SETPIPE_SZ if number > MAX_PIPE_BYTES => Err(Errno::EINVAL),
            libc::F_SETPIPE_SZ => {
                let size = rustix::pipe::fcntl_setpipe_size(file.host_fd(), number as usize);
                size.map(|size| size as u64).map_err(host)
            }
            libc::F_GET_SEALS => {
                let seals = rustix::fs::fcntl_get_seals(file.host_fd()).map_err(host)?;
                Ok(u64::from(seals.bits()))
            }
            libc::F_ADD_SEALS => {
                let seals = SealFlags::from_bits_retain(number);
                rustix::fs::fcntl_add_seals(file.host_fd(), seals).map_err(host)?;
                Ok(0)
            }
            _ => self.fcntl_on_owner(&file, command, number).unwrap_or(Err(Errno::EINVAL)),
        }
    }

    /// Whether a command of `fcntl` takes a `struct flock`: those go to
    /// [`Files::fcntl_lock`].
    #[must_use]
    pub fn is_lock_command(command: i32) -> bool {
        matches!(
            command,
            libc::F_GETLK
                | libc::F_SETLK
                | libc::F_SETLKW
                | libc::F_OFD_GETLK
                | libc::F_OFD_SETLK
                | libc::F_OFD_SETLKW
        )
    }

    /// `fcntl` with a `struct flock`, given and returned as words. The locks are the host's,
    /// so other programs on the host see them; waiting ends with `EINTR` at a signal.
    ///
    /// # Errors
    /// Those of Linux's `fcntl`.
    pub fn fcntl_lock(&self, fd: i32, command: i32, lock: Flock) -> Result<Flock, Errno> {
        let file = self.for_io(fd)?;
        let mut flock = decode_flock(lock);
        let argument = match command {
            libc::F_GETLK => FcntlArg::F_GETLK(&mut flock),
            libc::F_SETLK => FcntlArg::F_SETLK(&flock),
            libc::F_SETLKW => FcntlArg::F_SETLKW(&flock),
            libc::F_OFD_GETLK => FcntlArg::F_OFD_GETLK(&mut flock),
            libc::F_OFD_SETLK => FcntlArg::F_OFD_SETLK(&flock),
            libc::F_OFD_SETLKW => FcntlArg::F_OFD_SETLKW(&flock),
            _ => return Err(Errno::EINVAL),
        };
        nix::fcntl::fcntl(file.host_fd(), argument)
            .map_err(|error| Errno::from_raw(error as i32))?;
        if matches!(command, libc::F_SETLK | libc::F_SETLKW) {
            file.note_locks();
        }
        Ok(encode_flock(lock, &flock))
    }
}

/// type, whence: 16 bits each; four bytes of padding; start, length: 64 bits; process id.
fn decode_flock([head, start, len, pid]: Flock) -> libc::flock {
    libc::flock {
        l_type: head as i16,
        l_whence: (head >> 16) as i16,
        l_start: start.cast_signed(),
        l_len: len.cast_signed(),
        l_pid: pid as i32,
    }
}

/// The structure with the program's own padding.
fn encode_flock([head, .., pid]: Flock, flock: &libc::flock) -> Flock {
    let kind = u32::from(flock.l_type.cast_unsigned());
    let whence = u32::from(flock.l_whence.cast_unsigned());
    let low = |word: u64, half: u32| word >> 32 << 32 | u64::from(half);
    let (start, len) = (flock.l_start.cast_unsigned(), flock.l_len.cast_unsigned());
    [low(head, kind | whence << 16), start, len, low(pid, flock.l_pid.cast_unsigned())]
}
