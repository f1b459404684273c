//! TLB tags on a real vCPU, for each PCID policy: PCID with INVPCID, PCID alone, neither.
//!
//! The rule and its exhaustive model are in `abi/src/tag.rs`. Here: CR3 holds the right tag,
//! and no program reads through a translation that was removed, be it after a tag has passed to
//! another instance, after an edit while the vCPU was elsewhere, or after an edit while it was
//! inside. Emulated processors flush on every load, so only real ones reveal a missing flush of
//! another tag.

use abi::switch::{CR3_KEEP, InstanceEntry};
use abi::{GuestPhys, GuestVirt, PageSize, Rights};
use tests::kvm::other_kind_of_host;
use tests::skip_without_kvm;
use vmm::kernel::Kernel;
use vmm::vm::{Exit, Machine, PcidPolicy, Vcpu};

use crate::bench::{Bench, CODE};
use crate::switch::{END, PLACE, Switcher, read_place, switch_to};

/// Benches of all PCID policies that this host can have; reports it when there is only one.
fn each_policy(test: &str, check: impl Fn(&str, Bench)) {
    let offered = Bench::new().machine.has_pcid();
    if !offered {
        let test = format!("ring3: tags::{test}, shapes with PCID");
        other_kind_of_host(&test, "KVM offers no PCID here");
    }
    for policy in PcidPolicy::ALL {
        let bench = Bench::with_tags(policy);
        assert_eq!(
            bench.machine.has_pcid(),
            offered && policy != PcidPolicy::Without,
            "{policy:?}"
        );
        assert!(policy == PcidPolicy::AsOffered || !bench.machine.offers_invpcid(), "{policy:?}");
        check(&format!("{policy:?}, PCID: {}", bench.machine.has_pcid()), bench);
    }
}

/// A root whose page at [`PLACE`] begins with `mark`.
fn root_with(machine: &Machine, mark: u64) -> GuestPhys {
    let root = machine.table_frame().unwrap();
    machine.fill_root(root).unwrap();
    point(machine, root, mark);
    root
}

/// Maps a fresh page that begins with `mark` at [`PLACE`].
fn point(machine: &Machine, root: GuestPhys, mark: u64) {
    let page = machine.mem.alloc(abi::PAGE_SIZE_2M).unwrap();
    machine.mem.store(page, mark).unwrap();
    let user = Rights { write: true, execute: false, user: true };
    let place = GuestVirt::literal(PLACE);
    machine
        .edit_tables_of(root, |tables| tables.map(place, page, PageSize::Large2M, user))
        .unwrap();
}

/// Root `root` under `tag`, if there are tags, with a new generation.
fn entry(kernel: &Kernel, root: GuestPhys, tag: u64) -> InstanceEntry {
    let cr3 = root.raw() | if kernel.machine().has_pcid() { tag | CR3_KEEP } else { 0 };
    let generation = kernel.switch.new_generation();
    InstanceEntry { cr3, generation, ..InstanceEntry::default() }
}

/// Runs `code` from [`CODE`] to its UD2 with RBX at [`PLACE`]; R12 to R15.
fn run(bench: &mut Bench, code: &[u8]) -> [u64; 4] {
    bench.load(&[code, &END].concat());
    bench.vcpu.regs.rbx = PLACE;
    let (frame, _) = bench.run_to(6);
    assert_eq!(frame.rip, CODE + code.len() as u64);
    let r = bench.vcpu.regs;
    [r.r12, r.r13, r.r14, r.r15]
}

#[test]
fn each_instance_runs_under_its_tag_and_reads_its_own() {
    skip_without_kvm!();
    each_policy("each_instance_runs_under_its_tag_and_reads_its_own", |policy, bench| {
        let mut s = Switcher::on(bench, 2);
        let tagged = s.bench.machine.has_pcid();
        let code = [
            &switch_to(1)[..],
            &read_place(12),
            &switch_to(2),
            &read_place(13),
            &switch_to(1),
            &read_place(14),
            &switch_to(2),
            &read_place(15),
        ];
        for _ in 0..3 {
            let read = run(&mut s.bench, &code.concat());
            assert_eq!(read, [0x1111, 0x2222, 0x1111, 0x2222], "{policy}");
            for vh in [1, 2, 0] {
                run(&mut s.bench, &switch_to(vh));
                let tag = if tagged { u64::from(vh) + 1 } else { 0 };
                assert_eq!(s.bench.vcpu.cr3() & 0xfff, tag, "{policy}: instance {vh}");
            }
        }
    });
}

