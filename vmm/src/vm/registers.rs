//! System registers: a vCPU's initial values, in a program's ring 3 or in our own ring 0.
//!
//! There is no boot code in the guest: every register is loaded by the VMM, so that a vCPU's first
//! instruction is the program's (SDM 3A, 3.5, 7.7).

use abi::layout::KERNEL_IDT;
use abi::shared::{VCPU_GDT, VCPU_TSS, selector};
use abi::{GuestPhys, GuestVirt};
use kvm_bindings::{kvm_segment, kvm_sregs};

use super::machine::Machine;

/// State components programs may use: x87, SSE, AVX, AVX-512 (three), PKRU (SDM 1, 13.1).
pub(crate) const XCR0_KEEP: u64 = 0b10_1110_0111;

/// PE, MP, ET, NE, WP, AM (or a program's AC flag would have no effect), PG.
const CR0: u64 = (1 << 0) | (1 << 1) | (1 << 4) | (1 << 5) | (1 << 16) | (1 << 18) | (1 << 31);
pub(super) const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER: u64 = (1 << 0) | (1 << 8) | (1 << 10) | (1 << 11);

/// Limit of a TSS without an I/O bitmap: its size minus one.
pub(crate) const TSS_LIMIT: u64 = 0x67;

/// The pages of one vCPU.
#[derive(Debug)]
pub(crate) struct VcpuArea {
    /// Guest-virtual start.
    pub(crate) base: GuestVirt,
    /// The page at its start.
    pub(crate) data: GuestPhys,
    /// The page of exception stacks.
    pub(crate) stacks: GuestPhys,
}

/// Ring-3 code and data segments, as SYSRET and IRETQ would load them.
pub(crate) fn user_segments() -> (kvm_segment, kvm_segment) {
    let mut code = flat_segment(selector::USER_CODE, 11);
    code.l = 1;
    code.db = 0;
    let data = flat_segment(selector::USER_DATA, 3);
    (code, data)
}

/// A segment that covers all of memory.
pub(crate) fn flat_segment(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: (selector & 3) as u8,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    }
}

/// A vCPU's initial system registers, in ring 3.
pub(crate) fn first_sregs(old: &kvm_sregs, area: &VcpuArea, machine: &Machine) -> kvm_sregs {
    let mut sregs = *old;
    let (code, data) = user_segments();
    sregs.cs = code;
    sregs.ss = data;
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs] {
        *segment = flat_segment(0, 3);
        segment.dpl = 3;
    }
    sregs.tr = kvm_segment {
        base: area.base.raw() + VCPU_TSS,
        limit: TSS_LIMIT as u32,
        selector: selector::TSS,
        type_: 11,
        present: 1,
        s: 0,
        ..kvm_segment::default()
    };
    sregs.gdt.base = area.base.raw() + VCPU_GDT;
    sregs.gdt.limit = selector::TSS + 15;
    sregs.idt.base = KERNEL_IDT.raw();
    sregs.idt.limit = 32 * 16 - 1;
    sregs.cr0 = CR0;
    // With tag 0, which no instance has.
    sregs.cr3 = machine.home_root().raw();
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    for (offered, bit) in [(machine.has_fsgsbase(), CR4_FSGSBASE), (machine.xcr0 > 1, CR4_OSXSAVE)]
    {
        if offered {
            sregs.cr4 |= bit;
        }
    }
    sregs.efer = EFER;
    sregs
}
