//! One virtual processor: its registers, and the two operations enter and exit.
//!
//! The rest of the VMM sees ring 3 only. However a vCPU left the guest, [`UserRegs`] holds the
//! program's registers; whatever was changed there, [`Vcpu::run`] finds the cheapest way back:
//! after the kernel's `OUT` when the program is to continue after its SYSCALL, directly into ring 3
//! otherwise. `KVM_CAP_SYNC_REGS` carries the registers with the exit, so that no further KVM call
//! is needed.

mod leave;
pub(crate) mod points;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use abi::addr::LOWER_HALF_END;
use abi::layout::{CALL_PAGE, GATE_PAGE};
use abi::shared::{KernelInfo, selector};
use abi::{GuestPhys, GuestVirt};
use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};

use self::leave::Raw;
use super::exit::{Exit, Via};
use super::kick::Armed;
use super::machine::{Machine, VmError, kvm_call};
use super::registers::{self, VcpuArea};

/// The registers of ring 3: general ones, instruction pointer, flags.
pub type UserRegs = kvm_regs;

/// Flags a program may set for itself: CF PF AF ZF SF TF DF OF RF AC ID.
pub const USER_FLAGS: u64 = 0x25_0dd5;
/// Flags that are always set in ring 3: the reserved bit 1, and IF.
pub const FIXED_FLAGS: u64 = 0x202;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Flags cleared by SYSCALL: TF, IF, DF, IOPL, NT, AC.
const SFMASK: u64 = 0x100 | 0x200 | 0x400 | 0x3000 | 0x4000 | 0x4_0000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Position {
    /// In ring 3, or to be resumed there.
    Ring3,
    /// In ring 0, at the `OUT` after which SYSRET returns to RCX.
    BehindSyscall,
    /// Elsewhere in ring 0: must finish there first.
    Kernel,
}

/// One virtual processor.
#[derive(Debug)]
pub struct Vcpu {
    pub(crate) fd: VcpuFd,
    machine: Arc<Machine>,
    index: u32,
    pub(crate) stacks: GuestPhys,
    pub(crate) position: Position,
    /// The program's registers while the vCPU is out of the guest.
    pub regs: UserRegs,
    /// Whether all of `regs` must reach the program, including RCX and R11.
    restore_all: bool,
    fs_base: u64,
    gs_base: u64,
    bases_changed: bool,
    /// The value that the next entry loads into CR3, if it changes.
    new_cr3: Option<u64>,
    instance: u32,
    visiting: bool,
    kernel: KernelInfo,
    /// The processor's breakpoints that ended the last run.
    hits: u8,
    /// Exits so far.
    pub exits: u64,
}

impl Vcpu {
    pub(crate) fn new(
        machine: Arc<Machine>,
        index: u32,
        area: &VcpuArea,
        kernel: &KernelInfo,
    ) -> Result<Vcpu, VmError> {
        let fd = machine.fd.create_vcpu(u64::from(index)).map_err(kvm_call("create a vCPU"))?;
        let mut cpuid = machine.cpuid.clone();
        for leaf in cpuid.as_mut_slice() {
            match leaf.function {
                1 => leaf.ebx = (leaf.ebx & 0x00ff_ffff) | (index << 24),
                0xb | 0x1f => leaf.edx = index,
                _ => {}
            }
        }
        fd.set_cpuid2(&cpuid).map_err(kvm_call("set CPUID"))?;
        let old = fd.get_sregs().map_err(kvm_call("read system registers"))?;
        let xsave = machine.xcr0 > 1;
        let sregs = registers::first_sregs(&old, area, &machine);
        fd.set_sregs(&sregs).map_err(kvm_call("set system registers"))?;
        if xsave {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
            if let Some(first) = xcrs.xcrs.first_mut() {
                *first = kvm_xcr { xcr: 0, value: machine.xcr0, ..kvm_xcr::default() };
            }
            fd.set_xcrs(&xcrs).map_err(kvm_call("set XCR0"))?;
        }
        let mut vcpu = Vcpu {
            fd,
            index,
            stacks: area.stacks,
            position: Position::Ring3,
            regs: UserRegs::default(),
            restore_all: true,
            fs_base: 0,
            gs_base: 0,
            bases_changed: true,
            new_cr3: None,
            instance: 0,
            visiting: false,
            kernel: *kernel,
            hits: 0,
            exits: 0,
            machine,
        };
        let soft = vcpu.machine.is_soft_host();
        let lstar = if soft { GATE_PAGE.raw() } else { kernel.syscall_entry };
        vcpu.set_msrs(&[
            (
                MSR_STAR,
                u64::from(selector::SYSRET_BASE) << 48 | u64::from(selector::KERNEL_CODE) << 32,
            ),
            (MSR_SFMASK, SFMASK),
            (MSR_KERNEL_GS_BASE, area.base.raw()),
            (MSR_LSTAR, lstar),
        ])?;
        vcpu.fd.set_sync_valid_reg(SyncReg::Register);
        vcpu.fd.set_sync_valid_reg(SyncReg::SystemRegister);
        vcpu.fd.sync_regs_mut().sregs = sregs;
        Ok(vcpu)
    }

