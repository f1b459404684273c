//! Root objects with a type: the address in the segment's header, the description in the heap.

use std::ffi::{c_char, c_int, c_void};

use abi::Errno;
use abi::objects::SegRoot;
use sdk::layout::Fingerprint;
use sdk::sys::{self, SegGrowth};
use seg_heap::{HeapFront, RootNote};

use crate::errors::{number, pointer, status};
use crate::here::{self, Heap};
use crate::types::{Type, copy_text, text_of};

/// Keeps `root` in the heap, too, where a visit finds it without a call.
///
/// # Safety
/// The thread is inside, alone and writable.
unsafe fn note(heap: Heap, root: &SegRoot) {
    // SAFETY: the caller's promise; a heap begins with it.
    let front = unsafe { heap.base.cast::<HeapFront>().as_mut() };
    front.root = RootNote { address: root.address, fingerprint: root.fingerprint };
}

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
        let none = SegRoot::default();
        // SAFETY: it declares that nothing is there; the consequences are the C program's own.
        unsafe { sys::seg_root_set(heap.sid, &none) }?;
        // SAFETY: the thread is inside, and the C program ensures that no other thread is.
        unsafe { note(heap, &none) };
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let text = unsafe { text_of(of) }?;
    // SAFETY: the thread is inside, and the C program ensures that no other thread is.
    unsafe { heap.raw.set_text(&text, &mut SegGrowth::of(heap.sid)) }.ok_or(Errno::ENOMEM)?;
    // Last: a program that finds a root finds it complete.
    let root = SegRoot { address, fingerprint: Fingerprint::of(&text).0 };
    // SAFETY: `spacejmp.h` asks for the address of an object that the type describes.
    unsafe { sys::seg_root_set(heap.sid, &root) }?;
    // SAFETY: the thread is inside, and the C program ensures that no other thread is.
    unsafe { note(heap, &root) };
    Ok(())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_root_is(root: *const SegRoot) -> c_int {
    // SAFETY: `spacejmp.h` asks for a structure.
    match is(unsafe { &*root }) {
        Ok(is_same) => c_int::from(is_same),
        Err(errno) => status::<()>(Err(errno)),
    }
}

fn is(root: &SegRoot) -> Result<bool, Errno> {
    let heap = here::heap()?;
    // SAFETY: the thread is inside; a heap begins with it, and any bytes are one.
    let noted = unsafe { heap.base.cast::<HeapFront>().read() }.root;
    if (noted.address, noted.fingerprint) == (root.address, root.fingerprint) {
        return Ok(true);
    }
    // Programs of earlier versions have left no note.
    Ok(sys::seg_root_get(heap.sid)? == *root)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_root_text(buffer: *mut c_char, size: usize) -> i64 {
    let text = here::heap().map(|heap| {
        // SAFETY: the thread is inside.
        unsafe { heap.raw.text() }
    });
    // SAFETY: `spacejmp.h` asks for a buffer of `size` bytes.
    number(text.map(|text| unsafe { copy_text(&text, buffer, size) }))
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
