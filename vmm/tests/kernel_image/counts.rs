//! How many instructions the kernel's fast paths take, measured on the actual image.
//!
//! Design section 5: at most 40 from SYSCALL to SYSRET for a switch without locks, at most 12 more
//! for each free lock.

use abi::PAGE_SIZE;
use abi::call::{CALL_NULL, CALL_VAS_SWITCH, port};
use abi::layout::{
    CALL_PAGE_SWITCH_UD2, CALL_PAGE_UD2, LIVE_PUBLISHED, LOCK_PAGES, LOCK_RANGES, LOCK_REFS,
    PLAIN_GENERATIONS, PLAIN_ROOTS, SWITCH_CONTROL, SWITCH_LIVE, TAG_TABLES, VCPU_AREAS,
    VCPU_CALL_STACK, VCPU_IST_STACKS, VCPU_STATUSES, VIEW_BYTES, VIEW_ROOTS, VIEW_STAMPS, VIEWS,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{
    CR3_KEEP, LockRef, NO_STAMP, VIEW_WRITES, ViewRecord, WORDS_COUNT, WORDS_FAILURES, WriteRecord,
};
use iced_x86::Register;
use seg_lock::{LockOutcome, LockWords, SCANS_PER_CLEAR, state, switch_locks_fast, word};
use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::offset_of;

use crate::processor::{End, Processor};
use crate::{info, instructions};

/// Maximum number of instructions of a switch without locks, and of each further lock (the issue's
/// budget).
const MOST_PLAIN: usize = 40;
const MOST_A_LOCK: usize = 12;
/// Maximum number of instructions between the program's null call and its next instruction.
const MOST_NULL_CALL: usize = 30;

const SLOT: u64 = 5;
/// What the store's word says, and a view's stamp, before anything was published.
pub(crate) const STAMP: u64 = 0xabcd_0000_0000;
pub(crate) const TAG: u64 = 7;
pub(crate) const HOME_ROOT: u64 = 0x20_1000;
pub(crate) const ROOT: u64 = 0x20_2000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Syscall,
    Trap,
}

/// A vCPU at home, and instance 1.
pub(crate) struct Kernel {
    pub(crate) processor: Processor,
    way: Way,
}

impl Kernel {
    pub(crate) fn new(way: Way) -> Kernel {
        let mut p = Processor::new(instructions());
        let page = VCPU_AREAS.raw();
        let at = |field: usize| page + field as u64;
        p.store(at(offset_of!(VcpuPage, call_stack)), page + VCPU_CALL_STACK + 4096);
        p.store(at(offset_of!(VcpuPage, status)), VCPU_STATUSES.raw());
        p.store(at(offset_of!(VcpuPage, tags)), TAG_TABLES.raw());
        p.store(at(offset_of!(VcpuPage, plain_limit)), u64::from(MAX_INSTANCES));
        p.store(at(offset_of!(VcpuPage, kernel_limit)), u64::from(MAX_INSTANCES));
        // These numbers must be equal, and not 0.
        p.store(SWITCH_LIVE.raw(), 99);
        p.store(SWITCH_CONTROL.raw(), 99);
        p.store(SWITCH_LIVE.raw() + LIVE_PUBLISHED, STAMP);
        p.gs = (0x7fff_0000, page);
        Kernel { processor: p, way }
    }

    /// Fills in the tables as the VMM does; locks start at number `first`.
    pub(crate) fn instance(&mut self, vh: u64, cr3: u64, first: u64, locks: &[bool]) {
        let p = &mut self.processor;
        let generation = 1000 + vh;
        p.store(PLAIN_GENERATIONS.raw() + vh * 8, generation);
        p.store(VIEW_STAMPS.raw() + vh * 8, NO_STAMP);
        if locks.is_empty() {
            return p.store(PLAIN_ROOTS.raw() + vh * 8, cr3);
        }
        p.store(LOCK_RANGES.raw() + vh * 8, (first * 16) << 32 | locks.len() as u64);
        for (index, &exclusive) in (first..).zip(locks) {
            let lock_page = LOCK_PAGES.raw() + index * 4096;
            p.store(LOCK_REFS.raw() + index * 16, lock_page);
            p.store(LOCK_REFS.raw() + index * 16 + 8, SLOT | u64::from(exclusive) << 32);
            // A lock used by writers only, or by readers.
            p.store(lock_page, if exclusive { 0 } else { state::READERS });
        }
        let end = LOCK_REFS.raw() + (first + locks.len() as u64) * 16;
        p.store(end, cr3);
        p.store(end + 8, generation);
    }

