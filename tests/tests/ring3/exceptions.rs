//! Each exception ring 3 can raise arrives with the frame the manual says (SDM 3A, 6.15).

use abi::call::CALL_NULL;
use tests::skip_without_kvm;
use vmm::vm::Exit;

use crate::bench::{
    ALL_FLAGS, Bench, CODE, DATA, DATA_PAGES, FIXED, NOWHERE, STACK, TRAP_FLAG, call_page, marked,
    mov_eax, mov_rax,
};

/// Runs `code` up to an exception of `vector` and checks that the frame's RIP is `offset` from
/// the code's start, and that no register has changed but those `code` itself changes.
#[track_caller]
fn raises(bench: &mut Bench, code: &[u8], vector: u8, offset: u64, error: u64) {
    raises_at(bench, code, vector, &[offset], error);
}

/// As [`raises`], at one of `offsets`, where hosts differ.
fn raises_at(bench: &mut Bench, code: &[u8], vector: u8, offsets: &[u64], error: u64) {
    bench.load(code);
    bench.vcpu.regs.rflags = FIXED | ALL_FLAGS;
    let before = bench.vcpu.regs;
    let (frame, _) = bench.run_to(vector);
    let offset = frame.rip.wrapping_sub(CODE);
    assert!(offsets.contains(&offset), "{code:x?}: at {offset}, not at one of {offsets:?}");
    assert_eq!(frame.error, error, "{code:x?}: error code");
    assert_eq!((frame.cs & 3, frame.ss & 3), (3, 3));
    assert_eq!(frame.rsp, before.rsp);
    assert_eq!(frame.rflags & 0x400, 0x400, "{code:x?}: the direction flag is the program's");
    let (mut after, mut same) = (bench.vcpu.regs, before);
    (after.rip, same.rip) = (0, 0);
    (after.rflags, same.rflags) = (0, 0);
    assert_eq!(after, same, "{code:x?}");
}

#[test]
fn faults_and_traps_arrive_with_their_frames() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    // UD2; an undefined opcode in each map.
    raises(bench, &[0x0f, 0x0b], 6, 0, 0);
    raises(bench, &[0x0f, 0xff, 0xc0], 6, 0, 0);
    raises(bench, &[0x90, 0x06], 6, 1, 0);
    // INT3 is a trap: RIP is after it.
    raises(bench, &[0xcc], 3, 1, 0);
    // #GP: a load from an address that is not canonical.
    bench.load(&[&mov_rax(1 << 47)[..], &[0x8b, 0x18]].concat());
    let (frame, _) = bench.run_to(13);
    assert_eq!((frame.rip, frame.error), (CODE + 10, 0));
}

#[test]
fn icebp_is_a_debug_trap() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    // INT1 (ICEBP) is a trap, so RIP is after it (SDM 3A, 6.4.4; APM 2, 8.2.2). Hosts that
    // interpret ring 0 report it either way, depending on the processor below them.
    let offsets: &[u64] = if bench.machine.is_soft_host() { &[0, 1] } else { &[1] };
    raises_at(bench, &[0xf1], 1, offsets, 0);
}

#[test]
fn a_stack_address_that_is_not_canonical_is_a_stack_fault() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    bench.load(&[0x8b, 0x04, 0x24]);
    bench.vcpu.regs.rsp = 1 << 47;
    let (frame, _) = bench.run_to(12);
    assert_eq!((frame.rip, frame.rsp, frame.error), (CODE, 1 << 47, 0));
}

#[test]
fn division_by_zero_and_overflow_are_divide_errors() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    // div rbx with RBX = 0, and with a quotient that does not fit; idiv of the smallest by -1.
    let cases = [
        ([0x48, 0xf7, 0xf3], 0, 1, 0),
        ([0x48, 0xf7, 0xf3], 1, 0, 5),
        ([0x48, 0xf7, 0xfb], !0_u64, 1 << 63, !0),
    ];
    for (code, rbx, rax, rdx) in cases {
        bench.load(&code);
        (bench.vcpu.regs.rbx, bench.vcpu.regs.rax, bench.vcpu.regs.rdx) = (rbx, rax, rdx);
        let (frame, _) = bench.run_to(0);
        assert_eq!((frame.rip, frame.error), (CODE, 0));
    }
}