    fn set_msrs(&self, values: &[(u32, u64)]) -> Result<(), VmError> {
        let entries: Vec<_> = values
            .iter()
            .map(|&(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() })
            .collect();
        let msrs = Msrs::from_entries(&entries)
            .map_err(|_| VmError::Unsupported { what: "room for four MSRs" })?;
        let set = self.fd.set_msrs(&msrs).map_err(kvm_call("set MSRs"))?;
        match values.get(set) {
            None => Ok(()),
            Some(_) => Err(VmError::Unsupported { what: "the MSRs of SYSCALL and SWAPGS" }),
        }
    }

    /// This vCPU's number, starting at 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The machine it belongs to.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Lets kicks of the calling thread reach this vCPU.
    pub fn arm(&mut self) -> Armed {
        let flag = (&raw mut self.fd.get_kvm_run().immediate_exit).cast::<AtomicU8>();
        // SAFETY: the flag lies in the kvm_run mapping, which lives as long as `fd`; callers
        // keep the guard only while they run this vCPU on this thread. A u8 and an AtomicU8
        // have the same layout.
        unsafe { Armed::new(flag) }
    }

    /// FS base: the thread pointer.
    #[must_use]
    pub fn fs_base(&self) -> u64 {
        self.fs_base
    }

    /// Sets FS base; must be canonical.
    pub fn set_fs_base(&mut self, base: GuestVirt) {
        self.fs_base = base.raw();
        self.bases_changed = true;
    }

    /// GS base.
    #[must_use]
    pub fn gs_base(&self) -> u64 {
        self.gs_base
    }

    /// Sets GS base; must be canonical.
    pub fn set_gs_base(&mut self, base: GuestVirt) {
        self.gs_base = base.raw();
        self.bases_changed = true;
    }

    /// The root that the program runs on, with its tag, as of the last exit.
    #[must_use]
    pub fn cr3(&self) -> u64 {
        self.new_cr3.unwrap_or(self.fd.sync_regs().sregs.cr3)
    }

    /// Makes the next entry load `cr3`.
    ///
    /// If root or tag differ from those in CR3, the TLB is flushed: KVM drops what it and the
    /// processor cache for this vCPU when user space changes CR3. Loading the same root with the
    /// same tag does not flush.
    ///
    /// Not in the middle of the kernel ([`Exit::KickedInKernel`]), which may be loading CR3 itself.
    pub(crate) fn load_root(&mut self, cr3: u64) {
        debug_assert_ne!(self.position, Position::Kernel);
        self.new_cr3 = Some(cr3);
    }

    /// Handle of the instance that its thread is in, as recorded at the last exit or by a switch in
    /// the VMM: 0 for home. It comes from words that the guest can write, so it may be any number;
    /// its meaning is looked up in the VMM's own list.
    #[must_use]
    pub fn instance(&self) -> u32 {
        self.instance
    }

    /// Records it.
    pub(crate) fn set_instance(&mut self, vh: u32) {
        self.instance = vh;
    }

    /// Whether its thread was known to visit versioned segments when that was noted last.
    #[must_use]
    pub(crate) fn is_visiting(&self) -> bool {
        self.visiting
    }

    /// Records that.
    pub(crate) fn set_visiting(&mut self, visiting: bool) {
        self.visiting = visiting;
    }

