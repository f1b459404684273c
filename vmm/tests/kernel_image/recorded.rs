//! The exact number of instructions of each fast path, compared with `resources/counts.toml`.
//!
//! The budgets are in `counts`; here every change is noticed.

use abi::call::{CALL_HYPER_NULL, CALL_NULL, CALL_VAS_SWITCH};
use abi::layout::{VCPU_AREA_BYTES, VCPU_AREAS, VCPU_IST_STACKS, VCPU_STATUSES};
use abi::switch::CR3_KEEP;
use iced_x86::Register;

use crate::info;
use crate::kernel::{HOME_ROOT, Kernel, ROOT, TAG, WAYS, Way};
use crate::processor::End;
use crate::record::{Table, compare};

/// Acquires `number` locks and releases them, on the second visit: tags are known then.
fn switch_and_back(way: Way, number: usize, exclusive: bool, tagged: bool) -> (u64, u64) {
    let keep = |tag: u64| if tagged { CR3_KEEP | tag } else { 0 };
    let mut kernel = Kernel::new(way);
    kernel.instance(0, HOME_ROOT | keep(1), 0, &[]);
    kernel.instance(1, ROOT | keep(TAG), 20, &vec![exclusive; number]);
    let _first = (kernel.switch(1), kernel.switch(0));
    let counts = (kernel.switch(1), kernel.switch(0));
    assert_eq!(kernel.processor.cr3 & CR3_KEEP != 0, tagged);
    (counts.0 as u64, counts.1 as u64)
}

/// Segments without locks do not concern the kernel: an instance's entry does not list them. So
/// this is the count for any number of them, too.
#[test]
fn a_switch_takes_as_many_instructions_to_the_last_of_ten_thousand_instances_as_to_the_first() {
    for way in WAYS {
        for tagged in [false, true] {
            let mut kernel = Kernel::new(way);
            let keep = |tag: u64| if tagged { CR3_KEEP | tag } else { 0 };
            kernel.instance(0, HOME_ROOT | keep(1), 0, &[]);
            let mut counts = Vec::new();
            for vh in 1..=10_000 {
                kernel.instance(vh, ROOT | keep(TAG), 20, &[]);
                if [1, 2, 10, 100, 1000, 10_000].contains(&vh) {
                    // The second visit: tags are known then.
                    let _first = (kernel.switch(vh), kernel.switch(0));
                    counts.push((kernel.switch(vh), kernel.switch(0)));
                }
            }
            assert!(counts.iter().all(|count| *count == counts[0]), "{way:?}: {counts:?}");
        }
    }
}

/// Instructions from an exception's vector to its OUT.
fn exception(vector: u64, pushes_error: bool) -> u64 {
    let mut kernel = Kernel::new(Way::Trap);
    let frame = VCPU_AREAS.raw() + VCPU_IST_STACKS + 1024 - if pushes_error { 48 } else { 40 };
    let p = &mut kernel.processor;
    // Anywhere in the program.
    p.store(frame + if pushes_error { 8 } else { 0 }, 0x40_1000);
    p.set(Register::RSP, frame);
    let end = p.run(info(3) + vector * info(4));
    assert_eq!(end, End::Out(u64::from(abi::call::port::EXCEPTION) + vector));
    assert_eq!(p.register(Register::RSP) % 1024, 1024 - 48, "the frame, an error code with it");
    p.count as u64
}

