//! How this host translates guest addresses, concluded from what it shows.
//!
//! KVM does not report this. The module that drives the CPU's virtualisation does (parameter `ept`
//! or `npt`); when a VM can be created although no such module is there, the host translates in
//! software. Without a VM, or without `/sys`, nothing is claimed.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::files::Files;

/// How guest-physical addresses are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TranslationKind {
    /// Intel's extended page tables.
    Ept,
    /// AMD's nested page tables.
    Npt,
    /// Hardware virtualisation, but the host keeps shadow tables.
    Shadow,
    /// No hardware virtualisation: ring 0 is interpreted, tables are shadowed.
    Software,
}

/// The conclusion and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Translation {
    /// `None` when it cannot be determined.
    pub kind: Option<TranslationKind>,
    /// How it was concluded, in a sentence.
    pub evidence: String,
}

/// Concludes from the host's files and from whether a VM could really be created.
pub(crate) fn conclude(files: &Files, vm_created: bool) -> Translation {
    let (kind, evidence) = judge(files, vm_created);
    Translation { kind, evidence }
}

fn judge(files: &Files, vm_created: bool) -> (Option<TranslationKind>, String) {
    const MODULES: [(&str, &str, TranslationKind); 2] =
        [("kvm_intel", "ept", TranslationKind::Ept), ("kvm_amd", "npt", TranslationKind::Npt)];
    if !vm_created {
        return (None, "no VM could be created, so nothing is claimed".into());
    }
    for (module, parameter, hardware) in MODULES {
        if !files.exists(&format!("/sys/module/{module}")) {
            continue;
        }
        let path = format!("/sys/module/{module}/parameters/{parameter}");
        return match files.flag(&path) {
            Some(true) => (Some(hardware), format!("{path} is on")),
            Some(false) => (Some(TranslationKind::Shadow), format!("{path} is off")),
            None => (None, format!("{module} is loaded, but {path} cannot be read")),
        };
    }
    // An unreadable /sys would look the same as absent modules: insist on seeing KVM.
    if !files.exists("/sys/module/kvm") {
        return (None, "/sys/module does not show KVM".into());
    }
    let cpu = match files.cpu_flags() {
        None => "/proc/cpuinfo cannot be read",
        Some(flags) if flags.iter().any(|flag| flag == "vmx" || flag == "svm") => {
            "the CPU has vmx or svm, unused"
        }
        Some(_) => "the CPU shows neither vmx nor svm",
    };
    let evidence =
        format!("a VM can be created, yet neither kvm_intel nor kvm_amd is loaded; {cpu}");
    (Some(TranslationKind::Software), evidence)
}

#[cfg(test)]
mod tests {
    use super::super::files::testing::host;
    use super::{TranslationKind, conclude};

    const KVM: (&str, &str) = ("/sys/module/kvm/parameters/tdp_mmu", "N");
    const EPT: &str = "/sys/module/kvm_intel/parameters/ept";

    fn kind(files: &[(&str, &str)]) -> Option<TranslationKind> {
        let (_guard, files) = host(files);
        let concluded = conclude(&files, true);
        assert!(!concluded.evidence.is_empty());
        concluded.kind
    }

    #[test]
    fn module_parameters_decide_on_hardware() {
        assert_eq!(kind(&[KVM, (EPT, "Y\n")]), Some(TranslationKind::Ept));
        assert_eq!(kind(&[KVM, (EPT, "N\n")]), Some(TranslationKind::Shadow));
        let npt = "/sys/module/kvm_amd/parameters/npt";
        assert_eq!(kind(&[KVM, (npt, "1\n")]), Some(TranslationKind::Npt));
        assert_eq!(kind(&[KVM, (npt, "0\n")]), Some(TranslationKind::Shadow));
    }

    #[test]
    fn a_vm_without_a_hardware_module_is_software_whatever_the_other_module_is_called() {
        assert_eq!(kind(&[KVM]), Some(TranslationKind::Software));
        assert_eq!(kind(&[KVM, ("/sys/module/kvm_other/x", "")]), Some(TranslationKind::Software));
    }

    #[test]
    fn what_cannot_be_seen_is_not_concluded() {
        assert_eq!(kind(&[]), None, "no /sys");
        assert_eq!(kind(&[KVM, (EPT, "maybe")]), None, "unreadable parameter");
        let (_guard, files) = host(&[KVM]);
        assert_eq!(conclude(&files, false).kind, None, "no VM");
    }
}
