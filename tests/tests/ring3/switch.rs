//! `vas_switch` in the kernel: where it leads, what it keeps, and what it leaves to the VMM.

use abi::call::CALL_VAS_SWITCH;
use abi::layout::VAS_START;
use abi::switch::{CR3_KEEP, InstanceEntry};
use abi::{GuestPhys, PageSize, Rights};
use tests::skip_without_kvm;
use vmm::vm::{Exit, UserRegs};

use crate::bench::{ALL_FLAGS, Bench, CODE, FIXED, behind_call, call_page, mov_eax};

/// An address of the VAS region at which every instance has its own page.
pub(crate) const PLACE: u64 = VAS_START.raw() + (5 << 30);

/// `mov edi, vh; mov eax, vas_switch; call the call page`.
pub(crate) fn switch_to(vh: u32) -> Vec<u8> {
    let mut code = vec![0xbf];
    code.extend_from_slice(&vh.to_le_bytes());
    code.extend_from_slice(&mov_eax(CALL_VAS_SWITCH));
    code.extend_from_slice(&call_page());
    code
}

/// `ud2`, where programs here end.
pub(crate) const END: [u8; 2] = [0x0f, 0x0b];

/// A vCPU at home, and instances 1, 2, ... whose page at [`PLACE`] begins with 0x1111 times
/// the handle.
pub(crate) struct Switcher {
    pub(crate) bench: Bench,
    pub(crate) entries: Vec<InstanceEntry>,
}

impl Switcher {
    pub(crate) fn new(instances: u32) -> Switcher {
        Switcher::on(Bench::new(), instances)
    }

    pub(crate) fn on(bench: Bench, instances: u32) -> Switcher {
        let machine = &bench.machine;
        let switch = &bench.kernel.switch;
        switch.start_switching().unwrap();
        let mut entries = Vec::new();
        let user = Rights { write: true, execute: false, user: true };
        for vh in 1..=instances {
            let root = machine.table_frame().unwrap();
            machine.fill_root(root).unwrap();
            let page = machine.mem.alloc(abi::PAGE_SIZE_2M).unwrap();
            machine.mem.store(page, 0x1111 * u64::from(vh)).unwrap();
            let place = abi::GuestVirt::literal(PLACE);
            machine
                .edit_tables_of(root, |tables| tables.map(place, page, PageSize::Large2M, user))
                .unwrap();
            let tag = if machine.has_pcid() { CR3_KEEP | u64::from(vh + 1) } else { 0 };
            let cr3 = root.raw() | tag;
            let generation = switch.new_generation();
            let entry = InstanceEntry { cr3, generation, ..InstanceEntry::default() };
            switch.set_instance(vh, &entry, true).unwrap();
            entries.push(entry);
        }
        Switcher { bench, entries }
    }

    pub(crate) fn current(&self) -> u32 {
        self.bench.kernel.switch.current_instance(self.bench.vcpu.index()).unwrap()
    }

    pub(crate) fn root(&self) -> GuestPhys {
        GuestPhys::literal(self.bench.vcpu.cr3() & !0xfff)
    }

    /// Runs a switch to `vh` that the kernel must leave to the VMM, with everything unchanged.
    #[track_caller]
    pub(crate) fn refused(&mut self, vh: u64) {
        let (before, root) = (self.current(), self.root());
        // mov eax, vas_switch; call page
        self.bench.load(&[&mov_eax(CALL_VAS_SWITCH)[..], &call_page(), &END].concat());
        self.bench.vcpu.regs.rdi = vh;
        let at_call = UserRegs {
            rax: u64::from(CALL_VAS_SWITCH),
            rip: behind_call(&self.bench.machine, true),
            rsp: self.bench.vcpu.regs.rsp - 8,
            ..self.bench.vcpu.regs
        };
        let exit = self.bench.run();
        assert!(matches!(exit, Exit::Call(_)), "{vh:#x}: {exit:x?}");
        assert_eq!(kept(&self.bench.vcpu.regs), kept(&at_call), "{vh:#x}");
        assert_eq!((self.current(), self.root()), (before, root), "{vh:#x}");
        let only = [self.bench.vcpu.index()];
        assert_eq!(self.bench.kernel.switch.vcpus_in(before).unwrap(), only, "{vh:#x}");
        self.bench.vcpu.regs.rax = 0x77;
        self.bench.run_to(6);
        assert_eq!(self.bench.vcpu.regs.rax, 0x77);
    }
}