    /// Shows instance `vh` as a view of a versioned segment, which was the newest when versions had been
    /// published `count` times.
    pub(crate) fn view(&mut self, vh: u64, cr3: u64, count: u64) {
        let p = &mut self.processor;
        let record = VIEWS.raw() + 3 * VIEW_BYTES + PAGE_SIZE;
        p.store(record + offset_of!(ViewRecord, count) as u64, count);
        p.store(record + offset_of!(ViewRecord, next) as u64, 0);
        p.store(VIEW_ROOTS.raw() + vh * 8, cr3);
        p.store(VIEW_STAMPS.raw() + vh * 8, STAMP + count);
        p.store(LOCK_RANGES.raw() + vh * 8, record);
    }

    /// Adds another segment to [`Kernel::view`]'s, likewise.
    pub(crate) fn second(&mut self, count: u64) {
        let p = &mut self.processor;
        let record = VIEWS.raw() + 3 * VIEW_BYTES + PAGE_SIZE;
        p.store(record + offset_of!(ViewRecord, next) as u64, record + VIEW_BYTES);
        p.store(record + VIEW_BYTES + offset_of!(ViewRecord, count) as u64, count);
    }

    /// Publishes a version in that segment.
    pub(crate) fn publish_second(&mut self, count: u64) {
        self.processor.store(VIEWS.raw() + 4 * VIEW_BYTES + WORDS_COUNT, count);
        self.publish_elsewhere(STAMP - 1);
    }

    /// What the store's word says after a version of some segment was published.
    pub(crate) fn publish_elsewhere(&mut self, stamp: u64) {
        self.processor.store(SWITCH_LIVE.raw() + LIVE_PUBLISHED, stamp);
    }

    /// Shows instance `vh` as tables of a writer's, who was the last one when versions had been published
    /// `count` times; returns the address of the lock, which is free.
    pub(crate) fn writer(&mut self, vh: u64, cr3: u64, count: u64) -> u64 {
        let p = &mut self.processor;
        let record = VIEWS.raw() + 3 * VIEW_BYTES + 2 * PAGE_SIZE;
        let lock = LOCK_PAGES.raw() + 30 * PAGE_SIZE;
        for (field, value) in [
            (offset_of!(WriteRecord, no_view), WriteRecord::NO_VIEW),
            (offset_of!(WriteRecord, cr3), cr3),
            (offset_of!(WriteRecord, count), count),
            (offset_of!(WriteRecord, lock), lock),
            (offset_of!(WriteRecord, owner), SLOT + 1),
        ] {
            p.store(record + field as u64, value);
        }
        p.store(lock, 0);
        p.store(VIEW_STAMPS.raw() + vh * 8, NO_STAMP);
        p.store(LOCK_RANGES.raw() + vh * 8, record);
        lock
    }

    /// Publishes a version in the segment of [`Kernel::view`], or [`Kernel::writer`].
    pub(crate) fn publish(&mut self, count: u64) {
        self.processor.store(VIEWS.raw() + 3 * VIEW_BYTES + WORDS_COUNT, count);
        self.publish_elsewhere(STAMP.wrapping_add(count));
    }

