//! Which instance each vCPU is in, or about to enter: the status entries of vCPUs, and their roots.
//!
//! They lie in the VM's lease file once that is mapped over them, where other VMMs and the command
//! line see which threads are inside a VAS. `abi::switch` defines how the two words of an entry are
//! used.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use abi::GuestPhys;
use abi::layout::{MAX_VCPUS, VCPU_STATUSES};
use abi::switch::VcpuStatus;

use super::switch_tables::{STATUS_BYTES, SwitchTables, loadable};
use crate::vm::Vcpu;
use crate::vm::memory::MemoryError;

const ANNOUNCED: usize = offset_of!(VcpuStatus, announced);
const INSIDE: usize = offset_of!(VcpuStatus, inside);
const THREAD: usize = offset_of!(VcpuStatus, thread);

impl SwitchTables {
    fn status(&self, vcpu: u32, field: usize) -> Result<GuestPhys, MemoryError> {
        let at = self.at(VCPU_STATUSES).offset(u64::from(vcpu) * STATUS_BYTES);
        match vcpu {
            0..MAX_VCPUS => Ok(at.offset(field as u64)),
            _ => Err(MemoryError::NotMemory { gpa: at, len_bytes: STATUS_BYTES }),
        }
    }

    fn load_status(&self, vcpu: u32, field: usize) -> Result<u64, MemoryError> {
        self.machine.mem.load(self.status(vcpu, field)?)
    }

    /// Both words of a vCPU's entry, in this order: what it has announced, where it is.
    pub(super) fn status_words(&self, vcpu: u32) -> Result<(u64, u64), MemoryError> {
        Ok((self.load_status(vcpu, ANNOUNCED)?, self.load_status(vcpu, INSIDE)?))
    }

    /// The instance that vCPU `vcpu` is in, when it is out of the guest or in ring 3. In the middle
    /// of a switch, the one it is still in.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn current_instance(&self, vcpu: u32) -> Result<u32, MemoryError> {
        Ok(self.load_status(vcpu, INSIDE)? as u32)
    }

    /// Whether a vCPU may be in the middle of a switch.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn is_switching(&self, vcpu: u32) -> Result<bool, MemoryError> {
        fence(Ordering::SeqCst);
        Ok(self.load_status(vcpu, ANNOUNCED)? != self.load_status(vcpu, INSIDE)?)
    }

    /// Announces, for a vCPU that is out of the guest, that it is about to enter `vh`; it counts as
    /// inside both until [`SwitchTables::set_current_instance`] records where it is. Later reads of
    /// the instance or of the change counter are ordered after the announcement.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn announce_instance(&self, vcpu: u32, vh: u32) -> Result<(), MemoryError> {
        self.machine.mem.store(self.status(vcpu, ANNOUNCED)?, u64::from(vh))?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Records that a vCPU, which is out of the guest, is in `vh` and nowhere else.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_current_instance(&self, vcpu: u32, vh: u32) -> Result<(), MemoryError> {
        self.announce_instance(vcpu, vh)?;
        self.machine.mem.store(self.status(vcpu, INSIDE)?, u64::from(vh))
    }

    /// Makes the next entry of `vcpu` load `cr3`, a root as in an instance entry. The status entry,
    /// the held locks and the rest of a switch are up to the caller.
    ///
    /// # Errors
    /// [`MemoryError`]; nothing has changed then.
    pub fn switch_root(&self, vcpu: &mut Vcpu, cr3: u64) -> Result<(), MemoryError> {
        // The TLB will then hold translations for the tag from a generation that is not recorded,
        // so the kernel's next load of the tag flushes them. Without tags there is nothing to
        // forget.
        if let Some(generation) = self.tag_word(vcpu.index(), cr3) {
            self.machine.mem.store(generation, 0)?;
        }
        vcpu.load_root(loadable(cr3));
        Ok(())
    }

    /// Writes the program thread that a vCPU runs into its status entry, for inspection.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn set_vcpu_thread(&self, vcpu: u32, thread: u64) -> Result<(), MemoryError> {
        self.machine.mem.store(self.status(vcpu, THREAD)?, thread)
    }

    /// vCPUs that are in `vh` or about to enter it. After [`SwitchTables::clear_instance`], a vCPU
    /// whose attempt failed may still be listed for a few instructions.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn vcpus_in(&self, vh: u32) -> Result<Vec<u32>, MemoryError> {
        fence(Ordering::SeqCst);
        let mut found = Vec::new();
        for vcpu in 0..self.vcpus() {
            let words = [self.load_status(vcpu, ANNOUNCED)?, self.load_status(vcpu, INSIDE)?];
            if words.contains(&u64::from(vh)) {
                found.push(vcpu);
            }
        }
        Ok(found)
    }
}
