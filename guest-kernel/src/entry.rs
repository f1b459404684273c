//! The kernel's entry and exit paths.
//!
//! State on every entry: interrupts, direction flag and trap flag are off (SFMASK, interrupt
//! gates); CR3 and GS base are the program's; RSP is the program's after SYSCALL and the top of an
//! exception stack after an exception.
//!
//! The exit to the VMM is one `OUT` whose port says why, with the program's registers untouched;
//! the VMM changes what the call changes and resumes either after the `OUT` or directly in ring 3.

use core::arch::global_asm;
use core::mem::offset_of;

use abi::call::{CALL_BASE, CALL_FAST_END, CALL_VAS_SWITCH, port};
use abi::layout::{CALL_PAGE_SWITCH_UD2, CALL_PAGE_UD2};
use abi::shared::{KERNEL_ABI, KERNEL_MAGIC, VcpuPage};

use crate::calls::fast_call;
use crate::fail::EPITAPH;

// The entry code handles calls below the switch in Rust and the switch in `switch.rs`, nothing
// else.
const _: () = {
    assert!(CALL_VAS_SWITCH + 1 == CALL_FAST_END);
    assert!(CALL_PAGE_SWITCH_UD2.raw() >> 32 == CALL_PAGE_UD2.raw() >> 32);
};

global_asm!(
    // KernelInfo, field by field; see `abi::shared`.
    ".section .info, \"a\"",
    ".globl sj_info",
    "sj_info:",
    ".quad {magic}, {abi}",
    ".quad sj_syscall, sj_vectors, 16",
    ".quad sj_text_start, sj_text_end, sj_data_end",
    ".quad {epitaph}",
    ".quad sj_sysret_linux, sj_sysret_call",
    ".quad sj_sysret_switch, sj_sysret_take, sj_sysret_give",

    ".section .entry, \"ax\"",
    ".globl sj_leave_call, sj_leave_trapped",

    // SYSCALL enters here: RAX number, RCX return address, R11 flags, RSP the program's. Linux's
    // calls preserve every register but RAX, RCX, R11: nothing else is touched.
    ".balign 64",
    "sj_syscall:",
    "cmp rax, {call_base}",
    "jae 2f",
    "out {port_syscall}, al",
    // The VMM has checked that RCX is canonical: otherwise SYSRET faults in ring 0 (SDM 2B,
    // SYSRET), with the program's RSP.
    "sj_sysret_linux:",
    "sysretq",
    // A SpaceJMP call. RCX and R11 are saved across the Rust callee; the other caller-saved
    // registers are clobbered by contract (abi::call).
    "2:",
    "cmp rax, {switch}",
    "je sj_switch_call",
    "ja sj_leave_call",
    "swapgs",
    "mov gs:[{user_rsp}], rsp",
    "mov rsp, gs:[{call_stack}]",
    "push rcx",
    "push r11",
    "mov rsi, rax",
    "call {fast_call}",
    "pop r11",
    "pop rcx",
    "mov rsp, gs:[{user_rsp}]",
    "swapgs",
    "sj_sysret_call:",
    "sysretq",
    "sj_leave_call:",
    "out {port_call}, al",
    "jmp sj_sysret_linux",

    // UD2. In the call page it is a SpaceJMP call on a host whose SYSCALL does not enter ring 0;
    // anywhere else it is an ordinary exception. Halves are compared, since no register may change
    // and no instruction compares with a 64-bit immediate. The call page has two UD2s: such hosts
    // interpret ring 0, and a choice made in ring 3 costs nothing.
    ".balign 16",
    "sj_invalid_opcode:",
    "cmp dword ptr [rsp + 4], {ud2_high}",
    "jne 4f",
    "cmp dword ptr [rsp], {switch_ud2_low}",
    "je sj_switch_trapped",
    "cmp dword ptr [rsp], {ud2_low}",
    "jne 4f",
    "add qword ptr [rsp], 2",
    "cmp rax, {switch}",
    "jae sj_leave_trapped",
    "mov rsi, rax",
    "call {fast_call}",
    "iretq",
    // Not a call: lay out the stack as the other stubs do.
    "4:",
    "push 0",
    "out {port_exception} + 6, al",
    "ud2",
    "sj_leave_trapped:",
    "push 0",
    "out {port_call_trapped}, al",
    "ud2",

    // A single step (#DB). Some processors raise it after a SYSCALL made with TF set, before the
    // kernel's first instruction, although SFMASK has cleared TF: nothing needs to be done then, as
    // SYSRET sets TF again. No program runs at that address.
    ".balign 16",
    "sj_debug:",
    "cmp qword ptr [rsp], offset sj_syscall",
    "je 5f",
    "push 0",
    "out {port_exception} + 1, al",
    "ud2",
    "5:",
    "iretq",

    // Exceptions: one stub each, 16 bytes apart. A zero is pushed where the processor pushes no
    // error code (SDM 3A, table 6-1). The VMM resumes directly in ring 3; resuming here would be a
    // bug of the VMM, which the UD2 reports.
    ".balign 16",
    "sj_vectors:",
    ".set sj_vector, 0",
    ".rept 32",
    ".balign 16",
    ".if sj_vector == 6",
    "jmp sj_invalid_opcode",
    ".elseif sj_vector == 1",
    "jmp sj_debug",
    ".else",
    ".if sj_vector != 8 && sj_vector != 10 && sj_vector != 11 && sj_vector != 12 && sj_vector != 13 && sj_vector != 14 && sj_vector != 17 && sj_vector != 21 && sj_vector != 29 && sj_vector != 30",
    "push 0",
    ".endif",
    "out {port_exception} + sj_vector, al",
    "ud2",
    ".endif",
    ".set sj_vector, sj_vector + 1",
    ".endr",
    ".text",
    magic = const KERNEL_MAGIC,
    abi = const KERNEL_ABI,
    epitaph = sym EPITAPH,
    call_base = const CALL_BASE,
    switch = const CALL_VAS_SWITCH,
    fast_call = sym fast_call,
    user_rsp = const offset_of!(VcpuPage, user_rsp),
    call_stack = const offset_of!(VcpuPage, call_stack),
    switch_ud2_low = const CALL_PAGE_SWITCH_UD2.raw() as u32 as i32,
    ud2_low = const CALL_PAGE_UD2.raw() as u32 as i32,
    ud2_high = const (CALL_PAGE_UD2.raw() >> 32) as i32,
    port_syscall = const port::SYSCALL,
    port_call = const port::CALL,
    port_call_trapped = const port::CALL_TRAPPED,
    port_exception = const port::EXCEPTION,
);
