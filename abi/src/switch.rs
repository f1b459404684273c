//! The structures that `vas_switch` reads, in memory that the VMM fills and the kernel uses.
//!
//! ```text
//!  SwitchControl      private to the VM      seen
//!  root, generation, locks [vh]              what the kernel needs of an instance
//!  stamp, root of a view   [vh]              the same of versioned segments that are read
//!  change counters    the store's file       changes: incremented at each change to any VAS;
//!                                            another word whenever versions are published
//!  VcpuStatus[vCPU]     the VM's lease file    announced, inside: handles
//!  InstanceEntry[vh]  the VM's lease file    root and tag, generation, locks, vid
//!  LockRef[]          private to the VM      lock page, slot and mode, sorted by page
//!  lock page          the segment's file     see `seg-lock`
//!  ViewRecord         private to the VM      words count of a versioned segment that a view shows
//!  WriteRecord        private to the VM      the same of a writer's tables, and the segment's lock
//!  words              the segment's file     how often versions have been published
//! ```
//!
//! Other VMMs and the command line can read the lease file, which is how they know which threads
//! are inside a VAS. A switch first announces itself there (an exchange, which is a full barrier)
//! and then checks whether `changes` is what the VMM has seen; a change to a VAS first increments
//! `changes` and then checks which vCPUs are inside. One of the two sees the other. The status
//! entry has two words because a switch can fail: while it is being attempted, the thread counts as
//! inside both the instance it may reach and the one it may fall back to.

use core::mem::{offset_of, size_of};

/// Bits 11..0 of CR3 with CR4.PCIDE: the tag.
pub const CR3_TAG: u64 = 0xfff;
/// Bit 63 of a CR3 load: keep what the TLB holds for the tag (SDM 3A, 4.10.4.1). In an instance
/// entry, it means that the instance is tagged.
pub const CR3_KEEP: u64 = 1 << 63;

/// At [`crate::layout::SWITCH_CONTROL`]; written by the VMM.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct SwitchControl {
    /// The value of the change counter up to which the VMM has checked all VASes.
    pub seen: u64,
}

/// At [`crate::layout::VCPU_STATUSES`], by vCPU number.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuStatus {
    /// Handle of the instance the vCPU is in or about to enter.
    pub announced: u64,
    /// Handle of the instance whose tables the vCPU may still use. Equal to `announced`
    /// except in the middle of a switch; the vCPU is inside both.
    pub inside: u64,
    /// The program's thread number, 0 for none. For inspection only; written by the VMM.
    pub thread: u64,
    /// 0.
    pub reserved: [u64; 5],
}

/// At [`crate::layout::INSTANCES`], by handle; written by the VMM. For inspection by people and
/// other VMMs only: what the kernel uses is in memory private to the VM.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct InstanceEntry {
    /// The root with its tag, and [`CR3_KEEP`] if tagged; 0 while the instance must not be entered.
    pub cr3: u64,
    /// Differs from every other instance's, and is new after each change that removes a
    /// translation; a tag loaded with another generation must be flushed.
    pub generation: u64,
    /// Number of its [`LockRef`]s; 0 for a plain instance.
    pub lock_count: u32,
    /// Index of the first.
    pub lock_first: u32,
    /// The VAS, 0 for home or none.
    pub vid: u64,
    /// How many visits there are suspended (`vas_nest`), in the low [`SUSPENDED_BITS`]. Never the same value
    /// after a change: who finds the same one twice, and nobody inside in between, has missed nobody.
    pub suspended: u64,
    /// 0.
    pub reserved: [u64; 3],
}

/// Bits of [`InstanceEntry::suspended`] that count.
pub const SUSPENDED_BITS: u32 = 16;

/// Follows the last [`LockRef`] of an instance's list. A list is never written while an instance or
/// a vCPU's page refers to it: any change, even of the root, makes a new list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockEnd {
    /// As [`InstanceEntry::cr3`].
    pub cr3: u64,
    /// As [`InstanceEntry::generation`].
    pub generation: u64,
}

