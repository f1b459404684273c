//! Asking this host what it can do: one call, one report.
//!
//! The probe really creates a VM and a vCPU and discards them: a capability list alone has been
//! seen to promise what another hypervisor's lock or a policy then refuses.
#![forbid(unsafe_code)]

use std::time::Instant;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;
use serde::Serialize;

use super::capability::{self, Capability, SyncRegs};
use super::files::Files;
use super::problem::Problem;
use super::system::{self, System};
use super::translation::{self, Translation};
use super::{checks, device, kvm as raw};

/// What this host can do. In JSON (`doctor --json`) every field is present; what could
/// not be determined is `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// Version of this structure: raised when a field changes its meaning or is removed.
    pub format: u32,
    /// Whether VMs can run here: the same as "no problems".
    pub can_run: bool,
    /// What kind of host this is and what that means, in one sentence or two.
    pub summary: String,
    /// Everything that keeps VMs from running, with remedies.
    pub problems: Vec<Problem>,
    /// The KVM device.
    pub kvm: KvmReport,
    /// How guest addresses are translated.
    pub translation: Translation,
    /// What KVM offers to a guest's CPU; `null` when it could not be queried.
    pub guest_cpu: Option<GuestCpu>,
    /// The host around it.
    pub system: System,
}

/// What `/dev/kvm` answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KvmReport {
    /// Whether the device node exists.
    pub present: bool,
    /// Whether we could open it for reading and writing.
    pub openable: bool,
    /// `KVM_GET_API_VERSION`.
    pub api_version: Option<i32>,
    /// The capabilities we use.
    pub capabilities: Vec<Capability>,
    /// What `KVM_CAP_SYNC_REGS` can carry.
    pub sync_regs: Option<SyncRegs>,
    /// Most vCPUs of a VM.
    pub max_vcpus: Option<i32>,
    /// Most memory slots of a VM.
    pub max_memslots: Option<i32>,
    /// Whether a VM and a vCPU were created. `null`: not tried.
    pub vcpu_created: Option<bool>,
    /// Whether a vCPU's time-stamp counter offset can be set.
    pub tsc_offset: Option<bool>,
    /// Rate of a vCPU's time-stamp counter.
    pub tsc_khz: Option<u32>,
    /// Whether a vCPU stops at the processor's breakpoints and watchpoints, which a VM has to try: it is for whoever can make one that
    /// runs. `null`: not tried.
    pub debug_registers: Option<bool>,
    /// Measured: opening the device and creating a VM.
    pub create_vm_us: Option<u64>,
    /// Measured: creating the VM's first vCPU.
    pub create_vcpu_us: Option<u64>,
}

/// CPU features KVM offers to guests (`KVM_GET_SUPPORTED_CPUID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GuestCpu {
    /// Tagged TLB entries: leaf 1, ECX bit 17.
    pub pcid: bool,
    /// The instruction that invalidates by tag: leaf 7, EBX bit 10.
    pub invpcid: bool,
    /// 1 GiB pages: leaf 0x8000_0001, EDX bit 26. `null`: the leaf is absent.
    pub pages_1g: Option<bool>,
    /// `WRFSBASE` and friends in ring 3: leaf 7, EBX bit 0.
    pub fsgsbase: bool,
    /// Guest-physical address bits: leaf 0x8000_0008, EAX bits 0-7. `null`: absent.
    pub physical_address_bits: Option<u8>,
}

/// Examines this host. Never fails: what goes wrong is in the report's `problems`.
///
/// Takes about as long as creating one VM (milliseconds) and leaves nothing behind.
pub fn probe() -> HostReport {
    probe_with(&Files::at("/"))
}

fn probe_with(files: &Files) -> HostReport {
    let mut kvm = KvmReport { present: device::node().is_some(), ..KvmReport::default() };
    let mut problems = Vec::new();
    let mut guest_cpu = None;
    let start = Instant::now();
    match device::open(files) {
        Err(problem) => problems.push(problem),
        Ok(device) => {
            kvm.openable = true;
            let api_version = device.get_api_version();
            kvm.api_version = Some(api_version);
            if u32::try_from(api_version) == Ok(KVM_API_VERSION) {
                guest_cpu = device
                    .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                    .ok()
                    .map(|table| read_cpuid(&table));
                problems.extend(try_vm(&device, &mut kvm, start));
            } else {
                problems.push(Problem::ApiVersion { found: api_version });
            }
        }
    }
    assemble(files, kvm, problems, guest_cpu)
}

