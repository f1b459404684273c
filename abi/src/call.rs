//! SpaceJMP's own calls: numbers and how they are made.
//!
//! A program puts the number into RAX and the arguments into RDI, RSI, RDX, R10, R8, R9, as
//! for a Linux call, and calls the call page (`layout::CALL_PAGE`, found through the
//! auxiliary vector entry [`AT_SPACEJMP`]). The result is in RAX, an error as a negated
//! errno. Unlike Linux's calls, ours may change every caller-saved register: that spares the
//! kernel's fast path twelve instructions.

/// Auxiliary vector entry whose value is the address of the call page. Above Linux's range.
pub const AT_SPACEJMP: u64 = 0x534a_0001;

/// First number of our range: "SJ" in the upper half, far above Linux's table.
pub const CALL_BASE: u32 = 0x534a_0000;

/// Does nothing, in the kernel: the baseline every other call is measured against.
pub const CALL_NULL: u32 = CALL_BASE;
/// One past the last number that the kernel serves itself.
pub const CALL_FAST_END: u32 = CALL_BASE + 1;
/// Does nothing, in the VMM: the cost of a hypercall.
pub const CALL_HYPER_NULL: u32 = CALL_BASE + 1;

/// Ports of the kernel's one `OUT` (design section 5): the port says why it left.
pub mod port {
    /// Exception with vector `v` leaves through `EXCEPTION + v`, `v` below 32.
    pub const EXCEPTION: u16 = 0x40;
    /// A Linux system call the kernel does not serve.
    pub const SYSCALL: u16 = 0x60;
    /// A SpaceJMP call the kernel does not serve.
    pub const CALL: u16 = 0x61;
    /// As [`CALL`], but the program came through the call page's UD2: its state is the
    /// exception frame, with the instruction pointer already past the UD2.
    pub const CALL_TRAPPED: u16 = 0x63;
    /// The kernel found itself broken; the epitaph says how.
    pub const PANIC: u16 = 0x62;
}