/// One lock an instance needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockRef {
    /// Kernel address of the segment's lock page. A segment has exactly one such address in a VM,
    /// so equal addresses mean the same lock.
    pub page: u64,
    /// The VM's slot in the lock page.
    pub slot: u32,
    /// 0 shared, 1 exclusive.
    pub exclusive: u32,
}

/// A versioned segment in a view that the kernel may enter: complete versions as page tables. Lies
/// behind a page of the segment's file ([`crate::layout::VIEWS`]). The kernel looks at the records of a view
/// only if the store's word ([`crate::layout::LIVE_PUBLISHED`]) is not the view's stamp.
///
/// The VMM takes the old root away before it writes a new count or stamp, and writes the new root
/// afterwards: whoever finds one of them and then a root finds the new one. A vCPU that finds the
/// old ones and the new root enters the newer view.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewRecord {
    /// How often versions had been published when the view was the newest one. If the word in the
    /// segment's file says otherwise, the switch is the VMM's.
    pub count: u64,
    /// Kernel address of the record of the view's next segment, 0 for none.
    pub next: u64,
}

/// In [`crate::layout::VIEW_STAMPS`]: the kernel looks at the records. Whoever makes the store's word say this gets
/// readers in whom the VMM would let in, and no others.
pub const NO_STAMP: u64 = !0;

/// A writer's tables of a versioned segment, which the kernel may enter once it has the segment's lock.
/// Lies behind the page of the [`ViewRecord`].
///
/// The VMM writes it while it has the lock itself, so that whoever acquires the lock afterwards finds
/// all of it. Without the lock it may only take the root away: then it looks which vCPUs may have
/// found it ([`may_be_on`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteRecord {
    /// [`WriteRecord::NO_VIEW`]. Where a [`ViewRecord`] has its count; the word that is compared with it
    /// lies in the page before, which is the VM's own and holds 0 there. So a reader's path never
    /// enters.
    pub no_view: u64,
    /// The root, without a tag; 0 while the kernel must not enter.
    pub cr3: u64,
    /// How often versions had been published when the tables showed what was committed last, and how
    /// often syncs had failed, together. If the words in the segment's file say otherwise, the switch is
    /// the VMM's.
    pub count: u64,
    /// Kernel address of the segment's lock page; 0 while the kernel must not enter.
    pub lock: u64,
    /// What the lock's state is while this VM has it.
    pub owner: u64,
}

impl WriteRecord {
    /// See the field.
    pub const NO_VIEW: u64 = !0;
}

/// In [`crate::shared::VcpuPage::view`], beside the root: the vCPU has acquired the segment's lock and
/// writes.
pub const VIEW_WRITES: u64 = 1;

/// Offset in the words' page of the segment's file of how often versions have been published.
pub const WORDS_COUNT: u64 = 16;
/// Offset in the same page of how often syncs have failed.
pub const WORDS_FAILURES: u64 = 80;

/// Whether a vCPU may be on the view with root `cr3` of instance `vh`, or yet get there, given the
/// words of its status entry and its [`crate::shared::VcpuPage::view`], read in this order after the
/// view was withdrawn and a full fence.
///
/// A switch announces itself by an exchange, which is a full fence, before it looks for the view. So
/// a vCPU that shows none of this looks later, and does not find it.
#[must_use]
pub const fn may_be_on(announced: u64, inside: u64, view: u64, vh: u64, cr3: u64) -> bool {
    let is_on_its_way = announced == vh && inside != vh;
    is_on_its_way || inside == vh && view & !VIEW_WRITES == cr3
}

const _: () = {
    assert!(size_of::<SwitchControl>() == 64);
    assert!(offset_of!(VcpuStatus, announced) == 0 && offset_of!(VcpuStatus, inside) == 8);
    assert!(size_of::<VcpuStatus>() == 64);
    assert!(size_of::<InstanceEntry>() == 64);
    assert!(offset_of!(InstanceEntry, lock_count) == 16);
    assert!(offset_of!(InstanceEntry, vid) == 24);
    assert!(offset_of!(InstanceEntry, suspended) == 32);
    assert!(size_of::<LockRef>() == 16 && size_of::<LockEnd>() == size_of::<LockRef>());
};
