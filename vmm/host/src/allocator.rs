//! The process's own memory, as the C library hands it out.

/// Allocations up to so much come from the heap, which grows by so much at once.
const HEAP_BYTES: libc::c_int = 2 << 20;

/// Has the heap keep 2 MiB that were freed, and take them from the host at once. As the C library comes, each buffer of some
/// hundred kilobytes, as logs are read into, is asked for, filled with zeros page by page, and given back.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (what, bytes) in [
        (libc::M_MMAP_THRESHOLD, HEAP_BYTES),
        (libc::M_TOP_PAD, HEAP_BYTES),
        // What is kept beyond the pad.
        (libc::M_TRIM_THRESHOLD, 2 * HEAP_BYTES),
    ] {
        // SAFETY: it sets a number that the allocator looks at; any is allowed. Should it not be taken, the heap works as
        // before.
        unsafe { libc::mallopt(what, bytes) };
    }
}
