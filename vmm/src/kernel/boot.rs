//! What a vCPU finds when it first runs: kernel image, descriptor tables, registers.
//!
//! There is no boot code in the guest. The VMM writes the tables the architecture wants
//! (SDM 3A, 3.5, 6.14, 7.7) and loads every register, so that a vCPU's first instruction is
//! the program's.

use abi::layout::{
    IDT_PHYS, IST_STACK_BYTES, KERNEL_BASE, KERNEL_IDT, KERNEL_PHYS, VCPU_AREA_BYTES, VCPU_AREAS,
    VCPU_CALL_STACK, VCPU_IST_STACKS,
};
use abi::shared::{KERNEL_ABI, KERNEL_MAGIC, KernelInfo, TrapWays, VCPU_GDT, VCPU_TSS, selector};
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PageSize, Rights};
use kvm_bindings::{kvm_segment, kvm_sregs};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;

use crate::vm::machine::{Machine, VmError};
use crate::vm::memory::{GuestMem, MemoryError};
use crate::vm::tables::Tables;

static KERNEL_ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-kernel.elf"));

/// State components programs may use: x87, SSE, AVX, AVX-512 (three), PKRU (SDM 1, 13.1).
pub(crate) const XCR0_KEEP: u64 = 0b10_1110_0111;

/// PE, MP, ET, NE, WP, AM (or a program's AC flag would mean nothing), PG.
const CR0: u64 = (1 << 0) | (1 << 1) | (1 << 4) | (1 << 5) | (1 << 16) | (1 << 18) | (1 << 31);
pub(crate) const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER: u64 = (1 << 0) | (1 << 8) | (1 << 10) | (1 << 11);

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

/// Loads the embedded image and reads its first page's description.
pub(crate) fn load_kernel(mem: &GuestMem) -> Result<KernelInfo, VmError> {
    let bad = |what: String| VmError::KernelImage { what };
    let backend = mem.backend();
    Elf::load(&*backend, None, &mut std::io::Cursor::new(KERNEL_ELF), None)
        .map_err(|e| bad(e.to_string()))?;
    let word = |i: u64| mem.load(KERNEL_PHYS.offset(i * 8));
    let info = KernelInfo {
        magic: word(0)?,
        abi: word(1)?,
        syscall_entry: word(2)?,
        vectors: word(3)?,
        vector_stride: word(4)?,
        text_start: word(5)?,
        text_end: word(6)?,
        data_end: word(7)?,
        epitaph: word(8)?,
        sysrets: [word(9)?, word(10)?, word(11)?, word(12)?, word(13)?],
        trap_ways: TrapWays { free: word(14)?, held: word(15)?, slow: word(16)?, given: word(17)? },
    };
    if info.magic != KERNEL_MAGIC || info.abi != KERNEL_ABI {
        return Err(bad(format!("magic {:#x}, ABI version {}", info.magic, info.abi)));
    }
    let base = KERNEL_BASE.raw();
    let ordered = [base, info.text_start, info.text_end, info.data_end, base + (1 << 20)];
    if !ordered.is_sorted()
        || !info.text_start.is_multiple_of(PAGE_SIZE)
        || !info.text_end.is_multiple_of(PAGE_SIZE)
    {
        return Err(bad("its sections are out of order".into()));
    }
    Ok(info)
}

/// Maps the image page by page, each part with the least rights, and the IDT read-only.
pub(crate) fn map_kernel(
    tables: &mut Tables<'_>,
    root: GuestPhys,
    kernel: &KernelInfo,
) -> Result<(), MemoryError> {
    let mut table = PageTable::new(root, tables);
    let mut at = KERNEL_BASE.raw();
    while at < kernel.data_end {
        let rights = match at {
            _ if at < kernel.text_start => Rights::KERNEL_READ,
            _ if at < kernel.text_end => Rights::KERNEL_CODE,
            _ => Rights::KERNEL_WRITE,
        };
        let gpa = KERNEL_PHYS.offset(at - KERNEL_BASE.raw());
        table.map(GuestVirt::literal(at), gpa, PageSize::Small4K, rights)?;
        at += PAGE_SIZE;
    }
    table.map(KERNEL_IDT, IDT_PHYS, PageSize::Small4K, Rights::KERNEL_READ)
}