    /// Makes a call; returns the number of instructions and how it ended.
    pub(crate) fn call(&mut self, number: u32, rdi: u64) -> (usize, End) {
        let p = &mut self.processor;
        p.set(Register::RAX, u64::from(number));
        p.set(Register::RDI, rdi);
        let kept = [
            Register::RBX,
            Register::RBP,
            Register::R12,
            Register::R13,
            Register::R14,
            Register::R15,
        ];
        for (value, register) in (0x1234_5678_9abc_u64..).zip(kept) {
            p.set(register, value);
        }
        let (entry, rsp, gs) = match self.way {
            Way::Syscall => {
                p.set(Register::RCX, 0x1111);
                p.set(Register::R11, 0x2222);
                (info(2), 0x7777_0000, p.gs)
            }
            Way::Trap => {
                let ud2 = match number {
                    CALL_VAS_SWITCH => CALL_PAGE_SWITCH_UD2,
                    _ => CALL_PAGE_UD2,
                };
                let frame = VCPU_AREAS.raw() + VCPU_IST_STACKS + 1024 - 40;
                p.store(frame, ud2.raw());
                (info(3) + 6 * info(4), frame, p.gs)
            }
        };
        p.set(Register::RSP, rsp);
        let end = p.run(entry);
        for (value, register) in (0x1234_5678_9abc_u64..).zip(kept) {
            assert_eq!(p.register(register), value, "{register:?}");
        }
        assert_eq!(p.gs, gs, "the program's GS is back");
        match self.way {
            Way::Syscall => {
                let returned = [Register::RCX, Register::R11, Register::RSP];
                assert_eq!(returned.map(|register| p.register(register)), [0x1111, 0x2222, rsp]);
            }
            Way::Trap => {
                assert_eq!(p.load(rsp) & 0xfff, if number == CALL_VAS_SWITCH { 13 } else { 10 })
            }
        }
        (p.count, end)
    }

    /// Switches to `vh`, which the kernel must serve; returns the number of instructions.
    #[track_caller]
    pub(crate) fn switch(&mut self, vh: u64) -> usize {
        let (count, end) = self.call(CALL_VAS_SWITCH, vh);
        let p = &self.processor;
        assert_eq!(end, if self.way == Way::Syscall { End::Sysret } else { End::Iret });
        assert_eq!(p.register(Register::RAX), 0);
        assert_eq!([p.load(VCPU_STATUSES.raw()), p.load(VCPU_STATUSES.raw() + 8)], [vh; 2]);
        count
    }
}

pub(crate) const WAYS: [Way; 2] = [Way::Syscall, Way::Trap];

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
fn a_view_is_entered_while_nothing_newer_was_published_and_left_like_any_instance() {
    for (way, tag) in [(Way::Syscall, 0), (Way::Syscall, TAG | CR3_KEEP), (Way::Trap, 0)] {
        let home = HOME_ROOT | tag;
        let mut kernel = Kernel::new(way);
        kernel.instance(0, home, 0, &[]);
        kernel.instance(2, ROOT + 0x1000, 20, &[true]);
        kernel.view(1, ROOT, 0);
        let page = VCPU_AREAS.raw();
        let view = page + offset_of!(VcpuPage, view) as u64;
        for count in 0..3 {
            kernel.publish(count);
            kernel.view(1, ROOT + count * 0x10_0000, count);
            for _ in 0..2 {
                kernel.switch(1);
                assert_eq!(kernel.processor.cr3, ROOT + count * 0x10_0000);
                assert_eq!(kernel.processor.load(view), kernel.processor.cr3, "noted");
                kernel.switch(0);
                assert_eq!(kernel.processor.cr3 & !CR3_KEEP, home & !CR3_KEEP);
            }
        }
        // From there to where a lock is needed, and from there: the latter is the VMM's.
        kernel.switch(1);
        kernel.switch(2);
        assert_eq!(kernel.processor.load(LOCK_PAGES.raw() + 20 * 4096), SLOT + 1);
        let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
        assert!(matches!(end, End::Out(_)), "{end:?}");
        assert_eq!(kernel.processor.load(LOCK_PAGES.raw() + 20 * 4096), SLOT + 1);
    }
}

