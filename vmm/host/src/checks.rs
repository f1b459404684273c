//! From a host report to lines for the user: one per subject, with its level and remedy.
//!
//! Levels: `ok`, `note` (works, but worth knowing) and `problem` (VMs cannot run). Only
//! the report's problems are problems here, so the lines cannot contradict the exit
//! status.
#![forbid(unsafe_code)]

use std::fmt::Display;

use super::capability::Need;
use super::probe::HostReport;
use super::problem::Problem;
use super::system::{HugePool, Processor};
use super::translation::TranslationKind;
use crate::error::Remedy;

const UNKNOWN: &str = "not available";

/// How good a line of the report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but costs something or could be better.
    Note,
    /// Keeps VMs from running.
    Problem,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// How good it is.
    pub level: Level,
    /// What was checked, in a word or two.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Check {
    fn of(good: bool, subject: &'static str, found: impl Into<String>) -> Self {
        let level = if good { Level::Ok } else { Level::Note };
        Self { level, subject, found: found.into(), remedy: None }
    }

    fn or_else(mut self, remedy: &str) -> Self {
        if self.level != Level::Ok {
            self.remedy = Some(remedy.to_owned());
        }
        self
    }
}

/// Every line of the report, problems first.
pub fn checks(report: &HostReport) -> Vec<Check> {
    let mut lines: Vec<Check> = report.problems.iter().map(problem).collect();
    if report.kvm.openable {
        lines.extend(kvm(report));
        lines.push(translation(report));
        lines.extend(guest_cpu(report));
    }
    lines.extend(memory(report));
    lines.extend(machine(report));
    lines
}

/// What kind of host this is and what that means for programs.
pub fn summary(report: &HostReport) -> String {
    if !report.can_run {
        return "VMs cannot run on this host.".into();
    }
    match report.translation.kind {
        Some(TranslationKind::Ept | TranslationKind::Npt) => {
            "Hardware KVM with nested paging: programs run at full speed, system calls and \
             address-space switches included."
        }
        Some(TranslationKind::Shadow) => {
            "Hardware KVM with shadow page tables: programs run, computing at full speed; mapping \
             memory and switching address spaces are slower, since the host follows every change of \
             a page table."
        }
        Some(TranslationKind::Software) => {
            "Software KVM without EPT or NPT: programs run, and their own code at full speed; every \
             system call, fault and address-space switch costs tens of microseconds, since ring 0 is \
             interpreted."
        }
        None => "VMs can run; how this host translates their addresses could not be determined.",
    }
    .into()
}

fn problem(problem: &Problem) -> Check {
    let subject = match problem {
        Problem::ApiVersion { .. } => "API version",
        Problem::MissingCapability { .. } => "capabilities",
        Problem::CreateVm(_) | Problem::CreateVcpu(_) => "VM",
        _ => "/dev/kvm",
    };
    let (found, remedy) = (problem.to_string(), problem.remedy());
    Check { level: Level::Problem, subject, found, remedy }
}

fn kvm(report: &HostReport) -> Vec<Check> {
    let kvm = &report.kvm;
    let mut lines = vec![Check::of(
        true,
        "/dev/kvm",
        format!("opens for reading and writing; API version {}", known(kvm.api_version)),
    )];
    let absent: Vec<&str> = kvm
        .capabilities
        .iter()
        .filter(|one| one.need == Need::Optional && !one.offered())
        .map(|one| one.name)
        .collect();
    if report.can_run {
        let found = if absent.is_empty() {
            format!("all {} that are used", kvm.capabilities.len())
        } else {
            format!("all required ones; without the optional {}", absent.join(", "))
        };
        lines.push(Check::of(absent.is_empty(), "capabilities", found));
    }
    if let (Some(vm), Some(vcpu)) = (kvm.create_vm_us, kvm.create_vcpu_us) {
        lines.push(Check::of(
            true,
            "VM",
            format!("created in {vm} us, its first vCPU in {vcpu} us"),
        ));
    }
    let limits =
        format!("{} vCPUs, {} memory slots", known(kvm.max_vcpus), known(kvm.max_memslots));
    lines.push(Check::of(true, "limits", limits));
    let khz = known(kvm.tsc_khz.map(|khz| format!("{khz} kHz")));
    let offset = match kvm.tsc_offset {
        Some(true) => "its offset can be set",
        Some(false) => "its offset cannot be set",
        None => "whether its offset can be set is not available",
    };
    lines.push(Check::of(kvm.tsc_khz.is_some(), "vCPU clock", format!("{khz}; {offset}")));
    lines
}