#[test]
fn page_faults_tell_reads_writes_and_fetches_apart() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const FETCH: u64 = 16;
    bench.map(DATA + 0x10_0000, 0x1000, 1);
    let cases: [(&[u8], u64, u64); 7] = [
        // mov eax, [rbx]; mov [rbx], eax; jmp rbx
        (&[0x8b, 0x03], NOWHERE, USER),
        (&[0x89, 0x03], NOWHERE, USER | WRITE),
        (&[0xff, 0xe3], NOWHERE, USER | FETCH),
        (&[0x89, 0x03], DATA + 0x10_0000, USER | WRITE | PRESENT),
        (&[0xff, 0xe3], DATA, USER | FETCH | PRESENT),
        // Across the end of the mapping: the address is the next page's.
        (&[0x8b, 0x03], DATA + DATA_PAGES * 4096 - 2, USER),
        // lock cmpxchg [rbx], ecx: a write even when the comparison fails.
        (&[0xf0, 0x0f, 0xb1, 0x0b], DATA + 0x10_0000, USER | WRITE | PRESENT),
    ];
    for (code, rbx, error) in cases {
        bench.load(code);
        bench.vcpu.regs.rbx = rbx;
        let (frame, address) = bench.run_to(14);
        let expected = rbx.max(if rbx == DATA + DATA_PAGES * 4096 - 2 { rbx + 2 } else { 0 });
        assert_eq!(address, expected, "{code:x?} at {rbx:#x}");
        assert_eq!(frame.error, error, "{code:x?} at {rbx:#x}");
        let rip = if error & FETCH != 0 { rbx } else { CODE };
        assert_eq!((frame.rip, frame.cs & 3), (rip, 3));
    }
}

#[test]
fn privileged_instructions_are_refused() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    let general: [(&str, &[u8]); 29] = [
        ("hlt", &[0xf4]),
        ("cli", &[0xfa]),
        ("sti", &[0xfb]),
        ("mov cr0, rax", &[0x0f, 0x22, 0xc0]),
        ("mov rax, cr0", &[0x0f, 0x20, 0xc0]),
        ("mov cr3, rax", &[0x0f, 0x22, 0xd8]),
        ("mov rax, cr3", &[0x0f, 0x20, 0xd8]),
        ("mov cr4, rax", &[0x0f, 0x22, 0xe0]),
        ("mov cr8, rax", &[0x44, 0x0f, 0x22, 0xc0]),
        ("mov dr7, rax", &[0x0f, 0x23, 0xf8]),
        ("mov rax, dr0", &[0x0f, 0x21, 0xc0]),
        ("lgdt [rbx]", &[0x0f, 0x01, 0x13]),
        ("lidt [rbx]", &[0x0f, 0x01, 0x1b]),
        ("lldt ax", &[0x0f, 0x00, 0xd0]),
        ("ltr ax", &[0x0f, 0x00, 0xd8]),
        ("lmsw ax", &[0x0f, 0x01, 0xf0]),
        ("clts", &[0x0f, 0x06]),
        ("invd", &[0x0f, 0x08]),
        ("wbinvd", &[0x0f, 0x09]),
        ("invlpg [rbx]", &[0x0f, 0x01, 0x3b]),
        ("rdmsr", &[0x0f, 0x32]),
        ("wrmsr", &[0x0f, 0x30]),
        ("in al, 0x60", &[0xe4, 0x60]),
        ("out 0x60, al", &[0xe6, 0x60]),
        ("in eax, dx", &[0xed]),
        ("outsb", &[0x6e]),
        ("insb", &[0x6c]),
        // Not swapgs, and not sysret: the manual says #GP and #GP or #UD.
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ];
    for (name, code) in general {
        bench.load(code);
        bench.vcpu.regs.rbx = DATA;
        bench.vcpu.regs.rcx = 0xc000_0082;
        let before = bench.vcpu.regs;
        let exit = bench.run();
        let Exit::Exception { vector: 13 | 6, frame, .. } = exit else {
            panic!("{name}: {exit:x?}");
        };
        assert_eq!((frame.rip, frame.cs & 3), (CODE, 3), "{name}");
        assert_eq!(bench.vcpu.regs.rsp, before.rsp, "{name}");
    }
    for (name, code) in [("sysretq", &[0x48, 0x0f, 0x07][..]), ("sysexit", &[0x0f, 0x35])] {
        bench.load(code);
        let exit = bench.run();
        let refused =
            matches!(exit, Exit::Exception { vector: 6 | 13, frame, .. } if frame.rip == CODE);
        assert!(refused, "{name}: {exit:x?}");
    }
}

