//! `vas_switch` without leaving the guest.
//!
//! ```text
//! RDI handle -> announce in the vCPU's line -> look whether all is well -> load CR3
//!                                                    no: take the announcement back,
//!                                                        leave the call to the VMM
//! ```
//!
//! 1. Everything that can be wrong is found before anything but the line has changed; what the
//!    kernel does not serve reaches the VMM with RAX, RDI and all registers a callee keeps as
//!    the program had them. The other caller-saved ones are lost by contract (`abi::call`).
//! 2. A kick may stop the vCPU between any two instructions and resume it there: until CR3 is
//!    loaded the line names both instances, and everything is read again or checked again
//!    that must not be from before and after a change by the VMM.
//! 3. Both ways in run the same code; they differ in how they find the vCPU's page: through
//!    GS, or at a fixed distance from the exception's frame.

use core::arch::global_asm;
use core::mem::offset_of;

use abi::call::CALL_VAS_SWITCH;
use abi::layout::{
    INSTANCES, IST_STACK_BYTES, SWITCH_CONTROL, SWITCH_LIVE, VCPU_IST_STACKS,
};
use abi::shared::VcpuPage;
use abi::switch::{CR3_TAG, InstanceEntry, SwitchControl, VcpuLine};

/// Bytes of an exception's frame without an error code.
const FRAME: u64 = 5 * 8;
/// From the frame of a trap on the first exception stack down to the vCPU's page.
const TRAP_TO_PAGE: i32 = -((VCPU_IST_STACKS + IST_STACK_BYTES - FRAME) as i32);

/// An absolute address that an instruction holds as 32 bits, sign-extended.
const fn near(address: u64) -> i32 {
    let short = address as i32;
    assert!(short as i64 as u64 == address);
    short
}

const CONTROL: u64 = SWITCH_CONTROL.raw();

global_asm!(
    ".section .entry, \"ax\"",
    ".globl sj_switch_call, sj_switch_trapped",

    // page: how an operand in the vCPU's page begins and ends; slow: where to go with what
    // is not served here, the announcement standing; wrong: likewise, nothing announced.
    // Uses RAX, RDX, RSI, R8, R9, R10. RCX and R11 are SYSCALL's.
    ".macro sj_switch page, slow, wrong",
    "mov rdx, \\page\\(){line}]",
    "cmp rdi, [{handles}]",
    "jae \\wrong",
    // Below `MAX_INSTANCES`: 32 bits are enough for the offset.
    "mov esi, edi",
    "shl esi, 6",
    // Announced before anything is read that the VMM may change: XCHG is a full barrier
    // (SDM 3A, 9.2.5), see `abi::switch`.
    "mov r8, rsi",
    "xchg [rdx + {announced}], r8",
    "mov r9, [{live}]",
    "cmp r9, [{seen}]",
    "jne \\slow",
    // Where we are: nothing to do.
    "cmp rsi, r8",
    "je 3f",
    "cmp dword ptr \\page\\(){held_count}], 0",
    "jne \\slow",
    "mov r9, [rsi + {plain_cr3}]",
    "test r9, r9",
    "jns 1f",
    // Tagged. The generation must be this root's: the root is read again behind it, since
    // the VMM empties it before it writes another generation.
    "mov r10, [rsi + {generation}]",
    "cmp r9, [rsi + {plain_cr3}]",
    "jne \\slow",
    "mov eax, r9d",
    "and eax, {tag_mask}",
    "mov r8, \\page\\(){tags}]",
    "cmp r10, [r8 + rax * 8]",
    "je 2f",
    // The TLB may hold this tag's translations of another generation: flush it on load.
    "mov [r8 + rax * 8], r10",
    "btr r9, 63",
    "jmp 2f",
    "1:",
    "jz \\slow",
    "2:",
    // Every root has the same kernel half: the next instruction is found there.
    "mov cr3, r9",
    "mov [rdx + {inside}], rsi",
    "3:",
    "xor eax, eax",
    ".endm",

    // By SYSCALL: on no stack, GS the kernel's.
    ".balign 16",
    "sj_switch_call:",
    "swapgs",
    "sj_switch \"gs:[\", 4f, 5f",
    "swapgs",
    "sj_sysret_switch:",
    "sysretq",
    "4:",
    "mov [rdx + {announced}], r8",
    "mov eax, {switch}",
    "5:",
    "swapgs",
    "jmp sj_leave_call",

    // By UD2: RSP at the frame.
    ".balign 16",
    "sj_switch_trapped:",
    "sj_switch \"[rsp + {trap_to_page} + \", 4f, sj_leave_trapped",
    "iretq",
    "4:",
    "mov [rdx + {announced}], r8",
    "mov eax, {switch}",
    "jmp sj_leave_trapped",
    ".text",
    switch = const CALL_VAS_SWITCH,
    trap_to_page = const TRAP_TO_PAGE,
    line = const offset_of!(VcpuPage, line),
    tags = const offset_of!(VcpuPage, tags),
    held_count = const offset_of!(VcpuPage, held_count),
    handles = const near(CONTROL + offset_of!(SwitchControl, handles) as u64),
    seen = const near(CONTROL + offset_of!(SwitchControl, seen) as u64),
    live = const near(SWITCH_LIVE.raw()),
    announced = const offset_of!(VcpuLine, announced),
    inside = const offset_of!(VcpuLine, inside),
    plain_cr3 = const near(INSTANCES.raw() + offset_of!(InstanceEntry, plain_cr3) as u64),
    generation = const near(INSTANCES.raw() + offset_of!(InstanceEntry, generation) as u64),
    tag_mask = const CR3_TAG,
);