#[test]
fn a_tag_that_two_instances_share_never_mixes_them() {
    skip_without_kvm!();
    each_policy("a_tag_that_two_instances_share_never_mixes_them", |policy, bench| {
        let mut s = Switcher::on(bench, 0);
        let machine = s.bench.machine.clone();
        let switch = s.bench.kernel.switch.clone();
        for vh in [1, 2] {
            let root = root_with(&machine, 0x1111 * u64::from(vh));
            switch.set_instance(vh, &entry(&s.bench.kernel, root, 9), true).unwrap();
        }
        let code = [
            &switch_to(1)[..],
            &read_place(12),
            &switch_to(2),
            &read_place(13),
            &switch_to(0),
            &switch_to(1),
            &read_place(14),
            &switch_to(0),
            &switch_to(2),
            &read_place(15),
        ];
        for _ in 0..5 {
            let read = run(&mut s.bench, &code.concat());
            assert_eq!(read, [0x1111, 0x2222, 0x1111, 0x2222], "{policy}");
        }
    });
}

#[test]
fn what_changed_while_the_vcpu_was_elsewhere_is_read_anew() {
    skip_without_kvm!();
    each_policy("what_changed_while_the_vcpu_was_elsewhere_is_read_anew", |policy, bench| {
        let mut s = Switcher::on(bench, 0);
        let machine = s.bench.machine.clone();
        let switch = s.bench.kernel.switch.clone();
        let root = root_with(&machine, 1);
        switch.set_instance(1, &entry(&s.bench.kernel, root, 9), true).unwrap();
        let visit = [&switch_to(1)[..], &read_place(12), &switch_to(0)].concat();
        for mark in 1..20 {
            // Twice: the second visit may keep what the first has cached.
            assert_eq!(run(&mut s.bench, &visit)[0], mark, "{policy}");
            assert_eq!(run(&mut s.bench, &visit)[0], mark, "{policy}");
            // A new root under the same tag: hosts that shadow tables do not see the VMM
            // change one that they know (docs/src/internals/memory.md).
            switch.clear_instance(1).unwrap();
            let root = root_with(&machine, mark + 1);
            switch.set_instance(1, &entry(&s.bench.kernel, root, 9), true).unwrap();
        }
    });
}

/// Runs `code` on a vCPU other than the bench's.
fn run_on(bench: &Bench, vcpu: &mut Vcpu, code: &[u8]) -> u64 {
    bench.private.copy_out(CODE, &[code, &END].concat()).unwrap();
    vcpu.regs = crate::bench::marked(CODE);
    vcpu.regs.rbx = PLACE;
    vcpu.restore_all();
    for _ in 0..1000 {
        match vcpu.run().unwrap() {
            Exit::Kicked | Exit::KickedInKernel => {}
            Exit::Exception { vector: 6, .. } => return vcpu.regs.r12,
            other => panic!("{other:x?}"),
        }
    }
    panic!("the vCPU does not get on");
}

#[test]
fn an_edit_under_a_live_instance_reaches_the_vcpu_inside_and_the_one_outside() {
    skip_without_kvm!();
    let test = "an_edit_under_a_live_instance_reaches_the_vcpu_inside_and_the_one_outside";
    each_policy(test, |policy, bench| {
        let mut s = Switcher::on(bench, 0);
        let machine = s.bench.machine.clone();
        let switch = s.bench.kernel.switch.clone();
        let mut other = s.bench.kernel.new_vcpu().unwrap();
        let root = root_with(&machine, 1);
        switch.set_instance(1, &entry(&s.bench.kernel, root, 9), true).unwrap();
        let visit = [&switch_to(1)[..], &read_place(12), &switch_to(0)].concat();
        assert_eq!(run(&mut s.bench, &visit)[0], 1, "{policy}");
        let enter = [&switch_to(1)[..], &read_place(12)].concat();
        assert_eq!(run_on(&s.bench, &mut other, &enter), 1, "{policy}");
        for mark in 2..10 {
            assert_eq!(switch.vcpus_in(1).unwrap(), [other.index()], "{policy}");
            // As the VMM does: a new root under the same tag.
            switch.clear_instance(1).unwrap();
            let fresh = entry(&s.bench.kernel, root_with(&machine, mark), 9);
            switch.set_instance(1, &fresh, true).unwrap();
            switch.switch_root(&mut other, fresh.cr3).unwrap();
            assert_eq!(run_on(&s.bench, &mut other, &read_place(12)), mark, "{policy}: inside");
            assert_eq!(run(&mut s.bench, &visit)[0], mark, "{policy}: outside");
            // And by the kernel's own switch home and back.
            let again = [switch_to(0), enter.clone()].concat();
            assert_eq!(run_on(&s.bench, &mut other, &again), mark, "{policy}: again");
        }
    });
}
