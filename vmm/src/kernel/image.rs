//! The guest kernel's image and the interrupt descriptor table: what all vCPUs share in ring 0.

use abi::layout::{IDT_PHYS, KERNEL_BASE, KERNEL_IDT, KERNEL_PHYS};
use abi::shared::{KERNEL_ABI, KERNEL_MAGIC, KernelInfo, selector};
use abi::walk::PageTable;
use abi::{GuestVirt, PAGE_SIZE, PageSize, Rights};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;

use crate::vm::VmError;
use crate::vm::memory::{GuestMem, MemoryError};
use crate::vm::tables::Tables;

static KERNEL_ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-kernel.elf"));

/// Loads the embedded image and reads the description in its first page.
pub(super) fn load(mem: &GuestMem) -> Result<KernelInfo, VmError> {
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
pub(super) fn map(
    table: &mut PageTable<'_, Tables<'_>>,
    kernel: &KernelInfo,
) -> Result<(), MemoryError> {
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
pub(super) fn write_idt(mem: &GuestMem, kernel: &KernelInfo) -> Result<(), MemoryError> {
    for vector in 0..32u64 {
        let stub = kernel.vectors + vector * kernel.vector_stride;
        // Each of these can occur while the kernel is exiting to the VMM with another exception.
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
