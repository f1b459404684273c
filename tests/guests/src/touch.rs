//! One access to one address, and its outcome: a value, or a signal that is survived.
//!
//! The accesses are instructions at known addresses, so that the handler can tell them from any
//! other fault of the program and resume the thread after them.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The outcome of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was made; the word read, or what the code returned, or 0.
    Value(u64),
    /// SIGSEGV, nothing mapped.
    NotMapped,
    /// SIGSEGV, no such right.
    Forbidden,
    /// SIGBUS.
    BeyondFile,
    /// Some other signal or reason: number and code.
    Odd(u64),
}

#[repr(C)]
struct Result {
    value: u64,
    /// 0, or signal number << 32 | code.
    signal: u64,
}

std::arch::global_asm!(
    ".pushsection .text.touch, \"ax\"",
    "touch_read:",
    "xor edx, edx",
    "touch_read_at: mov rax, [rdi]",
    "touch_return: ret",
    "touch_write:",
    "xor edx, edx",
    "xor eax, eax",
    "touch_write_at: mov [rdi], rsi",
    "ret",
    // RAX points to a scratch word: a page of zeroes is a sequence of `add [rax], al`.
    "touch_execute:",
    "xor edx, edx",
    "mov rax, rsi",
    "jmp rdi",
    ".popsection",
);

unsafe extern "C" {
    fn touch_read(address: u64) -> Result;
    fn touch_write(address: u64, value: u64) -> Result;
    fn touch_execute(address: u64, scratch: *const AtomicU64) -> Result;
    static touch_read_at: u8;
    static touch_write_at: u8;
    static touch_return: u8;
}

static FIRST: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);

/// Installs the handler. Instructions are only ever executed at addresses of `code`.
///
/// # Panics
/// If no handler can be installed.
pub fn prepare(code: Range<u64>) {
    FIRST.store(code.start, Ordering::Relaxed);
    LAST.store(code.end, Ordering::Relaxed);
    // SAFETY: zeroes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    let mut failed = 0;
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the handler has the type SA_SIGINFO asks for and does nothing that a signal
        // handler may not do.
        failed |= unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
    assert_eq!(failed, 0);
}

/// Undoes [`prepare`]: the next fault ends the program.
pub fn unprepare() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: sets the default action.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes it to a handler with SA_SIGINFO, for its duration.
    let code = unsafe { (*info).si_code };
    // SAFETY: likewise.
    let regs = unsafe { &mut (*context).uc_mcontext.gregs };
    let rip = regs[libc::REG_RIP as usize] as u64;
    let place = |symbol: *const u8| symbol as u64;
    if rip == place(&raw const touch_read_at) || rip == place(&raw const touch_write_at) {
        // The caller's return address is on top of the stack, as when the access is made.
        regs[libc::REG_RIP as usize] = place(&raw const touch_return) as i64;
    } else if (FIRST.load(Ordering::Relaxed)..LAST.load(Ordering::Relaxed)).contains(&rip) {
        regs[libc::REG_RIP as usize] = place(&raw const touch_return) as i64;
    } else {
        // SAFETY: ends the process; a fault elsewhere is a failure of the test itself.
        unsafe { libc::_exit(99) };
    }
    regs[libc::REG_RDX as usize] = (i64::from(signal) << 32) | i64::from(code as u32);
}

fn seen(result: Result) -> Seen {
    match (result.signal >> 32, result.signal as u32) {
        (0, 0) => Seen::Value(result.value),
        (11, 1) => Seen::NotMapped,
        (11, 2) => Seen::Forbidden,
        (7, 2) => Seen::BeyondFile,
        _ => Seen::Odd(result.signal),
    }
}

/// Reads the word at `address`, once [`prepare`] was called.
///
/// # Safety
/// If something is mapped there, it is memory that others may read at any time.
#[must_use]
pub unsafe fn read(address: u64) -> Seen {
    // SAFETY: makes one access, which is survived when nothing is mapped; the caller vouches
    // for the rest.
    seen(unsafe { touch_read(address) })
}

/// Writes the word at `address`, once [`prepare`] was called.
///
/// # Safety
/// If something is mapped there, it is memory that nothing else uses, or that others may write
/// at any time.
#[must_use]
pub unsafe fn write(address: u64, value: u64) -> Seen {
    // SAFETY: makes one access, which is survived when nothing is mapped; the caller vouches
    // for the rest.
    seen(unsafe { touch_write(address, value) })
}

/// Calls the code at `address`, which lies in the range passed to [`prepare`].
///
/// # Safety
/// Whatever is mapped there returns, and changes nothing but RAX, RDX and what RAX points to.
#[must_use]
pub unsafe fn execute(address: u64) -> Seen {
    static SCRATCH: AtomicU64 = AtomicU64::new(0);
    // SAFETY: survived when nothing is mapped; the caller vouches for the code.
    seen(unsafe { touch_execute(address, &SCRATCH) })
}
