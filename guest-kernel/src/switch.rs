//! The fast path of `vas_switch`, without an exit.
//!
//! ```text
//! RDI handle -> announce in the vCPU's status entry -> check that nothing has changed
//!     -> acquire the locks that are needed, or release those held -> load CR3
//!        or, to read versioned segments: check that there is no newer version -> load CR3
//!        or, to write one: acquire its lock -> check that this VM was the last writer -> load CR3
//! otherwise: both of these, a lock that is not free, ... -> `locks.rs`, then the VMM
//! ```
//!
//! 1. Everything that can be wrong is found before anything but the status entry has changed, or is
//!    undone by `locks.rs`; what the kernel does not serve reaches the VMM with RAX, RDI and all
//!    callee-saved registers as the program had them. The other caller-saved registers are
//!    clobbered by contract (`abi::call`).
//! 2. A kick may stop the vCPU between any two instructions and resume it there: until CR3 is
//!    loaded, the status entry names both instances, and nothing is used that the VMM may have
//!    changed since it was checked, except what the announcement protects.
//! 3. Each instruction counts on hosts that interpret ring 0, and memory operands count twice: one
//!    compare detects both handles out of range and locks held, and what has to be 0 in the end is
//!    the result of a compare. There are two versions of each path, because such hosts have no
//!    tags, and on the others a needless flush costs more than some instructions.
//!
//! The lock algorithm is `seg_lock`'s; its two shortest paths, `acquire` and `release` of an
//! uncontended lock, are repeated here in assembly. `vmm/tests/kernel_image` counts the
//! instructions of all paths, `tests/ring3/switch_locks.rs` runs them.

use core::arch::global_asm;
use core::mem::{offset_of, size_of};

