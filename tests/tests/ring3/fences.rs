//! What ring 3 must not reach: the kernel's pages, and the VMM through the gate.

use abi::layout::{CALL_PAGE, GATE_PAGE, GATE_TRAP_PAGE};
use abi::{GuestVirt, PAGE_SIZE};
use tests::skip_without_kvm;
use vmm::vm::Exit;

use crate::bench::{Bench, CODE, DATA, STACK};

/// Every page of the upper half that is mapped, with whether ring 3 may use it.
fn kernel_pages(bench: &Bench) -> Vec<(u64, bool)> {
    // The layout's two gigabytes at the top; the rest of the half is checked entry by entry.
    let mut pages = Vec::new();
    let walk = |gva: u64| {
        let gva = GuestVirt::new(gva).expect("the upper half is canonical");
        bench.machine.edit_tables(|tables| tables.walk(gva)).expect("tables are in guest memory")
    };
    let mut at = !0_u64 << 47;
    loop {
        let found = walk(at);
        let bytes = 1_u64 << found.level.shift();
        if found.pte.is_present() {
            pages.push((at, found.pte.rights().user));
        }
        match (at & !(bytes - 1)).checked_add(bytes) {
            Some(next) => at = next,
            None => return pages,
        }
    }
}

#[test]
fn no_kernel_page_can_be_read_written_or_executed_by_a_program() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    // More vCPUs, more areas.
    let _second = bench.kernel.new_vcpu().unwrap();
    let pages = kernel_pages(&bench);
    assert!(pages.len() > 8, "image, IDT and two vCPU areas: {pages:x?}");
    for (page, user) in pages {
        assert!(!user, "{page:#x} is open to ring 3");
        for (code, error) in [(&[0x8b, 0x03][..], 5), (&[0x89, 0x03], 7), (&[0xff, 0xe3], 0x15)] {
            for offset in [0, 8, 0x800, PAGE_SIZE - 4] {
                bench.load(code);
                bench.vcpu.regs.rbx = page + offset;
                let (frame, address) = bench.run_to(14);
                assert_eq!((address, frame.cs & 3), (page + offset, 3));
                assert_eq!(frame.error, error, "{page:#x}");
            }
        }
    }
}

#[test]
fn kernel_pages_have_the_least_rights() {
    skip_without_kvm!();
    let bench = Bench::new();
    let mut seen = [false; 3];
    for (page, _) in kernel_pages(&bench) {
        let gva = GuestVirt::new(page).unwrap();
        let rights = bench.machine.edit_tables(|tables| tables.walk(gva)).unwrap().pte.rights();
        assert!(!(rights.write && rights.execute), "{page:#x} is writable and executable");
        seen[usize::from(rights.write) + 2 * usize::from(rights.execute)] = true;
    }
    assert_eq!(seen, [true; 3], "read-only, writable and executable pages exist");
}

#[test]
fn call_page_and_gate_cannot_be_written() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let gate = bench.machine.is_soft_host().then_some(GATE_PAGE.raw());
    for page in [Some(CALL_PAGE.raw()), gate].into_iter().flatten() {
        bench.load(&[0x89, 0x03]);
        bench.vcpu.regs.rbx = page;
        let (frame, address) = bench.run_to(14);
        assert_eq!((address, frame.error & 7), (page, 7));
    }
}

#[test]
fn stores_to_the_trap_page_from_elsewhere_are_forbidden() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    if !bench.machine.is_soft_host() {
        bench.load(&[0x89, 0x03]);
        bench.vcpu.regs.rbx = GATE_TRAP_PAGE.raw();
        bench.run_to(14);
        return;
    }
    let accesses: [(&str, &[u8]); 8] = [
        ("mov [rbx], eax", &[0x89, 0x03]),
        ("mov eax, [rbx]", &[0x8b, 0x03]),
        ("mov rax, [rbx]", &[0x48, 0x8b, 0x03]),
        ("add [rbx], eax", &[0x01, 0x03]),
        ("xchg [rbx], eax", &[0x87, 0x03]),
        ("lock cmpxchg [rbx], ecx", &[0xf0, 0x0f, 0xb1, 0x0b]),
        ("push [rbx]", &[0xff, 0x33]),
        ("movups [rbx], xmm0", &[0x0f, 0x11, 0x03]),
    ];
    for (name, code) in accesses {
        bench.load(code);
        bench.vcpu.regs.rbx = GATE_TRAP_PAGE.raw() + 0x100;
        let exit = bench.run();
        assert!(matches!(exit, Exit::Forbidden { .. }), "{name}: {exit:x?}");
        // A handler elsewhere, with its own registers, runs from its first instruction:
        // the refused access is not repeated.
        bench.load_at(CODE + 0x1000, &[0x0f, 0x0b]);
        let handler = bench.vcpu.regs;
        let (frame, _) = bench.run_to(6);
        assert_eq!(frame.rip, CODE + 0x1000, "after {name}");
        let mut found = bench.vcpu.regs;
        found.rflags = handler.rflags;
        assert_eq!(found, handler, "after {name}");
    }
}