fn translation(report: &HostReport) -> Check {
    let kind = match report.translation.kind {
        Some(TranslationKind::Ept) => "hardware, EPT",
        Some(TranslationKind::Npt) => "hardware, NPT",
        Some(TranslationKind::Shadow) => "shadow page tables on hardware KVM",
        Some(TranslationKind::Software) => "software KVM, shadow page tables, ring 0 interpreted",
        None => UNKNOWN,
    };
    let good = matches!(report.translation.kind, Some(TranslationKind::Ept | TranslationKind::Npt));
    let line = Check::of(good, "translation", format!("{kind} ({})", report.translation.evidence));
    match report.translation.kind {
        Some(TranslationKind::Shadow) => {
            line.or_else("load kvm_intel with ept=1 or kvm_amd with npt=1, if the CPU has it")
        }
        Some(TranslationKind::Software) => {
            line.or_else("for fast system calls use bare metal or a VM with nested virtualisation")
        }
        _ => line,
    }
}

fn guest_cpu(report: &HostReport) -> Vec<Check> {
    let Some(cpu) = &report.guest_cpu else {
        return vec![Check::of(false, "guest CPU", UNKNOWN)];
    };
    let pcid = match (cpu.pcid, cpu.invpcid) {
        (true, true) => "offered, with INVPCID",
        (true, false) => "offered, without INVPCID",
        (false, _) => "not offered: an address-space switch empties the TLB",
    };
    let pages = match cpu.pages_1g {
        Some(true) => "4 KiB, 2 MiB, 1 GiB",
        Some(false) => "4 KiB, 2 MiB",
        None => UNKNOWN,
    };
    let bits = known(cpu.physical_address_bits.map(|bits| format!("{bits} bits")));
    let base = if cpu.fsgsbase { "offered" } else { "not offered" };
    vec![
        Check::of(cpu.pcid, "PCID", pcid),
        Check::of(cpu.pages_1g == Some(true), "guest pages", pages),
        Check::of(
            cpu.physical_address_bits.is_some(),
            "guest memory",
            format!("physical addresses of {bits}"),
        ),
        Check::of(cpu.fsgsbase, "FSGSBASE", base),
        Check::of(true, "gdb", debugging(report.kvm.debug_registers)),
    ]
}

/// What users of gdb ask: which kind of breakpoints and watchpoints they get. All kinds work.
fn debugging(debug_registers: Option<bool>) -> &'static str {
    match debug_registers {
        Some(true) => {
            "four hardware breakpoints and watchpoints by the processor, further ones by software and \
             by pages"
        }
        Some(false) => {
            "breakpoints by software, watchpoints by pages: this KVM does not report the \
             processor's own"
        }
        None => "breakpoints by software, watchpoints by pages: the processor's own were not tried",
    }
}