#[test]
fn a_program_cannot_ring_the_vmms_doorbell() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    for port in (0..=0xff_u16).chain([0x3f8, 0xcf8, 0xfff0, 0xffff]) {
        // out dx, al; out dx, eax; in al, dx
        for code in [&[0xee][..], &[0xef], &[0xec]] {
            bench.load(code);
            bench.vcpu.regs.rdx = u64::from(port);
            let (frame, _) = bench.run_to(13);
            assert_eq!((frame.rip, frame.cs & 3), (CODE, 3), "port {port:#x}");
        }
    }
    // With I/O privilege set in the flags, which a program cannot give itself.
    bench.load(&[0xe6, 0x60]);
    bench.vcpu.regs.rflags = FIXED | 0x3000;
    bench.run_to(13);
}

#[test]
fn software_interrupts_raise_an_exception_and_nothing_else() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    let soft = bench.machine.is_soft_host();
    for n in 0..=255_u8 {
        bench.load(&[0xcd, n, 0x0f, 0x0b]);
        let before = bench.vcpu.regs;
        let exit = bench.run();
        let Exit::Exception { vector, frame, .. } = exit else { panic!("int {n}: {exit:x?}") };
        assert_eq!(frame.cs & 3, 3, "int {n}");
        assert_eq!(bench.vcpu.regs.rsp, before.rsp, "int {n}");
        match vector {
            // Open to programs by their gates; a trap, so RIP is after the instruction.
            3 | 4 if vector == n => assert_eq!(frame.rip, CODE + 2, "int {n}"),
            // Hosts that interpret ring 0 raise #UD, and for a few vectors #GP, after the
            // instruction and without the index.
            6 | 13 if soft => {
                assert!([CODE, CODE + 2].contains(&frame.rip), "int {n}: {frame:x?}");
                assert_eq!(frame.error, 0, "int {n}");
            }
            // #GP with the gate's index.
            13 => assert_eq!((frame.rip, frame.error), (CODE, u64::from(n) * 8 + 2), "int {n}"),
            _ => panic!("int {n}: {exit:x?}"),
        }
    }
}

#[test]
fn single_steps_trap_after_each_instruction() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    bench.touch_code();
    bench.load(&[0x90, 0x90, 0x0f, 0x0b]);
    bench.vcpu.regs.rflags = FIXED | TRAP_FLAG;
    for step in 1..=2 {
        let (frame, _) = bench.run_to(1);
        assert_eq!(frame.rip, CODE + step);
        assert_eq!(frame.rflags & TRAP_FLAG, TRAP_FLAG);
    }
    // popf sets it itself.
    bench.load(&[0x9d, 0x90, 0x90, 0x0f, 0x0b]);
    bench.vcpu.regs.rsp = STACK - 8;
    bench.private.copy_out(STACK - 8, &(FIXED | TRAP_FLAG).to_le_bytes()).unwrap();
    let (frame, _) = bench.run_to(1);
    assert_eq!(frame.rip, CODE + 2);
}