/// Asks for the capabilities, then creates a VM and a vCPU.
fn try_vm(device: &Kvm, kvm: &mut KvmReport, start: Instant) -> Vec<Problem> {
    let vm = device.create_vm();
    kvm.create_vm_us = vm.is_ok().then(|| micros(start));
    // A VM may offer less than the system: the answer that counts is the VM's.
    kvm.capabilities = capability::ask(|number| match &vm {
        Ok(vm) => vm.check_extension_raw(number.into()),
        Err(_) => device.check_extension_raw(number.into()),
    });
    kvm.sync_regs = capability::sync_regs(&kvm.capabilities);
    kvm.max_vcpus = capability::value(&kvm.capabilities, "KVM_CAP_MAX_VCPUS");
    kvm.max_memslots = capability::value(&kvm.capabilities, "KVM_CAP_NR_MEMSLOTS");
    let mut problems = capability::missing(&kvm.capabilities);
    let start = Instant::now();
    let vcpu = vm
        .as_ref()
        .map_err(|error| match device::errno(*error) {
            libc::EBUSY => Problem::Busy("KVM"),
            errno => Problem::CreateVm(errno),
        })
        .and_then(|vm| {
            vm.create_vcpu(0).map_err(|error| Problem::CreateVcpu(device::errno(error)))
        });
    kvm.vcpu_created = Some(vcpu.is_ok());
    match vcpu {
        Err(problem) => problems.push(problem),
        Ok(vcpu) => {
            kvm.create_vcpu_us = Some(micros(start));
            kvm.tsc_offset = Some(raw::has_tsc_offset(&vcpu));
            kvm.tsc_khz = vcpu.get_tsc_khz().ok();
        }
    }
    problems
}

fn assemble(
    files: &Files,
    kvm: KvmReport,
    problems: Vec<Problem>,
    guest_cpu: Option<GuestCpu>,
) -> HostReport {
    let vm_created = kvm.create_vm_us.is_some();
    let mut report = HostReport {
        format: 1,
        can_run: problems.is_empty(),
        summary: String::new(),
        problems,
        kvm,
        translation: translation::conclude(files, vm_created),
        guest_cpu,
        system: system::read(files),
    };
    report.summary = checks::summary(&report);
    report
}

fn read_cpuid(table: &CpuId) -> GuestCpu {
    let leaf = |function: u32| {
        table.as_slice().iter().find(|entry| entry.function == function && entry.index == 0)
    };
    let leaf_1_ecx = leaf(1).map_or(0, |entry| entry.ecx);
    let leaf_7_ebx = leaf(7).map_or(0, |entry| entry.ebx);
    GuestCpu {
        pcid: leaf_1_ecx & (1 << 17) != 0,
        invpcid: leaf_7_ebx & (1 << 10) != 0,
        pages_1g: leaf(0x8000_0001).map(|entry| entry.edx & (1 << 26) != 0),
        fsgsbase: leaf_7_ebx & 1 != 0,
        physical_address_bits: leaf(0x8000_0008).map(|entry| entry.eax.to_le_bytes()[0]),
    }
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod testing {
    //! Reports of made-up hosts.

    use super::super::files::testing::host;
    use super::{GuestCpu, HostReport, KvmReport, Problem, assemble, capability};

    /// A report with this file system, these problems, and KVM at its best otherwise.
    pub(crate) fn report(files: &[(&str, &str)], problems: Vec<Problem>) -> HostReport {
        let (_guard, files) = host(files);
        let capabilities = capability::ask(|_| 7);
        let kvm = KvmReport {
            present: true,
            openable: true,
            api_version: Some(12),
            sync_regs: capability::sync_regs(&capabilities),
            max_vcpus: Some(7),
            max_memslots: Some(7),
            capabilities,
            vcpu_created: Some(true),
            tsc_offset: Some(true),
            tsc_khz: Some(2_600_000),
            create_vm_us: Some(200),
            create_vcpu_us: Some(1000),
            debug_registers: Some(true),
        };
        let guest_cpu = GuestCpu {
            pcid: true,
            invpcid: true,
            pages_1g: Some(true),
            fsgsbase: true,
            physical_address_bits: Some(46),
        };
        assemble(&files, kvm, problems, Some(guest_cpu))
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{CpuId, kvm_cpuid_entry2};

    use super::{Problem, probe, read_cpuid, testing};

    #[test]
    fn cpuid_bits_are_read_where_the_manuals_put_them() {
        let entry = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        let table = CpuId::from_entries(&[
            entry(1, 0, 0, 1 << 17, 0),
            entry(7, 0, 1 << 10 | 1, 0, 0),
            entry(0x8000_0001, 0, 0, 0, 1 << 26),
            entry(0x8000_0008, 0x3039, 0, 0, 0),
        ])
        .unwrap();
        let cpu = read_cpuid(&table);
        assert!(cpu.pcid && cpu.invpcid && cpu.fsgsbase);
        assert_eq!(cpu.pages_1g, Some(true));
        assert_eq!(cpu.physical_address_bits, Some(0x39));
        let none = read_cpuid(&CpuId::from_entries(&[]).unwrap());
        assert!(!(none.pcid || none.invpcid || none.fsgsbase));
        assert_eq!((none.pages_1g, none.physical_address_bits), (None, None));
    }

    #[test]
    fn this_host_gives_a_consistent_report() {
        let report = probe();
        assert_eq!(report.can_run, report.problems.is_empty());
        assert_eq!(
            report.can_run,
            report.kvm.vcpu_created == Some(true) && report.problems.is_empty()
        );
        assert!(report.kvm.openable || report.translation.kind.is_none());
        assert_eq!(report.kvm.openable, report.kvm.api_version.is_some());
        assert!(!report.summary.is_empty());
    }

    #[test]
    fn any_problem_means_vms_cannot_run() {
        assert!(testing::report(&[], vec![]).can_run);
        assert!(!testing::report(&[], vec![Problem::ForbiddenByPolicy]).can_run);
    }
}