fn memory(report: &HostReport) -> Vec<Check> {
    let pages = &report.system.huge_pages;
    let usable = |choice: &Option<String>, good: &[&str]| {
        choice.as_deref().is_some_and(|choice| good.contains(&choice))
    };
    let memory = &report.system.memory;
    let mut free = format!("{} free of {}", size(memory.available_bytes), size(memory.total_bytes));
    if let Some(limit) = memory.cgroup_limit_bytes {
        free += &format!("; limit of our cgroup {}", size(Some(limit)));
    }
    let pools: Vec<String> = pages.pools.iter().map(pool).collect();
    let pools = if pools.is_empty() { UNKNOWN.into() } else { pools.join(", ") };
    vec![
        Check::of(memory.available_bytes.is_some(), "memory", free),
        Check::of(
            usable(&pages.enabled, &["always", "madvise"]),
            "huge pages",
            format!(
                "transparent: {}, defrag: {}",
                known(pages.enabled.as_ref()),
                known(pages.defrag.as_ref())
            ),
        )
        .or_else("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
        Check::of(
            usable(&pages.shmem_enabled, &["always", "within_size", "advise", "force"]),
            "shared huge pages",
            known(pages.shmem_enabled.as_ref()),
        )
        .or_else("echo advise | sudo tee /sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        Check::of(true, "huge page pools", pools),
    ]
}

fn machine(report: &HostReport) -> Vec<Check> {
    let system = &report.system;
    let cpus =
        format!("{} online, {} usable by us", known(system.cpus.online), known(system.cpus.usable));
    let source = known(system.clock.source.as_ref());
    let stable = match system.clock.tsc_stable {
        Some(true) => "time-stamp counter stable",
        Some(false) => "time-stamp counter not stable",
        None => "whether the time-stamp counter is stable is not available",
    };
    let seccomp = match system.confinement.seccomp {
        Some(true) => "the host has filters for system calls",
        Some(false) => "the host has none that tell of what they forbid",
        None => "whether the host has filters for system calls is not available",
    };
    let landlock = match system.confinement.landlock {
        Some(version) => format!("version {version}"),
        None => "not available: which files the VMM opens is not confined".to_owned(),
    };
    vec![
        Check::of(true, "processor", processor(&system.processor)),
        Check::of(true, "CPUs", cpus),
        Check::of(true, "kernel", known(system.kernel.as_ref())),
        Check::of(system.clock.tsc_stable == Some(true), "clock", format!("{source}; {stable}")),
        Check::of(system.confinement.seccomp == Some(true), "seccomp", seccomp)
            .or_else("programs run with --confine off only, if there are none"),
        Check::of(system.confinement.landlock.is_some(), "Landlock", landlock),
    ]
}

fn processor(processor: &Processor) -> String {
    let [vendor, model, signature] = [&processor.vendor, &processor.model, &processor.signature]
        .map(|part| known(part.as_ref()));
    format!("{vendor}, {model} ({signature})")
}

fn pool(pool: &HugePool) -> String {
    let (free, total) = (known(pool.free_pages), known(pool.total_pages));
    format!("{}: {free} free of {total}", size(Some(pool.page_bytes)))
}

fn known(value: Option<impl Display>) -> String {
    value.map_or(UNKNOWN.into(), |value| value.to_string())
}

fn size(bytes: Option<u64>) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some(bytes) = bytes else {
        return UNKNOWN.into();
    };
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        None => format!("{bytes} B"),
        Some((unit, name)) if bytes % unit == 0 => format!("{} {name}", bytes / unit),
        Some((unit, name)) => {
            format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::testing::report;
    use super::{Level, Problem, checks, size, summary};
    use crate::NoDevice;

    const EPT: &[(&str, &str)] = &[("/sys/module/kvm_intel/parameters/ept", "Y")];
    const SOFTWARE: &[(&str, &str)] = &[("/sys/module/kvm/version", "1")];

    #[test]
    fn what_a_debugger_gets_is_told_on_every_kind_of_host() {
        for (host, works, part) in [
            (EPT, Some(true), "by the processor"),
            (SOFTWARE, Some(false), "does not report"),
            (SOFTWARE, None, "not tried"),
        ] {
            let mut report = report(host, vec![]);
            report.kvm.debug_registers = works;
            let lines = checks(&report);
            let line = lines.iter().find(|line| line.subject == "gdb").unwrap();
            assert!(line.found.contains(part), "{}", line.found);
        }
    }

    #[test]
    fn a_host_without_problems_has_no_problem_line() {
        assert!(checks(&report(EPT, vec![])).iter().all(|line| line.level != Level::Problem));
    }

    #[test]
    fn each_problem_is_a_line_with_its_remedy_and_comes_first() {
        let problems = vec![Problem::NoDevice(NoDevice::NoNesting), Problem::Busy("KVM")];
        let mut made_up = report(&[], problems);
        made_up.kvm.openable = false;
        let lines = checks(&made_up);
        assert!(
            lines[..2].iter().all(|line| line.level == Level::Problem && line.remedy.is_some())
        );
        assert!(lines[2..].iter().all(|line| line.level != Level::Problem));
        assert!(
            lines.iter().all(|line| line.subject != "translation"),
            "nothing about an unopened device"
        );
    }

    #[test]
    fn the_summary_says_which_kind_of_host_it_is() {
        assert!(summary(&report(EPT, vec![])).contains("nested paging"));
        assert!(summary(&report(SOFTWARE, vec![])).contains("Software KVM"));
        assert!(summary(&report(&[], vec![])).contains("could not be determined"));
        assert!(summary(&report(EPT, vec![Problem::Busy("KVM")])).contains("cannot run"));
    }

    #[test]
    fn what_is_unknown_is_called_not_available() {
        let lines = checks(&report(&[], vec![]));
        let memory = lines.iter().find(|line| line.subject == "memory").unwrap();
        assert_eq!(memory.found, "not available free of not available");
        assert_eq!(memory.level, Level::Note);
    }

    #[test]
    fn sizes_are_exact_or_to_one_decimal() {
        assert_eq!(size(Some(2 << 20)), "2 MiB");
        assert_eq!(size(Some(1023)), "1023 B");
        assert_eq!(size(Some(3 << 29)), "1.5 GiB");
        assert_eq!(size(Some(u64::MAX)), "17179869183.9 GiB");
    }
}
