//! One VM, and what its vCPUs share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use abi::layout::{MAX_VCPUS, PRIVATE_SLOTS};
use abi::walk::{PageTable, TableMem};
use abi::{Entry, GuestPhys, Level, Table};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::kvm_stats::{KvmStats, KvmStatsError};
use super::memory::{GuestMem, MemoryError, address_end};
use super::pcid_policy::PcidPolicy;
use super::registers::XCR0_KEEP;
use super::shared_windows::SharedWindows;
use super::tables::{FramePool, Tables};
use super::windows::Windows;

pub(crate) const CR4_PCIDE: u64 = 1 << 17;

/// PML4 slots of the kernel.
const KERNEL_SLOTS: std::ops::Range<usize> = 256..512;

/// A VM could not be created or run.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// /dev/kvm.
    #[error("cannot open /dev/kvm")]
    OpenKvm(#[source] kvm_ioctls::Error),
    /// An old or unusual KVM.
    #[error("this KVM lacks {what}")]
    Unsupported {
        /// What it lacks.
        what: &'static str,
    },
    /// A KVM call failed.
    #[error("KVM refused to {action}")]
    Kvm {
        /// What was requested.
        action: &'static str,
        /// Its error.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Guest memory.
    #[error("cannot set up the VM's memory")]
    Memory(#[from] MemoryError),
    /// The embedded kernel image.
    #[error("the embedded guest kernel is unusable: {what}")]
    KernelImage {
        /// What is wrong with it.
        what: String,
    },
    /// All vCPUs are in use.
    #[error("all {limit} vCPUs of this VM are in use")]
    VcpuLimit {
        /// How many KVM allows.
        limit: u32,
    },
}

/// Wraps a KVM call's error with what was requested.
pub(crate) fn kvm_call(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Kvm { action, source }
}

/// One virtual machine.
#[derive(Debug)]
pub struct Machine {
    // vCPUs hold an `Arc<Machine>`; the memory is dropped last.
    pub(crate) fd: Arc<VmFd>,
    pub(crate) cpuid: CpuId,
    root: GuestPhys,
    pub(crate) xcr0: u64,
    soft_host: AtomicBool,
    /// CR4 bits that keep ring 0 away from ring 3's pages, and PCIDE; 0 until the host's kind
    /// is known.
    protection: AtomicU64,
    max_vcpus: u32,
    pool: Mutex<FramePool>,
    /// Pieces of segments in guest-physical space. Declared before `mem`, so that the VM is dropped
    /// last.
    pub windows: Windows,
    /// Those that many have.
    pub shared: SharedWindows,
    /// Guest memory.
    pub mem: GuestMem,
}

impl Machine {
    /// Creates a VM with empty memory and no vCPUs yet. `kernel` adds what is needed to run a
    /// program.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn new() -> Result<Arc<Machine>, VmError> {
        Machine::with_tags(PcidPolicy::AsOffered)
    }

    /// As [`Machine::new`], with vCPUs that report no more TLB tag features than `policy` allows, to
    /// test the behaviour on other hosts.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn with_tags(policy: PcidPolicy) -> Result<Arc<Machine>, VmError> {
        super::kick::install();
        let began = Instant::now();
        let kvm = Kvm::new().map_err(VmError::OpenKvm)?;
        if kvm.get_api_version() != 12 {
            return Err(VmError::Unsupported { what: "API version 12" });
        }
        for (cap, what) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(VmError::Unsupported { what });
            }
        }
        let mut cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_call("tell what processors it offers"))?;
        policy.limit(&mut cpuid);
        let (fd, mem, phys_bits) = empty_vm(&kvm, &cpuid)?;
        mem.add_kvm_time(began.elapsed());
        // Signal frames contain XSAVE areas; KVM_GET_XSAVE returns 4096 bytes of them, which all
        // components but AMX's tiles fit into.
        let offered = leaf(&cpuid, 0xd, 0).map_or(3, |l| u64::from(l.eax));
        let xcr0 = (offered & XCR0_KEEP) | 1;
        let end = address_end(phys_bits);
        let memslots = kvm.get_nr_memslots() as u32;
        let windows = Windows::new(fd.clone(), end / 4..end, memslots, window_limit());
        let mut pool = FramePool::default();
        let mut system = mem.alloc(abi::layout::SYSTEM_BYTES)?;
        if system.raw() != 0 {
            system = GuestPhys::literal(0);
        }
        debug_assert_eq!(system.raw(), 0);
        let root = pool.frame(&mem)?;
        link_private_slots(&mut Tables { pool: &mut pool, mem: &mem }, root)?;
        let machine = Machine {
            cpuid,
            root,
            xcr0,
            soft_host: AtomicBool::new(false),
            protection: AtomicU64::new(0),
            max_vcpus: (kvm.get_max_vcpus() as u32).min(MAX_VCPUS),
            pool: Mutex::new(pool),
            windows,
            shared: SharedWindows::default(),
            mem,
            fd,
        };
        Ok(Arc::new(machine))
    }

    fn pool(&self) -> MutexGuard<'_, FramePool> {
        self.pool.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Runs `edit` on the home space's tables, one editor at a time.
    ///
    /// # Errors
    /// Whatever `edit` returns.
    pub fn edit_tables<R, E>(
        &self,
        edit: impl FnOnce(&mut PageTable<'_, Tables<'_>>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.edit_tables_and_pool(|home, tables| edit(&mut PageTable::new(home, tables)))
    }

    /// Runs `edit` on the tables below `root`, under the same lock as the home space's.
    ///
    /// # Errors
    /// Whatever `edit` returns.
    pub fn edit_tables_of<R, E>(
        &self,
        root: GuestPhys,
        edit: impl FnOnce(&mut PageTable<'_, Tables<'_>>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.edit_tables_and_pool(|_, tables| edit(&mut PageTable::new(root, tables)))
    }

    /// Runs `edit` with home's root and the pool and memory of table frames, under the lock that
    /// all editors share.
    pub(crate) fn edit_tables_and_pool<R>(
        &self,
        edit: impl FnOnce(GuestPhys, &mut Tables<'_>) -> R,
    ) -> R {
        let mut pool = self.pool();
        edit(self.root, &mut Tables { pool: &mut pool, mem: &self.mem })
    }

    /// Home's root table.
    #[must_use]
    pub fn home_root(&self) -> GuestPhys {
        self.root
    }

    /// Makes the zeroed frame `root` a root table with home's private region and the kernel, and
    /// an empty VAS region.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn fill_root(&self, root: GuestPhys) -> Result<(), MemoryError> {
        self.edit_tables_and_pool(|home, tables| link_common(tables, home, root))
    }
    /// A zeroed frame for a table outside the home space.
    ///
    /// # Errors
    /// When out of memory.
    pub fn table_frame(&self) -> Result<GuestPhys, MemoryError> {
        self.pool().frame(&self.mem)
    }

    /// Frees table frames: see [`FramePool::give_back`].
    pub(crate) fn give_back_frames(&self, frames: Vec<GuestPhys>) {
        self.pool().give_back(&self.mem, frames);
    }

    /// Whether vCPUs can map a gigabyte with one entry.
    #[must_use]
    pub fn has_gigabyte_pages(&self) -> bool {
        leaf(&self.cpuid, 0x8000_0001, 0).is_some_and(|l| l.edx >> 26 & 1 != 0)
    }

    /// 4 KiB frames that hold page tables.
    #[must_use]
    pub fn table_frames(&self) -> u64 {
        self.pool().frames()
    }

    /// Whether this host's SYSCALL was found not to enter ring 0.
    #[must_use]
    pub fn is_soft_host(&self) -> bool {
        self.soft_host.load(Ordering::Relaxed)
    }

    /// Called when ring 0 runs on hardware. Enables those of SMEP, SMAP and UMIP (SDM 3A, 2.5) that
    /// are offered: our kernel neither executes nor reads what ring 3 can write, and programs need
    /// not know where its tables lie. Software KVM does without: there the gate page, which ring 3
    /// must be able to access, can end up executing in ring 0.
    pub(crate) fn protect_kernel(&self) {
        let seven = leaf(&self.cpuid, 7, 0).map_or((0, 0), |l| (l.ebx, l.ecx));
        let offered = [(seven.0 >> 7, 20), (seven.0 >> 20, 21), (seven.1 >> 2, 11)];
        let bits = offered.iter().fold(0, |bits, (has, bit)| bits | u64::from(has & 1) << bit);
        // Tags, too: the entry path for software KVM does not handle them. The first vCPU's CR3
        // still has tag 0, as setting this bit requires (SDM 3A, 4.10.1).
        let bits = if self.offers_pcid() { bits | CR4_PCIDE } else { bits };
        self.protection.store(bits, Ordering::Relaxed);
    }

    /// See [`Machine::protect_kernel`].
    pub(crate) fn protection(&self) -> u64 {
        self.protection.load(Ordering::Relaxed)
    }

    /// Records that this host's SYSCALL stays in ring 3.
    pub(crate) fn note_soft_host(&self) {
        // Relaxed: read by threads started later, which synchronises.
        self.soft_host.store(true, Ordering::Relaxed);
    }

    /// Extended state components that programs may use.
    #[must_use]
    pub fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Bytes of a signal frame's XSAVE area: the components of XCR0 in the standard format
    /// (SDM 1, 13.4.3), and Linux's second magic number.
    #[must_use]
    pub fn xstate_bytes(&self) -> usize {
        let component = |i: u32| {
            let size = |l: &kvm_bindings::kvm_cpuid_entry2| l.ebx + l.eax;
            leaf(&self.cpuid, 0xd, i).filter(|_| self.xcr0 >> i & 1 != 0).map_or(0, size)
        };
        let end = (2..63).map(component).max().unwrap_or(0).max(576);
        (end as usize).min(4092) + 4
    }

    /// Maximum number of vCPUs, and so of concurrent threads.
    #[must_use]
    pub fn max_vcpus(&self) -> u32 {
        self.max_vcpus
    }

    /// Whether vCPUs have TLB tags: process-context identifiers (SDM 3A, 4.10.1). Known once a vCPU
    /// exists.
    #[must_use]
    pub fn has_pcid(&self) -> bool {
        self.protection() & CR4_PCIDE != 0
    }

    /// Whether the host offers tags.
    pub(crate) fn offers_pcid(&self) -> bool {
        offers_pcid(&self.cpuid)
    }

    /// Whether vCPUs report INVPCID. Our kernel does not use it.
    #[must_use]
    pub fn offers_invpcid(&self) -> bool {
        leaf(&self.cpuid, 7, 0).is_some_and(|l| l.ebx >> 10 & 1 != 0)
    }

    /// KVM's statistics of this VM as a whole.
    ///
    /// # Errors
    /// [`KvmStatsError`]; older KVMs have no statistics.
    pub fn kvm_stats(&self) -> Result<KvmStats, KvmStatsError> {
        KvmStats::of(&*self.fd)
    }

    /// Whether programs may use the instructions that read and write FS and GS base.
    #[must_use]
    pub fn has_fsgsbase(&self) -> bool {
        leaf(&self.cpuid, 7, 0).is_some_and(|l| l.ebx & 1 != 0)
    }
}

/// Maximum total size of windows at the same time: four times the host's memory, because more would
/// not be resident anyway, and KVM's bookkeeping on hosts with shadow tables takes 2 MiB per
/// gigabyte.
fn window_limit() -> u64 {
    let total = rustix::system::sysinfo();
    let bytes = (total.totalram as u64).saturating_mul(u64::from(total.mem_unit));
    bytes.saturating_mul(4).max(64 << 30)
}

/// The private region's 32 tables exist from the start: every VAS instance's root will point to the
/// same ones, so that later mappings are immediately visible in all.
fn link_private_slots(tables: &mut Tables<'_>, root: GuestPhys) -> Result<(), MemoryError> {
    for slot in PRIVATE_SLOTS {
        let pdpt = tables.alloc_table()?;
        let address = (slot as u64) << Level::Root.shift();
        Table::new(root, Level::Root).set(tables.mem, address, Entry::Table(pdpt))?;
    }
    Ok(())
}

/// The tables of both parts that all roots share exist from the start: later mappings in them are
/// immediately visible everywhere.
fn link_common(
    tables: &mut Tables<'_>,
    home: GuestPhys,
    root: GuestPhys,
) -> Result<(), MemoryError> {
    for slot in PRIVATE_SLOTS.chain(KERNEL_SLOTS) {
        let address = (slot as u64) << Level::Root.shift();
        Table::new(root, Level::Root).copy_from(tables.mem, home, address)?;
    }
    Ok(())
}

/// Whether KVM offers TLB tags.
pub(super) fn offers_pcid(cpuid: &CpuId) -> bool {
    leaf(cpuid, 1, 0).is_some_and(|l| l.ecx >> 17 & 1 != 0)
}

/// An empty VM, its memory, and the width of its addresses in bits.
pub(super) fn empty_vm(kvm: &Kvm, cpuid: &CpuId) -> Result<(Arc<VmFd>, GuestMem, u8), VmError> {
    let fd = Arc::new(kvm.create_vm().map_err(kvm_call("create a VM"))?);
    // Intel processors without unrestricted guest need three pages for themselves. Others refuse or
    // ignore the call: either is fine.
    let _ = fd.set_tss_address(abi::layout::PHYS_HOLE.end as usize - (1 << 20));
    let phys_bits = leaf(cpuid, 0x8000_0008, 0).map_or(36, |l| (l.eax & 0xff) as u8);
    let mem = GuestMem::new(fd.clone(), phys_bits)?;
    Ok((fd, mem, phys_bits))
}

/// A CPUID leaf of what KVM offers.
pub(crate) fn leaf(
    cpuid: &CpuId,
    function: u32,
    index: u32,
) -> Option<&kvm_bindings::kvm_cpuid_entry2> {
    cpuid.as_slice().iter().find(|e| e.function == function && e.index == index)
}