/// Fills the IDT: 32 interrupt gates (type 14), all on exception stacks. Ring 3 may raise
/// only the breakpoint (INT3) and overflow exceptions by instruction.
pub(crate) fn write_idt(mem: &GuestMem, kernel: &KernelInfo) -> Result<(), MemoryError> {
    for vector in 0..32u64 {
        let stub = kernel.vectors + vector * kernel.vector_stride;
        // Each of these can strike while another exception is being left for the VMM.
        let ist: u64 = match vector {
            8 => 2,
            2 => 3,
            18 => 4,
            _ => 1,
        };
        let dpl: u64 = if vector == 3 || vector == 4 { 3 } else { 0 };
        let low = (stub & 0xffff)
            | u64::from(selector::KERNEL_CODE) << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (stub >> 16 & 0xffff) << 48;
        mem.store(IDT_PHYS.offset(vector * 16), low)?;
        mem.store(IDT_PHYS.offset(vector * 16 + 8), stub >> 32)?;
    }
    Ok(())
}

/// Allocates, fills and maps a vCPU's data page and stacks. The page between them stays
/// unmapped, so that an overflowing call stack faults.
pub(crate) fn make_vcpu_area(
    tables: &mut Tables<'_>,
    root: GuestPhys,
    index: u32,
) -> Result<VcpuArea, MemoryError> {
    let base = GuestVirt::literal(VCPU_AREAS.raw() + u64::from(index) * VCPU_AREA_BYTES);
    let data = tables.alloc_table()?;
    let call_stack = tables.alloc_table()?;
    let ist_stacks = tables.alloc_table()?;
    let mem = tables.mem;
    mem.store(data.offset(8), base.raw() + VCPU_CALL_STACK + PAGE_SIZE)?;
    write_gdt(mem, data.offset(VCPU_GDT), base.raw() + VCPU_TSS)?;
    write_tss(mem, data.offset(VCPU_TSS), base.raw() + VCPU_IST_STACKS)?;
    let mut table = PageTable::new(root, tables);
    for (offset, gpa) in [(0, data), (VCPU_CALL_STACK, call_stack), (VCPU_IST_STACKS, ist_stacks)] {
        let gva = GuestVirt::literal(base.raw() + offset);
        table.map(gva, gpa, PageSize::Small4K, Rights::KERNEL_WRITE)?;
    }
    Ok(VcpuArea { base, data, stacks: ist_stacks })
}

fn write_gdt(mem: &GuestMem, gdt: GuestPhys, tss: u64) -> Result<(), MemoryError> {
    let entry = |sel: u16| gdt.offset(u64::from(sel & !7));
    mem.store(entry(selector::KERNEL_CODE), 0x00af_9b00_0000_ffff)?;
    mem.store(entry(selector::KERNEL_DATA), 0x00cf_9300_0000_ffff)?;
    mem.store(entry(selector::USER_DATA), 0x00cf_f300_0000_ffff)?;
    mem.store(entry(selector::USER_CODE), 0x00af_fb00_0000_ffff)?;
    let low = TSS_LIMIT | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56;
    mem.store(entry(selector::TSS), low)?;
    mem.store(entry(selector::TSS).offset(8), tss >> 32)
}

pub(crate) const TSS_LIMIT: u64 = 0x67;

/// Only the exception stacks are used: ring 0 is entered by SYSCALL, which changes no stack,
/// or through a gate with an IST entry. The I/O bitmap lies beyond the limit: no port is
/// open to ring 3.
fn write_tss(mem: &GuestMem, tss: GuestPhys, stacks: u64) -> Result<(), MemoryError> {
    let mut image = [0u8; 104];
    for ist in 0..4u64 {
        let top = stacks + (ist + 1) * IST_STACK_BYTES;
        let at = 36 + ist as usize * 8;
        if let Some(slot) = image.get_mut(at..at + 8) {
            slot.copy_from_slice(&top.to_le_bytes());
        }
    }
    if let Some(slot) = image.get_mut(102..104) {
        slot.copy_from_slice(&104u16.to_le_bytes());
    }
    mem.write(tss, &image)
}

/// Ring-3 code and data, as SYSRET and IRETQ would load them.
pub(crate) fn user_segments() -> (kvm_segment, kvm_segment) {
    let mut code = flat_segment(selector::USER_CODE, 11);
    code.l = 1;
    code.db = 0;
    let data = flat_segment(selector::USER_DATA, 3);
    (code, data)
}

/// All of memory.
pub(crate) fn flat_segment(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: (selector & 3) as u8,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The system registers a vCPU starts with, in ring 3.
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
    sregs.cr3 = machine.root.raw();
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
