//! Linux's calls and ours: which registers survive, and calls from unusual places.

use abi::call::{CALL_HYPER_NULL, CALL_NULL, CALL_SEG_ROOT_SET, CALL_VAS_CREATE};
use abi::{GuestVirt, PAGE_SIZE};
use tests::skip_without_kvm;
use vmm::vm::{Exit, UserRegs};

use crate::bench::{
    ALL_FLAGS, Bench, CODE, FIXED, NOWHERE, STACK, SYSCALL, TRAP_FLAG, behind_call, call_page,
    marked, mov_eax,
};

/// What a Linux call may change, excluded from a comparison.
fn kept_by_linux(regs: &UserRegs) -> UserRegs {
    UserRegs { rax: 0, rcx: 0, r11: 0, rip: 0, ..*regs }
}

#[test]
fn linux_calls_keep_every_register_but_rax_rcx_r11() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    // cld; std and the arithmetic flags come in through RFLAGS. Twice: the second call is
    // made after the VMM's cheap return path, not after a full restore.
    bench.load(&[&SYSCALL[..], &SYSCALL, &[0x0f, 0x0b]].concat());
    bench.vcpu.regs.rflags = FIXED | ALL_FLAGS;
    let before = bench.vcpu.regs;
    for call in 1..=2_u64 {
        bench.run_to_syscall();
        let after = bench.vcpu.regs;
        assert_eq!(after.rip, CODE + 2 * call);
        assert_eq!(after.rcx, after.rip, "SYSCALL's own");
        assert_eq!(kept_by_linux(&after), kept_by_linux(&before));
        // Below our own numbers: the second call is to be one of Linux's, too.
        bench.vcpu.regs.rax = 0x2345_6789;
    }
    let (frame, _) = bench.run_to(6);
    assert_eq!(frame.rip, CODE + 4);
    assert_eq!(frame.rflags & ALL_FLAGS, ALL_FLAGS, "flags {:#x}", frame.rflags);
    assert_eq!(bench.vcpu.regs.rax, 0x2345_6789, "the result");
    assert_eq!(
        kept_by_linux(&bench.vcpu.regs),
        UserRegs { rflags: bench.vcpu.regs.rflags, ..kept_by_linux(&before) }
    );
}

#[test]
fn every_register_the_vmm_writes_reaches_ring_3_after_a_call() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    for all in [false, true] {
        bench.load(&[&SYSCALL[..], &[0x0f, 0x0b]].concat());
        bench.run_to_syscall();
        let rip = bench.vcpu.regs.rip;
        let mut wanted = marked(rip);
        wanted.rbx = 1;
        wanted.r15 = 2;
        wanted.rsp = 0x7777_7777;
        wanted.rflags = FIXED | ALL_FLAGS;
        bench.vcpu.regs = wanted;
        if all {
            bench.vcpu.restore_all();
        } else {
            // The cheap return path leaves what SYSRET leaves.
            (wanted.rcx, wanted.r11) = (rip, FIXED | ALL_FLAGS);
        }
        let (frame, _) = bench.run_to(6);
        assert_eq!(frame.rip, rip);
        let mut found = bench.vcpu.regs;
        found.rflags &= !0x1_0000;
        if !all {
            (found.rcx, found.r11) = (wanted.rcx, wanted.r11);
        }
        assert_eq!(found, wanted, "restore all: {all}");
    }
}

#[test]
fn the_null_call_returns_zero_and_keeps_what_a_callee_keeps() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    for (number, in_vmm) in [(CALL_NULL, false), (CALL_HYPER_NULL, true), (CALL_NULL + 77, true)] {
        bench.load(&[&mov_eax(number)[..], &call_page(), &[0x0f, 0x0b]].concat());
        bench.vcpu.regs.rflags = FIXED | 0x8d5;
        let before = bench.vcpu.regs;
        if in_vmm {
            let exit = bench.run();
            assert!(matches!(exit, Exit::Call(_)), "{exit:x?}");
            assert_eq!(bench.vcpu.regs.rax, u64::from(number));
            bench.vcpu.regs.rax = 0x55;
        }
        let (frame, _) = bench.run_to(6);
        let after = bench.vcpu.regs;
        assert_eq!(frame.rip, CODE + 5 + 13);
        assert_eq!(after.rax, if in_vmm { 0x55 } else { 0 });
        let callee = |r: &UserRegs| [r.rbx, r.rbp, r.rsp, r.r12, r.r13, r.r14, r.r15];
        assert_eq!(callee(&after), callee(&before));
    }
}

