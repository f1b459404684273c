//! Root objects with a type: the address in the segment's header, the description in the heap.

use std::ffi::{c_int, c_void};

use abi::Errno;
use abi::objects::SegRoot;
use sdk::layout::Fingerprint;
use sdk::sys;

use crate::errors::{set_raw, status};
use crate::here;
use crate::types::{Type, text_of};

/// Linux's EPROTOTYPE, which no call returns.
const EPROTOTYPE: c_int = libc::EPROTOTYPE;

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_set_root(root: *const c_void, of: *const Type) -> c_int {
    // SAFETY: `spacejmp.h` asks for the same.
    status(unsafe { set(root as u64, of) })
}

/// # Safety
/// As [`text_of`].
unsafe fn set(address: u64, of: *const Type) -> Result<(), Errno> {
    let heap = here::writable_heap()?;
    if address == 0 {
        // SAFETY: it declares that nothing is there; the consequences are the C program's own.
        return unsafe { sys::seg_root_set(heap.sid, &SegRoot::default()) };
    }
    // SAFETY: the caller's promise.
    let text = unsafe { text_of(of) }?;
    // SAFETY: the thread is inside, and the C program ensures that no other thread is.
    unsafe { heap.raw.set_text(&text, &mut crate::heap::Grower::of(heap.sid)) }
        .ok_or(Errno::ENOMEM)?;
    // Last: a program that finds a root finds it complete.
    let root = SegRoot { address, fingerprint: Fingerprint::of(&text).0 };
    // SAFETY: `spacejmp.h` asks for the address of an object that the type describes.
    unsafe { sys::seg_root_set(heap.sid, &root) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_root(of: *const Type) -> *mut c_void {
    // SAFETY: `spacejmp.h` asks for the same.
    unsafe { get(of) }.unwrap_or_else(|errno| {
        set_raw(errno);
        std::ptr::null_mut()
    })
}

/// # Safety
/// As [`text_of`].
unsafe fn get(of: *const Type) -> Result<*mut c_void, c_int> {
    let heap = here::heap().map_err(Errno::raw)?;
    // SAFETY: the caller's promise.
    let text = unsafe { text_of(of) }.map_err(Errno::raw)?;
    let root = sys::seg_root_get(heap.sid).map_err(Errno::raw)?;
    if root.address == 0 {
        return Err(Errno::ENODATA.raw());
    }
    if root.fingerprint != Fingerprint::of(&text).0 {
        return Err(EPROTOTYPE);
    }
    Ok(std::ptr::with_exposed_provenance_mut(root.address as usize))
}
