//! Structures in memory that both the VMM and the guest kernel access.

use core::mem::offset_of;

use crate::layout::{IST_STACK_BYTES, VCPU_IST_STACKS};

/// Version of everything in this file; the VMM refuses a kernel image with another version.
pub const KERNEL_ABI: u64 = 6;
/// First word of the kernel image.
pub const KERNEL_MAGIC: u64 = u64::from_le_bytes(*b"SJkernel");

/// First bytes of the kernel image: where the VMM finds the entry points.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KernelInfo {
    /// [`KERNEL_MAGIC`].
    pub magic: u64,
    /// [`KERNEL_ABI`].
    pub abi: u64,
    /// Target of the SYSCALL instruction (LSTAR).
    pub syscall_entry: u64,
    /// First of 32 exception stubs.
    pub vectors: u64,
    /// Bytes between two stubs.
    pub vector_stride: u64,
    /// First byte of the kernel's code; read-only data lies before it.
    pub text_start: u64,
    /// One past the kernel's code, page-aligned; writable data follows.
    pub text_end: u64,
    /// One past the kernel's writable data.
    pub data_end: u64,
    /// Address of the kernel's [`Epitaph`].
    pub epitaph: u64,
    /// The SYSRETQ instructions: an exception there means the program's return address or
    /// flags were impossible, which is the program's fault and not the kernel's.
    pub sysrets: [u64; 5],
}

/// The first page of a vCPU's area. GS base points here while the kernel serves a call.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct VcpuPage {
    /// The program's stack pointer while the kernel serves a call.
    pub user_rsp: u64,
    /// Top of the kernel's call stack.
    pub call_stack: u64,
    /// Address of this vCPU's `switch::VcpuStatus`.
    pub status: u64,
    /// Address of this vCPU's table of TLB tags, 0 where there are none.
    pub tags: u64,
    /// Handles from here up need more than the shortest path: `objects::MAX_INSTANCES`, or 0 while
    /// the thread holds locks and before any instance exists.
    pub plain_limit: u64,
    /// The locks the thread holds, as in [`crate::layout::LOCK_RANGES`].
    pub held: u64,
    /// Handles from here up are left to the VMM, whatever they need: `objects::MAX_INSTANCES`, or 0
    /// while the thread is in an instance that it leaves by committing.
    pub kernel_limit: u64,
    /// As `held`: released locks that have waiters. The VMM wakes the waiters and sets this to 0.
    pub waited_for: u64,
    /// Root of the last view of a versioned segment (`switch::ViewRecord`) that the vCPU has
    /// entered; it has left it unless its status entry says that it is inside. With
    /// `switch::VIEW_WRITES` it writes (`switch::WriteRecord`), until the VMM sets this to 0.
    pub view: u64,
}

/// From the frame of a trap, five words without an error code, on the first exception stack
/// down to the vCPU's page.
pub const TRAP_TO_PAGE: i32 = -((VCPU_IST_STACKS + IST_STACK_BYTES - 5 * 8) as i32);

/// Offset of the GDT in the vCPU's page.
pub const VCPU_GDT: u64 = 0x800;
/// Offset of the TSS in the vCPU's page.
pub const VCPU_TSS: u64 = 0x900;

/// The message of a panicking kernel, written at most once.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Epitaph {
    /// Bytes used; 0 while the kernel lives.
    pub len: u64,
    /// The text, UTF-8.
    pub text: [u8; 240],
}

/// Segment selectors. SYSRET requires user data to come before user code (SDM 2B, SYSRET: SS =
/// `STAR[63:48]` + 8, CS = `STAR[63:48]` + 16).
pub mod selector {
    /// Kernel code.
    pub const KERNEL_CODE: u16 = 0x08;
    /// Kernel data.
    pub const KERNEL_DATA: u16 = 0x10;
    /// User data, ring 3. Linux's own value, so that signal frames look the same.
    pub const USER_DATA: u16 = 0x2b;
    /// User code, ring 3. Linux's own value.
    pub const USER_CODE: u16 = 0x33;
    /// Task state segment.
    pub const TSS: u16 = 0x40;
    /// `STAR[63:48]`, from which SYSRET derives the two user selectors.
    pub const SYSRET_BASE: u16 = 0x23;
}

/// What the processor pushes for an exception with an error code (SDM 3A, figure 6-9),
/// lowest address first. Stubs of vectors without a code push a zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExceptionFrame {
    /// Error code, or 0.
    pub error: u64,
    /// Where the exception happened.
    pub rip: u64,
    /// Code segment; its low two bits are the ring.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

const _: () = {
    assert!(core::mem::size_of::<KernelInfo>() == 112);
    assert!(offset_of!(VcpuPage, user_rsp) == 0);
    assert!(core::mem::size_of::<VcpuPage>() as u64 <= VCPU_GDT);
    assert!(core::mem::size_of::<ExceptionFrame>() == 48);
};
