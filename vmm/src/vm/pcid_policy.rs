//! The TLB tag features that a VM's vCPUs report: what the host offers, or less.
//!
//! The VMM and the guest kernel decide by the VM's CPUID and nothing else, so tests can imitate
//! other hosts by clearing bits. Bits are never added.
#![forbid(unsafe_code)]

use kvm_bindings::CpuId;

/// CPUID 1, ECX: process-context identifiers (SDM 2A, table 3-10).
const PCID: u32 = 1 << 17;
/// CPUID 7, EBX: INVPCID (SDM 2A, table 3-8).
const INVPCID: u32 = 1 << 10;

/// Process-context identifiers and the instruction that flushes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PcidPolicy {
    /// Whatever the host offers.
    #[default]
    AsOffered,
    /// PCID if the host offers it, without INVPCID: processors before Haswell.
    WithoutInvpcid,
    /// Neither.
    Without,
}

impl PcidPolicy {
    /// Every policy.
    pub const ALL: [PcidPolicy; 3] =
        [PcidPolicy::AsOffered, PcidPolicy::WithoutInvpcid, PcidPolicy::Without];

    /// Clears the bits of features that this variant lacks.
    pub(crate) fn limit(self, cpuid: &mut CpuId) {
        let (pcid, invpcid) = match self {
            PcidPolicy::AsOffered => (0, 0),
            PcidPolicy::WithoutInvpcid => (0, INVPCID),
            PcidPolicy::Without => (PCID, INVPCID),
        };
        for leaf in cpuid.as_mut_slice() {
            match (leaf.function, leaf.index) {
                (1, _) => leaf.ecx &= !pcid,
                (7, 0) => leaf.ebx &= !invpcid,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{INVPCID, PCID, PcidPolicy};
    use kvm_bindings::{CpuId, kvm_cpuid_entry2};

    #[test]
    fn a_shape_takes_its_bits_away_and_no_others() {
        let entry = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
            ..Default::default()
        };
        let all = CpuId::from_entries(&[entry(0, 0), entry(1, 0), entry(7, 0), entry(7, 1)]);
        let all = all.expect("there is room for four");
        for (policy, pcid, invpcid) in [
            (PcidPolicy::AsOffered, 0, 0),
            (PcidPolicy::WithoutInvpcid, 0, INVPCID),
            (PcidPolicy::Without, PCID, INVPCID),
        ] {
            let mut expected = all.clone();
            expected.as_mut_slice()[1].ecx = !pcid;
            expected.as_mut_slice()[2].ebx = !invpcid;
            let mut limited = all.clone();
            policy.limit(&mut limited);
            assert_eq!(limited, expected, "{policy:?}");
        }
    }
}
