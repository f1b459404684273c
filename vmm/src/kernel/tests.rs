//! A bare vCPU, from its creation to its first call. More is in `tests/tests/ring3`.

use abi::layout::{CALL_PAGE, CALL_PAGE_UD2, IST_STACK_BYTES};

use super::Kernel;
use crate::vm::vcpu::Position;
use crate::vm::{Exit, UserRegs, Vcpu};

#[test]
fn the_host_shows_its_kind_and_calls_go_through() {
    let t = std::time::Instant::now();
    let kernel = Kernel::load().unwrap();
    eprintln!("machine {:?}", t.elapsed());
    let mut vcpu = kernel.new_vcpu().unwrap();
    eprintln!("vcpu {:?} soft {}", t.elapsed(), kernel.machine().is_soft_host());
    vcpu.regs = UserRegs {
        rip: CALL_PAGE.raw(),
        rax: u64::from(abi::call::CALL_HYPER_NULL),
        rsp: 0x1234,
        rbx: 7,
        ..UserRegs::default()
    };
    vcpu.restore_all();
    let exit = vcpu.run().unwrap();
    assert!(matches!(exit, Exit::Call(_)), "{exit:?}");
    let way_in = if kernel.machine().is_soft_host() { CALL_PAGE_UD2 } else { CALL_PAGE };
    assert_eq!((vcpu.regs.rbx, vcpu.regs.rsp, vcpu.regs.rip), (7, 0x1234, way_in.raw() + 2));
    eprintln!("done {:?}", t.elapsed());
}

/// The words on each of the four exception stacks.
fn stacks(vcpu: &Vcpu) -> [Vec<u64>; 4] {
    let words = IST_STACK_BYTES / 8;
    [0, 1, 2, 3].map(|stack| {
        let word =
            |n| vcpu.machine().mem.load(vcpu.stacks.offset((stack * words + n) * 8)).unwrap();
        (0..words).map(word).collect()
    })
}

#[test]
fn what_strikes_an_exception_on_its_way_out_has_a_stack_of_its_own() {
    // Double fault, NMI, machine check; stack numbers as in the IDT.
    for (vector, stack) in [(8_u8, 2_usize), (2, 3), (18, 4)] {
        let kernel = Kernel::load().unwrap();
        let mut vcpu = kernel.new_vcpu().unwrap();
        // The call page's code is followed by breakpoints.
        let breakpoint = CALL_PAGE.raw() + 32;
        vcpu.regs = UserRegs { rip: breakpoint, rsp: 0x1234, ..UserRegs::default() };
        vcpu.restore_all();
        let exit = vcpu.run().unwrap();
        assert!(matches!(exit, Exit::Exception { vector: 3, .. }), "{exit:x?}");
        let (before, left) = (stacks(&vcpu), vcpu.fd.sync_regs().regs);
        assert_eq!(before[0][IST_STACK_BYTES as usize / 8 - 5], breakpoint + 1);

        // The kernel is past its OUT, on the first stack. The next exception occurs there.
        let mut events = vcpu.fd.get_vcpu_events().unwrap();
        if vector == 2 {
            events.nmi.injected = 1;
        } else {
            events.exception.injected = 1;
            events.exception.nr = vector;
            events.exception.has_error_code = u8::from(vector == 8);
        }
        vcpu.fd.set_vcpu_events(&events).unwrap();
        vcpu.position = Position::Kernel;
        let exit = vcpu.run().unwrap();
        // Reported as the kernel's own, at its instruction pointer; CR2 is from the previous fault.
        let Exit::KernelDead { vector: Some(found), rip, .. } = exit else {
            panic!("{vector}: {exit:x?}");
        };
        assert_eq!(found, vector);
        // KVM may finish the OUT, two bytes, only when the vCPU runs again.
        assert!([left.rip, left.rip + 2].contains(&rip), "{rip:#x}, left at {:#x}", left.rip);
        let after = stacks(&vcpu);
        for (n, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(before == after, n + 1 != stack, "vector {vector}, stack {}", n + 1);
        }
        // RIP and RSP of the pushed frame: those of the kernel on the first stack.
        let frame = &after[stack - 1][IST_STACK_BYTES as usize / 8 - 5..];
        assert_eq!((frame[0], frame[3]), (rip, left.rsp), "{vector}");
    }
}
