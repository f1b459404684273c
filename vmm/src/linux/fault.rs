//! What a fault of the program is to Linux: the signal, its `siginfo`, and a description.
//!
//! `signal::deliver` delivers it to a handler.

use super::sigframe::TrapInfo;
use super::signal::info::{SI_KERNEL, SigInfo};
use crate::stats::FaultKind;

/// A fault of the program: a signal for the thread that raised it.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The `siginfo` for the handler.
    pub info: SigInfo,
    /// What the saved context holds.
    pub trap: TrapInfo,
    /// What happened, for a person.
    pub what: String,
}

impl Fault {
    /// A bad memory access. `mapped` distinguishes a forbidden access from a missing mapping.
    #[must_use]
    pub fn segv(address: u64, mapped: bool, error: u64) -> Fault {
        let code = if mapped { 2 } else { 1 };
        let verb = match error {
            e if e & 16 != 0 => "jumped to",
            e if e & 2 != 0 => "wrote to",
            _ => "read from",
        };
        let why = if mapped { "which does not allow it" } else { "where nothing is mapped" };
        let what = format!("it {verb} {address:#x}, {why}");
        let info = SigInfo::new(libc::SIGSEGV, code, address);
        Fault { info, trap: TrapInfo { trapno: 14, error, address }, what }
    }

    /// An access beyond the end of a mapped file.
    #[must_use]
    pub fn bus(address: u64) -> Fault {
        let info = SigInfo::new(libc::SIGBUS, 2, address);
        let what = format!("it used {address:#x}, beyond the end of the mapped file");
        Fault { info, trap: TrapInfo { trapno: 14, error: 4, address }, what }
    }

    /// An access for which the host has no memory, because of `cause`; `address` is 0 if it could
    /// not be determined.
    #[must_use]
    pub fn unbacked(address: u64, cause: &str) -> Fault {
        let what = match address {
            0 => format!("it used memory that the host cannot give: {cause}"),
            at => format!("it used {at:#x}, which the host cannot give: {cause}"),
        };
        Fault { what, ..Fault::bus(address) }
    }

    /// An access that the VMM found before the processor did.
    #[must_use]
    pub fn forbidden(what: &str, at: u64) -> Fault {
        let info = SigInfo::new(libc::SIGSEGV, SI_KERNEL, 0);
        Fault {
            info,
            trap: TrapInfo { trapno: 13, ..TrapInfo::default() },
            what: format!("it {what} ({at:#x})"),
        }
    }

    /// Any exception but a page fault (SDM 3A, table 6-1), as Linux maps it.
    #[must_use]
    pub fn from_vector(vector: u8, error: u64) -> Fault {
        let (signo, code, what) = match vector {
            0 => (libc::SIGFPE, 1, "it divided by zero, or the quotient did not fit"),
            1 => (libc::SIGTRAP, 2, "it was single-stepped"),
            3 => (libc::SIGTRAP, SI_KERNEL, "it ran into a breakpoint"),
            4 => (libc::SIGSEGV, SI_KERNEL, "it raised an overflow exception"),
            5 => (libc::SIGSEGV, SI_KERNEL, "an index was out of bounds"),
            6 => (libc::SIGILL, 2, "it executed an instruction that does not exist"),
            12 => (libc::SIGBUS, SI_KERNEL, "its stack pointer is impossible"),
            13 => (
                libc::SIGSEGV,
                SI_KERNEL,
                "it executed a privileged instruction or used an impossible address",
            ),
            16 | 19 => (libc::SIGFPE, 3, "it raised a floating-point exception"),
            17 => (libc::SIGBUS, 1, "an access was not aligned"),
            _ => (libc::SIGSEGV, SI_KERNEL, "it raised an exception no program should"),
        };
        let info = SigInfo::new(signo, code, 0);
        let trap = TrapInfo { trapno: u64::from(vector), error, address: 0 };
        Fault { info, trap, what: what.to_owned() }
    }

    /// Completes it: for some signals, si_addr is the instruction.
    pub(super) fn locate(&mut self, rip: u64) {
        let is_of_code = matches!(self.info.signo, libc::SIGFPE | libc::SIGILL | libc::SIGTRAP);
        if is_of_code && self.info.value == 0 {
            self.info.value = rip;
        }
    }

    /// How the statistics count it; page faults were counted where they were handled.
    pub(super) fn kind(&self) -> Option<FaultKind> {
        match self.trap.trapno {
            14 => None,
            0 => Some(FaultKind::Divide),
            1 | 3 => Some(FaultKind::Breakpoint),
            6 => Some(FaultKind::InvalidOpcode),
            13 => Some(FaultKind::GeneralProtection),
            16 | 19 => Some(FaultKind::FloatingPoint),
            _ => Some(FaultKind::Other),
        }
    }
}
