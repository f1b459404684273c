//! The virtual machine: KVM handles, guest memory, page-table frames, vCPUs.
//!
//! - [`memory`]: guest-physical memory; [`host_range`]: the same memory in this process;
//!   `host_pages`: host operations on its pages; `huge_pages`: where those are allowed;
//!   `host_maps`: the host's limit on mappings; [`resident`]: how much of it is resident on the
//!   host; [`tables`]: the frames that page tables live in; `extents`: free ranges of addresses;
//!   `withheld`: periods of reduced rights; `page_moves`: moving pages; [`mlock`]: locked pages
//! - [`ledger`]: a run's use of host memory, accounted against `--memory`
//! - [`machine`]: one VM and what its vCPUs share
//! - `registers`: a vCPU's initial registers
//! - [`vcpu`]: the run loop's two operations, enter and exit; [`exit`]: why a vCPU left
//! - [`windows`]: pieces of files mapped temporarily into guest-physical space; `host_mapping`: the
//!   memory behind one, and when it is unmapped
//! - [`shape`]: TLB tag features as the host offers them, or fewer; [`kvm_stats`]: KVM's statistics
//! - [`bare`]: a VM with a few bytes of our own code that time loads of CR3
//! - [`kick`]: how another thread gets a vCPU out of the guest

pub mod bare;
pub mod exit;
mod extents;
mod host_mapping;
mod host_maps;
mod host_pages;
pub mod host_range;
mod huge_pages;
pub mod kick;
pub mod kvm_stats;
pub mod ledger;
pub mod machine;
pub mod memory;
pub mod mlock;
mod page_moves;
pub(crate) mod registers;
pub mod resident;
pub mod shape;
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
