//! How a program's memory is accessed, and how a page fault ends: the types shared by the private
//! region (`private`) and the attached segments (`vas`).
//!
//! This module is below both, so that neither imports the other; `user_memory` is above both and
//! decides which of them an address belongs to.
#![forbid(unsafe_code)]

/// How data in memory is accessed, by the program or by a system call on its behalf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryAccess {
    /// Read it.
    Read,
    /// Write it.
    Write,
}

/// What the program was doing at a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultCause {
    /// It read or wrote data.
    Data(MemoryAccess),
    /// It fetched an instruction.
    Fetch,
}

/// Bits of a page fault's error code (SDM 3A, 4.7).
const ERROR_WRITE: u64 = 1 << 1;
const ERROR_FETCH: u64 = 1 << 4;

impl FaultCause {
    /// The cause of a page fault with this error code.
    #[must_use]
    pub fn of(error: u64) -> FaultCause {
        match (error & ERROR_FETCH != 0, error & ERROR_WRITE != 0) {
            (true, _) => FaultCause::Fetch,
            (false, true) => FaultCause::Data(MemoryAccess::Write),
            (false, false) => FaultCause::Data(MemoryAccess::Read),
        }
    }
}

/// How a page fault of the program was dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// The page is present now; resume the program.
    Resolved,
    /// Nothing is mapped at the address (SEGV_MAPERR).
    Unmapped,
    /// What is mapped there does not allow the access (SEGV_ACCERR).
    Forbidden,
    /// The page lies beyond the end of the mapped file (BUS_ADRERR).
    BeyondFile,
    /// There is no memory for it, and no space on the store's disk.
    NoRoom,
    /// The VM's memory is used up.
    OutOfMemory,
}
