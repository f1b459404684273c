//! x87, SSE and AVX state is the program's own: nothing that the kernel or the VMM does changes it.

use abi::call::{CALL_HYPER_NULL, CALL_NULL};
use tests::skip_without_kvm;
use vmm::vm::Exit;

use crate::bench::{Bench, CODE, DATA, NOWHERE, SYSCALL, call_page, mov_eax};
use crate::switch::switch_to;
use crate::switch_locks::Locked;
use abi::GuestVirt;

/// Loads sixteen XMM registers from RBX and the x87 stack with 1 and pi.
fn load_state() -> Vec<u8> {
    let mut code = vec![0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xeb];
    for n in 0..16_u8 {
        // movups xmmN, [rbx + 16 N]
        if n >= 8 {
            code.push(0x44);
        }
        code.extend_from_slice(&[0x0f, 0x10, 0x83 | (n & 7) << 3]);
        code.extend_from_slice(&(u32::from(n) * 16).to_le_bytes());
    }
    code
}

/// Stores them at RBP, and the x87 stack after them.
fn store_state() -> Vec<u8> {
    let mut code = Vec::new();
    for n in 0..16_u8 {
        if n >= 8 {
            code.push(0x44);
        }
        code.extend_from_slice(&[0x0f, 0x11, 0x85 | (n & 7) << 3]);
        code.extend_from_slice(&(u32::from(n) * 16).to_le_bytes());
    }
    // fstp tbyte [rbp+256]; fstp tbyte [rbp+272]; ud2
    code.extend_from_slice(&[0xdb, 0xbd, 0, 1, 0, 0, 0xdb, 0xbd, 0x10, 1, 0, 0, 0x0f, 0x0b]);
    code
}

fn pattern() -> Vec<u8> {
    (0..256_u32).map(|n| (n * 7 + 3) as u8).collect()
}

/// Runs load, `middle` and store; `between` serves every exit on the way.
fn survives(middle: &[u8], between: impl FnMut(&mut Bench, &Exit)) {
    survives_on(&mut Bench::new(), middle, between);
}

/// As [`survives`], on a bench of the caller's.
fn survives_on(bench: &mut Bench, middle: &[u8], mut between: impl FnMut(&mut Bench, &Exit)) {
    bench.private.copy_out(DATA, &pattern()).unwrap();
    let code = [&load_state()[..], middle, &store_state()].concat();
    let end = CODE + code.len() as u64 - 2;
    bench.load(&code);
    (bench.vcpu.regs.rbx, bench.vcpu.regs.rbp) = (DATA, DATA + 0x1000);
    loop {
        let exit = bench.run();
        if let Exit::Exception { vector: 6, frame, .. } = exit
            && frame.rip == end
        {
            break;
        }
        between(bench, &exit);
    }
    let mut found = vec![0; 256 + 32];
    bench.private.copy_in(DATA + 0x1000, &mut found).unwrap();
    assert_eq!(&found[..256], pattern(), "XMM registers");
    // pi and 1 as the x87 writes them (SDM 1, table 4-3).
    let pi = [0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40];
    let one = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f];
    assert_eq!((&found[256..266], &found[272..282]), (&pi[..], &one[..]), "x87 stack");
}

#[test]
fn state_survives_linux_calls() {
    skip_without_kvm!();
    survives(&[SYSCALL, SYSCALL].concat(), |bench, exit| {
        assert!(matches!(exit, Exit::Syscall(_)), "{exit:x?}");
        bench.vcpu.regs.rax = 0;
    });
}

#[test]
fn state_survives_our_calls_in_the_kernel_and_in_the_vmm() {
    skip_without_kvm!();
    survives(&[mov_eax(CALL_NULL), call_page()].concat(), |_, exit| panic!("{exit:x?}"));
    survives(&[mov_eax(CALL_HYPER_NULL), call_page()].concat(), |bench, exit| {
        assert!(matches!(exit, Exit::Call(_)), "{exit:x?}");
        bench.vcpu.regs.rax = 0;
    });
}

