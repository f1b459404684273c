//! Results by C's conventions: -1, 0 or NULL, and `errno`.

use std::ffi::c_int;
use std::ptr;

use abi::Errno;

/// Sets `errno`.
pub(crate) fn set(errno: c_int) {
    // SAFETY: gives the address of the thread's own `errno`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: valid as long as the thread lives.
    unsafe { place.write(errno) };
}

/// `errno`.
pub(crate) fn get() -> c_int {
    // SAFETY: as in `set`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as in `set`.
    unsafe { place.read() }
}

/// The result, or what stands for an error, whose number is in `errno` then.
fn or<T>(result: Result<T, Errno>, failed: T) -> T {
    result.unwrap_or_else(|errno| {
        set(errno.raw());
        failed
    })
}

/// 0 or -1.
pub(crate) fn status<T>(result: Result<T, Errno>) -> c_int {
    or(result.map(|_| 0), -1)
}

/// The number or -1.
pub(crate) fn number(result: Result<u64, Errno>) -> i64 {
    or(result.map(|number| number as i64), -1)
}

/// The id or 0.
pub(crate) fn id(result: Result<u64, Errno>) -> u64 {
    or(result, 0)
}

/// The address or NULL.
pub(crate) fn pointer<T>(result: Result<*mut T, Errno>) -> *mut T {
    or(result, ptr::null_mut())
}
