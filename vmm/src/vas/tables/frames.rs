//! Frames of page tables that are allocated and freed, those of instances and of segments'
//! subtrees, and which vCPUs still run on them.
//!
//! A frame that was a table may still be remembered as one: by a processor's paging-structure
//! caches, or by KVM's shadow tables, which do not see that the VMM has unlinked it. So a released
//! frame is *parked*, and becomes free only when every vCPU has flushed everything
//! (`Windows::forget_everything`, or windows removed). The frames of an instance that was rebuilt
//! under threads inside are *retired*, and parked when the last of them has the new root.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::{GuestPhys, PAGE_SIZE};

use crate::vm::{GuestMem, Machine, MemoryError, MemoryKind};

/// From this many parked frames on, flushing everything pays: 4 MiB of tables.
const PARKED_MAX: usize = 1024;

/// Tables that were replaced while vCPUs were running on them.
#[derive(Debug)]
struct Retired {
    frames: Vec<GuestPhys>,
    vcpus: Vec<u32>,
}

/// The frames of one VM's address spaces.
#[derive(Debug)]
pub(crate) struct TableFrames {
    machine: Arc<Machine>,
    free: Vec<GuestPhys>,
    parked: Vec<GuestPhys>,
    used: u64,
    retired: Vec<Retired>,
    /// vCPUs that must load their instance's root anew.
    reload: Vec<u32>,
    /// Whether there are any, for threads that look without the state's lock.
    reload_waits: Arc<AtomicBool>,
}

impl TableFrames {
    /// No frames yet.
    pub(crate) fn new(machine: Arc<Machine>) -> TableFrames {
        TableFrames {
            machine,
            free: Vec::new(),
            parked: Vec::new(),
            used: 0,
            retired: Vec::new(),
            reload: Vec::new(),
            reload_waits: Arc::default(),
        }
    }

    /// The machine whose memory the frames are.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// A zeroed frame.
    pub(crate) fn alloc(&mut self) -> Result<GuestPhys, MemoryError> {
        if self.free.is_empty() && self.parked.len() >= PARKED_MAX {
            self.machine.windows.forget_everything()?;
            self.all_is_forgotten();
        }
        let frame = match self.free.pop() {
            Some(frame) => {
                self.machine.mem.write(frame, &[0; PAGE_SIZE as usize])?;
                frame
            }
            None => {
                // The pool only notes what it hands out.
                self.machine.mem.ledger().check(MemoryKind::Tables, PAGE_SIZE)?;
                self.machine.table_frame()?
            }
        };
        self.used += 1;
        Ok(frame)
    }

    /// Takes back frames that no table links to any more and no vCPU has as its root.
    pub(crate) fn park(&mut self, frames: impl IntoIterator<Item = GuestPhys>) {
        let before = self.parked.len();
        self.parked.extend(frames);
        self.used -= (self.parked.len() - before) as u64;
    }

    /// To be called when no vCPU has a translation older than the last [`TableFrames::park`].
    pub(crate) fn all_is_forgotten(&mut self) {
        self.free.append(&mut self.parked);
    }

    /// Frames in use as tables.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// The memory that all tables lie in.
    pub(crate) fn mem(&self) -> &GuestMem {
        &self.machine.mem
    }

    /// Puts aside tables that were replaced, until none of `vcpus` runs on them.
    pub(crate) fn retire(&mut self, frames: Vec<GuestPhys>, vcpus: Vec<u32>) {
        if vcpus.is_empty() {
            return self.park(frames);
        }
        self.reload.extend(&vcpus);
        // Read by threads that are kicked after this.
        self.reload_waits.store(true, Ordering::Release);
        self.retired.push(Retired { frames, vcpus });
    }

    /// Notes that a vCPU has a root that is current.
    pub(crate) fn reloaded(&mut self, vcpu: u32) {
        self.reload.retain(|&waiting| waiting != vcpu);
        self.reload_waits.store(!self.reload.is_empty(), Ordering::Release);
        for retired in &mut self.retired {
            retired.vcpus.retain(|&on| on != vcpu);
        }
        let done: Vec<Retired> =
            self.retired.extract_if(.., |retired| retired.vcpus.is_empty()).collect();
        self.park(done.into_iter().flat_map(|retired| retired.frames));
    }

    /// vCPUs that run on tables which were replaced.
    pub(crate) fn outdated_vcpus(&self) -> &[u32] {
        &self.reload
    }

    /// Whether there are any: see the field.
    pub(crate) fn reload_waits(&self) -> Arc<AtomicBool> {
        self.reload_waits.clone()
    }
}