#[test]
fn every_short_way_takes_as_many_instructions_as_recorded() {
    let mut all = Vec::new();
    for way in WAYS {
        let tables = [(Way::Syscall, "instructions.syscall"), (Way::Trap, "instructions.trap")];
        let name = tables.into_iter().find(|(of, _)| *of == way).expect("there are two").1;
        let mut table = Table::new(name);
        table.add("null call", Kernel::new(way).call(CALL_NULL, 0).0 as u64);
        let (count, end) = Kernel::new(way).call(CALL_HYPER_NULL, 0);
        assert!(matches!(end, End::Out(_)), "a hypercall leaves the kernel: {end:?}");
        table.add("null hypercall, to the VMM", count as u64);
        if way == Way::Syscall {
            let (count, end) = Kernel::new(way).call(39, 0);
            assert_eq!(end, End::Out(abi::call::port::SYSCALL.into()));
            table.add("Linux call, to the VMM", count as u64);
        }
        table.add("page fault, to the VMM", exception(14, true));
        table.add("divide error, to the VMM", exception(0, false));
        table.add("invalid opcode, to the VMM", exception(6, false));

        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.instance(1, ROOT, 0, &[]);
        kernel.switch(1);
        table.add("switch to where it is", kernel.switch(1) as u64);
        let (_, end) = kernel.call(CALL_VAS_SWITCH, 2);
        assert!(matches!(end, End::Out(_)));
        table.add(
            "switch to an instance that is not there, to the VMM",
            kernel.processor.count as u64,
        );
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.view(1, ROOT, 7);
        let (count, end) = kernel.call(CALL_VAS_SWITCH, 1);
        assert!(matches!(end, End::Out(_)));
        table.add("switch to a version that is not the newest, to the VMM", count as u64);
        kernel.publish(7);
        let there = kernel.switch(1) as u64;
        let plain = switch_and_back(way, 0, true, false).0;
        let p = &kernel.processor;
        assert_eq!(p.locked, 1, "the announcement");
        let own = |at: &u64| {
            (VCPU_STATUSES.raw()..VCPU_STATUSES.raw() + 64).contains(at)
                || (VCPU_AREAS.raw()..VCPU_AREAS.raw() + VCPU_AREA_BYTES).contains(at)
        };
        assert!(p.stored.iter().all(own), "stores of the vCPU's own: {:x?}", p.stored);
        println!("{way:?}: read_enter_over_plain {}", there - plain);
        table.add("switch, 1 versioned, to read", there);
        assert_eq!(kernel.switch(0) as u64, plain, "leaving is a plain switch");
        let most = if way == Way::Syscall { 12 } else { 6 };
        assert!(there - plain <= most, "{there} of {plain}");
        kernel.publish_elsewhere(1);
        table.add("switch, 1 versioned, to read, after news elsewhere", kernel.switch(1) as u64);
        kernel.switch(0);
        kernel.second(0);
        table.add("switch, 2 versioned, to read, after news elsewhere", kernel.switch(1) as u64);
        kernel.switch(0);
        kernel.publish(7);
        table.add("switch, 2 versioned, to read", kernel.switch(1) as u64);
        assert_eq!(kernel.processor.locked, 1, "the announcement");
        kernel.switch(0);

        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.writer(1, ROOT, 7);
        let (count, end) = kernel.call(CALL_VAS_SWITCH, 1);
        assert!(matches!(end, End::Out(_)));
        table.add("switch to write what another VM has written last, to the VMM", count as u64);
        kernel.publish(7);
        table.add("switch, 1 versioned, to write", kernel.switch(1) as u64);
        assert_eq!(kernel.processor.locked, 2, "the announcement and the lock");
        let (count, end) = kernel.call(CALL_VAS_SWITCH, 0);
        assert!(matches!(end, End::Out(_)));
        table.add("switch home from writing, to the VMM", count as u64);

        // Trapping hosts have no tags.
        for tagged in if way == Way::Syscall { &[false, true][..] } else { &[false] } {
            let tag = if *tagged { "tagged " } else { "" };
            let (there, back) = switch_and_back(way, 0, true, *tagged);
            assert_eq!(there, back);
            table.add(&format!("{tag}switch, no locks"), there);
            for exclusive in [true, false] {
                for number in [1, 2, 4] {
                    let kind = if exclusive { "exclusive" } else { "shared" };
                    let (taken, given_back) = switch_and_back(way, number, exclusive, *tagged);
                    table.add(&format!("{tag}switch, {number} {kind}, taken"), taken);
                    table.add(&format!("{tag}switch, {number} {kind}, given back"), given_back);
                }
            }
        }
        all.push(table);
    }
    compare(all);
}