#[test]
fn the_direction_flag_is_off_in_the_kernel_and_back_on_in_the_program() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    bench.load(&[&mov_eax(CALL_NULL)[..], &call_page(), &[0x0f, 0x0b]].concat());
    bench.vcpu.regs.rflags = FIXED | ALL_FLAGS;
    let (frame, _) = bench.run_to(6);
    assert_eq!(bench.vcpu.regs.rax, 0);
    assert_eq!(frame.rflags & 0x400, 0x400, "flags {:#x}", frame.rflags);
}

#[test]
fn bases_of_fs_and_gs_survive_calls_and_faults() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let (fs, gs) = (0x1111_2222_3000, 0x7fff_ffff_0000);
    let call = call_page();
    bench.load(&[&SYSCALL[..], &mov_eax(CALL_NULL), &call, &[0x0f, 0x0b]].concat());
    bench.vcpu.set_fs_base(GuestVirt::new(fs).unwrap());
    bench.vcpu.set_gs_base(GuestVirt::new(gs).unwrap());
    let bases = |bench: &Bench| (bench.vcpu.fs_base(), bench.vcpu.gs_base());
    bench.run_to_syscall();
    assert_eq!(bases(&bench), (fs, gs), "at a Linux call");
    bench.run_to(6);
    assert_eq!(bases(&bench), (fs, gs), "at an exception after our call");
    // mov rax, fs:[0] faults at the base.
    bench.load(&[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0]);
    assert_eq!(bench.run_to(14).1, fs);
    bench.load(&[0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0]);
    assert_eq!(bench.run_to(14).1, gs);
}

#[test]
fn a_program_that_changes_its_bases_itself_keeps_the_change() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    // rdfsbase rax; ud2. The processor determines whether it exists, not CPUID: where
    // ring 3 runs natively the host decides.
    bench.load(&[0xf3, 0x48, 0x0f, 0xae, 0xc0, 0x0f, 0x0b]);
    let (frame, _) = bench.run_to(6);
    if frame.rip == CODE {
        assert!(!bench.machine.has_fsgsbase(), "announced and not there");
        return;
    }
    // wrfsbase rbx; wrgsbase rbp; syscall; ud2
    let code = [
        &[0xf3, 0x48, 0x0f, 0xae, 0xd3, 0xf3, 0x48, 0x0f, 0xae, 0xdd][..],
        &SYSCALL,
        &[0x0f, 0x0b],
    ];
    bench.load(&code.concat());
    (bench.vcpu.regs.rbx, bench.vcpu.regs.rbp) = (0x1234_5000, 0x2345_6000);
    bench.run_to_syscall();
    assert_eq!((bench.vcpu.fs_base(), bench.vcpu.gs_base()), (0x1234_5000, 0x2345_6000));
    bench.run_to(6);
    assert_eq!((bench.vcpu.fs_base(), bench.vcpu.gs_base()), (0x1234_5000, 0x2345_6000));
    // A GS base in the kernel's half, which the instruction allows: a call must not confuse it
    // with the kernel's own.
    let odd = 0xffff_ffff_c000_0000;
    bench.load(
        &[&[0xf3, 0x48, 0x0f, 0xae, 0xdd][..], &mov_eax(CALL_NULL), &call_page(), &[0x0f, 0x0b]]
            .concat(),
    );
    bench.vcpu.regs.rbp = odd;
    bench.run_to(6);
    assert_eq!((bench.vcpu.regs.rax, bench.vcpu.gs_base()), (0, odd));
}

