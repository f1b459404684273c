//! Results by C's conventions: -1, 0 or NULL, and `errno`.

use std::ffi::c_int;
use std::ptr;

use abi::Errno;

/// Sets `errno`.
pub(crate) fn set(errno: Errno) {
    set_raw(errno.raw());
}

/// Sets `errno` to a number that the calls do not use.
pub(crate) fn set_raw(errno: c_int) {
    // SAFETY: gives the address of the thread's own `errno`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: valid as long as the thread lives.
    unsafe { place.write(errno) };
}

/// `errno`.
pub(crate) fn get() -> c_int {
    // SAFETY: as in `set_raw`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as in `set_raw`.
    unsafe { place.read() }
}

/// 0 or -1.
pub(crate) fn status<T>(result: Result<T, Errno>) -> c_int {
    match result {
        Ok(_) => 0,
        Err(errno) => {
            set(errno);
            -1
        }
    }
}

/// The number or -1.
pub(crate) fn number(result: Result<u64, Errno>) -> i64 {
    match result {
        Ok(number) => number as i64,
        Err(errno) => {
            set(errno);
            -1
        }
    }
}

/// The id or 0.
pub(crate) fn id(result: Result<u64, Errno>) -> u64 {
    result.unwrap_or_else(|errno| {
        set(errno);
        0
    })
}

/// The address or NULL.
pub(crate) fn pointer<T>(result: Result<*mut T, Errno>) -> *mut T {
    result.unwrap_or_else(|errno| {
        set(errno);
        ptr::null_mut()
    })
}