#[test]
fn state_survives_switches_in_the_kernel() {
    skip_without_kvm!();
    let mut locked = Locked::new(2, &[&[], &[(0, true), (1, false)]]);
    locked.s.bench.vcpu.set_fs_base(GuestVirt::literal(0x1111_2222_3000));
    locked.s.bench.vcpu.set_gs_base(GuestVirt::literal(0x7fff_ffff_0000));
    let middle = [1, 2, 1, 0, 2, 0].map(switch_to).concat();
    survives_on(&mut locked.s.bench, &middle, |_, exit| panic!("{exit:x?}"));
    let vcpu = &locked.s.bench.vcpu;
    assert_eq!((vcpu.fs_base(), vcpu.gs_base()), (0x1111_2222_3000, 0x7fff_ffff_0000));
}

#[test]
fn state_survives_faults_that_are_mended_and_faults_that_are_not() {
    skip_without_kvm!();
    // mov eax, [rsi]: the page is mapped, and the instruction is executed again.
    survives(&[0x8b, 0x06], |bench, exit| match exit {
        Exit::Exception { vector: 14, address, .. } if *address >= NOWHERE => {
            bench.map(NOWHERE, 0x1000, 3);
        }
        // RSI holds no canonical address at first.
        Exit::Exception { vector: 13, .. } => bench.vcpu.regs.rsi = NOWHERE,
        other => panic!("{other:x?}"),
    });
    survives(&[0xcc, 0xcc], |_, exit| {
        assert!(matches!(exit, Exit::Exception { vector: 3, .. }), "{exit:x?}");
    });
}

#[test]
fn state_read_and_written_by_the_vmm_is_the_programs() {
    skip_without_kvm!();
    // What signal delivery does: save, load something else, load the saved state again.
    survives(&SYSCALL, |bench, _| {
        let saved = bench.vcpu.fpu_state().unwrap();
        let mut other = bench.vcpu.fpu_state().unwrap();
        other.region[40..104].fill(0x5a5a_5a5a);
        bench.vcpu.set_fpu_state(&other).unwrap();
        bench.vcpu.set_fpu_state(&saved).unwrap();
        assert_eq!(bench.vcpu.fpu_state().unwrap().region[40..104], saved.region[40..104]);
        bench.vcpu.regs.rax = 0;
    });
}

#[test]
fn upper_halves_of_avx_registers_survive() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    if bench.machine.xcr0() & 4 == 0 {
        // Without AVX a VEX instruction is undefined.
        bench.load(&[0xc5, 0xfc, 0x10, 0x03]);
        bench.run_to(6);
        return;
    }
    bench.private.copy_out(DATA, &pattern()).unwrap();
    // vmovups ymm7, [rbx]; syscall; call page; vmovups [rbp], ymm7; ud2
    let code = [
        &[0xc5, 0xfc, 0x10, 0x3b][..],
        &SYSCALL,
        &mov_eax(CALL_NULL),
        &call_page(),
        &[0xc5, 0xfc, 0x11, 0x7d, 0x00, 0x0f, 0x0b],
    ];
    bench.load(&code.concat());
    (bench.vcpu.regs.rbx, bench.vcpu.regs.rbp) = (DATA, DATA + 0x1000);
    bench.run_to_syscall();
    bench.run_to(6);
    let mut found = [0; 32];
    bench.private.copy_in(DATA + 0x1000, &mut found).unwrap();
    assert_eq!(found, pattern()[..32]);
}

#[test]
fn impossible_states_are_refused_or_harmless() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    for (at, word) in [(6, !0), (128, !0), (129, !0), (130, !0), (140, !0), (0, !0)] {
        let mut bad = bench.vcpu.fpu_state().unwrap();
        bad.region[at] = word;
        let _ = bench.vcpu.set_fpu_state(&bad);
        bench.load(&[0x0f, 0x57, 0xc0, 0x0f, 0x0b]);
        let exit = bench.run();
        assert!(matches!(exit, Exit::Exception { vector: 6 | 16 | 19, .. }), "{at}: {exit:x?}");
    }
}
