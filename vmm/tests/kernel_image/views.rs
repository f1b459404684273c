//! Which versioned segments the kernel lets a thread into, to read and to write, and which it leaves to
//! the VMM.

use abi::PAGE_SIZE;
use abi::call::{CALL_VAS_SWITCH, port};
use abi::layout::{
    LOCK_PAGES, LOCK_RANGES, SWITCH_LIVE, VCPU_AREAS, VCPU_STATUSES, VIEW_BYTES, VIEW_ROOTS,
    VIEW_STAMPS, VIEWS,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{CR3_KEEP, NO_STAMP, VIEW_WRITES, WORDS_FAILURES, WriteRecord};
use iced_x86::Register;
use seg_lock::state;
use std::mem::offset_of;

use crate::kernel::{HOME_ROOT, Kernel, LIMITS, ROOT, SLOT, STAMP, TAG, WAYS, Way, own};
use crate::processor::End;

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