#[test]
fn odd_instructions_on_the_trap_page_do_not_break_the_vm() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    if !bench.machine.is_soft_host() {
        return;
    }
    let accesses: [(&str, &[u8]); 9] = [
        ("fxsave [rbx]", &[0x0f, 0xae, 0x03]),
        ("fxrstor [rbx]", &[0x0f, 0xae, 0x0b]),
        ("cmpxchg16b [rbx]", &[0x48, 0x0f, 0xc7, 0x0b]),
        ("vmovups [rbx], ymm0", &[0xc5, 0xfc, 0x11, 0x03]),
        ("addps xmm0, [rbx]", &[0x0f, 0x58, 0x03]),
        ("rep stosb", &[0xf3, 0xaa]),
        ("rep movsb", &[0xf3, 0xa4]),
        ("fld qword [rbx]", &[0xdd, 0x03]),
        ("jmp [rbx]", &[0xff, 0x23]),
    ];
    for (name, code) in accesses {
        bench.load(code);
        bench.vcpu.regs.rbx = GATE_TRAP_PAGE.raw();
        bench.vcpu.regs.rdi = GATE_TRAP_PAGE.raw();
        bench.vcpu.regs.rsi = DATA;
        bench.vcpu.regs.rcx = 64;
        let exit = bench.run();
        let the_programs = matches!(exit, Exit::Forbidden { .. } | Exit::Exception { .. });
        assert!(the_programs, "{name}: {exit:x?}");
        bench.load(&[0x0f, 0x0b]);
        bench.run_to(6);
    }
}

#[test]
fn jumping_into_the_gate_makes_at_most_a_system_call() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    if !bench.machine.is_soft_host() {
        return;
    }
    let targets = [CODE + 0x1000, 0, 1 << 47, !0, !0 << 47, GATE_PAGE.raw()];
    for offset in 0..16 {
        for target in targets {
            for flags in [0, !0, 0x3000, 0x2_0000, 0x4000] {
                bench.load_at(CODE + 0x1000, &[0x0f, 0x0b]);
                bench.load(&[0xff, 0xe3]);
                bench.vcpu.regs.rbx = GATE_PAGE.raw() + offset;
                bench.vcpu.regs.rcx = target;
                bench.vcpu.regs.r11 = flags;
                bench.vcpu.regs.rax = GATE_TRAP_PAGE.raw();
                let mut exits = 0;
                // Whatever it does ends in a fault of the program within a few exits.
                loop {
                    match bench.run() {
                        // Also where the gate's bytes, entered in the middle, are another
                        // store: it can only result in a system call.
                        Exit::Syscall(_) => {}
                        Exit::Exception { frame, .. } => {
                            assert_eq!(frame.cs & 3, 3);
                            assert_eq!(frame.rflags & 0x3000, 0, "I/O privilege");
                            break;
                        }
                        Exit::Forbidden { .. } => break,
                        other => panic!("offset {offset}, to {target:#x}: {other:x?}"),
                    }
                    exits += 1;
                    if exits == 4 {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn reads_of_kernel_structures_by_sgdt_and_sidt_do_not_open_them() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    // sgdt [rbx]; ud2. Without UMIP this reveals an address, which is not secret.
    bench.load(&[0x0f, 0x01, 0x03, 0x0f, 0x0b]);
    bench.vcpu.regs.rbx = DATA;
    let exit = bench.run();
    assert!(matches!(exit, Exit::Exception { vector: 6 | 13, .. }), "{exit:x?}");
    // A far jump, a far return and an IRETQ to the kernel's selectors are refused.
    let stack = STACK - 40;
    let words = [CODE, 0x08, 0x202, STACK, 0x10];
    let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
    for code in [&[0x48, 0xcb][..], &[0x48, 0xcf]] {
        bench.private.copy_out(stack, &bytes).unwrap();
        bench.load(code);
        bench.vcpu.regs.rsp = stack;
        let exit = bench.run();
        let refused =
            matches!(exit, Exit::Exception { vector: 13, frame, .. } if frame.cs & 3 == 3);
        assert!(refused, "{code:x?}: {exit:x?}");
    }
    // mov ss, ax and mov ds, ax with kernel selectors.
    for code in [[0x8e, 0xd0], [0x8e, 0xd8]] {
        for selector in [0x08, 0x10, 0x40] {
            bench.load(&code);
            bench.vcpu.regs.rax = selector;
            let exit = bench.run();
            assert!(matches!(exit, Exit::Exception { vector: 12 | 13, .. }), "{exit:x?}");
        }
    }
}
