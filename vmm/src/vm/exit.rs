//! Why a vCPU left the guest, decided in one place.
//!
//! KVM's raw exit union is parsed here and nowhere else; all other code uses [`Exit`]. The ring-3
//! state at the time of the exit is in [`super::UserRegs`].

use abi::shared::ExceptionFrame;

/// How a program's call reached the VMM, which determines how to resume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// Through the kernel's SYSCALL entry: the vCPU is after an `OUT` in ring 0.
    Kernel,
    /// Through the gate page, in ring 3 (hosts whose SYSCALL does not enter ring 0).
    Gate,
    /// Through an exception: the vCPU is on an exception stack.
    Trap,
}

/// Why the vCPU left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A Linux call.
    Syscall(Via),
    /// A SpaceJMP call that the kernel did not serve.
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
    /// Another thread requested this one's attention; ring-3 state is valid.
    Kicked,
    /// As [`Exit::Kicked`], but in the middle of the kernel: resume until the kernel exits.
    KickedInKernel,
    /// The host could not provide a page that the guest may access (end of a mapped file).
    HostFault,
    /// The program made an access that no page or port allows, detected directly by the host.
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
