//! The handle of an instance of an address space, which calls take and return.

use abi::objects::VH_HOME;

/// An instance of an address space in this process: what [`vas_attach`](crate::sys::vas_attach)
/// returns. It means nothing in another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct VasHandle(u64);

impl VasHandle {
    /// The process's own address space, in which every thread starts.
    pub const HOME: VasHandle = VasHandle(VH_HOME);

    /// A handle from its number. Calls refuse numbers that name no instance.
    #[must_use]
    pub const fn from_raw(raw: u64) -> VasHandle {
        VasHandle(raw)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
}
