//! The address map in one picture.
//!
//! ```text
//! guest-virtual (48 bits)
//!   0x0000_0000_0000  private region, PML4 slots 0-31 (16 TiB): the process's own memory,
//!                     the same in every VAS it attaches
//!                       PIE_BASE        position-independent programs, then their heap
//!                       MMAP_TOP        mmap grows down from here
//!                       STACK_TOP       the first thread's stack grows down from here
//!                       VDSO_BASE       vDSO image
//!                       CLOCK_PAGE      what the vDSO reads
//!                       CALL_PAGE       entry to SpaceJMP's own calls
//!                       GATE_PAGE       system-call gate (software KVM only), then its trap page
//!   0x1000_0000_0000  VAS region, slots 32-255: segments, different in every VAS
//!   0x7fff_ffff_f000  never mapped: a SYSCALL there would return to a non-canonical address
//!   0xffff_8000_...   kernel, slots 256-511, supervisor only; in use:
//!   0xffff_ffff_8000_0000  kernel image
//!   0xffff_ffff_c000_0000  per-vCPU areas, VCPU_AREA_BYTES apart
//!   0xffff_ffff_d000_0000  switching: control page, change counters, vCPU status, roots, locks
//!   0xffff_ffff_d020_0000  instance table
//!   0xffff_ffff_d040_0000  lock references, then (at d100_0000) pages of lock words
//!   0xffff_ffff_d900_0000  views of versioned segments, VIEW_BYTES apart
//!   0xffff_ffff_e000_0000  per-vCPU tables of TLB tags, TAG_TABLE_BYTES apart
//!
//! guest-physical
//!   0x0000_0000       SYSTEM_BYTES: descriptor tables and kernel image
//!   0x0020_0000       private RAM, allocated in 2 MiB blocks; memory regions are added as needed
//! ```

use crate::addr::{GuestPhys, GuestVirt, LOWER_HALF_END, PAGE_SIZE, PAGE_SIZE_2M};
use crate::objects::MAX_INSTANCES;

/// PML4 slots of the private region.
pub const PRIVATE_SLOTS: core::ops::Range<usize> = 0..32;
/// PML4 slots of the VAS region.
pub const VAS_SLOTS: core::ops::Range<usize> = 32..256;

/// Lowest address a program may map; below it a null pointer with an offset must fault
/// (Linux's default `vm.mmap_min_addr`).
pub const PRIVATE_START: GuestVirt = GuestVirt::literal(0x1_0000);
/// One past the private region.
pub const PRIVATE_END: GuestVirt = GuestVirt::literal(32 << 39);
/// First address of the VAS region.
pub const VAS_START: GuestVirt = PRIVATE_END;
/// One past the VAS region: the last page of the lower half stays unmapped.
pub const VAS_END: GuestVirt = GuestVirt::literal(LOWER_HALF_END - PAGE_SIZE);

/// Whether `address` is one that only a segment can have: in the lower half, beyond the private
/// region.
#[must_use]
pub const fn is_of_segments(address: u64) -> bool {
    address >= VAS_START.raw() && address < LOWER_HALF_END
}

/// Where position-independent programs are loaded.
pub const PIE_BASE: GuestVirt = GuestVirt::literal(0x40_0000_0000);
/// The system-call gate: LSTAR points here on hosts whose SYSCALL stays in ring 3.
pub const GATE_PAGE: GuestVirt = GuestVirt::literal(PRIVATE_END.raw() - 2 * PAGE_SIZE);
/// A store here exits to the VMM: no memory backs it. It follows the gate so that the gate's code
/// can reach it RIP-relative.
pub const GATE_TRAP_PAGE: GuestVirt = GuestVirt::literal(PRIVATE_END.raw() - PAGE_SIZE);
/// The call page: `call CALL_PAGE` makes a SpaceJMP call in whichever way suits the host.
pub const CALL_PAGE: GuestVirt = GuestVirt::literal(PRIVATE_END.raw() - 4 * PAGE_SIZE);
/// Address of the call page's UD2, on hosts where that is the cheapest way into the kernel: after
/// code that sends switches to their own UD2.
pub const CALL_PAGE_UD2: GuestVirt = GuestVirt::literal(CALL_PAGE.raw() + 8);
/// The UD2 of `vas_switch`, whatever is in RAX.
pub const CALL_PAGE_SWITCH_UD2: GuestVirt = GuestVirt::literal(CALL_PAGE.raw() + 11);
/// The clock page, which the VMM writes and the vDSO reads. Like the pages above it, a program
/// cannot change it: `mmap` and related calls refuse the address.
pub const CLOCK_PAGE: GuestVirt = GuestVirt::literal(CALL_PAGE.raw() - PAGE_SIZE);
/// The vDSO image; 16 pages are reserved.
pub const VDSO_BASE: GuestVirt = GuestVirt::literal(PRIVATE_END.raw() - 32 * PAGE_SIZE);
/// One past the first thread's stack.
pub const STACK_TOP: GuestVirt = GuestVirt::literal(PRIVATE_END.raw() - PAGE_SIZE_2M);
/// Linux's default limit for the first thread's stack (RLIMIT_STACK).
pub const STACK_BYTES: u64 = 8 << 20;
/// `mmap` without an address searches downward from here; a guard area lies above.
pub const MMAP_TOP: GuestVirt = GuestVirt::literal(STACK_TOP.raw() - 64 * PAGE_SIZE_2M);