#[test]
fn a_view_does_not_move_under_a_thread_and_what_is_not_the_newest_is_the_vmms() {
    for way in WAYS {
        let leave = if way == Way::Syscall { port::CALL } else { port::CALL_TRAPPED };
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.view(1, ROOT, 7);
        // Any other number, also a smaller one: whoever wrote it, it is not what was compared.
        for count in [8, 6, 0, !0, 7 | 1 << 63, 7 | 1 << 32] {
            kernel.publish(count);
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
            let p = &kernel.processor;
            assert_eq!(end, End::Out(leave.into()), "{count}");
            assert_eq!(p.register(Register::RDI), 1);
            assert_eq!(p.register(Register::RAX), u64::from(CALL_VAS_SWITCH));
            assert_eq!([p.load(VCPU_STATUSES.raw()), p.load(VCPU_STATUSES.raw() + 8)], [0; 2]);
            assert_eq!(p.cr3, 0);
        }
        kernel.publish(7);
        kernel.switch(1);
        // Another thread has got a newer view, which the kernel is shown from now on.
        kernel.publish(8);
        kernel.view(1, ROOT + 0x1000, 8);
        kernel.switch(1);
        assert_eq!(kernel.processor.cr3, ROOT, "what this one sees stays");
        // A VAS has changed: all is the VMM's.
        kernel.switch(0);
        kernel.processor.store(SWITCH_LIVE.raw(), 100);
        let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
        assert_eq!(end, End::Out(leave.into()));
        assert_eq!(kernel.processor.cr3, HOME_ROOT);
    }
}

#[test]
fn what_is_published_elsewhere_keeps_nobody_out_and_of_several_segments_each_is_looked_at() {
    for way in WAYS {
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.instance(2, ROOT + 0x1000, 0, &[]);
        kernel.view(1, ROOT, 7);
        kernel.second(5);
        kernel.publish_second(5);
        kernel.publish(7);
        let quick = kernel.switch(1);
        kernel.switch(0);
        // From another instance, too.
        kernel.switch(2);
        kernel.switch(1);
        assert_eq!(kernel.processor.cr3, ROOT);
        kernel.switch(0);
        kernel.publish_elsewhere(1);
        assert!(kernel.switch(1) > quick);
        assert_eq!(kernel.processor.cr3, ROOT);
        kernel.switch(1);
        kernel.switch(0);
        for (first, second) in [(8, 5), (7, 6), (7, 4), (0, 5)] {
            kernel.publish(first);
            kernel.publish_second(second);
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
            assert!(matches!(end, End::Out(_)), "{first} {second}: {end:?}");
            assert_eq!(kernel.processor.cr3, HOME_ROOT);
        }
    }
}

#[test]
fn whatever_the_stores_word_says_only_a_root_that_is_shown_is_loaded() {
    for way in WAYS {
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.instance(2, ROOT + 0x1000, 20, &[true]);
        kernel.view(1, ROOT, 7);
        // The VMM has taken the view back, between two of a vCPU's looks or for good.
        for (range, stamp) in [(false, STAMP), (true, STAMP), (false, NO_STAMP), (true, NO_STAMP)] {
            kernel.processor.store(VIEW_ROOTS.raw() + 8, 0);
            kernel.processor.store(VIEW_STAMPS.raw() + 8, stamp);
            if range {
                kernel.processor.store(LOCK_RANGES.raw() + 8, 0);
            }
            for word in [stamp, NO_STAMP, 0] {
                kernel.publish(7);
                kernel.publish_elsewhere(word);
                let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
                assert!(matches!(end, End::Out(_)), "{range} {stamp:x} {word:x}: {end:?}");
                assert_eq!(kernel.processor.cr3, 0);
            }
        }
        // Locks are taken as ever.
        kernel.publish_elsewhere(NO_STAMP);
        kernel.switch(2);
        assert_eq!(kernel.processor.load(LOCK_PAGES.raw() + 20 * 4096), SLOT + 1);
    }
}

/// One of the vCPU's words.
fn own(kernel: &Kernel, field: usize) -> u64 {
    kernel.processor.load(VCPU_AREAS.raw() + field as u64)
}

const LIMITS: [usize; 2] = [offset_of!(VcpuPage, plain_limit), offset_of!(VcpuPage, kernel_limit)];