/// The registers that our calls promise to preserve, the call's number and argument.
fn kept(regs: &UserRegs) -> UserRegs {
    UserRegs { rcx: 0, rdx: 0, rsi: 0, r8: 0, r9: 0, r10: 0, r11: 0, rflags: 0, ..*regs }
}

/// `mov r, [rbx]` for r12 to r15.
pub(crate) fn read_place(register: u8) -> [u8; 3] {
    [0x4c, 0x8b, 0x03 | (register & 7) << 3]
}

#[test]
fn the_same_address_reads_what_the_instance_has_there() {
    skip_without_kvm!();
    let mut s = Switcher::new(2);
    let code = [
        &switch_to(1)[..],
        &read_place(12),
        &switch_to(2),
        &read_place(13),
        &switch_to(1),
        &read_place(14),
        // To the current instance.
        &switch_to(1),
        &read_place(15),
        &switch_to(0),
        // mov rbp, [rbx]: at home nothing is mapped there.
        &[0x48, 0x8b, 0x2b],
    ]
    .concat();
    s.bench.load(&code);
    s.bench.vcpu.regs.rbx = PLACE;
    let (frame, address) = s.bench.run_to(14);
    assert_eq!((frame.rip, address), (CODE + code.len() as u64 - 3, PLACE));
    let r = s.bench.vcpu.regs;
    assert_eq!([r.r12, r.r13, r.r14, r.r15], [0x1111, 0x2222, 0x1111, 0x1111]);
    assert_eq!((r.rax, s.current()), (0, 0));
    assert_eq!(s.root(), s.bench.machine.home_root());
}

#[test]
fn a_switch_keeps_what_a_callee_keeps_and_shows_in_the_line() {
    skip_without_kvm!();
    let mut s = Switcher::new(1);
    for vh in [1, 0, 1, 1, 0, 0] {
        s.bench.load(&[&switch_to(vh)[..], &END].concat());
        s.bench.vcpu.regs.rflags = FIXED | ALL_FLAGS;
        let before = s.bench.vcpu.regs;
        let (frame, _) = s.bench.run_to(6);
        assert_eq!(frame.rip, CODE + switch_to(vh).len() as u64);
        let after = s.bench.vcpu.regs;
        assert_eq!(after.rax, 0);
        let callee = |r: &UserRegs| [r.rbx, r.rbp, r.rsp, r.r12, r.r13, r.r14, r.r15];
        assert_eq!(callee(&after), callee(&before));
        assert_eq!(frame.rflags & 0x400, 0x400, "the direction flag: {:#x}", frame.rflags);
        assert_eq!(s.current(), vh);
        assert_eq!(s.bench.kernel.switch.vcpus_in(vh).unwrap(), [0]);
        assert_eq!(s.bench.kernel.switch.vcpus_in(1 - vh).unwrap(), [0_u32; 0]);
    }
}

