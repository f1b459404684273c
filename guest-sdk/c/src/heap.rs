//! `vas_malloc` and related functions: the heap of the VAS that the calling thread is in.

use std::alloc::Layout;
use std::ffi::{c_int, c_void};
use std::io::Write;
use std::ptr::NonNull;

use abi::Errno;
use sdk::heap::{FIRST_BYTES, Growth, HeapError, RawHeap};
use sdk::sys::{self, SegGrowth, SegId};
use seg_heap::MIN_BYTES;

use crate::errors::{get, pointer, set, status};
use crate::here::{self, Heap};

/// The alignment of C's `malloc` on this machine.
const ALIGN: usize = 16;
const MAX_ALIGN: usize = 2 << 20;

fn allocate(heap: Heap, size: usize, align: usize) -> Result<*mut c_void, Errno> {
    let layout = Layout::from_size_align(size, align).map_err(|_| Errno::ENOMEM)?;
    let mut grower = SegGrowth::of(heap.sid);
    // SAFETY: the thread is inside, and the C program ensures that no other thread is.
    let block = unsafe { heap.raw.alloc(layout, &mut grower) };
    block.map(|block| block.as_ptr().cast()).ok_or(grower.error)
}

#[unsafe(no_mangle)]
extern "C" fn vas_malloc(size: usize) -> *mut c_void {
    pointer(here::writable_heap().and_then(|heap| allocate(heap, size, ALIGN)))
}

#[unsafe(no_mangle)]
extern "C" fn vas_calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else {
        return pointer(Err(Errno::ENOMEM));
    };
    let block = vas_malloc(bytes);
    if !block.is_null() {
        // SAFETY: the block has that many bytes.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

#[unsafe(no_mangle)]
extern "C" fn vas_aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    if !alignment.is_power_of_two() || alignment > MAX_ALIGN {
        return pointer(Err(Errno::EINVAL));
    }
    let align = alignment.max(ALIGN);
    pointer(here::writable_heap().and_then(|heap| allocate(heap, size, align)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_realloc(block: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(block.cast()) else { return vas_malloc(size) };
    pointer(here::writable_heap().and_then(|heap| {
        must_be_block("vas_realloc", heap, old);
        let mut grower = SegGrowth::of(heap.sid);
        // SAFETY: the thread is inside, alone; it is a block.
        let moved = unsafe { heap.raw.realloc(old, ALIGN, size, &mut grower) };
        moved.map(|moved| moved.as_ptr().cast()).ok_or(grower.error)
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_free(block: *mut c_void) {
    let Some(block) = NonNull::new(block.cast()) else { return };
    let kept = get();
    match here::writable_heap() {
        Ok(heap) => {
            must_be_block("vas_free", heap, block);
            // SAFETY: the thread is inside, alone; it is a block.
            unsafe { heap.raw.dealloc(block) };
        }
        Err(errno) => die(format_args!("vas_free({block:p}): no heap to free it in: {errno}")),
    }
    set(kept);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_usable_size(block: *const c_void) -> usize {
    let (Ok(heap), Some(block)) = (here::heap(), NonNull::new(block.cast_mut().cast())) else {
        return 0;
    };
    // SAFETY: the thread is inside.
    if !unsafe { heap.raw.is_block(block) } {
        return 0;
    }
    // SAFETY: as above; it is a block.
    unsafe { heap.raw.usable_size(block) }
}

/// Ends the program if `address` is no block.
#[inline]
fn must_be_block(function: &str, heap: Heap, address: NonNull<u8>) {
    // SAFETY: the thread is inside.
    if !unsafe { heap.raw.is_block(address) } {
        let base = heap.base;
        die(format_args!(
            "{function}({address:p}): no block of the heap at {base:p}, or freed already"
        ));
    }
}

#[cold]
fn die(message: std::fmt::Arguments<'_>) -> ! {
    // If the message cannot be written, the program ends all the same.
    let _ = writeln!(std::io::stderr(), "spacejmp: {message}");
    std::process::abort();
}

#[unsafe(no_mangle)]
extern "C" fn vas_heap_init(sid: u64) -> c_int {
    status(init(sid))
}

fn init(sid: u64) -> Result<(), Errno> {
    let sid = SegId::new(sid).ok_or(Errno::ENOENT)?;
    if !here::is_here(sid)? {
        return Err(Errno::EACCES);
    }
    let stat = sys::seg_stat(sid)?;
    let base = here::address(stat.base).ok_or(Errno::EIO)?;
    // SAFETY: the thread is inside an instance that has the segment; whatever is in it.
    match unsafe { RawHeap::open(base, stat.size_bytes) } {
        Err(HeapError::NotAHeap { .. } | HeapError::TooSmall { .. }) => {}
        _ => return Err(Errno::EEXIST),
    }
    let mut grower = SegGrowth::of(sid);
    let size = grower.grow(MIN_BYTES, MIN_BYTES).ok_or(grower.error)?.min(FIRST_BYTES);
    grower.reserve(0, size).ok_or(grower.error)?;
    // SAFETY: as above, writable, and no thread uses its content: `spacejmp.h` documents that it is
    // lost.
    unsafe { RawHeap::create(base, size) }.map_err(|_| Errno::ENOMEM)?;
    here::found_anew();
    Ok(())
}

/// `struct vas_heap_stat`.
#[repr(C)]
struct HeapStat {
    size_bytes: u64,
    blocks: u64,
    allocated_bytes: u64,
    free_bytes: u64,
    damages: u64,
    leaked_blocks: u64,
    leaked_bytes: u64,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vas_heap_check(stat: *mut HeapStat) -> c_int {
    let report = here::heap().and_then(|heap| {
        let segment = sys::seg_stat(heap.sid)?;
        let root = sys::seg_root_get(heap.sid)?.address;
        let roots: &[u64] = if root == 0 { &[] } else { &[root] };
        // SAFETY: the thread is inside, and the segment has that many bytes.
        unsafe { RawHeap::check(heap.base, segment.size_bytes, roots) }.map_err(|_| Errno::EUCLEAN)
    });
    let report = match report {
        Ok(report) => report,
        Err(errno) => return status::<()>(Err(errno)),
    };
    let leaks = report.leaks.as_ref();
    let found = HeapStat {
        size_bytes: report.end,
        blocks: report.blocks,
        allocated_bytes: report.bytes,
        free_bytes: report.free_bytes,
        damages: report.damages,
        leaked_blocks: leaks.map_or(0, |leaks| leaks.blocks),
        leaked_bytes: leaks.map_or(0, |leaks| leaks.bytes),
    };
    // SAFETY: `spacejmp.h` asks for a structure to fill.
    unsafe { stat.write(found) };
    c_int::from(!report.sound())
}