#[test]
fn a_writer_is_let_in_with_the_lock_while_nothing_was_published_and_let_out_by_the_vmm_only() {
    for (way, tag) in [(Way::Syscall, 0), (Way::Syscall, TAG | CR3_KEEP), (Way::Trap, 0)] {
        let leave = if way == Way::Syscall { port::CALL } else { port::CALL_TRAPPED };
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT | tag, 0, &[]);
        kernel.instance(2, ROOT + 0x1000, 20, &[true]);
        let lock = kernel.writer(1, ROOT, 7);
        kernel.publish(7);
        kernel.switch(1);
        assert_eq!(kernel.processor.cr3, ROOT);
        assert_eq!(kernel.processor.load(lock), SLOT + 1);
        assert_eq!(own(&kernel, offset_of!(VcpuPage, view)), ROOT | VIEW_WRITES);
        // Home, where it is, to another lock, nowhere: all is the VMM's, and the lock stays.
        for vh in [0, 1, 2, 3, u64::from(MAX_INSTANCES), !0] {
            let (_, end) = kernel.call(CALL_VAS_SWITCH, vh);
            assert_eq!(end, End::Out(leave.into()), "{vh}");
            let p = &kernel.processor;
            assert_eq!((p.register(Register::RDI), p.cr3, p.load(lock)), (vh, ROOT, SLOT + 1));
            assert_eq!([p.load(VCPU_STATUSES.raw()), p.load(VCPU_STATUSES.raw() + 8)], [1; 2]);
        }
    }
}