#[test]
fn a_call_at_the_end_of_the_last_mapped_page_returns_into_a_fault() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let end = CODE + 0x4000;
    bench.load_at(end - 2, &SYSCALL);
    bench.run_to_syscall();
    assert_eq!(bench.vcpu.regs.rip, end);
    let (frame, address) = bench.run_to(14);
    assert_eq!((frame.rip, address, frame.error & 0x15), (end, end, 0x14));
}

#[test]
fn a_call_from_the_last_page_of_the_lower_half_cannot_be_made() {
    skip_without_kvm!();
    let bench = Bench::new();
    let last = (1 << 47) - PAGE_SIZE;
    let prot = vmm::private::Prot::from_bits(7).unwrap();
    let backing = vmm::private::Backing::Anonymous;
    assert!(bench.private.map_at(last, PAGE_SIZE, prot, backing, "test").is_err());
}

#[test]
fn returns_to_addresses_that_are_not_canonical_are_the_programs_fault() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    for rip in [1_u64 << 47, 1 << 63, (!0 << 47) - 1, 0x8000_0000_0000_0000 | CODE] {
        bench.load(&SYSCALL);
        bench.run_to_syscall();
        bench.vcpu.regs.rip = rip;
        let (frame, _) = bench.run_to(13);
        assert_eq!((frame.rip, frame.cs & 3), (rip, 3));
        // The vCPU still works.
        bench.load(&SYSCALL);
        bench.run_to_syscall();
    }
    for rip in [!0 << 47, 0xffff_ffff_8000_0000, !0] {
        bench.load(&SYSCALL);
        bench.run_to_syscall();
        bench.vcpu.regs.rip = rip;
        let (frame, address) = bench.run_to(14);
        assert_eq!((frame.rip, frame.cs & 3, address), (rip, 3, rip));
    }
}

#[test]
fn single_stepping_over_a_call_traps_behind_it_and_not_in_the_kernel() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    bench.touch_code();
    bench.load(&[&SYSCALL[..], &[0x90, 0x90, 0x0f, 0x0b]].concat());
    bench.vcpu.regs.rflags = FIXED | TRAP_FLAG;
    bench.run_to_syscall();
    assert_eq!(bench.vcpu.regs.rflags & TRAP_FLAG, TRAP_FLAG);
    bench.vcpu.regs.rax = 0;
    let (frame, _) = bench.run_to(1);
    assert!((CODE + 2..=CODE + 3).contains(&frame.rip), "{frame:x?}");
    assert_eq!(frame.cs & 3, 3);
    // Our own call, likewise.
    bench.load(&[&mov_eax(CALL_NULL)[..], &call_page(), &[0x90, 0x0f, 0x0b]].concat());
    bench.vcpu.regs.rflags = FIXED | TRAP_FLAG;
    for _ in 0..20 {
        match bench.run() {
            Exit::Exception { vector: 1, frame, .. } => assert_eq!(frame.cs & 3, 3),
            Exit::Exception { vector: 6, frame, .. } => {
                assert_eq!((frame.rip, bench.vcpu.regs.rax), (CODE + 5 + 13 + 1, 0));
                return;
            }
            other => panic!("{other:x?}"),
        }
    }
    panic!("too many steps: {:x?}", bench.vcpu.regs);
}

