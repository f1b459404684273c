//! One access to one address, and what came of it: a value, or a signal that is survived.
//!
//! The accesses are instructions of known places, so that the handler can tell them from any
//! other fault of the program and send the thread on behind them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Where in a page its code is: `mov eax, IMM; ret`.
pub(crate) const CODE_AT: usize = 0x800;

/// What is written: eight `ret`, for a thread that runs off the end of the page before.
const RETURNS: u64 = 0xc3c3_c3c3_c3c3_c3c3;

/// How an access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads the word at the start of the page.
    Read,
    /// Writes a word of the calling thread's own.
    Write,
    /// Calls the page's code.
    Execute,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
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
    // RAX points to a word that may be spoilt: a page of zeroes is a row of `add [rax], al`.
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

/// Installs the handler. Instructions are only ever executed between `first` and `last`.
pub(crate) fn prepare(first: u64, last: u64) {
    FIRST.store(first, Ordering::Relaxed);
    LAST.store(last, Ordering::Relaxed);
    // SAFETY: zeroes are a valid `sigaction`; the handler is of the type SA_SIGINFO asks for
    // and does nothing that a signal handler may not do.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut())
            | libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    assert_eq!(failed, 0);
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel hands both to a handler with SA_SIGINFO, for its duration.
    let (code, regs) = unsafe { ((*info).si_code, &mut (*context).uc_mcontext.gregs) };
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

/// Makes the access to `page`, an address [`prepare`] was told of. Writes go to the word
/// `own` of the page.
pub(crate) fn touch(page: u64, access: Access, own: u64) -> Seen {
    static SCRATCH: AtomicU64 = AtomicU64::new(0);
    // SAFETY: each makes one access, and survives it when there is nothing there; written is
    // a word nobody keeps anything in. Code in the pages, whatever state they are in, only
    // adds to the scratch word and returns (see `stamp` in main.rs).
    let result = unsafe {
        match access {
            Access::Read => touch_read(page),
            Access::Write => touch_write(page + 64 * (own + 1), RETURNS),
            Access::Execute => touch_execute(page + CODE_AT as u64, &SCRATCH),
        }
    };
    match (result.signal >> 32, result.signal as u32) {
        (0, 0) => Seen::Value(result.value),
        (11, 1) => Seen::NotMapped,
        (11, 2) => Seen::Forbidden,
        (7, 2) => Seen::BeyondFile,
        _ => Seen::Odd(result.signal),
    }
}
