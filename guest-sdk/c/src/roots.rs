//! Root objects with a type: the address in the segment's header, the description in the heap.

use std::ffi::{c_int, c_void};

use abi::Errno;
use abi::objects::SegRoot;
use sdk::layout::Fingerprint;
use sdk::sys::{self, SegGrowth};

use crate::errors::{pointer, status};
use crate::here;
use crate::types::{Type, text_of};

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
    unsafe { heap.raw.set_text(&text, &mut SegGrowth::of(heap.sid)) }.ok_or(Errno::ENOMEM)?;
    // Last: a program that finds a root finds it complete.
    let root = SegRoot { address, fingerprint: Fingerprint::of(&text).0 };
    // SAFETY: `spacejmp.h` asks for the address of an object that the type describes.
    unsafe { sys::seg_root_set(heap.sid, &root) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_root(of: *const Type) -> *mut c_void {
    // SAFETY: `spacejmp.h` asks for the same.
    pointer(unsafe { get(of) })
}

/// # Safety
/// As [`text_of`].
unsafe fn get(of: *const Type) -> Result<*mut c_void, Errno> {
    let heap = here::heap()?;
    // SAFETY: the caller's promise.
    let text = unsafe { text_of(of) }?;
    let root = sys::seg_root_get(heap.sid)?;
    if root.address == 0 {
        return Err(Errno::ENODATA);
    }
    if root.fingerprint != Fingerprint::of(&text).0 {
        return Err(Errno::from_raw(libc::EPROTOTYPE));
    }
    Ok(std::ptr::with_exposed_provenance_mut(root.address as usize))
}