use abi::call::CALL_VAS_SWITCH;
use abi::layout::{
    CALL_PAGE_SWITCH_UD2, LIVE_PUBLISHED, LOCK_RANGES, LOCK_REFS, PLAIN_GENERATIONS, PLAIN_ROOTS,
    SWITCH_CONTROL, SWITCH_LIVE, VCPU_CALL_STACK, VIEW_ROOTS, VIEW_STAMPS,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::{TRAP_TO_PAGE, VcpuPage};
use abi::switch::{
    CR3_TAG, LockEnd, LockRef, SwitchControl, VIEW_WRITES, VcpuStatus, ViewRecord, WORDS_COUNT,
    WORDS_FAILURES, WriteRecord,
};
use abi::{GuestVirt, PAGE_SIZE};
use seg_lock::{state, word};

use crate::locks::{FLUSH, PARTIAL, switch_with_locks};

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
    ".globl sj_switch_call, sj_switch_trapped",
    ".globl sj_sysret_switch, sj_sysret_take, sj_sysret_give",

    // In the macros, `page` is the start of an operand in the vCPU's page, `tagged` whether there
    // may be tags, `note` the instruction that records whether locks are held, and `back` the
    // return to the program. RCX and R11 belong to SYSCALL; RAX, RDX, RSI, R8, R9, R10 are used.
    //
    // Announced before reading anything that the VMM may change: XCHG is a full barrier (SDM 3A,
    // 9.2.5), see `abi::switch`. Jumps to 4 if a VAS has changed; leaves 0 in RAX, the status
    // entry's address in RDX, the current instance in R8.
    ".macro sj_announce page",
    "mov rdx, \\page\\(){status}]",
    "mov r8, rdi",
    "xchg [rdx + {announced}], r8",
    "mov rax, [{live}]",
    "sub rax, [{seen}]",
    "jne 4f",
    ".endm",

    // R9 is a tagged root, R10 its generation; `index` and `table` are free registers. If the TLB
    // may hold this tag's translations from another generation, clears bit 63 of R9 so that they
    // are flushed (abi::tag). Otherwise jumps to `kept`.
    ".macro sj_tag page, index, index32, table, kept",
    "mov \\index32, r9d",
    "and \\index32, {tag_mask}",
    "mov \\table, \\page\\(){tags}]",
    "cmp r10, [\\table + \\index * 8]",
    "je \\kept",
    "mov [\\table + \\index * 8], r10",
    "btr r9, 63",
    ".endm",

    // Announced, no lock is held, and the instance is not plain: acquires its locks. RAX and `range`
    // are 0. Jumps to 34 if it needs none: with the record's address in `range`, and the flags of that, if
    // versioned segments are shown instead; with 0 if it is the VMM's.
    ".macro sj_take page, tagged, range, range32, note, back",
    "add \\range, [rdi * 8 + {lock_ranges}]",
    "jle 34f",
    "mov \\page\\(){held}], \\range",
    // Upper half: offset of the references; lower half: their number.
    "mov r8, \\range",
    "shr r8, 32",
    // RAX is 0 before and after each lock.
    "10:",
    "mov rsi, [r8 + {ref_page}]",
    "mov r10d, [r8 + {ref_slot}]",
    "cmp dword ptr [r8 + {ref_exclusive}], 0",
    "je 12f",
    "inc r10d",
    "lock cmpxchg [rsi + {state}], r10",
    "jne 14f",
    "add r8, {ref_bytes}",
    "dec \\range32",
    "jnz 10b",
    "11:",
    "\\note",
    // The list's end has its root and generation: the range was one load, so everything is
    // consistent.
    "mov r9, [r8 + {end_cr3}]",
    ".if \\tagged",
    "test r9, r9",
    "jns 2f",
    "mov r10, [r8 + {end_generation}]",
    "sj_tag \"\\page\", rsi, esi, r8, 2f",
    ".endif",
    "2:",
    "mov cr3, r9",
    "mov [rdx + {inside}], rdi",
    "\\back",
    // A reader announces itself, then checks the state.
    "12:",
    "lock inc qword ptr [rsi + r10 * 8 + {reader_counts}]",
    "mov eax, [rsi + {state}]",
    "and eax, {reader_looks_at}",
    "xor eax, {readers}",
    "jne 13f",
    "add r8, {ref_bytes}",
    "dec \\range32",
    "jnz 10b",
    "jmp 11b",
    "13:",
    "lock dec qword ptr [rsi + r10 * 8 + {reader_counts}]",
    // Could not be acquired on this path: only those before it are held.
    "14:",
    "sub dword ptr \\page\\(){held}], \\range32",
    "mov edx, {partial}",
    "jmp 5f",
    ".endm",

    // The store's word is not the view's stamp: versions were published, here or elsewhere. `record` is
    // the address of the view's first record; `cursor` is a free register. Jumps to 31 if there is a newer
    // version of one of its segments; the VMM looks for it then. Otherwise leaves 0 in RAX.
    ".macro sj_look record, cursor",
    "mov \\cursor, \\record",
    "36:",
    "mov rax, [\\cursor + {view_word}]",
    "sub rax, [\\cursor + {view_count}]",
    "jne 31f",
    "mov \\cursor, [\\cursor + {view_next}]",
    "test \\cursor, \\cursor",
    "jnz 36b",
    ".endm",

    // `record` is the address of a view's record that is not the newest, or of a writer's. If it is
    // a writer's, and the thread comes from home (from a view it must not go on to write a newer version),
    // acquires the segment's lock, enters as a reader does, and leaves all further switches to the VMM:
    // leaving is committing. Otherwise jumps to 32. Once the lock is held nobody changes the record.
    ".macro sj_write page, record",
    "mov rsi, [\\record + {write_lock}]",
    "test rsi, rsi",
    "jz 32f",
    "test r8, r8",
    "jnz 32f",
    "mov r10, [\\record + {write_owner}]",
    "xor eax, eax",
    "lock cmpxchg [rsi + {state}], r10",
    "jne 32f",
    "mov rax, [\\record + {write_word}]",
    "add rax, [\\record + {write_failures}]",
    "sub rax, [\\record + {write_count}]",
    "jne 33f",
    "mov \\record, [\\record + {write_cr3}]",
    "test \\record, \\record",
    "jz 33f",
    // RAX is 0 again.
    "lea rsi, [\\record + {view_writes}]",
    "mov \\page\\(){view}], rsi",
    "mov \\page\\(){plain_limit}], rax",
    "mov \\page\\(){kernel_limit}], rax",
    ".endm",

    // Not what `sj_write` found when it had the lock: given back. Threads that came to wait for it
    // meanwhile are woken by the VMM, to which this call goes.
    ".macro sj_write_not",
    "lock sub [rsi + {state}], r10",
    ".endm",

    // Nothing has happened but the announcement, which is taken back; the call is the VMM's.
    ".macro sj_take_back",
    "mov rax, [rdx + {inside}]",
    "mov [rdx + {announced}], rax",
    "mov eax, {call_switch}",
    ".endm",

    // Locks are held, or the handle is out of range: if the target is a plain instance, switches
    // there and releases the locks.
    ".macro sj_give page, tagged, note, back",
    "mov rsi, \\page\\(){held}]",
    "mov r8, rsi",
    "shr r8, 32",
    "jz 4f",
    "cmp rdi, {max_instances}",
    "jae 4f",
    "mov rdx, \\page\\(){status}]",
    "mov rax, rdi",
    "xchg [rdx + {announced}], rax",
    "mov rax, [{live}]",
    "sub rax, [{seen}]",
    "jne 4f",
    "mov r9, [rdi * 8 + {plain_roots}]",
    "test r9, r9",
    "jz 4f",
    ".if \\tagged",
    "jns 20f",
    "mov r10, [rdi * 8 + {plain_generations}]",
    "cmp r9, [rdi * 8 + {plain_roots}]",
    "jne 4f",
    "sj_tag \"\\page\", rax, eax, rdx, 20f",
    ".endif",
    "20:",
    "mov rax, [r8 + {ref_page}]",
    "mov edx, [r8 + {ref_slot}]",
    "cmp dword ptr [r8 + {ref_exclusive}], 0",
    "je 22f",
    // Minus the owner, which is the slot plus 1.
    "not rdx",
    "lock xadd [rax + {state}], rdx",
    "test edx, {waiters}",
    "jnz 23f",
    "add r8, {ref_bytes}",
    "dec esi",
    "jnz 20b",
    "21:",
    "mov qword ptr \\page\\(){held}], 0",
    "\\note",
    "mov rdx, \\page\\(){status}]",
    "mov cr3, r9",
    "mov [rdx + {inside}], rdi",
    "xor eax, eax",
    "\\back",
    "22:",
    "lock dec qword ptr [rax + rdx * 8 + {reader_counts}]",
    "test dword ptr [rax + {state}], {waiters}",
    "jnz 23f",
    "add r8, {ref_bytes}",
    "dec esi",
    "jnz 20b",
    "jmp 21b",
    // It has waiters: recorded for the VMM; the rest are still held. The tag's generation may
    // already be recorded, without a flush.
    "23:",
    "mov rax, \\page\\(){held}]",
    "mov \\page\\(){waited_for}], rax",
    "add r8, {ref_bytes}",
    "dec esi",
    "mov \\page\\(){held}], esi",
    "mov \\page\\(){held} + 4], r8d",
    "mov edx, {flush}",
    "jmp 5f",
    ".endm",

    // Entered by SYSCALL: no stack.
    ".balign 16",
    "sj_switch_call:",
    "swapgs",
    "cmp rdi, gs:[{plain_limit}]",
    "jae 7f",
    "sj_announce \"gs:[\"",
    // Already in the target instance: nothing to do, and the TLB is kept.
    "cmp rdi, r8",
    "je 3f",
    "mov r9, [rdi * 8 + {plain_roots}]",
    "test r9, r9",
    "jns 1f",
    // The generation must be this root's: the root is read again after it, since the VMM clears it
    // before it writes another generation.
    "mov r10, [rdi * 8 + {plain_generations}]",
    "cmp r9, [rdi * 8 + {plain_roots}]",
    "jne 4f",
    "sj_tag \"gs:[\", rsi, esi, r8, 2f",
    "jmp 2f",
    "1:",
    "jz 6f",
    "2:",
    // Every root has the same kernel half, so the next instruction is mapped.
    "mov cr3, r9",
    "mov [rdx + {inside}], rdi",
    "3:",
    "swapgs",
    "sj_sysret_switch:",
    "sysretq",
    "6:",
    "sj_take \"gs:[\", 1, r9, r9d, \"mov qword ptr gs:[{plain_limit}], 0\", \"swapgs; sj_sysret_take: sysretq\"",
    // The flags are the record's address's.
    "34:",
    "jz 4f",
    "add rax, [{published}]",
    "sub rax, [rdi * 8 + {view_stamps}]",
    "jne 35f",
    // A root is read after what says that it shows the newest versions: see `ViewRecord`. It is noted
    // before it is loaded, and before the thread counts as inside: see `abi::switch::may_be_on`.
    "30:",
    "mov r9, [rdi * 8 + {view_roots}]",
    "test r9, r9",
    "jz 4f",
    "mov gs:[{view}], r9",
    "jmp 2b",
    "35:",
    "sj_look r9, rsi",
    "jmp 30b",
    "31:",
    "sj_write \"gs:[\", r9",
    "jmp 2b",
    "33:",
    "sj_write_not",
    "32:",
    "sj_take_back",
    "swapgs",
    "jmp sj_leave_call",
    "7:",
    "sj_give \"gs:[\", 1, \"mov qword ptr gs:[{plain_limit}], {max_instances}\", \"swapgs; sj_sysret_give: sysretq\"",
    // In Rust, on the call stack.
    "4:",
    "xor edx, edx",
    "5:",
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
    // RAX holds the call's number, RDX the handle.
    "mov rdi, rdx",
    "swapgs",
    "jmp sj_leave_call",

    // Entered by UD2: RSP points to the frame.
    ".balign 16",
    "sj_switch_trapped:",
    // Past the UD2, whose address is known: writing half a word is cheaper than adding to one.
    "mov dword ptr [rsp], {behind_ud2_low}",
    "cmp rdi, [rsp + {trap_to_page} + {plain_limit}]",
    "jae 7f",
    "sj_announce \"[rsp + {trap_to_page} + \"",
    // Also if already in the target: here that is cheaper than checking.
    "mov rcx, [rdi * 8 + {plain_roots}]",
    "jrcxz 6f",
    "mov cr3, rcx",
    "mov [rdx + {inside}], rdi",
    "iretq",
    // A view's stamp is compared first, with where the thread comes from added: from home that is 0, so one
    // compare says that nothing was published and that the thread is not there already. Stamps of
    // other instances are never equal, or there is no root.
    "6:",
    "add r8, [{published}]",
    "cmp r8, [rdi * 8 + {view_stamps}]",
    "je 30f",
    "sj_take \"[rsp + {trap_to_page} + \", 0, rcx, ecx, \"mov qword ptr [rsp + {trap_to_page} + {plain_limit}], 0\", iretq",
    // As for SYSCALL.
    "30:",
    "mov rcx, [rdi * 8 + {view_roots}]",
    "jrcxz 37f",
    "mov [rsp + {trap_to_page} + {view}], rcx",
    "mov cr3, rcx",
    "mov [rdx + {inside}], rdi",
    "iretq",
    "37:",
    "jmp 4f",
    "34:",
    "jz 4f",
    "mov r8, [rdx + {inside}]",
    "cmp rdi, r8",
    "je 3f",
    "sj_look rcx, r9",
    "jmp 30b",
    "31:",
    "sj_write \"[rsp + {trap_to_page} + \", rcx",
    "mov cr3, rcx",
    "mov [rdx + {inside}], rdi",
    "iretq",
    "33:",
    "sj_write_not",
    "32:",
    "sj_take_back",
    "jmp sj_leave_trapped",
    "7:",
    "sj_give \"[rsp + {trap_to_page} + \", 0, \"mov qword ptr [rsp + {trap_to_page} + {plain_limit}], {max_instances}\", iretq",
    "4:",
    "xor edx, edx",
    "5:",
    "lea rsi, [rsp + {trap_to_page}]",
    "call {switch_with_locks}",
    "test rax, rax",
    "jne 8f",
    "3:",
    "iretq",
    "8:",
    "mov rdi, rdx",
    "jmp sj_leave_trapped",
    ".text",
    switch_with_locks = sym switch_with_locks,
    partial = const PARTIAL,
    flush = const FLUSH,
    trap_to_page = const TRAP_TO_PAGE,
    top_to_page = const TOP_TO_PAGE,
    user_rsp = const offset_of!(VcpuPage, user_rsp),
    call_stack = const offset_of!(VcpuPage, call_stack),
    status = const offset_of!(VcpuPage, status),
    tags = const offset_of!(VcpuPage, tags),
    plain_limit = const offset_of!(VcpuPage, plain_limit),
    kernel_limit = const offset_of!(VcpuPage, kernel_limit),
    held = const offset_of!(VcpuPage, held),
    waited_for = const offset_of!(VcpuPage, waited_for),
    view = const offset_of!(VcpuPage, view),
    behind_ud2_low = const (CALL_PAGE_SWITCH_UD2.raw() + 2) as u32 as i32,
    seen = const near(SWITCH_CONTROL, offset_of!(SwitchControl, seen)),
    live = const near(SWITCH_LIVE, 0),
    announced = const offset_of!(VcpuStatus, announced),
    inside = const offset_of!(VcpuStatus, inside),
    plain_roots = const near(PLAIN_ROOTS, 0),
    plain_generations = const near(PLAIN_GENERATIONS, 0),
    lock_ranges = const near(LOCK_RANGES, 0),
    published = const near(SWITCH_LIVE, LIVE_PUBLISHED as usize),
    view_stamps = const near(VIEW_STAMPS, 0),
    view_roots = const near(VIEW_ROOTS, 0),
    ref_page = const near(LOCK_REFS, offset_of!(LockRef, page)),
    ref_slot = const near(LOCK_REFS, offset_of!(LockRef, slot)),
    ref_exclusive = const near(LOCK_REFS, offset_of!(LockRef, exclusive)),
    ref_bytes = const size_of::<LockRef>(),
    end_cr3 = const near(LOCK_REFS, offset_of!(LockEnd, cr3)),
    end_generation = const near(LOCK_REFS, offset_of!(LockEnd, generation)),
    view_word = const WORDS_COUNT as i32 - PAGE_SIZE as i32,
    view_count = const offset_of!(ViewRecord, count),
    view_next = const offset_of!(ViewRecord, next),
    view_writes = const VIEW_WRITES,
    write_lock = const offset_of!(WriteRecord, lock),
    write_cr3 = const offset_of!(WriteRecord, cr3),
    write_owner = const offset_of!(WriteRecord, owner),
    write_count = const offset_of!(WriteRecord, count),
    write_word = const WORDS_COUNT as i32 - 2 * PAGE_SIZE as i32,
    write_failures = const WORDS_FAILURES as i32 - 2 * PAGE_SIZE as i32,
    call_switch = const CALL_VAS_SWITCH,
    state = const word::STATE * 8,
    reader_counts = const word::READER_COUNTS * 8,
    readers = const state::READERS,
    reader_looks_at = const state::READER_MASK,
    waiters = const state::WAITERS,
    max_instances = const MAX_INSTANCES,
    tag_mask = const CR3_TAG,
);

const _: () = {
    // The call is left to the VMM with RAX nonzero.
    assert!(CALL_VAS_SWITCH != 0);
    // A writer's record is found as a view's is, and a view's record has no lock.
    assert!(offset_of!(WriteRecord, no_view) == offset_of!(ViewRecord, count));
    assert!(offset_of!(WriteRecord, lock) >= size_of::<ViewRecord>());
    // What a writer's record is compared with lies behind a view's, where the VM's own page has 0.
    assert!(WORDS_COUNT as usize >= size_of::<ViewRecord>());
};
