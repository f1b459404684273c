//! Why a vCPU left the guest, decided once.
//!
//! KVM's raw exit union is parsed here and nowhere else; everything behind works on
//! [`Exit`]. The ring-3 state at the time is in [`super::UserRegs`].

use abi::shared::ExceptionFrame;

/// The way a program's call reached the VMM, which decides how to go back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// Through the kernel's SYSCALL entry: the vCPU stands behind an `OUT` in ring 0.
    Kernel,
    /// Through the gate page, in ring 3 (hosts whose SYSCALL does not enter ring 0).
    Gate,
    /// Through an exception: the vCPU stands on an exception stack.
    Trap,
}

/// Why the vCPU left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A Linux call.
    Syscall(Via),
    /// A SpaceJMP call the kernel did not serve.
    Call(Via),
    /// An exception in ring 3.
    Exception {
        /// The vector (SDM 3A, table 6-1).
        vector: u8,
        /// What the processor pushed.
        frame: ExceptionFrame,
        /// CR2, meaningful for a page fault.
        address: u64,
    },
    /// Another thread wants this one to look up; ring 3 state is valid.
    Kicked,
    /// As [`Exit::Kicked`], but in the middle of the kernel: run on and come back.
    KickedInKernel,
    /// The host could not provide a page the guest may use (end of a mapped file).
    HostFault,
    /// The program did something no page or port allows, seen by the host directly.
    Forbidden {
        /// What it was.
        what: &'static str,
        /// Port or guest-physical address.
        at: u64,
    },
    /// The kernel panicked or faulted.
    KernelDead {
        /// The vector, or `None` for a panic.
        vector: Option<u8>,
        /// Where.
        rip: u64,
        /// CR2.
        address: u64,
    },
    /// The processor gave up (triple fault).
    Shutdown,
    /// KVM gave up on the guest.
    HostGaveUp {
        /// KVM's exit reason and suberror, for the report.
        reason: &'static str,
    },
}
