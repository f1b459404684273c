//! `futex_waitv`: waiting for any of several futexes, through the host's call of that name.
//!
//! Separate from `futex.rs` because it shares nothing with that call but the words: its flags, its
//! list and its clock belong to another interface ("futex2", Linux 5.16).

use abi::Errno;

use super::time::{last_errno, read_timespec};
use super::{CallResult, Fail, value};
use crate::access::MemoryAccess;
use crate::linux::task::ThreadCtx;
use crate::user_memory::FutexWord;

/// Most futexes in one call.
const MAX_WAITERS: u32 = 128;
/// Bytes of `struct futex_waitv`: value, address, flags, reserved.
const WAITER_BYTES: usize = 24;
/// The only valid value of the two size bits.
const SIZE_U32: u32 = 2;
const PRIVATE: u32 = libc::FUTEX_PRIVATE_FLAG as u32;

/// `struct futex_waitv` with a host address.
#[repr(C)]
#[derive(Debug)]
struct HostWaiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// One waiter as the program passes it.
#[derive(Debug)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
}

fn parse(bytes: &[u8]) -> Result<Waiter, Errno> {
    let (words, _) = bytes.as_chunks::<8>();
    let [value, address, last] = words else { return Err(Errno::EINVAL) };
    let last = u64::from_le_bytes(*last);
    // The flags, and the reserved bits above them.
    let flags = u32::try_from(last).map_err(|_| Errno::EINVAL)?;
    if flags & !PRIVATE != SIZE_U32 {
        return Err(Errno::EINVAL);
    }
    Ok(Waiter { value: u64::from_le_bytes(*value), address: u64::from_le_bytes(*address), flags })
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
    let mut waiters = Vec::new();
    let mut bytes = [0; WAITER_BYTES];
    for index in 0..u64::from(count) {
        ctx.user().copy_in(at.wrapping_add(index * WAITER_BYTES as u64), &mut bytes)?;
        waiters.push(parse(&bytes)?);
    }
    let user = ctx.user();
    let words: Vec<FutexWord<'_>> = waiters
        .iter()
        .map(|waiter| user.futex_word(waiter.address, MemoryAccess::Read))
        .collect::<Result<_, _>>()?;
    let host: Vec<HostWaiter> = waiters
        .iter()
        .zip(&words)
        .map(|(waiter, word)| HostWaiter {
            value: waiter.value,
            address: word.as_ptr() as u64,
            flags: waiter.flags,
            reserved: 0,
        })
        .collect();
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    loop {
        if ctx.is_interrupted() {
            // The limit is absolute: the call can be restarted as it is.
            return Err(Fail::Restart);
        }
        // SAFETY: the list and the time outlive the call; the words are guest memory, mapped as
        // long as `words`, and the kernel checks every access.
        let woken = unsafe {
            libc::syscall(libc::SYS_futex_waitv, host.as_ptr(), host.len(), 0, limit, clock)
        };
        if woken >= 0 {
            return value(woken.cast_unsigned());
        }
        match last_errno() {
            Errno::EINTR => {}
            errno => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(flags: u32, reserved: u32) -> Vec<u8> {
        let last = u64::from(flags) | u64::from(reserved) << 32;
        [7, 0x1000, last].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_waiter_has_one_size_and_nothing_reserved() {
        assert_eq!(parse(&bytes(SIZE_U32, 0)).map(|w| (w.value, w.address)), Ok((7, 0x1000)));
        assert!(parse(&bytes(SIZE_U32 | PRIVATE, 0)).is_ok());
        for (flags, reserved) in [(0, 0), (1, 0), (3, 0), (SIZE_U32 | 4, 0), (SIZE_U32, 1)] {
            let parsed = parse(&bytes(flags, reserved)).map(drop);
            assert_eq!(parsed, Err(Errno::EINVAL), "{flags:#x} {reserved}");
        }
    }
}
