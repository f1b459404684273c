//! `futex_waitv`: waiting for any of several futexes, through the host's call of that name.
//!
//! Separate from `futex.rs` because it shares nothing with that call but the words: its flags, its
//! list and its clock belong to another interface ("futex2", Linux 5.16).

use abi::Errno;

use super::time::{checked, read_timespec};
use super::{CallResult, Fail, value};
use crate::access::MemoryAccess;
use crate::linux::task::ThreadCtx;
use crate::user_memory::FutexWord;

/// Most futexes in one call.
const MAX_WAITERS: u32 = 128;
/// The only valid value of the two size bits.
const SIZE_U32: u64 = 2;
const PRIVATE: u64 = libc::FUTEX_PRIVATE_FLAG as u64;

/// `struct futex_waitv`: value, address, and the flags with the reserved bits above them.
type Waiter = [u64; 3];

fn check(&[_, _, flags]: &Waiter) -> Result<(), Errno> {
    if flags & !PRIVATE == SIZE_U32 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `futex_waitv(2)`: returns the index of one that was woken. The time limit is absolute.
///
/// # Errors
/// `EINVAL` for flags, a count, a clock or a waiter that Linux refuses, `EFAULT`, `EAGAIN` when
/// a word has another value, `ETIMEDOUT`; `ENOSYS` on a host before Linux 5.16.
pub(super) fn futex_waitv(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [at, count, flags, limit, clock, _] = *a;
    let (count, flags, clock) = (count as u32, flags as u32, clock as i32);
    if flags != 0 || count == 0 || count > MAX_WAITERS || at == 0 {
        return Err(Errno::EINVAL.into());
    }
    let limit = if limit == 0 {
        None
    } else {
        if clock != libc::CLOCK_REALTIME && clock != libc::CLOCK_MONOTONIC {
            return Err(Errno::EINVAL.into());
        }
        Some(read_timespec(ctx, limit)?)
    };
    let user = ctx.user();
    let mut waiters = Vec::new();
    for index in 0..u64::from(count) {
        let waiter = user.read_words(at.wrapping_add(index * size_of::<Waiter>() as u64))?;
        check(&waiter)?;
        waiters.push(waiter);
    }
    let words: Vec<FutexWord<'_>> = waiters
        .iter()
        .map(|&[_, address, _]| user.futex_word(address, MemoryAccess::Read))
        .collect::<Result<_, _>>()?;
    for ([_, address, _], word) in waiters.iter_mut().zip(&words) {
        *address = word.as_ptr() as u64;
    }
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    loop {
        if ctx.is_interrupted() {
            // The limit is absolute: the call can be restarted as it is.
            return Err(Fail::Restart);
        }
        // SAFETY: the list and the time outlive the call; the words are guest memory, mapped as
        // long as `words`, and the kernel checks every access.
        let woken = unsafe {
            libc::syscall(libc::SYS_futex_waitv, waiters.as_ptr(), waiters.len(), 0, limit, clock)
        };
        match checked(woken) {
            Err(Errno::EINTR) => {}
            woken => return value(woken?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_has_one_size_and_nothing_reserved() {
        let checked = |flags, reserved: u64| check(&[7, 0x1000, flags | reserved << 32]);
        assert_eq!(checked(SIZE_U32, 0), Ok(()));
        assert_eq!(checked(SIZE_U32 | PRIVATE, 0), Ok(()));
        for (flags, reserved) in [(0, 0), (1, 0), (3, 0), (SIZE_U32 | 4, 0), (SIZE_U32, 1)] {
            assert_eq!(checked(flags, reserved), Err(Errno::EINVAL), "{flags:#x} {reserved}");
        }
    }
}
