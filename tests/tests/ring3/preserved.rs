//! The complete state of a program, across every path into the kernel and the VMM: general
//! registers, flags with the direction flag, FS and GS base, MXCSR, x87 control word and stack,
//! SSE and AVX registers. All values differ from those of a fresh vCPU.

use abi::GuestVirt;
use abi::call::{CALL_HYPER_NULL, CALL_NULL};
use tests::skip_without_kvm;
use vmm::vm::{Exit, PcidPolicy, UserRegs};

use crate::bench::{ALL_FLAGS, Bench, CODE, DATA, FIXED, NOWHERE, SYSCALL, call_page, mov_eax};
use crate::switch::{END, Switcher, switch_to};
use crate::switch_locks::Locked;

const FS_BASE: u64 = 0x1111_2222_3000;
const GS_BASE: u64 = 0x7fff_ffff_0000;
/// Flush to zero, rounding down, all masked, one exception pending as a flag.
const MXCSR: u32 = 0xbfa0;
/// Rounding to zero, single precision, all masked.
const X87_CONTROL: u16 = 0x0c7f;
const DIRECTION: u64 = 0x400;
const OUT: u64 = DATA + 0x1000;

/// What a call may change by its convention.
#[derive(Clone, Copy, Debug)]
enum Keeps {
    All,
    /// All but RAX, RCX and R11.
    Linux,
    /// What a C function preserves.
    Callee,
}

impl Keeps {
    /// Where calls trap, the call page compares in ring 3: as with a C function, no caller may rely
    /// on the arithmetic flags. The direction flag is preserved, whatever it is.
    fn flags(self) -> u64 {
        match self {
            Keeps::All | Keeps::Linux => ALL_FLAGS,
            Keeps::Callee => DIRECTION,
        }
    }

    fn kept(self, r: &UserRegs) -> UserRegs {
        let r = UserRegs { rip: 0, rflags: 0, ..*r };
        match self {
            Keeps::All => r,
            Keeps::Linux => UserRegs { rax: 0, rcx: 0, r11: 0, ..r },
            Keeps::Callee => UserRegs {
                rax: 0,
                rcx: 0,
                rdx: 0,
                rsi: 0,
                rdi: 0,
                r8: 0,
                r9: 0,
                r10: 0,
                r11: 0,
                ..r
            },
        }
    }
}

/// `opcode [base + offset]` for each vector register: 32 bytes with AVX, 16 without.
fn vectors(avx: bool, opcode: u8, base: u8) -> Vec<u8> {
    let one = |n: u8| {
        let mut code = match (avx, n < 8) {
            (true, true) => vec![0xc5, 0xfc],
            (true, false) => vec![0xc5, 0x7c],
            (false, true) => vec![0x0f],
            (false, false) => vec![0x44, 0x0f],
        };
        code.extend_from_slice(&[opcode, 0x80 | (n & 7) << 3 | base]);
        code.extend_from_slice(&(u32::from(n) * 32).to_le_bytes());
        code
    };
    (0..16).flat_map(one).collect()
}

const RBX: u8 = 3;
const RBP: u8 = 5;

/// From [RBX].
fn load(avx: bool) -> Vec<u8> {
    // ldmxcsr [rbx+0x200]; fninit; fldcw [rbx+0x204]; fld1; fldpi
    let control = [0x0f, 0xae, 0x93, 0, 2, 0, 0, 0xdb, 0xe3, 0xd9, 0xab, 4, 2, 0, 0];
    [&vectors(avx, 0x10, RBX)[..], &control, &[0xd9, 0xe8, 0xd9, 0xeb]].concat()
}

/// To [RBP].
fn store(avx: bool) -> Vec<u8> {
    // stmxcsr [rbp+0x200]; fnstcw [rbp+0x204]; fstp tbyte [rbp+0x210]; fstp tbyte [rbp+0x220]
    let control = [0x0f, 0xae, 0x9d, 0, 2, 0, 0, 0xd9, 0xbd, 4, 2, 0, 0];
    let stack = [0xdb, 0xbd, 0x10, 2, 0, 0, 0xdb, 0xbd, 0x20, 2, 0, 0];
    [&vectors(avx, 0x11, RBP)[..], &control, &stack, &END].concat()
}

/// The expected stored state; the bytes between its parts are 0.
fn expected(avx: bool, input: &[u8]) -> Vec<u8> {
    let mut all = input[..0x200].to_vec();
    if !avx {
        all.chunks_mut(32).for_each(|register| register[16..].fill(0));
    }
    all.extend_from_slice(&MXCSR.to_le_bytes());
    all.extend_from_slice(&X87_CONTROL.to_le_bytes());
    all.resize(0x210, 0);
    // pi and 1 as the x87 writes them (SDM 1, table 4-3), pi rounded towards zero.
    all.extend_from_slice(&[0x34, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40]);
    all.resize(0x220, 0);
    all.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    all
}