/// The kernel image's first byte, which is its [`crate::shared::KernelInfo`].
pub const KERNEL_BASE: GuestVirt = GuestVirt::literal(0xffff_ffff_8000_0000);
/// The interrupt descriptor table, shared by all vCPUs, read-only.
pub const KERNEL_IDT: GuestVirt = GuestVirt::literal(0xffff_ffff_bfff_f000);
/// The first vCPU's area.
pub const VCPU_AREAS: GuestVirt = GuestVirt::literal(0xffff_ffff_c000_0000);
/// Distance between two vCPUs' areas: data page, guard page, call stack, exception stacks.
pub const VCPU_AREA_BYTES: u64 = 4 * PAGE_SIZE;
/// Offset of the call stack page in a vCPU's area.
pub const VCPU_CALL_STACK: u64 = 2 * PAGE_SIZE;
/// Offset of the page of exception stacks in a vCPU's area.
pub const VCPU_IST_STACKS: u64 = 3 * PAGE_SIZE;
/// Bytes of each of the four exception stacks.
pub const IST_STACK_BYTES: u64 = PAGE_SIZE / 4;
/// Maximum number of vCPUs of a VM, and so of concurrent threads (KVM's own limit on x86-64).
pub const MAX_VCPUS: u32 = 1024;

/// What the kernel's switch reads at a fixed address: `switch::SwitchControl`.
pub const SWITCH_CONTROL: GuestVirt = GuestVirt::literal(0xffff_ffff_d000_0000);
/// The store's change counters (`live` file) are mapped over this page: the first word counts
/// changes to VASes, that at [`LIVE_PUBLISHED`] is another one whenever versions are published.
pub const SWITCH_LIVE: GuestVirt = GuestVirt::literal(0xffff_ffff_d000_1000);
/// Offset of that word: in a line of the cache of its own.
pub const LIVE_PUBLISHED: u64 = 64;
/// One `switch::VcpuStatus` for each vCPU, in the VM's lease file: which VAS each vCPU is inside.
pub const VCPU_STATUSES: GuestVirt = GuestVirt::literal(0xffff_ffff_d001_0000);
/// By handle, 8 bytes each, like the four tables below: what the word at [`LIVE_PUBLISHED`] said when
/// the view with the root in [`VIEW_ROOTS`] was the newest; [`crate::switch::NO_STAMP`] if nothing is to be equal.
pub const VIEW_STAMPS: GuestVirt = GuestVirt::literal(0xffff_ffff_d004_0000);
/// The root of the view of versioned segments that the kernel may enter, without a tag; 0 if it may not.
pub const VIEW_ROOTS: GuestVirt = GuestVirt::literal(0xffff_ffff_d008_0000);
/// What to load into CR3, with
/// `switch::CR3_KEEP` if tagged; 0 if a switch there needs more than that.
pub const PLAIN_ROOTS: GuestVirt = GuestVirt::literal(0xffff_ffff_d010_0000);
/// The generations of the instances that have a plain root.
pub const PLAIN_GENERATIONS: GuestVirt = GuestVirt::literal(0xffff_ffff_d014_0000);
/// Which locks an instance needs: offset of the first one's `switch::LockRef` in [`LOCK_REFS`], not
/// 0, in the upper half, and their number in the lower half. A `switch::LockEnd` follows them. 0
/// where there are none, or where the kernel must leave the switch to the VMM. Of an instance whose
/// versioned segments are only read, the address of the first `switch::ViewRecord`, which is negative; of
/// one whose segment is written, that of the `switch::WriteRecord`, likewise.
pub const LOCK_RANGES: GuestVirt = GuestVirt::literal(0xffff_ffff_d018_0000);
/// The table of `switch::InstanceEntry`, indexed by handle, in the VM's lease file: for inspection
/// only, the kernel has its own tables.
pub const INSTANCES: GuestVirt = GuestVirt::literal(0xffff_ffff_d020_0000);
/// Lists of `switch::LockRef`, each followed by a `switch::LockEnd`.
pub const LOCK_REFS: GuestVirt = GuestVirt::literal(0xffff_ffff_d040_0000);
/// Bytes reserved for [`LOCK_REFS`].
pub const LOCK_REFS_BYTES: u64 = 2 << 20;
/// The lock pages of attached lockable segments, one page each.
pub const LOCK_PAGES: GuestVirt = GuestVirt::literal(0xffff_ffff_d100_0000);
/// Maximum number of lock pages mapped at the same time.
pub const MAX_LOCK_PAGES: u32 = 32768;
/// Views of versioned segments that the kernel may enter by itself, [`VIEW_BYTES`] apart: a page of
/// the segment's file, read-only, where VMs tell each other which version is the newest, and two pages
/// of the VM's own: one begins with the `switch::ViewRecord`, the other with the
/// `switch::WriteRecord`. An instance uses one of them for each of its segments.
pub const VIEWS: GuestVirt = GuestVirt::literal(0xffff_ffff_d900_0000);
/// Distance between two views.
pub const VIEW_BYTES: u64 = 3 * PAGE_SIZE;
/// Maximum number of views at the same time.
pub const MAX_VIEWS: u32 = 8192;
/// Per-vCPU tables of TLB tags: for each tag, the generation last loaded with it.
pub const TAG_TABLES: GuestVirt = GuestVirt::literal(0xffff_ffff_e000_0000);
/// Bytes of one vCPU's table: 4096 tags of 8 bytes.
pub const TAG_TABLE_BYTES: u64 = 4096 * 8;

