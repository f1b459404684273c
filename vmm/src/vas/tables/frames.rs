//! Frames of page tables that come and go: those of instances and of segments' subtrees.
//!
//! A frame that was a table may still be remembered as one: by a processor's paging-structure
//! caches, or by KVM's shadow tables, which do not see that the VMM has unlinked it. So a
//! frame given back is *parked*, and becomes free only when every vCPU has forgotten
//! everything (`Windows::forget_everything`, or windows taken away).

use abi::{GuestPhys, PAGE_SIZE};

use crate::vm::{Machine, MemoryError, MemoryKind};

/// Parked frames that make it worth to have everything forgotten: 4 MiB of tables.
const PARKED_MAX: usize = 1024;

/// The frames of one VM's address spaces.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    free: Vec<GuestPhys>,
    parked: Vec<GuestPhys>,
    used: u64,
}

impl Frames {
    /// A zeroed frame.
    pub(crate) fn alloc(&mut self, machine: &Machine) -> Result<GuestPhys, MemoryError> {
        if self.free.is_empty() && self.parked.len() >= PARKED_MAX {
            machine.windows.forget_everything()?;
            self.all_is_forgotten();
        }
        let frame = match self.free.pop() {
            Some(frame) => {
                machine.mem.write(frame, &[0; PAGE_SIZE as usize])?;
                frame
            }
            None => {
                // The pool only notes what it hands out.
                machine.mem.ledger().check(MemoryKind::Tables, PAGE_SIZE)?;
                machine.table_frame()?
            }
        };
        self.used += 1;
        Ok(frame)
    }

    /// Takes back a frame that no table links to any more and no vCPU has as its root.
    pub(crate) fn park(&mut self, frame: GuestPhys) {
        self.used -= 1;
        self.parked.push(frame);
    }

    /// To be called when no vCPU has a translation from before the last [`Frames::park`].
    pub(crate) fn all_is_forgotten(&mut self) {
        self.free.append(&mut self.parked);
    }

    /// Frames in use as tables.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}