#[test]
fn a_writer_who_is_not_the_last_one_is_the_vmms_and_nothing_has_happened() {
    let changes: [fn(&mut Kernel, u64); 9] = [
        |kernel, _| kernel.publish(8),
        // A sync has failed somewhere.
        |kernel, _| {
            kernel.processor.store(VIEWS.raw() + 3 * VIEW_BYTES + WORDS_FAILURES, 1);
        },
        |kernel, _| kernel.publish(6),
        // What the record has where a view has its count, and what lies where readers look.
        |kernel, _| kernel.publish(WriteRecord::NO_VIEW),
        |kernel, _| kernel.publish(0),
        |kernel, lock| kernel.processor.store(lock, 2),
        |kernel, lock| kernel.processor.store(lock, state::INCONSISTENT),
        |kernel, lock| kernel.processor.store(lock, state::WAITERS),
        // Taken back by the VMM, between two looks at the record.
        |kernel, _| {
            let record = VIEWS.raw() + 3 * VIEW_BYTES + 2 * PAGE_SIZE;
            kernel.processor.store(record + offset_of!(WriteRecord, cr3) as u64, 0);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        for way in WAYS {
            let leave = if way == Way::Syscall { port::CALL } else { port::CALL_TRAPPED };
            let mut kernel = Kernel::new(way);
            kernel.instance(0, HOME_ROOT, 0, &[]);
            let lock = kernel.writer(1, ROOT, 7);
            kernel.publish(7);
            change(&mut kernel, lock);
            let before = kernel.processor.load(lock);
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
            let p = &kernel.processor;
            assert_eq!(end, End::Out(leave.into()), "{number}");
            assert_eq!(p.register(Register::RDI), 1);
            assert_eq!(p.register(Register::RAX), u64::from(CALL_VAS_SWITCH));
            assert_eq!([p.load(VCPU_STATUSES.raw()), p.load(VCPU_STATUSES.raw() + 8)], [0; 2]);
            assert_eq!((p.cr3, p.load(lock)), (0, before), "{number}");
            assert_eq!(LIMITS.map(|field| own(&kernel, field)), [u64::from(MAX_INSTANCES); 2]);
            assert_eq!(own(&kernel, offset_of!(VcpuPage, view)), 0);
        }
    }
}

/// What it has read may be older than what it would write; only the VMM knows.
#[test]
fn a_thread_that_reads_does_not_go_on_to_write_by_the_kernel() {
    for way in WAYS {
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.instance(2, ROOT + 0x1000, 0, &[]);
        let lock = kernel.writer(1, ROOT, 7);
        kernel.publish(7);
        kernel.switch(2);
        let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
        assert!(matches!(end, End::Out(_)), "{end:?}");
        assert_eq!(kernel.processor.load(lock), 0);
        assert_eq!(kernel.processor.cr3, ROOT + 0x1000);
        kernel.switch(0);
        kernel.switch(1);
        assert_eq!(kernel.processor.load(lock), SLOT + 1);
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

#[test]
fn the_kernel_does_to_one_lock_what_the_common_algorithm_does_whatever_comes_between() {
    let page = LOCK_PAGES.raw() + 20 * 4096;
    let lock = [LockRef { page, slot: SLOT as u32, exclusive: 1 }];
    let mut outcomes = HashMap::new();
    let free = [0, state::READERS];
    let taken = [2, 2 | state::READERS, 2 | state::CLAIM, state::WAITERS, state::INCONSISTENT];
    for (initial, later, changed, way) in free
        .into_iter()
        .chain(taken)
        .flat_map(|initial| [0, state::WAITERS].map(|later| (initial, later)))
        .flat_map(|(initial, later)| [false, true].map(|changed| (initial, later, changed)))
        .flat_map(|(initial, later, changed)| WAYS.map(|way| (initial, later, changed, way)))
    {
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.instance(1, ROOT, 20, &[true]);
        let model = RefCell::new(HashMap::from([(page, initial)]));
        kernel.processor.store(page, initial);
        let words = |page| Words(&model, page);
        let served = |end: End| !matches!(end, End::Out(_));
        let expected = switch_locks_fast(&[], &lock, words);
        let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
        assert_eq!(kernel.processor.load(page), model.borrow()[&page]);
        assert_eq!(served(end), expected == (LockOutcome::Acquired, false), "{initial:#x}");
        if !served(end) {
            continue;
        }
        assert_eq!(kernel.processor.cr3, ROOT);
        let held = model.borrow()[&page] | later;
        model.borrow_mut().insert(page, held);
        kernel.processor.store(page, held);
        if changed {
            // The VMM has to check a VAS first: nothing happens.
            kernel.processor.store(SWITCH_LIVE.raw(), 100);
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 0);
            assert!(!served(end));
            assert_eq!((kernel.processor.load(page), kernel.processor.cr3), (held, ROOT));
            kernel.processor.store(SWITCH_LIVE.raw(), 99);
        }
        let expected = switch_locks_fast(&lock, &[], words);
        let (_, end) = kernel.call(CALL_VAS_SWITCH, 0);
        *outcomes.entry(format!("{expected:?}")).or_insert(0) += 1;
        assert_eq!(kernel.processor.load(page), model.borrow()[&page]);
        assert_eq!(served(end), expected == (LockOutcome::Acquired, false), "{initial:#x}");
        assert_eq!(kernel.processor.cr3, HOME_ROOT);
        let waited_for =
            kernel.processor.load(VCPU_AREAS.raw() + offset_of!(VcpuPage, waited_for) as u64);
        assert_eq!(waited_for, if later == 0 { 0 } else { (20 * 16) << 32 | 1 });
    }
    assert_eq!(
        outcomes,
        HashMap::from([("(Acquired, false)".into(), 8), ("(Acquired, true)".into(), 8)])
    );
}

/// A lock page of the processor's memory, for `seg_lock`.
struct Words<'a>(&'a RefCell<HashMap<u64, u64>>, u64);

impl Words<'_> {
    fn change(&self, index: usize, change: impl FnOnce(u64) -> u64) -> u64 {
        let mut words = self.0.borrow_mut();
        let word = words.entry(self.1 + index as u64 * 8).or_default();
        let before = *word;
        *word = change(before);
        before
    }
}

impl LockWords for Words<'_> {
    fn load(&self, index: usize) -> u64 {
        self.change(index, |value| value)
    }
    fn store(&self, index: usize, value: u64) {
        self.change(index, |_| value);
    }
    fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        let found = self.change(index, |found| if found == old { new } else { found });
        if found == old { Ok(found) } else { Err(found) }
    }
    fn fetch_add(&self, index: usize, delta: u64) -> u64 {
        self.change(index, |value| value.wrapping_add(delta))
    }
    fn fetch_sub(&self, index: usize, delta: u64) -> u64 {
        self.change(index, |value| value.wrapping_sub(delta))
    }
    fn fetch_or(&self, index: usize, bits: u64) -> u64 {
        self.change(index, |value| value | bits)
    }
    fn fetch_and(&self, index: usize, bits: u64) -> u64 {
        self.change(index, |value| value & bits)
    }
    fn swap(&self, index: usize, value: u64) -> u64 {
        self.change(index, |_| value)
    }
}