#[test]
fn unaligned_accesses_raise_alignment_checks_when_asked_for() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    bench.load(&[0x8b, 0x03, 0x0f, 0x0b]);
    bench.vcpu.regs.rbx = DATA + 1;
    bench.vcpu.regs.rflags = FIXED | 0x4_0000;
    // AC has an effect only with CR0.AM; Linux sets it, and so do we.
    match bench.run() {
        Exit::Exception { vector: 17, frame, .. } => {
            assert_eq!((frame.rip, frame.error), (CODE, 0))
        }
        other => panic!("{other:x?}"),
    }
    // The flag does not affect the kernel.
    bench.load(&[&mov_eax(CALL_NULL)[..], &call_page(), &[0x0f, 0x0b]].concat());
    bench.vcpu.regs.rflags = FIXED | 0x4_0000;
    let (frame, _) = bench.run_to(6);
    assert_eq!((bench.vcpu.regs.rax, frame.rflags & 0x4_0000), (0, 0x4_0000));
}

#[test]
fn x87_exceptions_arrive_when_unmasked() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    // x87: unmask division by zero, 1 / 0, and the next x87 instruction faults.
    bench.private.copy_out(DATA, &0x037b_u16.to_le_bytes()).unwrap();
    let code = [0xdb, 0xe3, 0xd9, 0x2b, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b];
    bench.load(&code);
    bench.vcpu.regs.rbx = DATA;
    let (frame, _) = bench.run_to(16);
    assert_eq!((frame.rip, frame.cs & 3), (CODE + 10, 3));
}

#[test]
fn sse_exceptions_arrive_when_unmasked() {
    skip_without_kvm!();
    // SSE: unmask division by zero; divss faults itself.
    let bench = &mut Bench::new();
    bench.private.copy_out(DATA, &0x1d80_u32.to_le_bytes()).unwrap();
    bench.private.copy_out(DATA + 16, &1.0_f32.to_le_bytes()).unwrap();
    // ldmxcsr [rbx]; movss xmm0, [rbx+16]; xorps xmm1, xmm1; divss xmm0, xmm1
    let code =
        [0x0f, 0xae, 0x13, 0xf3, 0x0f, 0x10, 0x43, 0x10, 0x0f, 0x57, 0xc9, 0xf3, 0x0f, 0x5e, 0xc1];
    bench.load(&code);
    bench.vcpu.regs.rbx = DATA;
    let (frame, _) = bench.run_to(19);
    assert_eq!((frame.rip, frame.cs & 3), (CODE + 11, 3));
}

#[test]
fn ud2_is_a_call_at_the_call_page_only() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    // RAX holds our null call: elsewhere UD2 is an exception and RAX is unchanged.
    bench.load(&[0x0f, 0x0b]);
    bench.vcpu.regs.rax = u64::from(CALL_NULL);
    let (frame, _) = bench.run_to(6);
    assert_eq!((frame.rip, bench.vcpu.regs.rax), (CODE, u64::from(CALL_NULL)));
    // Inside the call page after its first instruction: INT3s.
    bench.load(&[0xff, 0xe3]);
    bench.vcpu.regs.rbx = abi::layout::CALL_PAGE.raw() + 16;
    bench.run_to(3);
}

#[test]
fn a_vcpu_is_as_good_as_new_after_any_exception() {
    skip_without_kvm!();
    let bench = &mut Bench::new();
    let codes: [&[u8]; 6] = [&[0x0f, 0x0b], &[0xcc], &[0xf4], &[0xcd, 0x80], &[0xee], &[0xf1]];
    for code in codes {
        bench.load(code);
        assert!(matches!(bench.run(), Exit::Exception { .. }), "{code:x?}");
        bench.load(&[0x0f, 0x05, 0x0f, 0x0b]);
        bench.run_to_syscall();
        let (frame, _) = bench.run_to(6);
        assert_eq!(frame.rip, CODE + 2);
        assert_eq!(bench.vcpu.regs.rbx, marked(0).rbx);
    }
}
