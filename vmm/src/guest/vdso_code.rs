//! The vDSO's machine code: integer-only, position-independent, leaf functions.
//!
//! Assembled into our own read-only data, never executed there; `vdso.rs` copies it after an ELF
//! header. It reads the clock page at a fixed distance above itself (layout: `clock_page.rs`).
//!
//! Contract of the exported functions: System V calling convention; they clobber RAX, RCX, RDX,
//! RDI, R8 to R11 and flags, and use no vector registers and, except for one return address, no
//! stack. A negative result is an error number, as for a system call.

use std::arch::global_asm;

use super::clock::HINT_MAGIC;
use super::clock_page::word;
use super::vdso::{CLOCK_PAGE_AT, CODE_AT};

/// Clocks that the page serves, one bit each: REALTIME, MONOTONIC, MONOTONIC_RAW, both COARSE,
/// BOOTTIME, TAI.
const SERVED: u32 = 1 << libc::CLOCK_REALTIME
    | 1 << libc::CLOCK_MONOTONIC
    | 1 << libc::CLOCK_MONOTONIC_RAW
    | COARSE
    | 1 << libc::CLOCK_BOOTTIME
    | 1 << libc::CLOCK_TAI;
const COARSE: u32 = 1 << libc::CLOCK_REALTIME_COARSE | 1 << libc::CLOCK_MONOTONIC_COARSE;

/// Reciprocal of 10^9 = 2^9 * 5^9 for `(n >> 9) * RECIPROCAL >> 75`, exact for all 64 bits
/// (the test compares with a division).
const RECIPROCAL_NS: u64 = ((1 << 75) / 1_953_125 + 1u128) as u64;
/// Reciprocal of 1000 for `n * RECIPROCAL >> 38`, exact for all 32 bits.
const RECIPROCAL_THOUSAND: u64 = (1 << 38) / 1000 + 1;

/// Names of the functions, in the order of [`entries`].
pub(crate) const NAMES: [&str; 5] = [
    "__vdso_clock_gettime",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_clock_getres",
    "__vdso_getcpu",
];