/// Bytes at guest-physical zero that belong to the VMM: descriptor tables and kernel.
pub const SYSTEM_BYTES: u64 = PAGE_SIZE_2M;
/// Guest-physical page of the interrupt descriptor table.
pub const IDT_PHYS: GuestPhys = GuestPhys::literal(0x1000);
/// Where the kernel image is loaded.
pub const KERNEL_PHYS: GuestPhys = GuestPhys::literal(0x10_0000);
/// Guest-physical page not backed by memory, target of the gate's store. Just below the local
/// APIC's default page, which lies in the same hole of guest-physical space.
pub const TRAP_PHYS: GuestPhys = GuestPhys::literal(0xfedf_f000);
/// Guest-physical hole without memory: APIC page, KVM's own pages, the trap page.
pub const PHYS_HOLE: core::ops::Range<u64> = 0xc000_0000..0x1_0000_0000;

const _: () = {
    assert!(PRIVATE_END.raw() == (PRIVATE_SLOTS.end as u64) << 39);
    assert!(VAS_END.raw() < (VAS_SLOTS.end as u64) << 39);
    assert!(VDSO_BASE.raw() > STACK_TOP.raw());
    assert!(VDSO_BASE.raw() + 16 * PAGE_SIZE <= CLOCK_PAGE.raw());
    assert!(KERNEL_PHYS.raw() < SYSTEM_BYTES);
    assert!(VCPU_AREAS.raw() + (MAX_VCPUS as u64) * VCPU_AREA_BYTES > VCPU_AREAS.raw());
    assert!(VCPU_AREAS.raw() + MAX_VCPUS as u64 * VCPU_AREA_BYTES <= SWITCH_CONTROL.raw());
    assert!(VCPU_STATUSES.raw() + MAX_VCPUS as u64 * 64 <= VIEW_STAMPS.raw());
    assert!(VIEW_STAMPS.raw() + MAX_INSTANCES as u64 * 8 <= VIEW_ROOTS.raw());
    assert!(VIEW_ROOTS.raw() + MAX_INSTANCES as u64 * 8 <= PLAIN_ROOTS.raw());
    assert!(PLAIN_ROOTS.raw() + MAX_INSTANCES as u64 * 8 <= PLAIN_GENERATIONS.raw());
    assert!(PLAIN_GENERATIONS.raw() + MAX_INSTANCES as u64 * 8 <= LOCK_RANGES.raw());
    assert!(LOCK_RANGES.raw() + MAX_INSTANCES as u64 * 8 <= INSTANCES.raw());
    assert!(INSTANCES.raw() + MAX_INSTANCES as u64 * 64 == LOCK_REFS.raw());
    assert!(LOCK_REFS.raw() + LOCK_REFS_BYTES <= LOCK_PAGES.raw());
    assert!(LOCK_PAGES.raw() + MAX_LOCK_PAGES as u64 * PAGE_SIZE <= VIEWS.raw());
    assert!(VIEWS.raw() + MAX_VIEWS as u64 * VIEW_BYTES <= TAG_TABLES.raw());
    assert!(PHYS_HOLE.start <= TRAP_PHYS.raw() && TRAP_PHYS.raw() < PHYS_HOLE.end);
};
