//! Every system call number with wild pointers, lengths and flags. The values never name
//! memory or a descriptor of ours, so whatever a call does, the program must survive it.

use std::collections::BTreeMap;
use std::io::Error;

/// The last number tried.
const LAST: i64 = 460;

/// Not made in a VM either: when they work, they end the program or wait forever.
const NEVER: [i64; 5] = [15, 34, 60, 231, 56];

/// Natively and as root these could reach beyond this process: fork, System V objects,
/// tracing, vhangup, sync, accounting, reboot, host name, kexec, seccomp. And the probes'
/// trampolines, which a host kernel that has them answers with SIGILL.
const HARMS_A_HOST: [i64; 24] = [
    29, 30, 31, 57, 58, 64, 65, 66, 67, 68, 71, 101, 103, 153, 162, 163, 169, 170, 171, 246, 317,
    335, 336, 435,
];

/// These take an address first: one in the kernel's half, so that our memory stays as it is.
const MEMORY: [i64; 16] = [9, 10, 11, 12, 25, 26, 27, 28, 149, 150, 216, 237, 279, 325, 329, 440];

const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

const WILD: [u64; 10] = [
    0x10,
    0xfff,
    0x1000,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    KERNEL_HALF,
    0xffff_ffff_8000_0000,
    1 << 63,
    !0xfff,
    !0,
];

/// Tries every number four times with values drawn from `seed`.
pub(crate) fn run(seed: u64, all: bool) {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    let mut outcomes: BTreeMap<i32, u32> = BTreeMap::new();
    let mut calls = 0;
    for number in 0..=LAST {
        if NEVER.contains(&number) || !all && HARMS_A_HOST.contains(&number) {
            continue;
        }
        for _ in 0..4 {
            let mut args = [0; 6].map(|_: u64| {
                let draw = random();
                if draw % 16 == 0 {
                    random() | KERNEL_HALF
                } else {
                    WILD[draw as usize % WILD.len()]
                }
            });
            if random() % 2 == 0 {
                args[1 + random() as usize % 5] = random() % 3;
            }
            tame(number, &mut args);
            // SAFETY: no argument is an address of ours; see `tame`.
            let result = unsafe {
                libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5])
            };
            let errno =
                if result == -1 { Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
            *outcomes.entry(errno).or_default() += 1;
            calls += 1;
        }
    }
    eprintln!("wild-syscalls: errno and how often: {outcomes:?}");
    println!("survived {calls} calls");
}

/// Changes values with which the call would, correctly, end us or wait forever.
fn tame(number: i64, args: &mut [u64; 6]) {
    const NO_SIGNAL: u64 = 999;
    // Many first arguments are 32 bits wide: those of 0, 1 and 2 are our standard streams,
    // and a process number of 0 means ourselves.
    if args[0] as u32 <= 2 {
        args[0] |= 0x7f00_0000;
    }
    match number {
        // mmap: small or impossible lengths, or it fills the machine.
        9 => (args[0], args[1]) = (KERNEL_HALF, [0, 4096, 1 << 47][args[1] as usize % 3]),
        _ if MEMORY.contains(&number) => args[0] |= KERNEL_HALF,
        // poll, ppoll: at least one descriptor, so that it faults instead of waiting.
        7 | 271 => (args[0], args[1]) = (KERNEL_HALF, 3),
        // select, pselect6: a time limit that faults.
        23 | 270 => args[4] = KERNEL_HALF,
        // dup2, dup3: not onto our standard streams.
        33 | 292 => args[1] = 5000,
        // alarm: not during this test.
        37 => args[0] = 100_000,
        // kill, tkill, rt_sigqueueinfo and tgkill, rt_tgsigqueueinfo.
        62 | 129 | 200 => args[1] = NO_SIGNAL,
        234 | 297 => args[2] = NO_SIGNAL,
        _ => {}
    }
}