global_asm!(
    ".section .rodata.sj_vdso, \"a\"",
    ".balign 16",
    ".globl sj_vdso_code",
    "sj_vdso_code:",

    // The current time of clock EDI (below 12): seconds in RDX, nanoseconds in R8, carry clear; or
    // carry set when the system call has to be made. Clobbers RAX, RCX, R9, R10; preserves R11.
    "sj_vdso_now:",
    "lea r8, [rip + sj_vdso_code + {clock_page}]",
    "2:",
    "mov r9d, [r8 + {sequence}]",
    "test r9d, 1",
    "jnz 6f",
    "cmp qword ptr [r8 + {mode}], 0",
    "je 5f",
    // RDTSC may execute early; the fence keeps it after the load of the sequence number (SDM 2B,
    // RDTSC).
    "lfence",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    // A counter a little behind the base (another processor's) reads as the base.
    "sub rax, [r8 + {base_tsc}]",
    "jae 3f",
    "xor eax, eax",
    "3:",
    "mov rcx, [r8 + {mult}]",
    "xor r10d, r10d",
    "cmp rax, [r8 + {bend_ticks}]",
    "jb 4f",
    // After the bend: the later rate, from the bend on.
    "sub rax, [r8 + {bend_ticks}]",
    "mov rcx, [r8 + {mult_after}]",
    "mov r10, [r8 + {bend_ns}]",
    "4:",
    "mul rcx",
    "shrd rax, rdx, 32",
    "add rax, r10",
    "mov ecx, edi",
    "add rax, [r8 + 8 * rcx + {offsets}]",
    // Loads are not reordered with loads: an unchanged number means a consistent set. The address
    // depends on the counter (by zero), so that RDTSC cannot execute after the check and be used
    // with an outdated function.
    "and edx, 0",
    "cmp r9d, [r8 + rdx + {sequence}]",
    "jne 2b",
    "mov r8, rax",
    "shr rax, 9",
    "movabs rcx, {reciprocal_ns}",
    "mul rcx",
    "shr rdx, 11",
    "imul rax, rdx, 1000000000",
    "sub r8, rax",
    "clc",
    "ret",
    "5:",
    "stc",
    "ret",
    // Spin, as the VMM writes only some 20 words; making the call instead would read another clock,
    // slightly ahead of or behind this one.
    "6:",
    "pause",
    "jmp 2b",

    // clock_gettime(EDI clock, RSI timespec)
    "sj_vdso_clock_gettime:",
    // The upper half of an int argument is undefined; the system call uses all 64 bits.
    "movsxd rdi, edi",
    "cmp edi, 31",
    "ja 2f",
    "mov eax, {served}",
    "bt eax, edi",
    "jnc 2f",
    "call sj_vdso_now",
    "jc 2f",
    "mov [rsi], rdx",
    "mov [rsi + 8], r8",
    "xor eax, eax",
    "ret",
    "2:",
    "mov r10d, {sys_clock_gettime}",
    "jmp sj_vdso_call",

    // gettimeofday(RDI timeval, RSI timezone), either may be null
    "sj_vdso_gettimeofday:",
    "test rdi, rdi",
    "jz 2f",
    "mov r11, rdi",
    "mov edi, {clock_realtime}",
    "call sj_vdso_now",
    "mov rdi, r11",
    "jc 4f",
    "imul r8, r8, {reciprocal_thousand}",
    "shr r8, 38",
    "mov [rdi], rdx",
    "mov [rdi + 8], r8",
    "2:",
    "test rsi, rsi",
    "jz 3f",
    // Minutes west of Greenwich and daylight saving: zero.
    "mov qword ptr [rsi], 0",
    "3:",
    "xor eax, eax",
    "ret",
    "4:",
    "mov r10d, {sys_gettimeofday}",
    "jmp sj_vdso_call",

    // time(RDI time_t), may be null
    "sj_vdso_time:",
    "mov r11, rdi",
    "mov edi, {clock_realtime}",
    "call sj_vdso_now",
    "mov rdi, r11",
    "jc 3f",
    "mov rax, rdx",
    "test rdi, rdi",
    "jz 2f",
    "mov [rdi], rax",
    "2:",
    "ret",
    "3:",
    "mov r10d, {sys_time}",

    // System call R10D with the arguments in RDI and RSI, and the hint.
    "sj_vdso_call:",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov r9, rax",
    "movabs r8, {hint}",
    "mov eax, r10d",
    "syscall",
    "ret",

    // clock_getres(EDI clock, RSI timespec or null): one nanosecond for clocks that the page serves
    // at full resolution; coarse clocks are finer here, but programs expect the host's answer.
    "sj_vdso_clock_getres:",
    "movsxd rdi, edi",
    "cmp edi, 31",
    "ja 3f",
    "mov eax, {fine}",
    "bt eax, edi",
    "jnc 3f",
    "test rsi, rsi",
    "jz 2f",
    "mov qword ptr [rsi], 0",
    "mov qword ptr [rsi + 8], 1",
    "2:",
    "xor eax, eax",
    "ret",
    "3:",
    "mov eax, {sys_clock_getres}",
    "syscall",
    "ret",

    // getcpu(RDI cpu, RSI node, RDX unused). Ring 3 cannot know which vCPU it is on: RDPID and
    // RDTSCP show the host's processor on hosts that interpret ring 0.
    "sj_vdso_getcpu:",
    "mov eax, {sys_getcpu}",
    "syscall",
    "ret",

    ".globl sj_vdso_code_end",
    "sj_vdso_code_end:",
    // Offset of each function, for the symbol table.
    ".globl sj_vdso_entries",
    ".balign 8",
    "sj_vdso_entries:",
    ".quad sj_vdso_clock_gettime - sj_vdso_code",
    ".quad sj_vdso_gettimeofday - sj_vdso_code",
    ".quad sj_vdso_time - sj_vdso_code",
    ".quad sj_vdso_clock_getres - sj_vdso_code",
    ".quad sj_vdso_getcpu - sj_vdso_code",
    ".text",
    clock_page = const CLOCK_PAGE_AT - CODE_AT,
    sequence = const word::SEQUENCE * 8,
    mode = const word::MODE * 8,
    base_tsc = const word::BASE_TSC * 8,
    mult = const word::MULT * 8,
    bend_ticks = const word::BEND_TICKS * 8,
    mult_after = const word::MULT_AFTER * 8,
    bend_ns = const word::BEND_NS * 8,
    offsets = const word::OFFSETS * 8,
    served = const SERVED,
    fine = const SERVED & !COARSE,
    reciprocal_ns = const RECIPROCAL_NS,
    reciprocal_thousand = const RECIPROCAL_THOUSAND,
    clock_realtime = const libc::CLOCK_REALTIME,
    hint = const HINT_MAGIC,
    sys_clock_gettime = const libc::SYS_clock_gettime,
    sys_gettimeofday = const libc::SYS_gettimeofday,
    sys_time = const libc::SYS_time,
    sys_clock_getres = const libc::SYS_clock_getres,
    sys_getcpu = const libc::SYS_getcpu,
);

unsafe extern "C" {
    static sj_vdso_code: u8;
    static sj_vdso_code_end: u8;
    static sj_vdso_entries: [u64; NAMES.len()];
}

/// The code, for offset [`CODE_AT`] of an image that lies [`CLOCK_PAGE_AT`] below the clock page.
pub(crate) fn code() -> &'static [u8] {
    let start = &raw const sj_vdso_code;
    let end = &raw const sj_vdso_code_end;
    // SAFETY: both labels are in one read-only section above, the end after the start.
    let len = unsafe { end.byte_offset_from_unsigned(start) };
    // SAFETY: as above; the bytes between them are initialised and never written.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Offset in [`code`] of each function of [`NAMES`].
pub(crate) fn entries() -> [u64; NAMES.len()] {
    // SAFETY: a read-only array of that length, defined above.
    unsafe { sj_vdso_entries }
}
