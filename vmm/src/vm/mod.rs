//! The virtual machine: KVM handles, guest memory, page-table frames, vCPUs.
//!
//! - [`memory`]: guest-physical memory; [`host_range`]: it as this process has it; `host_pages`:
//!   what the host does with its pages; `huge_pages`: where those are allowed; `host_maps`: the
//!   host's limit on mappings; [`resident`]: how much of it the host really holds;
//!   [`tables`]: the frames that page tables live in; `extents`: free ranges of addresses; `withheld`:
//!   moments without access; `page_moves`: its pages elsewhere; [`mlock`]: pages that stay;
//!   [`images`]: what it contained when a process forked; [`page_map`]: which pages have changed since
//! - [`ledger`]: what a run holds of the host's memory, against `--memory`
//! - [`machine`]: one VM and what its vCPUs have in common
//! - `registers`: a vCPU's first ones
//! - [`vcpu`]: the run loop's two verbs, enter and leave; [`exit`]: why a vCPU left
//! - [`windows`]: pieces of files in guest-physical space, which come and go; [`shared_windows`]: those
//!   that many have; `host_mapping`: the memory behind one, and when it is unmapped
//! - [`pcid_policy`]: TLB tags as the host offers them, or fewer; [`kvm_stats`]: what KVM counts
//! - [`cr3_timing`]: a VM of a few bytes of code of ours, which times loads of CR3
//! - [`kick`]: how another thread gets a vCPU out

pub mod cr3_timing;
pub mod exit;
mod extents;
mod host_mapping;
mod host_maps;
mod host_pages;
pub mod host_range;
mod huge_pages;
pub mod images;
pub mod kick;
pub mod kvm_stats;
pub mod ledger;
pub mod machine;
pub mod memory;
pub mod mlock;
pub mod page_map;
mod page_moves;
pub mod pcid_policy;
pub(crate) mod registers;
pub mod resident;
pub mod shared_windows;
mod small_chunks;
pub mod tables;
pub mod vcpu;
pub mod windows;
mod withheld;

pub use exit::{Exit, Via};
pub use kvm_stats::{KvmStats, KvmStatsError};
pub use ledger::{MemoryKind, MemoryLedger, OverLimit};
pub use machine::{Machine, VmError};
pub use memory::{GuestMem, MemoryError};
pub use mlock::HostLock;
pub use pcid_policy::PcidPolicy;
pub use vcpu::{UserRegs, Vcpu};