#[test]
fn what_the_kernel_cannot_serve_reaches_the_vmm_as_it_was_called() {
    skip_without_kvm!();
    let mut s = Switcher::new(2);
    let machine = s.bench.machine.clone();
    let switch = s.bench.kernel.switch.clone();
    for wild in [3, 4, 32768, 1 << 26, 1 << 58, (1 << 58) + 1, 1 << 63, !0, !0 << 32] {
        s.refused(wild);
    }
    // Not attached: no root.
    switch.clear_instance(2).unwrap();
    s.refused(2);
    // The VMM has requested that switches to it exit.
    switch.set_instance(2, &s.entries[1], false).unwrap();
    s.refused(2);
    switch.set_instance(2, &s.entries[1], true).unwrap();
    // A VAS has changed since the VMM last checked.
    let live = switch.changes_page();
    machine.mem.store(live, 7).unwrap();
    for vh in [0, 1, 2] {
        s.refused(vh);
    }
    switch.set_seen(7).unwrap();
    // With all of this corrected, the kernel makes the switch.
    s.bench.load(&[&switch_to(2)[..], &read_place(12), &END].concat());
    s.bench.vcpu.regs.rbx = PLACE;
    s.bench.run_to(6);
    assert_eq!((s.bench.vcpu.regs.r12, s.current()), (0x2222, 2));
}

#[test]
fn before_the_first_instance_every_switch_away_is_the_vmms() {
    skip_without_kvm!();
    let mut s = Switcher { bench: Bench::new(), entries: Vec::new() };
    for vh in [1, 32767, !0] {
        s.refused(vh);
    }
    s.bench.load(&[&switch_to(0)[..], &END].concat());
    s.bench.run_to(6);
    assert_eq!((s.bench.vcpu.regs.rax, s.root()), (0, s.bench.machine.home_root()));
}

#[test]
fn the_vmm_can_switch_a_vcpu_and_the_kernel_goes_on_from_there() {
    skip_without_kvm!();
    let mut s = Switcher::new(2);
    let hyper = CALL_VAS_SWITCH | abi::call::CALL_HYPER;
    for round in 0..3 {
        let code = [&mov_eax(hyper)[..], &call_page(), &read_place(12), &switch_to(2)];
        s.bench.load(&[&code.concat()[..], &read_place(13), &switch_to(0), &END].concat());
        s.bench.vcpu.regs.rbx = PLACE;
        let exit = s.bench.run();
        assert!(matches!(exit, Exit::Call(_)), "{exit:x?}");
        assert_eq!(s.bench.vcpu.regs.rax, u64::from(hyper));
        let index = s.bench.vcpu.index();
        s.bench.kernel.switch.announce_instance(index, 1).unwrap();
        assert_eq!(s.bench.kernel.switch.vcpus_in(0).unwrap(), [0]);
        assert_eq!(s.bench.kernel.switch.vcpus_in(1).unwrap(), [0]);
        s.bench.kernel.switch.switch_root(&mut s.bench.vcpu, s.entries[0].cr3).unwrap();
        s.bench.kernel.switch.set_current_instance(index, 1).unwrap();
        assert_eq!(s.bench.kernel.switch.vcpus_in(0).unwrap(), [0_u32; 0]);
        if round == 2 {
            s.bench.vcpu.restore_all();
        }
        s.bench.run_to(6);
        let r = s.bench.vcpu.regs;
        assert_eq!([r.r12, r.r13, r.rax], [0x1111, 0x2222, 0]);
        assert_eq!((s.current(), s.root()), (0, s.bench.machine.home_root()));
    }
}

#[test]
fn what_is_mapped_in_the_private_region_later_is_visible_everywhere() {
    skip_without_kvm!();
    let mut s = Switcher::new(1);
    s.bench.load(&[&switch_to(1)[..], &END].concat());
    s.bench.run_to(6);
    let late = crate::bench::NOWHERE + (3 << 40);
    s.bench.map(late, 0x1000, 3);
    // mov [rbx], r12; then the same word from home.
    let code = [&[0x4c, 0x89, 0x23][..], &switch_to(0), &read_place(13), &END];
    s.bench.load(&code.concat());
    s.bench.vcpu.regs.rbx = late;
    s.bench.run_to(6);
    assert_eq!(s.bench.vcpu.regs.r13, s.bench.vcpu.regs.r12);
}
