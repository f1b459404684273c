//! Raw calls: the call page, and nothing more.
//!
//! A program finds the call page through the auxiliary vector and calls into it; what stands
//! there suits the host (`abi::call`). Outside a VM there is no such page, and every function
//! here says so instead of executing something undefined.

use abi::Errno;
use abi::call::{AT_SPACEJMP, CALL_HYPER_NULL, CALL_NULL};

/// The process does not run under `spacejmp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUnderSpacejmp;

impl std::fmt::Display for NotUnderSpacejmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not running under spacejmp: start the program with `spacejmp run`")
    }
}

impl std::error::Error for NotUnderSpacejmp {}

/// Proof that the process has a call page.
#[derive(Debug, Clone, Copy)]
pub struct CallPage(u64);

impl CallPage {
    /// Looks for the call page of this process.
    ///
    /// # Errors
    /// [`NotUnderSpacejmp`].
    pub fn find() -> Result<CallPage, NotUnderSpacejmp> {
        // SAFETY: reads the auxiliary vector; an unknown type gives 0.
        match unsafe { libc::getauxval(AT_SPACEJMP) } {
            0 => Err(NotUnderSpacejmp),
            page => Ok(CallPage(page)),
        }
    }

    /// Enters the guest kernel and comes back: the least a call can cost.
    ///
    /// # Errors
    /// None from a kernel of this version.
    pub fn null(self) -> Result<u64, Errno> {
        self.call(CALL_NULL, [0; 3])
    }

    /// Goes to the VMM and comes back: the least a hypercall can cost.
    ///
    /// # Errors
    /// None from a VMM of this version.
    pub fn hyper_null(self) -> Result<u64, Errno> {
        self.call(CALL_HYPER_NULL, [0; 3])
    }

    /// Makes call `number`. A number that does not exist gives `ENOSYS`.
    ///
    /// # Errors
    /// Whatever the call says.
    pub fn call(self, number: u32, args: [u64; 3]) -> Result<u64, Errno> {
        let [rdi, rsi, rdx] = args;
        let result: u64;
        // SAFETY: the page was announced by the VMM and holds a function that changes no
        // more than the caller-saved registers, all of which are declared here; it reads and
        // writes no memory of this process for the calls that exist.
        unsafe {
            std::arch::asm!(
                "call {page}",
                page = in(reg) self.0,
                inout("rax") u64::from(number) => result,
                in("rdi") rdi,
                in("rsi") rsi,
                in("rdx") rdx,
                clobber_abi("sysv64"),
            );
        }
        match result as i64 {
            error @ -4095..=-1 => Err(Errno::from_raw(-error as i32)),
            _ => Ok(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_a_vm_there_is_no_call_page() {
        assert_eq!(CallPage::find().map(|_| ()), Err(NotUnderSpacejmp));
        assert!(NotUnderSpacejmp.to_string().contains("spacejmp run"));
    }
}