/// Runs load, `middle`, store, with `serve` for every exit on the way; all must be unchanged.
fn preserved(
    bench: &mut Bench,
    path: &str,
    keeps: Keeps,
    middle: &[u8],
    mut serve: impl FnMut(&mut Bench, &Exit),
) {
    let avx = bench.machine.xcr0() & 4 != 0;
    let mut input: Vec<u8> = (0..0x200_u32).map(|n| (n * 7 + n / 32 + 3) as u8).collect();
    input.extend_from_slice(&MXCSR.to_le_bytes());
    input.extend_from_slice(&X87_CONTROL.to_le_bytes());
    bench.private.copy_out(DATA, &input).unwrap();
    bench.private.copy_out(OUT, &[0; 0x230]).unwrap();
    let code = [&load(avx)[..], middle, &store(avx)].concat();
    let end = CODE + code.len() as u64 - 2;
    bench.load(&code);
    bench.vcpu.set_fs_base(GuestVirt::literal(FS_BASE));
    bench.vcpu.set_gs_base(GuestVirt::literal(GS_BASE));
    (bench.vcpu.regs.rbx, bench.vcpu.regs.rbp, bench.vcpu.regs.rsi) = (DATA, OUT, NOWHERE);
    bench.vcpu.regs.rflags = FIXED | ALL_FLAGS;
    let before = bench.vcpu.regs;
    let mut served = 0;
    let flags = loop {
        let exit = bench.run();
        match exit {
            Exit::Exception { vector: 6, frame, .. } if frame.rip == end => break frame.rflags,
            _ => serve(bench, &exit),
        }
        served += 1;
        assert!(served < 100, "{path}: {exit:x?} again and again");
    };
    assert_eq!(keeps.kept(&bench.vcpu.regs), keeps.kept(&before), "{path}: general registers");
    assert_eq!(flags & keeps.flags(), keeps.flags(), "{path}: flags {flags:#x}");
    let bases = (bench.vcpu.fs_base(), bench.vcpu.gs_base());
    assert_eq!(bases, (FS_BASE, GS_BASE), "{path}: bases of FS and GS");
    let expected = expected(avx, &input);
    let mut found = vec![0; expected.len()];
    bench.private.copy_in(OUT, &mut found).unwrap();
    assert_eq!(found[..0x200], expected[..0x200], "{path}: vector registers");
    assert_eq!(found[0x200..0x206], expected[0x200..0x206], "{path}: MXCSR and x87 control");
    assert_eq!(found[0x206..], expected[0x206..], "{path}: x87 stack");
}

fn call(number: u32) -> Vec<u8> {
    [&mov_eax(number)[..], &call_page()].concat()
}

#[test]
fn everything_survives_calls() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    preserved(&mut bench, "null call", Keeps::Callee, &call(CALL_NULL), |_, exit| {
        panic!("{exit:x?}")
    });
    preserved(&mut bench, "hypercall", Keeps::Callee, &call(CALL_HYPER_NULL), |bench, exit| {
        assert!(matches!(exit, Exit::Call(_)), "{exit:x?}");
        bench.vcpu.regs.rax = 0;
    });
    // The second after the cheap return path.
    let twice = [SYSCALL, SYSCALL].concat();
    preserved(&mut bench, "Linux call", Keeps::Linux, &twice, |bench, exit| {
        assert!(matches!(exit, Exit::Syscall(_)), "{exit:x?}");
        bench.vcpu.regs.rax = 1;
    });
}

#[test]
fn everything_survives_faults() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    // mov [rsi], al
    preserved(&mut bench, "mended fault", Keeps::All, &[0x88, 0x06], |bench, exit| {
        assert!(matches!(exit, Exit::Exception { vector: 14, .. }), "{exit:x?}");
        bench.map(NOWHERE, 0x1000, 3);
    });
    preserved(&mut bench, "breakpoint", Keeps::All, &[0xcc, 0xcc], |_, exit| {
        assert!(matches!(exit, Exit::Exception { vector: 3, .. }), "{exit:x?}");
    });
    preserved(&mut bench, "skipped fault", Keeps::All, &[0x0f, 0x0b], |bench, exit| {
        assert!(matches!(exit, Exit::Exception { vector: 6, .. }), "{exit:x?}");
        bench.vcpu.regs.rip += 2;
    });
}

#[test]
fn everything_survives_switches_with_tags_and_without() {
    skip_without_kvm!();
    for policy in PcidPolicy::ALL {
        let s = Switcher::on(Bench::with_tags(policy), 2);
        let mut locked = Locked::on(s, 2, &[&[], &[(0, true), (1, false)]]);
        let middle = [1, 2, 1, 1, 0, 2, 0].map(switch_to).concat();
        let path = format!("switches, {policy:?}");
        preserved(&mut locked.s.bench, &path, Keeps::Callee, &middle, |_, exit| {
            panic!("{exit:x?}")
        });
    }
}

#[test]
fn everything_survives_other_code_in_between_as_a_signals_handler_is() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let handler = CODE + 0x3000;
    // At a breakpoint the VMM saves the complete state, runs code that clobbers it, and restores
    // it, as signal delivery and sigreturn do.
    preserved(&mut bench, "signal", Keeps::All, &[0xcc], |bench, exit| {
        assert!(matches!(exit, Exit::Exception { vector: 3, .. }), "{exit:x?}");
        let (regs, state) = (bench.vcpu.regs, bench.vcpu.fpu_state().unwrap());
        // cld; fninit; fldz; xorps xmm0, xmm0; xorps xmm15, xmm15; xor ebx, ebx; ud2
        let spoil = [
            0xfc, 0xdb, 0xe3, 0xd9, 0xee, 0x0f, 0x57, 0xc0, 0x45, 0x0f, 0x57, 0xff, 0x31, 0xdb,
            0x0f, 0x0b,
        ];
        bench.load_at(handler, &spoil);
        let (frame, _) = bench.run_to(6);
        assert_eq!((frame.rip, bench.vcpu.regs.rbx), (handler + 14, 0));
        bench.vcpu.set_fpu_state(&state).unwrap();
        bench.vcpu.regs = regs;
        bench.vcpu.restore_all();
    });
}
