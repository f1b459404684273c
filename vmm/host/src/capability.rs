//! The KVM capabilities we use, in one table: number, name, need, purpose.
//!
//! Required means that no program runs without it. Optional ones make something faster
//! or better; the code that uses one falls back when it is absent.
#![forbid(unsafe_code)]

use kvm_bindings as kb;
use serde::Serialize;

use super::problem::Problem;

/// Whether we can do without a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// No VM runs without it.
    Required,
    /// Used where offered.
    Optional,
}

/// One capability, with this host's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Name as in the kernel's documentation.
    pub name: &'static str,
    /// Whether we can do without it.
    pub need: Need,
    /// What we use it for.
    pub purpose: &'static str,
    /// What `KVM_CHECK_EXTENSION` returned: 0 is "not offered", else a count, a mask or
    /// 1, depending on the capability.
    pub value: i32,
}

impl Capability {
    /// Whether KVM offers it at all.
    pub fn offered(&self) -> bool {
        self.value > 0
    }
}

/// The register sets that `KVM_CAP_SYNC_REGS` can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SyncRegs {
    /// General registers.
    pub regs: bool,
    /// System registers, CR3 among them.
    pub sregs: bool,
    /// Pending events.
    pub events: bool,
}

impl SyncRegs {
    fn from_mask(mask: i32) -> Self {
        let has = |bit: u32| mask.cast_unsigned() & bit != 0;
        Self {
            regs: has(kb::KVM_SYNC_X86_REGS),
            sregs: has(kb::KVM_SYNC_X86_SREGS),
            events: has(kb::KVM_SYNC_X86_EVENTS),
        }
    }
}

macro_rules! capabilities {
    ($($number:ident $need:ident $purpose:literal;)*) => {
        const TABLE: &[(u32, &str, Need, &str)] =
            &[$((kb::$number, stringify!($number), Need::$need, $purpose),)*];
    };
}

capabilities! {
    KVM_CAP_EXT_CPUID Required "the CPUID table a vCPU needs";
    KVM_CAP_USER_MEMORY Required "guest memory from this process";
    KVM_CAP_SYNC_MMU Required "guest memory follows our own mappings";
    KVM_CAP_DESTROY_MEMORY_REGION_WORKS Required "memory can be taken from a VM again";
    KVM_CAP_SYNC_REGS Required "registers without a call per exit";
    KVM_CAP_IMMEDIATE_EXIT Required "stopping a running vCPU without a race";
    KVM_CAP_NR_VCPUS Optional "recommended number of vCPUs";
    KVM_CAP_MAX_VCPUS Optional "most threads of one program";
    KVM_CAP_NR_MEMSLOTS Optional "most segments attached at once";
    KVM_CAP_READONLY_MEM Optional "read-only segments";
    KVM_CAP_XSAVE Optional "vector registers in crash reports";
    KVM_CAP_XSAVE2 Optional "vector registers beyond 4 KiB of state";
    KVM_CAP_XCRS Optional "switching on AVX for programs";
    KVM_CAP_VCPU_ATTRIBUTES Optional "one time-stamp counter for all vCPUs";
    KVM_CAP_TSC_CONTROL Optional "setting the time-stamp counter's rate";
    KVM_CAP_GET_TSC_KHZ Optional "the clock without an exit";
    KVM_CAP_VCPU_EVENTS Optional "pending exceptions in reports";
    KVM_CAP_INTERNAL_ERROR_DATA Optional "details when KVM gives up on a vCPU";
    KVM_CAP_SET_GUEST_DEBUG Optional "single step and breakpoints";
    KVM_CAP_BINARY_STATS_FD Optional "the kernel's own exit counts in --stats";
}

/// Queries every capability of the table.
pub(crate) fn ask(check: impl Fn(u32) -> i32) -> Vec<Capability> {
    TABLE
        .iter()
        .map(|&(number, name, need, purpose)| Capability {
            name,
            need,
            purpose,
            value: check(number),
        })
        .collect()
}

/// The register sets on offer, `None` when the capability itself is not.
pub(crate) fn sync_regs(capabilities: &[Capability]) -> Option<SyncRegs> {
    let mask = value(capabilities, "KVM_CAP_SYNC_REGS")?;
    Some(SyncRegs::from_mask(mask))
}

/// The value of the capability called `name`, if positive.
pub(crate) fn value(capabilities: &[Capability], name: &str) -> Option<i32> {
    capabilities.iter().find(|one| one.name == name && one.offered()).map(|one| one.value)
}

/// A problem for each required capability that is not offered, or not in full.
pub(crate) fn missing(capabilities: &[Capability]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = capabilities
        .iter()
        .filter(|one| one.need == Need::Required && !one.offered())
        .map(|one| Problem::MissingCapability { name: one.name, what: one.purpose })
        .collect();
    if sync_regs(capabilities).is_some_and(|sets| !(sets.regs && sets.sregs)) {
        problems.push(Problem::MissingCapability {
            name: "KVM_CAP_SYNC_REGS for general and system registers",
            what: "registers without a call per exit",
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::{Need, TABLE, ask, kb, missing, sync_regs, value};

    #[test]
    fn a_host_that_offers_everything_has_no_problem() {
        let all = ask(|number| if number == kb::KVM_CAP_SYNC_REGS { 7 } else { 1 });
        assert!(missing(&all).is_empty());
        let sets = sync_regs(&all).unwrap();
        assert!(sets.regs && sets.sregs && sets.events);
    }

    #[test]
    fn each_required_capability_is_missed_by_name_and_no_optional_one_is() {
        for &(absent, name, need, _) in TABLE {
            let some = ask(|number| if number == absent { 0 } else { 7 });
            let problems = missing(&some);
            assert_eq!(problems.len(), usize::from(need == Need::Required), "{name}");
            assert_eq!(value(&some, name), None);
            assert!(problems.iter().all(|problem| problem.to_string().contains(name)));
        }
    }

    #[test]
    fn register_sets_without_system_registers_do_not_suffice() {
        let some = ask(|_| 1);
        assert_eq!(missing(&some).len(), 1);
        assert!(!sync_regs(&some).unwrap().sregs);
    }

    #[test]
    fn a_negative_answer_is_not_an_offer() {
        assert!(ask(|_| -1).iter().all(|one| !one.offered()));
    }
}
