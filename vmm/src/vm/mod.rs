//! The virtual machine: KVM handles, guest memory, page-table frames, vCPUs.
//!
//! - [`memory`]: guest-physical memory; [`host_range`]: it as this process has it; `host_pages`:
//!   what the host does with its pages; `huge_pages`: where those are allowed; `host_maps`: the
//!   host's limit on mappings; [`resident`]: how much of it the host really holds;
//!   [`tables`]: the frames that page tables live in; `extents`: free ranges of addresses; `withheld`:
//!   moments without access; `page_moves`: its pages elsewhere; [`mlock`]: pages that stay
//! - [`ledger`]: what a run holds of the host's memory, against `--memory`
//! - [`machine`]: one VM and what its vCPUs have in common
//! - [`boot`]: kernel image, descriptor tables, a vCPU's first registers
//! - [`vcpu`]: the run loop's two verbs, enter and leave; [`exit`]: why a vCPU left
//! - [`windows`]: pieces of files in guest-physical space, which come and go;
//!   `host_mapping`: the memory behind one, and when it is unmapped
//! - [`switching`]: the tables of the kernel's `vas_switch`; [`instances`]: what is in them
//!   of instances
//! - [`shape`]: TLB tags as the host offers them, or fewer; [`kvm_stats`]: what KVM counts
//! - [`bare`]: a VM of a few bytes of code of ours, which times loads of CR3
//! - `call_pages`: the code through which programs make calls, and the clock page
//! - [`kick`]: how another thread gets a vCPU out

pub mod bare;
pub mod boot;
mod call_pages;
pub mod exit;
mod extents;
mod host_mapping;
mod host_maps;
mod host_pages;
pub mod host_range;
mod huge_pages;
pub mod instances;
pub mod kick;
pub mod kvm_stats;
pub mod ledger;
pub mod lock_code;
pub mod machine;
pub mod memory;
pub mod mlock;
mod page_moves;
pub mod resident;
pub mod shape;
pub mod switching;
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
pub use shape::TagShape;
pub use vcpu::{UserRegs, Vcpu};
