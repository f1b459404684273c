//! The call page: how a call is made, not what the calls do.
//!
//! A program finds the call page through the auxiliary vector and calls into it; the code there
//! suits the host (`abi::call`). Outside a VM there is no such page, and every function here says
//! so instead of executing something undefined.
//!
//! The page's address never changes while a process lives, so it is looked up once and kept
//! in a word of its own. That is an atomic and not a `OnceLock`: "not looked up" and "where"
//! are then one value, and a switch is a load, a test and a call.

use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::call::AT_SPACEJMP;

/// The page's address, 0 until it has been looked up with success.
static PAGE: AtomicU64 = AtomicU64::new(0);

/// The process does not run under `spacejmp`.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not running under spacejmp: start the program with `spacejmp run`")]
pub struct NotUnderSpacejmp;

/// Proof that the process has a call page.
#[derive(Debug, Clone, Copy)]
pub struct CallPage(u64);

impl CallPage {
    /// The call page of this process; cheap after the first time.
    ///
    /// # Errors
    /// [`NotUnderSpacejmp`].
    #[inline]
    pub fn find() -> Result<CallPage, NotUnderSpacejmp> {
        // Relaxed: the address is all there is, nothing is published with it.
        match PAGE.load(Ordering::Relaxed) {
            0 => CallPage::look_up(),
            page => Ok(CallPage(page)),
        }
    }

    #[cold]
    fn look_up() -> Result<CallPage, NotUnderSpacejmp> {
        // It has no auxiliary vector, and could not call the page either.
        if cfg!(miri) {
            return Err(NotUnderSpacejmp);
        }
        // SAFETY: reads the auxiliary vector; an unknown type gives 0.
        let page = unsafe { libc::getauxval(AT_SPACEJMP) };
        PAGE.store(page, Ordering::Relaxed);
        if page == 0 { Err(NotUnderSpacejmp) } else { Ok(CallPage(page)) }
    }

    /// Makes call `number` with `args` in RDI, RSI, RDX, R10, R8 and R9. A number that does
    /// not exist gives `ENOSYS`.
    ///
    /// # Errors
    /// The call's error.
    ///
    /// # Safety
    /// As the call's documentation says: addresses among `args` must be of memory that the
    /// call may read or write, and after a switch no reference into the address space that
    /// was left may be used ([`crate::sys::vas_switch`]).
    #[inline(always)]
    pub unsafe fn call(self, number: u32, args: [u64; 6]) -> Result<u64, Errno> {
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        let result: u64;
        // SAFETY: the VMM announced the page, and it holds a function that changes no more than the
        // caller-saved registers, all of which are declared here. Memory is taken to be read and
        // written (no `nomem`), as the caller vouches for.
        unsafe {
            std::arch::asm!(
                "call {page}",
                page = in(reg) self.0,
                inout("rax") u64::from(number) => result,
                in("rdi") rdi,
                in("rsi") rsi,
                in("rdx") rdx,
                in("r10") r10,
                in("r8") r8,
                in("r9") r9,
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
        for _ in 0..2 {
            assert_eq!(CallPage::find().map(|_| ()), Err(NotUnderSpacejmp));
        }
        assert!(NotUnderSpacejmp.to_string().contains("spacejmp run"));
    }

    /// Stands in for the call page: folds its six arguments and the number into one value,
    /// so that swapped registers show, and changes what it may change.
    #[unsafe(naked)]
    extern "sysv64" fn stand_in() {
        std::arch::naked_asm!(
            "imul rdi, rdi, 2",
            "imul rsi, rsi, 3",
            "imul rdx, rdx, 5",
            "imul r10, r10, 7",
            "imul r8, r8, 11",
            "imul r9, r9, 13",
            "add rax, rdi",
            "add rax, rsi",
            "add rax, rdx",
            "add rax, r10",
            "add rax, r8",
            "add rax, r9",
            "mov rcx, -1",
            "mov rdx, rcx",
            "mov rsi, rcx",
            "mov rdi, rcx",
            "mov r8, rcx",
            "mov r9, rcx",
            "mov r10, rcx",
            "mov r11, rcx",
            "pcmpeqd xmm0, xmm0",
            "pcmpeqd xmm15, xmm15",
            "ret",
        )
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs no assembly")]
    fn six_arguments_arrive_in_their_registers_and_what_is_clobbered_is_declared() {
        let page = CallPage(stand_in as *const () as u64);
        let kept: [f64; 4] = std::hint::black_box([0.5, 1.5, 2.5, 3.5]);
        let doubled = kept.map(|value| value * 2.0);
        // SAFETY: the stand-in touches no memory.
        let result = unsafe { page.call(1, [100, 200, 300, 400, 500, 600]) };
        assert_eq!(result, Ok(1 + 200 + 600 + 1500 + 2800 + 5500 + 7800));
        assert_eq!(doubled, [1.0, 3.0, 5.0, 7.0]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs no assembly")]
    fn negated_error_numbers_are_errors_and_other_results_are_not() {
        let page = CallPage(stand_in as *const () as u64);
        let with = |value: i64| {
            // Twice one half: the stand-in doubles its first argument.
            let number = (value & 1) as u32;
            let half = value.wrapping_sub(i64::from(number)) / 2;
            // SAFETY: the stand-in touches no memory.
            unsafe { page.call(number, [half as u64, 0, 0, 0, 0, 0]) }
        };
        assert_eq!(with(-38), Err(Errno::ENOSYS));
        assert_eq!(with(-4095), Err(Errno::from_raw(4095)));
        assert_eq!(with(-4096), Ok(-4096i64 as u64));
        assert_eq!(with(0x7fff_ffff), Ok(0x7fff_ffff));
    }
}
