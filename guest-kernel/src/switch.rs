//! `vas_switch` without leaving the guest, the shortest way: no locks to take or to give back.
//!
//! ```text
//! RDI handle -> announce in the vCPU's line -> look whether all is well -> load CR3
//!                                                no: `locks.rs`, and after it the VMM
//! ```
//!
//! 1. Everything that can be wrong is found before anything but the line has changed; what the
//!    kernel does not serve reaches the VMM with RAX, RDI and all registers a callee keeps as
//!    the program had them. The other caller-saved ones are lost by contract (`abi::call`).
//! 2. A kick may stop the vCPU between any two instructions and resume it there: until CR3 is
//!    loaded the line names both instances, and nothing is used that the VMM may have changed
//!    since it was found good, but what the announcement protects.
//! 3. Each instruction counts on hosts that interpret ring 0, memory operands twice: one
//!    compare finds both handles out of range and locks held, and what has to be 0 in the end
//!    comes out of a compare. There are two versions, because such hosts have no tags and on
//!    the others a needless flush costs more than some instructions.

use core::arch::global_asm;
use core::mem::offset_of;

use abi::call::CALL_VAS_SWITCH;
use abi::layout::{
    INSTANCES, IST_STACK_BYTES, PLAIN_ROOTS, SWITCH_CONTROL, SWITCH_LIVE, VCPU_CALL_STACK,
    VCPU_IST_STACKS,
};
use abi::shared::VcpuPage;
use abi::switch::{CR3_TAG, InstanceEntry, SwitchControl, VcpuLine};
use abi::{GuestVirt, PAGE_SIZE};

use crate::locks::switch_with_locks;

/// From the frame of a trap, five words without an error code, on the first exception stack
/// down to the vCPU's page.
const TRAP_TO_PAGE: i32 = -((VCPU_IST_STACKS + IST_STACK_BYTES - 5 * 8) as i32);
/// From the top of the call stack, likewise.
const TOP_TO_PAGE: i32 = -((VCPU_CALL_STACK + PAGE_SIZE) as i32);

/// An absolute address that an instruction holds as 32 bits, sign-extended.
const fn near(base: GuestVirt, offset: usize) -> i32 {
    let address = base.raw() + offset as u64;
    let short = address as i32;
    assert!(short as i64 as u64 == address);
    short
}

global_asm!(
    ".section .entry, \"ax\"",
    ".globl sj_switch_call, sj_switch_trapped, sj_sysret_switch",

    // By SYSCALL: on no stack; RCX and R11 are SYSCALL's. Uses RAX, RDX, RSI, R8, R9, R10.
    ".balign 16",
    "sj_switch_call:",
    "swapgs",
    "cmp rdi, gs:[{plain_limit}]",
    "jae 4f",
    // Announced before anything is read that the VMM may change: XCHG is a full barrier
    // (SDM 3A, 9.2.5), see `abi::switch`.
    "mov rdx, gs:[{line}]",
    "mov r8, rdi",
    "xchg [rdx + {announced}], r8",
    "mov rax, [{live}]",
    "sub rax, [{seen}]",
    "jne 4f",
    // Where we are: nothing to do, and the TLB is kept.
    "cmp rdi, r8",
    "je 3f",
    "mov r9, [rdi * 8 + {plain_roots}]",
    "test r9, r9",
    "jns 1f",
    // Tagged (abi::tag has the reasons). The generation must be this root's: the root is read
    // again behind it, since the VMM empties it before it writes another generation.
    "mov r10, rdi",
    "shl r10, 6",
    "mov r10, [r10 + {generation}]",
    "cmp r9, [rdi * 8 + {plain_roots}]",
    "jne 4f",
    "mov esi, r9d",
    "and esi, {tag_mask}",
    "mov r8, gs:[{tags}]",
    "cmp r10, [r8 + rsi * 8]",
    "je 2f",
    // The TLB may hold this tag's translations of another generation: flush it on load.
    "mov [r8 + rsi * 8], r10",
    "btr r9, 63",
    "jmp 2f",
    "1:",
    "jz 4f",
    "2:",
    // Every root has the same kernel half: the next instruction is found there.
    "mov cr3, r9",
    "mov [rdx + {inside}], rdi",
    "3:",
    "swapgs",
    "sj_sysret_switch:",
    "sysretq",
    // More than that, on the call stack.
    "4:",
    "mov gs:[{user_rsp}], rsp",
    "mov rsp, gs:[{call_stack}]",
    "lea rsi, [rsp + {top_to_page}]",
    "push rcx",
    "push r11",
    "call {switch_with_locks}",
    "pop r11",
    "pop rcx",
    "mov rsp, gs:[{user_rsp}]",
    "test rax, rax",
    "je 3b",
    // RAX has the call's number, RDX the handle.
    "mov rdi, rdx",
    "swapgs",
    "jmp sj_leave_call",

    // By UD2: RSP at the frame.
    ".balign 16",
    "sj_switch_trapped:",
    "add qword ptr [rsp], 2",
    "cmp rdi, [rsp + {trap_to_page} + {plain_limit}]",
    "jae 4f",
    "mov rdx, [rsp + {trap_to_page} + {line}]",
    "mov r8, rdi",
    "xchg [rdx + {announced}], r8",
    "mov rax, [{live}]",
    "sub rax, [{seen}]",
    "jne 4f",
    // To where we are, too: that is cheaper here than to ask.
    "mov rcx, [rdi * 8 + {plain_roots}]",
    "jrcxz 4f",
    "mov cr3, rcx",
    "mov [rdx + {inside}], rdi",
    "iretq",
    "4:",
    "lea rsi, [rsp + {trap_to_page}]",
    "call {switch_with_locks}",
    "test rax, rax",
    "jne 5f",
    "iretq",
    "5:",
    "mov rdi, rdx",
    "jmp sj_leave_trapped",
    ".text",
    switch_with_locks = sym switch_with_locks,
    trap_to_page = const TRAP_TO_PAGE,
    top_to_page = const TOP_TO_PAGE,
    user_rsp = const offset_of!(VcpuPage, user_rsp),
    call_stack = const offset_of!(VcpuPage, call_stack),
    line = const offset_of!(VcpuPage, line),
    tags = const offset_of!(VcpuPage, tags),
    plain_limit = const offset_of!(VcpuPage, plain_limit),
    seen = const near(SWITCH_CONTROL, offset_of!(SwitchControl, seen)),
    live = const near(SWITCH_LIVE, 0),
    announced = const offset_of!(VcpuLine, announced),
    inside = const offset_of!(VcpuLine, inside),
    plain_roots = const near(PLAIN_ROOTS, 0),
    generation = const near(INSTANCES, offset_of!(InstanceEntry, generation)),
    tag_mask = const CR3_TAG,
);

// The tagged way's shift.
const _: () = assert!(size_of::<InstanceEntry>() == 1 << 6 && CALL_VAS_SWITCH != 0);
