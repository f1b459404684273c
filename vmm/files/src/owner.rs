//! The owner of an open file description: the process that Linux would notify of events on it, and
//! with which signal.
//!
//! What `fcntl` sets is recorded and read back. No notification is ever sent: that would need
//! `O_ASYNC`, a lease or a change notification, and none of them is supported.
#![forbid(unsafe_code)]

use std::sync::Mutex;

use abi::Errno;

use super::files::Files;
use super::open_file::OpenFile;

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

impl Files {
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
            F_SETSIG => {
                file.owner.change(|state| state.signal = number);
                Ok(0)
            }
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
        file.owner.change(|state| state.who = who);
        Ok(0)
    }

    /// `fcntl` with `F_SETOWN_EX` and, with no new owner, `F_GETOWN_EX`.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` for an unknown kind, `ESRCH` for one that does not belong to the program.
    pub fn fcntl_owner(&self, fd: i32, new: Option<OwnerEx>) -> Result<OwnerEx, Errno> {
        let file = self.for_io(fd)?;
        if let Some(new) = new {
            self.check_owner(new)?;
            file.owner.change(|state| state.who = new);
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
