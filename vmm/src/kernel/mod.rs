//! What the guest kernel needs from the VMM: its image, its vCPUs, and the tables that both use.
//!
//! It is above `vm`, which deals with KVM and knows nothing of what runs in ring 0, and below
//! `vas`, which decides the contents of the tables.
//!
//! - `image`: the kernel's code and data, and the interrupt descriptor table
//! - `vcpu_area`: the pages of a vCPU in ring 0; `call_pages`: the VMM's pages in ring 3
//! - [`switch_tables`]: addresses of the tables that the kernel's `vas_switch` reads;
//!   `vcpu_status`: which instance each vCPU is in; [`instances`]: roots; `lock_lists`: the locks
//!   they need

mod call_pages;
mod image;
pub mod instances;
mod lock_lists;
pub mod switch_tables;
#[cfg(test)]
mod tests;
mod vcpu_area;
mod vcpu_status;
pub(crate) mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::GuestPhys;
use abi::layout::{GATE_PAGE, KERNEL_BASE, KERNEL_PHYS};
use abi::shared::KernelInfo;

use crate::vm::memory::MemoryError;
use crate::vm::vcpu::SyscallTarget;
use crate::vm::{Machine, PcidPolicy, Vcpu, VmError};
use call_pages::CallPages;
pub use switch_tables::SwitchTables;

/// Whether vCPUs of this host stop at the processor's breakpoints and watchpoints, tried in a VM that is made for it;
/// nothing if that cannot be found out.
#[must_use]
pub fn has_processor_points() -> Option<bool> {
    Kernel::load().ok()?.new_vcpu().ok()?.probe_points()
}

/// The guest kernel, in its VM.
#[derive(Debug)]
pub struct Kernel {
    machine: Arc<Machine>,
    info: KernelInfo,
    call_pages: CallPages,
    /// The tables that its `vas_switch` reads.
    pub switch: Arc<SwitchTables>,
    next_vcpu: AtomicU32,
}

impl Kernel {
    /// Creates a VM with the kernel loaded and no vCPU yet.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn load() -> Result<Kernel, VmError> {
        Kernel::load_into(Machine::new()?)
    }

    /// As [`Kernel::load`], on vCPUs that report no more TLB tag features than `policy` allows.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn with_tags(policy: PcidPolicy) -> Result<Kernel, VmError> {
        Kernel::load_into(Machine::with_tags(policy)?)
    }

    fn load_into(machine: Arc<Machine>) -> Result<Kernel, VmError> {
        let info = image::load(&machine.mem)?;
        image::write_idt(&machine.mem, &info)?;
        machine.edit_tables(|tables| image::map(tables, &info))?;
        let call_pages = CallPages::map(&machine)?;
        let switch = Arc::new(SwitchTables::new(machine.clone())?);
        Ok(Kernel { machine, info, call_pages, switch, next_vcpu: AtomicU32::new(0) })
    }

    /// Leaves every switch to the VMM, which then sees all of them. Call this before a program is
    /// loaded.
    pub fn leave_switches_to_vmm(&self) {
        self.switch.leave_all_to_vmm();
    }

    /// The VM.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The page of the program's clock.
    #[must_use]
    pub fn clock_page(&self) -> GuestPhys {
        self.call_pages.clock
    }

    /// Where a kernel that panicked leaves its message.
    pub(crate) fn epitaph(&self) -> Option<GuestPhys> {
        let offset = self.info.epitaph.checked_sub(KERNEL_BASE.raw())?;
        Some(KERNEL_PHYS.offset(offset))
    }

    /// A new vCPU, ready to enter ring 3 once it is given registers.
    ///
    /// # Errors
    /// [`VmError::VcpuLimit`] or a KVM error.
    pub fn new_vcpu(&self) -> Result<Vcpu, VmError> {
        let machine = &self.machine;
        let index = self.next_vcpu.fetch_add(1, Ordering::Relaxed);
        if index >= machine.max_vcpus() {
            self.next_vcpu.fetch_sub(1, Ordering::Relaxed);
            return Err(VmError::VcpuLimit { limit: machine.max_vcpus() });
        }
        let area = machine.edit_tables_and_pool(|root, tables| {
            let area = vcpu_area::make(tables, root, index)?;
            self.switch.add_vcpu(tables, root, index, area.data, machine.offers_pcid())?;
            Ok::<_, MemoryError>(area)
        })?;
        machine.mem.on_kvm_clock(|| {
            let mut vcpu = Vcpu::new(machine.clone(), index, &area, &self.info)?;
            if index == 0 {
                match vcpu.probe_host()? {
                    SyscallTarget::Ring0 => machine.protect_kernel(),
                    SyscallTarget::Ring3 => {
                        self.use_gate()?;
                        vcpu.set_syscall_target(GATE_PAGE.raw())?;
                    }
                }
            }
            Ok(vcpu)
        })
    }

    /// For a host whose SYSCALL stays in ring 3: from now on SYSCALL goes through the gate page,
    /// and SpaceJMP calls go through UD2, the cheapest trap there.
    fn use_gate(&self) -> Result<(), MemoryError> {
        self.call_pages.use_gate(&self.machine)?;
        self.machine.note_soft_host();
        Ok(())
    }
}
