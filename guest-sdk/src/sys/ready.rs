//! The calls of a program that copies are started from.

use abi::Errno;
use abi::call::{CALL_READY, CALL_READY_ARGUMENTS};

use super::call;

/// The program is where copies of it are to begin: [`crate::ready()`] says what that means. Returns 0, and in a copy the
/// bytes that [`ready_arguments`] needs.
///
/// # Errors
/// Those of the snapshot, if the run makes one. `EBUSY`: the process cannot be snapshotted as it is now. `EEXIST`: one of that
/// name has come meanwhile. And store errors.
#[inline]
pub fn ready() -> Result<u64, Errno> {
    // SAFETY: the call takes no arguments and touches no memory.
    unsafe { call(CALL_READY, []) }
}

/// Fills `buffer` with what a copy was started with: two words, how many arguments there are and how many variables of
/// the environment, then all of them, each with a 0 after it. Returns the bytes.
///
/// # Errors
/// `ENOENT`: the process is no copy that came back from [`ready`]. `EINVAL`: the buffer is too small.
#[inline]
pub fn ready_arguments(buffer: &mut [u8]) -> Result<u64, Errno> {
    // SAFETY: the call writes to the buffer only.
    unsafe { call(CALL_READY_ARGUMENTS, [buffer.as_mut_ptr() as u64, buffer.len() as u64]) }
}