    /// Whether it was stopped in the middle of the kernel ([`Exit::KickedInKernel`]).
    #[must_use]
    pub fn is_in_kernel(&self) -> bool {
        self.position == Position::Kernel
    }

    /// Makes the next entry load every register from `regs`.
    pub fn restore_all(&mut self) {
        self.restore_all = true;
    }

    /// The time-stamp counter's rate according to KVM.
    #[must_use]
    pub fn tsc_khz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|&khz| khz > 0)
    }

    /// The time-stamp counter as KVM would show it to this vCPU now.
    #[must_use]
    pub fn tsc(&self) -> Option<u64> {
        const MSR_TSC: u32 = 0x10;
        let entry = kvm_msr_entry { index: MSR_TSC, ..kvm_msr_entry::default() };
        let mut msrs = Msrs::from_entries(&[entry]).ok()?;
        (self.fd.get_msrs(&mut msrs).ok()? == 1)
            .then(|| msrs.as_slice().first().map(|e| e.data))
            .flatten()
    }

    /// x87, SSE and AVX state in the XSAVE standard format.
    ///
    /// # Errors
    /// A KVM error.
    pub fn fpu_state(&self) -> Result<kvm_xsave, VmError> {
        self.fd.get_xsave().map_err(kvm_call("read the FPU state"))
    }

    /// Loads what [`Vcpu::fpu_state`] returned, or the program's edit of it.
    ///
    /// # Errors
    /// KVM refuses impossible states (reserved MXCSR bits, unknown components).
    pub fn set_fpu_state(&mut self, state: &kvm_xsave) -> Result<(), VmError> {
        // SAFETY: the structure is 4096 bytes and XCR0 was limited to components that fit.
        unsafe { self.fd.set_xsave(state) }.map_err(kvm_call("set the FPU state"))
    }

    /// Enters the guest and returns the reason for the exit.
    ///
    /// # Errors
    /// A KVM error that says nothing about the guest.
    pub fn run(&mut self) -> Result<Exit, VmError> {
        if self.position != Position::Kernel {
            if self.regs.rip >= LOWER_HALF_END && self.regs.rip < !0 << 47 {
                return Ok(self.impossible_return());
            }
            self.load_registers();
        }
        self.exits += 1;
        let mut hits = 0;
        let raw = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, _)) => Raw::Out(port),
            Ok(VcpuExit::MmioWrite(gpa, _)) => Raw::Mmio(gpa),
            Ok(VcpuExit::MmioRead(gpa, data)) => {
                // The value that the refused access reads; see `abandon_access`.
                data.fill(0);
                Raw::Mmio(gpa)
            }
            Ok(VcpuExit::Intr) => Raw::Interrupted,
            Ok(VcpuExit::IoIn(port, _)) => Raw::In(port),
            Ok(VcpuExit::Shutdown) => Raw::Shutdown,
            Ok(VcpuExit::MemoryFault { .. }) => Raw::HostFault,
            Ok(VcpuExit::Debug(debug)) => {
                hits = debug.dr6;
                Raw::Debug
            }
            Ok(VcpuExit::Hlt) => Raw::Odd("HLT in ring 0"),
            Ok(VcpuExit::InternalError) => Raw::Emulation,
            Ok(VcpuExit::FailEntry(..)) => Raw::Odd("the processor refused to enter the guest"),
            Ok(_) => Raw::Odd("an exit this VMM does not ask for"),
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => Raw::Interrupted,
            Err(e) if e.errno() == libc::EFAULT || e.errno() == libc::EHWPOISON => Raw::HostFault,
            Err(e) => return Err(kvm_call("run the vCPU")(e)),
        };
        self.fd.set_kvm_immediate_exit(0);
        self.note_hits(hits);
        let exit = self.store_registers(raw);
        if let (Exit::Forbidden { .. }, Raw::Mmio(_)) = (exit, raw) {
            self.abandon_access()?;
        }
        Ok(exit)
    }

    /// Lets KVM complete a pending access to an address without memory: otherwise it would do so at
    /// the next entry and overwrite the registers of a signal handler with those after the
    /// instruction. `regs` stay as they were at the access.
    fn abandon_access(&mut self) -> Result<(), VmError> {
        self.restore_all = true;
        // An instruction can be split into several accesses, none longer than 8 bytes: the longest
        // access that KVM emulates is 16 bytes.
        for _ in 0..8 {
            self.fd.set_kvm_immediate_exit(1);
            let unfinished = match self.fd.run() {
                Ok(VcpuExit::MmioRead(_, data)) => {
                    data.fill(0);
                    true
                }
                Ok(_) => true,
                Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => false,
                Err(e) => return Err(kvm_call("finish a refused access")(e)),
            };
            self.fd.set_kvm_immediate_exit(0);
            if !unfinished {
                return Ok(());
            }
        }
        Err(VmError::Unsupported { what: "an end to a refused access" })
    }

    /// A return to a non-canonical address, which neither SYSRET nor a VM entry may do: the
    /// exception that an IRETQ there would have raised.
    fn impossible_return(&mut self) -> Exit {
        Exit::Exception { vector: 13, frame: self.frame_here(), address: 0 }
    }

    fn load_registers(&mut self) {
        let direct = self.position != Position::BehindSyscall || self.restore_all;
        let was_ring3 = self.fd.sync_regs().sregs.cs.selector & 3 == 3;
        let protection = self.machine.protection();
        let sync = self.fd.sync_regs_mut();
        if direct {
            sync.regs = self.regs;
            sync.regs.rflags = (self.regs.rflags & USER_FLAGS) | FIXED_FLAGS;
        } else {
            let kernel_rip = sync.regs.rip;
            let kernel_flags = sync.regs.rflags;
            sync.regs = self.regs;
            sync.regs.rcx = self.regs.rip;
            sync.regs.r11 = (self.regs.rflags & USER_FLAGS) | FIXED_FLAGS;
            sync.regs.rip = kernel_rip;
            sync.regs.rflags = kernel_flags;
        }
        let mut sregs_dirty = false;
        if direct && !was_ring3 {
            let (code, data) = registers::user_segments();
            sync.sregs.cs = code;
            sync.sregs.ss = data;
            sregs_dirty = true;
        }
        let cr4 = sync.sregs.cr4 | protection;
        if cr4 != sync.sregs.cr4 {
            sync.sregs.cr4 = cr4;
            sregs_dirty = true;
        }
        if self.bases_changed {
            sync.sregs.fs.base = self.fs_base;
            sync.sregs.gs.base = self.gs_base;
            sregs_dirty = true;
        }
        if let Some(cr3) = self.new_cr3.take() {
            sync.sregs.cr3 = cr3;
            sregs_dirty = true;
        }
        if sregs_dirty || self.exits == 0 {
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        self.bases_changed = false;
        self.restore_all = false;
    }

    /// Determines, with the call page's SYSCALL, whether that instruction enters ring 0 on this
    /// host. Done once, on the first vCPU, before any program runs: a program could fake what the
    /// test looks for.
    ///
    /// # Errors
    /// The host behaves like neither kind, or is out of memory.
    pub(crate) fn probe_host(&mut self) -> Result<SyscallTarget, VmError> {
        self.regs = UserRegs {
            rip: CALL_PAGE.raw(),
            rax: u64::from(abi::call::CALL_HYPER_NULL),
            rflags: FIXED_FLAGS,
            ..UserRegs::default()
        };
        self.restore_all = true;
        let exit = self.run()?;
        self.restore_all = true;
        self.position = Position::Ring3;
        match exit {
            Exit::Call(Via::Kernel) => Ok(SyscallTarget::Ring0),
            // User, present, instruction fetch: SYSCALL jumped to LSTAR and stayed in ring 3.
            Exit::Exception { vector: 14, frame, .. }
                if frame.rip == self.kernel.syscall_entry && frame.error == 0x15 =>
            {
                Ok(SyscallTarget::Ring3)
            }
            other => {
                tracing::error!(?other, "unexpected answer to the host probe");
                Err(VmError::Unsupported { what: "a SYSCALL that enters ring 0 or faults there" })
            }
        }
    }

    /// Makes SYSCALL jump to `address` from now on.
    pub(crate) fn set_syscall_target(&mut self, address: u64) -> Result<(), VmError> {
        self.set_msrs(&[(MSR_LSTAR, address)])
    }
}

/// Which ring SYSCALL ends in on this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SyscallTarget {
    /// 0, as the processor's manual says.
    Ring0,
    /// 3: KVM without hardware support emulates it so.
    Ring3,
}
