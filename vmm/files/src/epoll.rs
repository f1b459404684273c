//! `epoll`: the host's own, in which the program's open files are registered by their host
//! descriptors.
//!
//! Linux knows a registration by the number of a descriptor and the open file behind it, and
//! drops it when the last descriptor of that file is closed (epoll(7), question 6). One open file of
//! the program is one host descriptor, so a second number for the same file is registered by a
//! further host descriptor, which the open file keeps. Not every host file goes away with the
//! program's: standard streams are the caller's, too. So such an open file that is dropped removes what is
//! registered of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use abi::Errno;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::files::Files;
use super::host;
use super::open_file::{FileKind, OpenFile, Origin};

/// What `epoll_ctl` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpollChange {
    /// `EPOLL_CTL_ADD`.
    Add {
        /// The events.
        events: u32,
        /// What the program gets with them.
        data: u64,
    },
    /// `EPOLL_CTL_MOD`.
    Modify {
        /// The events.
        events: u32,
        /// What the program gets with them.
        data: u64,
    },
    /// `EPOLL_CTL_DEL`.
    Delete,
}

/// What is registered in one `epoll`: by the program's number and the open file's address, which
/// is not used again as long as the weak reference to it is there.
#[derive(Debug, Default)]
pub(super) struct Registrations(Mutex<HashMap<(i32, usize), Registration>>);

#[derive(Debug)]
struct Registration {
    file: Weak<OpenFile>,
    /// Not there: the open file's own host descriptor is registered.
    further: Option<Weak<OwnedFd>>,
}

/// In which `epoll`s an open file is registered, and by which host descriptors.
#[derive(Debug, Default)]
pub(super) struct Watched(Mutex<Vec<WatchedBy>>);

/// An `epoll`, and the further host descriptor by which it watches the file.
type WatchedBy = (Weak<OpenFile>, Option<Arc<OwnedFd>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    /// Removes all registrations of the file, whose host descriptor is `own`.
    pub(super) fn end(&mut self, own: BorrowedFd<'_>) {
        let all = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (epoll, further) in all.drain(..) {
            if let Some(epoll) = epoll.upgrade() {
                // Already gone if the host has dropped it, too.
                let _ = match further {
                    Some(fd) => epoll::delete(epoll.host_fd(), &*fd),
                    None => epoll::delete(epoll.host_fd(), own),
                };
            }
        }
    }

    fn note(&self, epoll: &Arc<OpenFile>, further: Option<Arc<OwnedFd>>) {
        let mut all = lock(&self.0);
        all.retain(|(at, _)| at.strong_count() > 0);
        all.push((Arc::downgrade(epoll), further));
    }

    fn forget(&self, epoll: &Arc<OpenFile>, further: Option<&Arc<OwnedFd>>) {
        lock(&self.0).retain(|(at, fd)| {
            let same = match (fd, further) {
                (Some(fd), Some(further)) => Arc::ptr_eq(fd, further),
                (None, None) => true,
                _ => false,
            };
            !(same && std::ptr::eq(at.as_ptr(), Arc::as_ptr(epoll)))
        });
    }
}

impl Files {
    /// `epoll_create1`.
    ///
    /// # Errors
    /// `EINVAL` for flags other than `EPOLL_CLOEXEC`; `EMFILE`.
    pub fn epoll_create1(&self, flags: i32) -> Result<i32, Errno> {
        if flags & !libc::EPOLL_CLOEXEC != 0 {
            return Err(Errno::EINVAL);
        }
        self.table.check_room()?;
        let fd = epoll::create(CreateFlags::CLOEXEC).map_err(host)?;
        let file = OpenFile::new(fd, Origin::Own)?;
        self.table.insert(Arc::new(file), flags & libc::EPOLL_CLOEXEC != 0, 0)
    }

