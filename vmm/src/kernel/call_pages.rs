//! The VMM's own pages in a program's address space: the code through which it makes calls (call
//! page and gate), and the clock page.
//!
//! Which of them is used, and with what contents, depends on the host and is decided in
//! `kernel/mod.rs`; `abi::layout` has their addresses.

use abi::call::CALL_VAS_SWITCH;
use abi::layout::{
    CALL_PAGE, CALL_PAGE_SWITCH_UD2, CALL_PAGE_UD2, CLOCK_PAGE, GATE_PAGE, GATE_TRAP_PAGE,
    TRAP_PHYS,
};
use abi::{GuestPhys, PAGE_SIZE, PageSize, Rights};

use crate::vm::Machine;
use crate::vm::memory::MemoryError;

/// Ring 3's rights on pages of code.
const CODE: Rights = Rights { write: false, execute: true, user: true };

fn page_of(code: &[u8]) -> Vec<u8> {
    let mut page = vec![0xcc; PAGE_SIZE as usize];
    page.iter_mut().zip(code).for_each(|(slot, byte)| *slot = *byte);
    page
}

/// The call page's code where UD2 is the way into the kernel. There, a decision in ring 3 costs
/// nothing and each instruction in ring 0 does, so the switch has its own UD2.
fn trapping_call_code() -> Vec<u8> {
    // CMP RAX, vas_switch; JE to the second UD2.
    let mut code = vec![0x48, 0x3d];
    code.extend_from_slice(&CALL_VAS_SWITCH.to_le_bytes());
    code.extend_from_slice(&[0x74, 0x03]);
    debug_assert_eq!(code.len() as u64, CALL_PAGE_UD2.raw() - CALL_PAGE.raw());
    code.extend_from_slice(&[0x0f, 0x0b, 0xc3]);
    debug_assert_eq!(code.len() as u64, CALL_PAGE_SWITCH_UD2.raw() - CALL_PAGE.raw());
    code.extend_from_slice(&[0x0f, 0x0b, 0xc3]);
    code
}

/// Frames of the call page, the gate and the clock page.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallPages {
    call: GuestPhys,
    gate: GuestPhys,
    pub(super) clock: GuestPhys,
}

impl CallPages {
    /// Maps them; see `abi::layout`.
    pub(super) fn map(machine: &Machine) -> Result<CallPages, MemoryError> {
        let (call, gate, clock) =
            (machine.table_frame()?, machine.table_frame()?, machine.table_frame()?);
        let mem = &machine.mem;
        // SYSCALL; RET, then INT3 to the end.
        mem.write(call, &page_of(&[0x0f, 0x05, 0xc3]))?;
        // MOV [RIP + distance to the trap page], AL; UD2 is never reached.
        let distance = (PAGE_SIZE - 6) as u32;
        let mut store = vec![0x88, 0x05];
        store.extend_from_slice(&distance.to_le_bytes());
        store.extend_from_slice(&[0x0f, 0x0b]);
        mem.write(gate, &page_of(&store))?;
        let words = Rights { write: false, execute: false, user: true };
        machine.edit_tables(|tables| {
            tables.map(CALL_PAGE, call, PageSize::Small4K, CODE)?;
            tables.map(CLOCK_PAGE, clock, PageSize::Small4K, words)
        })?;
        Ok(CallPages { call, gate, clock })
    }

    /// Maps the gate, and makes calls go through UD2.
    pub(super) fn use_gate(&self, machine: &Machine) -> Result<(), MemoryError> {
        let trap = Rights { write: true, execute: false, user: true };
        machine.edit_tables(|tables| {
            tables.map(GATE_PAGE, self.gate, PageSize::Small4K, CODE)?;
            tables.map(GATE_TRAP_PAGE, TRAP_PHYS, PageSize::Small4K, trap)
        })?;
        machine.mem.write(self.call, &trapping_call_code())
    }
}