#[test]
fn calls_do_not_need_a_stack() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    for rsp in [0, 8, NOWHERE, 1 << 47, 1 << 63, !0, 0xffff_ffff_c000_1000, STACK + 1] {
        bench.load(&[&SYSCALL[..], &[0x0f, 0x0b]].concat());
        bench.vcpu.regs.rsp = rsp;
        bench.run_to_syscall();
        assert_eq!(bench.vcpu.regs.rsp, rsp);
        let (frame, _) = bench.run_to(6);
        assert_eq!((frame.rsp, frame.rip), (rsp, CODE + 2));
        // Ours, entered by a jump: its RET is what fails.
        bench.load(&[0xff, 0xe3]);
        bench.vcpu.regs.rbx = abi::layout::CALL_PAGE.raw();
        bench.vcpu.regs.rax = u64::from(CALL_NULL);
        bench.vcpu.regs.rsp = rsp;
        let exit = bench.run();
        let Exit::Exception { vector: 12..=14, frame, .. } = exit else {
            panic!("rsp {rsp:#x}: {exit:x?}");
        };
        assert_eq!((frame.rip, frame.rsp), (behind_call(&bench.machine, false), rsp));
        assert_eq!(bench.vcpu.regs.rax, 0);
    }
}

#[test]
fn a_program_cannot_put_memory_of_its_own_where_the_vmms_pages_are() {
    skip_without_kvm!();
    let bench = Bench::new();
    let end = abi::layout::PRIVATE_END.raw();
    let call_page = abi::layout::CALL_PAGE.raw();
    // The lowest of them.
    let page = abi::layout::CLOCK_PAGE.raw();
    let prot = vmm::private::Prot::from_bits(7).unwrap();
    let map = |at: u64, len: u64| {
        bench.private.map_at(at, len, prot, vmm::private::Backing::Anonymous, "test")
    };
    for (at, len) in [
        (page, 4096),
        (call_page, 4096),
        (page, end - page),
        (page - 4096, 8192),
        (end - 4096, 4096),
    ] {
        assert!(map(at, len).is_err(), "{at:#x}");
        assert!(bench.private.unmap(at, len).is_err(), "{at:#x}");
        assert!(bench.private.protect(at, len, prot).is_err(), "{at:#x}");
    }
    assert_eq!(
        bench
            .private
            .map_anywhere(page, 4096, prot, vmm::private::Backing::Anonymous, "test")
            .map(|at| at < page),
        Ok(true)
    );
    let below = map(page - 4096, 4096);
    assert_eq!(below, Ok(()));
    let (stay, unmap) = (vmm::private::Destination::Stay, vmm::private::Source::Unmap);
    let moved = bench.private.remap(page - 4096, 4096, 8192, stay, unmap);
    assert!(moved.is_err(), "grown over the clock page");
}

#[test]
fn the_arguments_of_a_hypercall_reach_the_vmm_as_they_are() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    for number in [CALL_HYPER_NULL, CALL_VAS_CREATE, CALL_SEG_ROOT_SET] {
        bench.load(&[&mov_eax(number)[..], &call_page(), &[0x0f, 0x0b]].concat());
        let before = bench.vcpu.regs;
        let exit = bench.run();
        assert!(matches!(exit, Exit::Call(_)), "{exit:x?}");
        // SYSCALL clobbers RCX and R11; the return address is on the stack.
        let without = |regs: &UserRegs| UserRegs { rcx: 0, r11: 0, rip: 0, rflags: 0, ..*regs };
        let rsp = before.rsp - 8;
        let expected = UserRegs { rax: number.into(), rsp, ..without(&before) };
        assert_eq!(without(&bench.vcpu.regs), expected, "{number:#x}");
    }
}

#[test]
fn call_numbers_outside_all_tables_reach_the_vmm_whole() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    // The number is 64 bits wide: one above 32 bits must not be taken for one of ours.
    let numbers = [0, 1, 0x534a_0000, 0x534a_ffff, 0x1_534a_0000, 1 << 63, !0, !0 << 32];
    for number in numbers {
        bench.load(&[&SYSCALL[..], &[0x0f, 0x0b]].concat());
        bench.vcpu.regs.rax = number;
        match bench.run() {
            Exit::Syscall(_) | Exit::Call(_) => assert_eq!(bench.vcpu.regs.rax, number),
            // The null call is served in the kernel and continues to UD2.
            Exit::Exception { vector: 6, .. } if number == u64::from(CALL_NULL) => {}
            other => panic!("{number:#x}: {other:x?}"),
        }
    }
}
