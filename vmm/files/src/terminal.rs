//! Pseudo-terminals: the host's own, as far as the program has them.
//!
//! A program makes one by opening `/dev/ptmx`. `/dev/pts` shows those of which it has an end open, and no
//! others: an open end keeps the number taken, so that it cannot become another user's terminal. The
//! other end is opened by the descriptor that is there, never by the host's path.

use std::sync::Arc;

use abi::Errno;
use rustix::fs::{Mode, OFlags, Stat};
use rustix::pty::OpenptFlags;

use super::encode::LinuxStat;
use super::files::Files;
use super::host;
use super::open_file::{FileKind, OpenFile, Origin};

/// What matters of the flags that a terminal is opened with.
const KEPT: OFlags = OFlags::RWMODE.union(OFlags::NONBLOCK).union(OFlags::APPEND);
/// Major device numbers of the ends that programs run at: Documentation/admin-guide/devices.txt.
const PTS_MAJOR: std::ops::RangeInclusive<u32> = 136..=143;

/// An end of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The one that makes it.
    Master(u32),
    /// The one that programs run at.
    Terminal(u32),
}

impl OpenFile {
    fn end(&self) -> Option<End> {
        if self.kind() != FileKind::Terminal || self.path_only() {
            return None;
        }
        let stat = rustix::fs::fstat(self.host_fd()).ok()?;
        if let Some(number) = number(&stat) {
            return Some(End::Terminal(number));
        }
        let name = rustix::pty::ptsname(self.host_fd(), Vec::new()).ok()?;
        let number = name.to_str().ok()?.strip_prefix("/dev/pts/")?.parse().ok()?;
        Some(End::Master(number))
    }
}

/// The number of a terminal by its device.
fn number(stat: &Stat) -> Option<u32> {
    let major = rustix::fs::major(stat.st_rdev);
    let block = PTS_MAJOR.contains(&major).then(|| major - PTS_MAJOR.start())?;
    Some(block << 8 | rustix::fs::minor(stat.st_rdev))
}

/// Opens the controlling terminal, which a program of the run has made.
pub(super) fn own_device(flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
    let safe = (flags & (KEPT | OFlags::PATH)) | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = rustix::fs::open("/dev/tty", safe, Mode::empty()).map_err(host)?;
    Ok(Arc::new(OpenFile::new(fd, Origin::Own)?))
}

impl Files {
    /// The open ends of terminals, with their descriptors.
    fn ends(&self) -> impl Iterator<Item = (u32, End)> {
        let open = self.table.open().into_iter();
        open.filter_map(|fd| Some((fd, self.get(fd.cast_signed()).ok()?.end()?)))
    }

    /// The terminals that `/dev/pts` shows.
    pub(super) fn terminals(&self) -> Vec<u32> {
        let numbers = self.ends().map(|(_, end)| match end {
            End::Master(number) | End::Terminal(number) => number,
        });
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Whether the process has left the session that the run was started in.
    pub(super) fn has_own_session(&self) -> bool {
        let started = self.namespace.session;
        nix::unistd::getsid(None).is_ok_and(|now| started.is_some_and(|then| then != now))
    }

    /// `/dev/ptmx`: a new terminal, its master.
    pub(super) fn new_terminal(&self, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let safe = (flags & (KEPT | OFlags::PATH)) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::open("/dev/ptmx", safe, Mode::empty()).map_err(host)?;
        Ok(Arc::new(OpenFile::new(fd, Origin::Own)?))
    }

    /// `/dev/pts/N`. The leader of a session without a terminal gets it as its controlling one, unless
    /// `O_NOCTTY` is given.
    pub(super) fn open_terminal(&self, number: u32, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let mut ends = self.ends().collect::<Vec<_>>().into_iter();
        let master = ends.clone().find(|(_, end)| *end == End::Master(number));
        let file = match master {
            Some((fd, _)) if !flags.contains(OFlags::PATH) => {
                self.other_end(&*self.descriptor(fd)?, flags)?
            }
            _ => {
                let open = ends.find(|(_, end)| *end == End::Terminal(number));
                let (fd, _) = open.or(master).ok_or(Errno::ENOENT)?;
                self.reopen(fd, flags)?
            }
        };
        if file.is_own() && !flags.intersects(OFlags::NOCTTY | OFlags::PATH) {
            self.take_terminal(&file);
        }
        Ok(file)
    }

    /// The other end of a master: of its own, whatever `/dev/pts` of the host has now.
    ///
    /// # Errors
    /// `EIO` while it is locked, `ENOTTY` for what is no master.
    fn other_end(&self, master: &OpenFile, flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let safe = (flags & KEPT) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let safe = OpenptFlags::from_bits_retain(safe.bits());
        let fd = rustix::pty::ioctl_tiocgptpeer(master.host_fd(), safe).map_err(host)?;
        Ok(Arc::new(OpenFile::new(fd, master.origin.clone())?))
    }

    /// The same as a new descriptor (`TIOCGPTPEER`).
    ///
    /// # Errors
    /// `EIO` while it is locked, `ENOTTY` for what is no master, `EMFILE`.
    pub fn open_other_end(&self, master: &OpenFile, flags: i32) -> Result<i32, Errno> {
        let flags = OFlags::from_bits_retain(flags.cast_unsigned());
        let file = self.other_end(master, flags)?;
        if !flags.contains(OFlags::NOCTTY) {
            self.take_terminal(&file);
        }
        self.table.insert(file, flags.contains(OFlags::CLOEXEC), 0)
    }

    /// Makes it the controlling terminal where opening it does so on Linux.
    fn take_terminal(&self, file: &OpenFile) {
        if self.is_of_host_process {
            // Refused to all but the leader of a session that has none yet.
            let _ = rustix::process::ioctl_tiocsctty(file.host_fd());
        }
    }

    /// The attributes of `/dev/pts/N`.
    pub(super) fn terminal_stat(&self, number: u32) -> Result<LinuxStat, Errno> {
        let mut open = Err(Errno::ENOENT);
        for (fd, end) in self.ends() {
            match end {
                // The number is taken as long as the master is open.
                End::Master(of) if of == number => {
                    let stat = rustix::fs::stat(format!("/dev/pts/{number}")).map_err(host)?;
                    return Ok(stat.into());
                }
                End::Terminal(of) if of == number => {
                    open = self.stat_open(&*self.descriptor(fd)?);
                }
                _ => {}
            }
        }
        open
    }
}
