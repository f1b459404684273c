//! One instruction each that a program may not execute.

use std::arch::asm;

/// Neither mapped nor null.
const NOWHERE: usize = 0x1234_5000;

/// A `ret`, in data.
static DATA: [u8; 16] = [0xc3; 16];

fn jump(to: usize) {
    // SAFETY: not safe and not meant to be: the jump faults, natively and in a VM.
    unsafe { asm!("call {}", in(reg) to, clobber_abi("C")) }
}

pub(crate) fn jump_nowhere() {
    jump(NOWHERE);
}

pub(crate) fn exec_data() {
    jump(DATA.as_ptr() as usize);
}

pub(crate) fn null_write() {
    // SAFETY: the write faults; nothing is at address 0.
    unsafe { asm!("mov byte ptr [{}], 1", in(reg) 0_usize) }
}

/// Executes an instruction of ring 0.
pub(crate) fn privileged(what: &str) {
    match what {
        // SAFETY: all of these fault in ring 3 and change nothing.
        "hlt" => unsafe { asm!("hlt") },
        // SAFETY: as above.
        "cli" => unsafe { asm!("cli") },
        // SAFETY: as above.
        "cr3" => unsafe { asm!("mov cr3, {}", in(reg) 0_usize) },
        // SAFETY: as above.
        "lgdt" => unsafe { asm!("lgdt [{}]", in(reg) DATA.as_ptr()) },
        // SAFETY: as above. 0xc0000082 is LSTAR, where system calls go.
        "wrmsr" => unsafe {
            asm!("wrmsr", in("ecx") 0xc000_0082_u32, in("eax") 0, in("edx") 0);
        },
        other => panic!("no instruction {other}"),
    }
}

/// Writes to every I/O port: the VMM's own doorbell may be among them.
pub(crate) fn out() {
    for port in 0..=u16::MAX {
        // SAFETY: faults without I/O privilege, which a program does not have.
        unsafe { asm!("out dx, eax", in("dx") port, in("eax") 0x5ace_u32) }
    }
}

pub(crate) fn ud2() {
    // SAFETY: faults.
    unsafe { asm!("ud2") }
}

pub(crate) fn divide() {
    let quotient: u32;
    // SAFETY: faults: the divisor is 0.
    unsafe { asm!("div {:e}", in(reg) 0, inout("eax") 1_u32 => quotient, inout("edx") 0 => _) }
    println!("1 / 0 = {quotient}");
}

/// The 32-bit system call gate: getpid.
pub(crate) fn int80() {
    let result: u32;
    // SAFETY: number 20 is getpid in the 32-bit table; r8 to r11 may be lost.
    unsafe {
        asm!("int 0x80", inout("eax") 20_u32 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    println!("int80: it is our pid: {}", result == std::process::id());
}
