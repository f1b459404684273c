//! A bare vCPU, from its making to its first call. More is in `tests/tests/ring3`.

use super::*;
use abi::layout::CALL_PAGE_UD2;

#[test]
fn the_host_shows_its_kind_and_calls_go_through() {
    let t = std::time::Instant::now();
    let machine = Machine::new().unwrap();
    eprintln!("machine {:?}", t.elapsed());
    let mut vcpu = machine.new_vcpu().unwrap();
    eprintln!("vcpu {:?} soft {}", t.elapsed(), machine.is_soft_host());
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
    let way_in = if machine.is_soft_host() { CALL_PAGE_UD2 } else { CALL_PAGE };
    assert_eq!((vcpu.regs.rbx, vcpu.regs.rsp, vcpu.regs.rip), (7, 0x1234, way_in.raw() + 2));
    eprintln!("done {:?}", t.elapsed());
}
