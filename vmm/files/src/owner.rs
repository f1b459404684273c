//! The owner of an open file description: the process that Linux would notify of events on it, and
//! with which signal.
//!
//! What `fcntl` sets is recorded and read back. The host is told, too, of an owner that is the program
//! itself, for pipes and sockets that the program has made: then `O_ASYNC` is served, by the host's SIGIO
//! to this host process, which passes it on. Another signal would tell of the host's descriptor, and
//! one to a thread or a group would reach more than the program.
#![forbid(unsafe_code)]

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use abi::Errno;
use rustix::fs::OFlags;

use super::files::Files;
use super::host;
use super::open_file::{FileKind, O_ASYNC, OpenFile};

/// Commands the C library does not name.
pub(super) const F_SETSIG: i32 = 10;
pub(super) const F_GETSIG: i32 = 11;
/// Commands that take a `struct f_owner_ex`: see [`Files::fcntl_owner`].
pub const F_SETOWN_EX: i32 = 15;
/// Likewise.
pub const F_GETOWN_EX: i32 = 16;

const F_OWNER_TID: i32 = 0;
const F_OWNER_PID: i32 = 1;
const F_OWNER_PGRP: i32 = 2;

/// The highest signal number.
const LAST_SIGNAL: u32 = 64;

/// `struct f_owner_ex` (fcntl(2)): what kind of number, and the number, 0 for none.
pub type OwnerEx = [i32; 2];

/// Owner and signal of a description.
#[derive(Debug, Default)]
pub(super) struct Owner(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    who: OwnerEx,
    signal: u32,
}

impl Default for State {
    fn default() -> State {
        // What Linux reports for a description whose owner has never been set.
        State { who: [F_OWNER_TID, 0], signal: 0 }
    }
}

impl Owner {
    fn state(&self) -> State {
        *self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(|poison| poison.into_inner()));
    }
}

impl State {
    /// Whether the host can send what this asks for.
    fn suits_host(&self) -> bool {
        let [kind, id] = self.who;
        (kind == F_OWNER_PID || id == 0) && self.signal == 0
    }
}

impl OpenFile {
    /// Whether the host may be asked to send signals of input and output on this: nobody outside
    /// of the run has the description, and its owner is what we make it.
    pub(super) fn can_signal(&self) -> bool {
        self.is_own() && matches!(self.kind(), FileKind::Pipe | FileKind::Socket)
    }

    /// Changes owner and signal.
    ///
    /// # Errors
    /// `EINVAL` while the host sends signals, for what it cannot be asked to send.
    fn change_owner(&self, change: impl FnOnce(&mut State)) -> Result<(), Errno> {
        let mut new = self.owner.state();
        change(&mut new);
        if !new.suits_host() && self.can_signal() {
            let flags = rustix::fs::fcntl_getfl(self.host_fd()).map_err(host)?;
            if flags.contains(O_ASYNC) {
                return Err(Errno::EINVAL);
            }
        }
        self.owner.change(|state| *state = new);
        Ok(())
    }
}

impl Files {
    /// From now on a SIGIO that the host sends to this process is passed on to the program.
    pub fn pass_sigio(&self) {
        self.passes_sigio.store(true, Ordering::Relaxed);
    }

    /// Whether the host is to know the owner of this file.
    #[must_use]
    pub fn host_signals(&self, file: &OpenFile) -> bool {
        self.passes_sigio.load(Ordering::Relaxed) && file.can_signal()
    }

    /// `F_SETFL`.
    ///
    /// # Errors
    /// `EINVAL` for `O_ASYNC` where no signal can be sent. Files that never send one on Linux do not keep
    /// the flag.
    pub(super) fn set_flags(&self, file: &OpenFile, wanted: OFlags) -> Result<(), Errno> {
        let sends = matches!(
            file.kind(),
            FileKind::Pipe | FileKind::Terminal | FileKind::Socket | FileKind::Netlink
        );
        let served = self.host_signals(file) && file.owner.state().suits_host();
        if sends && wanted.contains(O_ASYNC) && !served {
            return Err(Errno::EINVAL);
        }
        self.moving(file, || file.set_flags(wanted))
    }

    /// The commands on owner and signal that take a number, `None` for all others.
    pub(super) fn fcntl_on_owner(
        &self,
        file: &OpenFile,
        command: i32,
        number: u32,
    ) -> Option<Result<u64, Errno>> {
        Some(match command {
            libc::F_SETOWN => self.set_owner(file, number.cast_signed()),
            libc::F_GETOWN => {
                let [kind, id] = file.owner.state().who;
                let id = if kind == F_OWNER_PGRP { -id } else { id };
                Ok(i64::from(id).cast_unsigned())
            }
            F_SETSIG if number > LAST_SIGNAL => Err(Errno::EINVAL),
            F_SETSIG => file.change_owner(|state| state.signal = number).map(|()| 0),
            F_GETSIG => Ok(u64::from(file.owner.state().signal)),
            _ => return None,
        })
    }

    fn set_owner(&self, file: &OpenFile, id: i32) -> Result<u64, Errno> {
        let who = if id < 0 {
            [F_OWNER_PGRP, id.checked_neg().ok_or(Errno::EINVAL)?]
        } else {
            [F_OWNER_PID, id]
        };
        self.check_owner(who)?;
        file.change_owner(|state| state.who = who).map(|()| 0)
    }

    /// `fcntl` with `F_SETOWN_EX` and, with no new owner, `F_GETOWN_EX`.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` for an unknown kind, `ESRCH` for one that does not belong to the program.
    pub fn fcntl_owner(&self, fd: i32, new: Option<OwnerEx>) -> Result<OwnerEx, Errno> {
        let file = self.for_io(fd)?;
        if let Some(new) = new {
            self.check_owner(new)?;
            file.change_owner(|state| state.who = new)?;
        }
        Ok(file.owner.state().who)
    }

    /// Whether the program may name this owner: itself, its threads, its process group.
    fn check_owner(&self, [kind, id]: OwnerEx) -> Result<(), Errno> {
        let view = self.namespace.view();
        let known = match kind {
            F_OWNER_TID | F_OWNER_PID | F_OWNER_PGRP if id == 0 => true,
            F_OWNER_TID => view.is_some_and(|view| view.tids().contains(&id)),
            F_OWNER_PID => view.is_some_and(|view| view.pid() == id),
            F_OWNER_PGRP => view.is_some_and(|view| view.process_group() == id),
            _ => return Err(Errno::EINVAL),
        };
        if known { Ok(()) } else { Err(Errno::ESRCH) }
    }
}