    /// The open file of an `epoll` descriptor.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL` for another kind of file.
    pub fn epoll(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let file = self.for_io(fd)?;
        if file.kind() == FileKind::Epoll { Ok(file) } else { Err(Errno::EINVAL) }
    }

    /// `epoll_ctl`.
    ///
    /// # Errors
    /// As Linux: `EBADF`, `EPERM` for what cannot be waited for, `EEXIST`, `ENOENT`, `ELOOP`,
    /// `EINVAL`.
    pub fn epoll_ctl(&self, epfd: i32, fd: i32, change: EpollChange) -> Result<(), Errno> {
        // In Linux's order: both descriptors, then whether one can be waited for.
        let at = self.for_io(epfd)?;
        let file = self.for_io(fd)?;
        if matches!(file.kind(), FileKind::SyntheticDirectory | FileKind::Pseudo) {
            return Err(Errno::EPERM);
        }
        if at.kind() != FileKind::Epoll || Arc::ptr_eq(&at, &file) {
            return Err(Errno::EINVAL);
        }
        // Held over the host's call: what the map says and what the host does stay the same.
        let mut all = lock(&at.registrations().0);
        let key = (fd, Arc::as_ptr(&file).addr());
        match change {
            EpollChange::Add { events, data } => {
                let Entry::Vacant(entry) = all.entry(key) else { return Err(Errno::EEXIST) };
                let further = add(&at, &file, events, data)?;
                file.watched().note(&at, further.clone());
                let further = further.as_ref().map(Arc::downgrade);
                entry.insert(Registration { file: Arc::downgrade(&file), further });
                prune(&mut all);
                Ok(())
            }
            EpollChange::Modify { events, data } => {
                let registered = all.get(&key).ok_or(Errno::ENOENT)?;
                let (data, flags) = (EventData::new_u64(data), flags(events));
                match registered.further()? {
                    Some(fd) => epoll::modify(at.host_fd(), &*fd, data, flags),
                    None => epoll::modify(at.host_fd(), file.host_fd(), data, flags),
                }
                .map_err(host)
            }
            EpollChange::Delete => {
                let registered = all.remove(&key).ok_or(Errno::ENOENT)?;
                let further = registered.further()?;
                file.watched().forget(&at, further.as_ref());
                match further {
                    Some(fd) => epoll::delete(at.host_fd(), &*fd),
                    None => epoll::delete(at.host_fd(), file.host_fd()),
                }
                .map_err(host)
            }
        }
    }
}

impl Registration {
    fn further(&self) -> Result<Option<Arc<OwnedFd>>, Errno> {
        match &self.further {
            None => Ok(None),
            // The open file keeps it as long as it is registered.
            Some(fd) => fd.upgrade().map(Some).ok_or(Errno::ENOENT),
        }
    }
}

/// Forgets files that were closed, whenever so many are registered that there may be many.
fn prune(all: &mut HashMap<(i32, usize), Registration>) {
    if all.len().is_power_of_two() && all.len() >= 64 {
        all.retain(|_, registered| registered.file.strong_count() > 0);
    }
}

/// Registers the file by its own host descriptor, or, if that is taken by another number, by a
/// further one.
fn add(
    at: &OpenFile,
    file: &OpenFile,
    events: u32,
    data: u64,
) -> Result<Option<Arc<OwnedFd>>, Errno> {
    let (data, flags) = (EventData::new_u64(data), flags(events));
    match epoll::add(at.host_fd(), file.host_fd(), data, flags) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::EXIST) => {
            let further = file.host_fd().try_clone_to_owned().map_err(|_| Errno::ENOMEM)?;
            epoll::add(at.host_fd(), further.as_fd(), data, flags).map_err(host)?;
            Ok(Some(Arc::new(further)))
        }
        Err(error) => Err(host(error)),
    }
}

/// All but the one that keeps the host awake, which needs a privilege; Linux ignores it without.
fn flags(events: u32) -> EventFlags {
    EventFlags::from_bits_retain(events) - EventFlags::WAKEUP
}