#[test]
fn the_kernel_does_to_locks_what_the_common_algorithm_does() {
    // What other VMs may have written into a lock that we do not hold.
    let states = [
        0,
        state::READERS,
        2,
        2 | state::READERS,
        2 | state::CLAIM,
        state::WAITERS,
        state::WAITERS | state::READERS,
        state::INCONSISTENT,
    ];
    let refs = |modes: &[bool]| -> Vec<LockRef> {
        let page = |index: usize| LOCK_PAGES.raw() + (20 + index as u64) * 4096;
        let lock = |(index, &exclusive): (usize, &bool)| LockRef {
            page: page(index),
            slot: SLOT as u32,
            exclusive: exclusive.into(),
        };
        modes.iter().enumerate().map(lock).collect()
    };
    let mut outcomes = HashMap::new();
    for case in 0..4 * 64 * 4 * 2_usize {
        let (modes, rest) = ([case & 1 != 0, case & 2 != 0], case / 4);
        let (first, second, rest) = (states[rest % 8], states[rest / 8 % 8], rest / 64);
        let (readers, later) = (rest % 4, if rest / 4 == 0 { 0 } else { state::WAITERS });
        for way in WAYS {
            let mut kernel = Kernel::new(way);
            kernel.instance(0, HOME_ROOT, 0, &[]);
            kernel.instance(1, ROOT, 20, &modes);
            let refs = refs(&modes);
            let model = RefCell::new(HashMap::new());
            let set = |kernel: &mut Kernel, lock: usize, index: usize, value: u64| {
                kernel.processor.store(refs[lock].page + index as u64 * 8, value);
                model.borrow_mut().insert(refs[lock].page + index as u64 * 8, value);
            };
            for (lock, word) in [first, second].into_iter().enumerate() {
                set(&mut kernel, lock, word::STATE, word);
                set(&mut kernel, lock, word::MEMBERS_USED, 8);
                // The second one's next writer clears the readers' mark.
                set(&mut kernel, lock, word::SCANS, lock as u64 * (SCANS_PER_CLEAR - 1));
                set(&mut kernel, lock, word::READER_COUNTS + 6, (readers >> lock & 1) as u64);
            }
            let same = |kernel: &Kernel| {
                for (&address, &value) in model.borrow().iter() {
                    assert_eq!(kernel.processor.load(address), value, "{case} {address:#x}");
                }
            };
            let words = |page| Words(&model, page);
            let expected = switch_locks_fast(&[], &refs, words);
            *outcomes.entry(format!("taking: {expected:?}")).or_insert(0) += 1;
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
            same(&kernel);
            let served = |end: End| !matches!(end, End::Out(_));
            assert_eq!(served(end), expected == (LockOutcome::Acquired, false), "{case}");
            if !served(end) {
                continue;
            }
            // Another thread starts waiting for the second while we are inside.
            let word = kernel.processor.load(refs[1].page) | later;
            model.borrow_mut().insert(refs[1].page, word);
            kernel.processor.store(refs[1].page, word);
            let expected = switch_locks_fast(&refs, &[], words);
            *outcomes.entry(format!("giving back: {expected:?}")).or_insert(0) += 1;
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 0);
            same(&kernel);
            assert_eq!(served(end), expected == (LockOutcome::Acquired, false), "{case}");
            let waited_for =
                kernel.processor.load(VCPU_AREAS.raw() + offset_of!(VcpuPage, waited_for) as u64);
            assert_eq!(waited_for != 0, expected == (LockOutcome::Acquired, true));
            assert_eq!(kernel.processor.cr3, HOME_ROOT);
        }
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes.len(), 4, "each way to end was seen: {outcomes:?}");
}
