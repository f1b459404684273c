//! Priority-inheritance futexes of a process whose threads have other numbers than the host's: a copy from a snapshot.
//!
//! The words of these futexes have their owner's number, by which the host kernel looks for a thread of its own. In such
//! a process it would find none, or another program's. So they are served here, by the host's plain futexes: a
//! thread gets the lock in its turn, and the owner's priority is not raised. What cannot be had is a lock that another
//! process shares, whose numbers mean nothing here: its owner is not found (`ESRCH`).
//!
//! The program changes a word only from 0 to its own number, and back, and not while the bit for waiters is set. So that is
//! set first, by the host's atomic operation, and then whoever is here changes the word, one at a time.

use std::sync::{Mutex, PoisonError};

use abi::Errno;

use super::futex::{HostFutex, add_bit, wait};
use super::{CallResult, Fail, value};
use crate::access::MemoryAccess;
use crate::linux::task::ThreadCtx;
use crate::user_memory::UserMemory;

const WAITERS: u32 = 1 << 31;
const WAITERS_BIT: u32 = 31;
const OWNER_DIED: u32 = 1 << 30;
const OWNER: u32 = OWNER_DIED - 1;

/// Words are changed by one thread at a time.
static CHANGING: Mutex<()> = Mutex::new(());

/// What a thread that wants a lock finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It is the caller's from now on, with this word.
    Free(u32),
    /// The caller has it already.
    Own,
    /// The thread with this number has it.
    Held(i32),
}

fn found(word: u32, own: u32) -> Found {
    match word & OWNER {
        0 => Found::Free(word & OWNER_DIED | WAITERS | own),
        owner if owner == own => Found::Own,
        owner => Found::Held(owner.cast_signed()),
    }
}

/// A word of the program's.
#[derive(Clone, Copy)]
pub(super) struct Word<'a> {
    pub(super) user: UserMemory<'a>,
    pub(super) gva: u64,
    /// `FUTEX_PRIVATE_FLAG`, if the call has it.
    pub(super) private: i32,
}

impl Word<'_> {
    /// Its value, which only whoever is here changes from now on.
    fn take(self) -> Result<u32, Errno> {
        let value = self.user.read_u32(self.gva)?;
        if value & WAITERS != 0 {
            return Ok(value);
        }
        // Nobody waits yet whom this could wake.
        add_bit(self.user, self.gva, WAITERS_BIT)?;
        self.user.read_u32(self.gva)
    }

    fn set(self, value: u32) -> Result<(), Errno> {
        self.user.copy_out(self.gva, &value.to_le_bytes())
    }
}

/// `FUTEX_LOCK_PI` and, with no wait, `FUTEX_TRYLOCK_PI`. `clock` is `FUTEX_CLOCK_REALTIME`, or 0 for the monotonic one.
pub(super) fn lock(
    ctx: &mut ThreadCtx<'_>,
    word: Word<'_>,
    waits: bool,
    clock: i32,
    limit: Option<libc::timespec>,
) -> CallResult {
    let own = ctx.thread.owner.cast_unsigned();
    loop {
        let changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let is = word.take()?;
        match found(is, own) {
            Found::Free(new) => {
                word.set(new)?;
                return value(0);
            }
            Found::Own => return Err(Errno::from_raw(libc::EDEADLK).into()),
            Found::Held(_) if !waits => return Err(Errno::EAGAIN.into()),
            Found::Held(owner) if ctx.process.threads.get(owner).is_none() => {
                return Err(Errno::ESRCH.into());
            }
            Found::Held(_) => {}
        }
        drop(changing);
        let host = word.user.futex_word(word.gva, MemoryAccess::Read)?;
        let op = libc::FUTEX_WAIT_BITSET | word.private | clock;
        let call = HostFutex { word: &host, op, val: is, val2: 0, word2: None, val3: !0 };
        match wait(ctx, call, limit) {
            // It was another value already, or a lock that was let go of: look again.
            Ok(_) | Err(Fail::Errno(Errno::EAGAIN)) => {}
            // A signal's handler runs, and then the call is made again, whatever the handler's flags.
            Err(Fail::Errno(Errno::EINTR) | Fail::Restart) => return Err(Fail::RestartAlways),
            Err(other) => return Err(other),
        }
    }
}

/// `FUTEX_UNLOCK_PI`.
pub(super) fn unlock(ctx: &ThreadCtx<'_>, word: Word<'_>) -> CallResult {
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    if word.user.read_u32(word.gva)? & OWNER != ctx.thread.owner.cast_unsigned() {
        return Err(Errno::EPERM.into());
    }
    word.take()?;
    word.set(WAITERS)?;
    let host = word.user.futex_word(word.gva, MemoryAccess::Read)?;
    let op = libc::FUTEX_WAKE | word.private;
    let woken = HostFutex { word: &host, op, val: 1, val2: 0, word2: None, val3: 0 }.call()?;
    if woken == 0 {
        // Who is about to wait finds another value than it expects.
        word.set(0)?;
    }
    value(0)
}

#[cfg(test)]
mod tests {
    use super::{Found, OWNER_DIED, WAITERS, found};

    #[test]
    fn a_free_lock_is_taken_and_says_that_its_owner_has_died() {
        assert_eq!(found(WAITERS, 7), Found::Free(WAITERS | 7));
        assert_eq!(found(WAITERS | OWNER_DIED, 7), Found::Free(WAITERS | OWNER_DIED | 7));
    }

    #[test]
    fn a_held_lock_names_its_owner() {
        assert_eq!(found(WAITERS | 7, 7), Found::Own);
        assert_eq!(found(8, 7), Found::Held(8));
        assert_eq!(found(OWNER_DIED | 8, 7), Found::Held(8));
    }
}
