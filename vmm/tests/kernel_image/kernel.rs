//! A vCPU at home and instances as the VMM shows them, for calls on the kernel's actual image.

use abi::PAGE_SIZE;
use abi::call::CALL_VAS_SWITCH;
use abi::layout::{
    CALL_PAGE_SWITCH_UD2, CALL_PAGE_UD2, LIVE_PUBLISHED, LOCK_PAGES, LOCK_RANGES, LOCK_REFS,
    PLAIN_GENERATIONS, PLAIN_ROOTS, SWITCH_CONTROL, SWITCH_LIVE, TAG_TABLES, VCPU_AREAS,
    VCPU_CALL_STACK, VCPU_IST_STACKS, VCPU_STATUSES, VIEW_BYTES, VIEW_ROOTS, VIEW_STAMPS, VIEWS,
};
use abi::objects::MAX_INSTANCES;
use abi::shared::VcpuPage;
use abi::switch::{NO_STAMP, ViewRecord, WORDS_COUNT, WriteRecord};
use iced_x86::Register;
use seg_lock::state;
use std::mem::offset_of;

use crate::processor::{End, Processor};
use crate::{info, instructions};

pub(crate) const SLOT: u64 = 5;
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
    pub(crate) way: Way,
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

/// One of the vCPU's words.
pub(crate) fn own(kernel: &Kernel, field: usize) -> u64 {
    kernel.processor.load(VCPU_AREAS.raw() + field as u64)
}

pub(crate) const LIMITS: [usize; 2] =
    [offset_of!(VcpuPage, plain_limit), offset_of!(VcpuPage, kernel_limit)];
