//! How many instructions the kernel's fast paths take, measured on the actual image.
//!
//! Design section 5: at most 40 from SYSCALL to SYSRET for a switch without locks, at most 12 more
//! for each free lock.

use abi::call::{CALL_NULL, CALL_VAS_SWITCH, port};
use abi::layout::{LOCK_PAGES, PLAIN_GENERATIONS, VCPU_STATUSES};
use abi::objects::MAX_INSTANCES;
use abi::switch::CR3_KEEP;
use iced_x86::Register;
use seg_lock::state;

use crate::kernel::{HOME_ROOT, Kernel, ROOT, TAG, WAYS, Way};
use crate::processor::End;

/// Maximum number of instructions of a switch without locks, and of each further lock (the issue's
/// budget).
const MOST_PLAIN: usize = 40;
const MOST_A_LOCK: usize = 12;
/// Maximum number of instructions between the program's null call and its next instruction.
const MOST_NULL_CALL: usize = 30;

#[test]
fn the_null_call_is_short_in_both_ways() {
    for way in WAYS {
        let mut kernel = Kernel::new(way);
        let (count, end) = kernel.call(CALL_NULL, 0);
        assert_eq!(end, if way == Way::Syscall { End::Sysret } else { End::Iret });
        assert_eq!(kernel.processor.register(Register::RAX), 0);
        println!("null, {way:?}: {count} instructions");
        assert!(count <= MOST_NULL_CALL && count > 5, "{count} instructions");
    }
}

#[test]
fn a_switch_without_locks_is_within_its_budget() {
    for way in WAYS {
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.instance(1, ROOT, 0, &[]);
        for (vh, root) in [(1, ROOT), (0, HOME_ROOT), (1, ROOT)] {
            let count = kernel.switch(vh);
            assert_eq!(kernel.processor.cr3, root);
            println!("plain switch, {way:?}: {count} instructions");
            assert!(count <= MOST_PLAIN, "{count} instructions");
        }
        println!("to itself, {way:?}: {} instructions", kernel.switch(1));
    }
}

#[test]
fn a_tagged_switch_keeps_the_tlb_if_it_may_and_is_within_its_budget() {
    let mut kernel = Kernel::new(Way::Syscall);
    kernel.instance(0, HOME_ROOT | 1 | CR3_KEEP, 0, &[]);
    kernel.instance(1, ROOT | TAG | CR3_KEEP, 0, &[]);
    let switch = |kernel: &mut Kernel, vh: u64, cr3: u64, what: &str| {
        let count = kernel.switch(vh);
        assert_eq!(kernel.processor.cr3, cr3, "{what}");
        println!("tagged switch, {what}: {count} instructions");
        assert!(count <= MOST_PLAIN, "{count} instructions");
    };
    switch(&mut kernel, 1, ROOT | TAG, "first time");
    switch(&mut kernel, 0, HOME_ROOT | 1, "first time");
    switch(&mut kernel, 1, ROOT | TAG | CR3_KEEP, "kept");
    switch(&mut kernel, 0, HOME_ROOT | 1 | CR3_KEEP, "kept");
    kernel.processor.store(PLAIN_GENERATIONS.raw() + 8, 5000);
    switch(&mut kernel, 1, ROOT | TAG, "new generation");
    switch(&mut kernel, 0, HOME_ROOT | 1 | CR3_KEEP, "kept");
    switch(&mut kernel, 1, ROOT | TAG | CR3_KEEP, "kept");
}

#[test]
fn each_free_lock_costs_few_instructions_more() {
    for (way, exclusive, tag) in [
        (Way::Syscall, true, 0),
        (Way::Syscall, false, 0),
        (Way::Syscall, true, TAG | CR3_KEEP),
        (Way::Trap, true, 0),
        (Way::Trap, false, 0),
    ] {
        let kind = if exclusive { "exclusive" } else { "shared" };
        let counts = [1, 2, 4, 8].map(|number: usize| {
            let mut kernel = Kernel::new(way);
            kernel.instance(0, HOME_ROOT | tag & !0xff | (tag & 0xff).min(1), 0, &[]);
            kernel.instance(1, ROOT | tag, 20, &vec![exclusive; number]);
            // Once, so that tags are known.
            let first = (kernel.switch(1), kernel.switch(0));
            let (taken, given_back) = (kernel.switch(1), kernel.switch(0));
            assert!(first.0 >= taken && first.1 >= given_back);
            let tagged = if tag == 0 { "" } else { ", tagged" };
            println!("{number} {kind}, {way:?}{tagged}: {taken} taken, {given_back} given back");
            for (what, count) in [("taken", taken), ("given back", given_back)] {
                let most = MOST_PLAIN + MOST_A_LOCK * number;
                assert!(count <= most, "{number} {kind} {what}: {count} instructions");
            }
            for lock in 20..20 + number as u64 {
                let free = if exclusive { 0 } else { state::READERS };
                assert_eq!(kernel.processor.load(LOCK_PAGES.raw() + lock * 4096), free);
            }
            (taken, given_back)
        });
        for (fewer, more, locks) in [(0, 1, 1), (1, 2, 2), (2, 3, 4)] {
            assert!(counts[more].0 - counts[fewer].0 <= locks * MOST_A_LOCK, "{counts:?}");
            assert!(counts[more].1 - counts[fewer].1 <= locks * MOST_A_LOCK, "{counts:?}");
        }
    }
}

#[test]
fn what_is_left_to_the_vmm_is_left_whole() {
    for way in WAYS {
        let leave = if way == Way::Syscall { port::CALL } else { port::CALL_TRAPPED };
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.instance(1, ROOT, 20, &[true, true]);
        // Another VM holds the second lock.
        kernel.processor.store(LOCK_PAGES.raw() + 21 * 4096, 2);
        for vh in [1, 2, u64::from(MAX_INSTANCES), !0] {
            let (_, end) = kernel.call(CALL_VAS_SWITCH, vh);
            let p = &kernel.processor;
            assert_eq!(end, End::Out(leave.into()));
            assert_eq!(p.register(Register::RDI), vh);
            assert_eq!(p.register(Register::RAX), u64::from(CALL_VAS_SWITCH));
            assert_eq!([p.load(VCPU_STATUSES.raw()), p.load(VCPU_STATUSES.raw() + 8)], [0; 2]);
            assert_eq!(p.load(LOCK_PAGES.raw() + 20 * 4096), 0);
            assert_eq!(p.cr3, 0);
        }
    }
}
