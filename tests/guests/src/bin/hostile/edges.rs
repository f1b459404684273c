//! Edge cases: allocating until memory runs out, registers across `SYSCALL`, signal frames that
//! were tampered with.
//!
//! `sigreturn` changes the interrupted context inside a handler and returns. `rip`
//! and `cs` ask for what cannot be resumed: SIGSEGV; so does the first use of the stack
//! after `rsp`, with SIGBUS. `flags` asks for I/O privilege: it is not
//! granted, the program goes on and exits with 0.

use std::arch::asm;
use std::io::Error;
use std::sync::atomic::{AtomicU32, Ordering};

const MIB: usize = 1 << 20;
const IOPL: u64 = 3 << 12;

/// Maps and touches memory until that fails; natively under its own limit.
pub(crate) fn oom(limit_mib: Option<u64>) {
    if let Some(limit) = limit_mib {
        let limit = libc::rlimit { rlim_cur: limit << 20, rlim_max: limit << 20 };
        // SAFETY: the structure is ours and initialised.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
        assert_eq!(result, 0);
    }
    let chunk = 16 * MIB;
    for count in 0..1 << 16 {
        let (rights, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), chunk, rights, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            let err = Error::last_os_error().raw_os_error() == Some(libc::ENOMEM);
            println!("oom: refused with ENOMEM: {err}, some were given: {}", count > 0);
            return;
        }
        for page in (0..chunk).step_by(4096) {
            // SAFETY: inside the range just mapped.
            unsafe { *at.cast::<u8>().wrapping_add(page) = 1 };
        }
    }
    println!("oom: a terabyte and no end");
}

/// After `SYSCALL`, all but RAX, RCX and R11 are as before.
pub(crate) fn syscall_registers() {
    let kept: u64;
    // SAFETY: getpid touches no memory; every register that changes is declared.
    unsafe {
        asm!(
            "mov rdi, 11", "mov rsi, 12", "mov rdx, 13", "mov r10, 14", "mov r8, 15", "mov r9, 16",
            "mov r12, 17", "mov r13, 18", "mov r14, 19", "mov r15, 20",
            "mov eax, 39",
            "syscall",
            "add rdi, rsi", "add rdi, rdx", "add rdi, r10", "add rdi, r8", "add rdi, r9",
            "add rdi, r12", "add rdi, r13", "add rdi, r14", "add rdi, r15",
            out("rax") _, out("rcx") _, out("r11") _, out("rdi") kept, out("rsi") _, out("rdx") _,
            out("r10") _, out("r8") _, out("r9") _, out("r12") _, out("r13") _, out("r14") _,
            out("r15") _,
        );
    }
    println!("registers kept: {}", kept == (11..=20).sum::<u64>());
}

/// What the handler changes; see the file's head.
static CHANGE: AtomicU32 = AtomicU32::new(0);
const CHANGES: [&str; 4] = ["rip", "rsp", "cs", "flags"];

extern "C" fn handler(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives an SA_SIGINFO handler its own context, valid until it returns.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    match CHANGES[CHANGE.load(Ordering::Relaxed) as usize] {
        "rip" => registers[libc::REG_RIP as usize] = 0x8000_0000_0000_0000_u64 as i64,
        "rsp" => registers[libc::REG_RSP as usize] = 0x8000_0000_0000_0000_u64 as i64,
        // A kernel code selector.
        "cs" => registers[libc::REG_CSGSFS as usize] = 0x10,
        _ => registers[libc::REG_EFL as usize] |= IOPL as i64,
    }
}

/// Raises a signal whose handler returns to a changed context.
pub(crate) fn sigreturn(what: &str) {
    let change = CHANGES.iter().position(|change| *change == what).expect("rip, rsp, cs or flags");
    CHANGE.store(change as u32, Ordering::Relaxed);
    // SAFETY: all zero is a valid sigaction: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler touches only its own context and an atomic.
    let result = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(result, 0);
    // SAFETY: the signal has a handler.
    unsafe { libc::raise(libc::SIGUSR1) };
    let flags: u64;
    // SAFETY: pushes one word and pops it again.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    println!("sigreturn: I/O privilege refused: {}", flags & IOPL == 0);
}
