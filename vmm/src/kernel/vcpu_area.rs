//! The pages of one vCPU in ring 0: data page with its descriptor tables, and stacks.

use abi::layout::{IST_STACK_BYTES, VCPU_AREA_BYTES, VCPU_AREAS, VCPU_CALL_STACK, VCPU_IST_STACKS};
use abi::shared::{VCPU_GDT, VCPU_TSS, selector};
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PageSize, Rights};

use crate::vm::memory::{GuestMem, MemoryError};
use crate::vm::registers::{TSS_LIMIT, VcpuArea};
use crate::vm::tables::Tables;

/// Allocates, fills and maps a vCPU's data page and stacks. The page between them stays
/// unmapped, so that an overflowing call stack faults.
pub(super) fn make(
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

/// Only the exception stacks are used: ring 0 is entered by SYSCALL, which does not switch stacks,
/// or through a gate with an IST entry. The I/O bitmap lies beyond the limit: no port is open to
/// ring 3.
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
