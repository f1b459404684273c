//! The process's own address space: the private region, PML4 slots 0 to 31.
//!
//! - [`vma`]: which addresses are in use and for what (pure, no memory behind it)
//! - [`private`]: the memory behind them: chunks, page tables, faults
//! - [`access`]: the VMM's own way to a program's memory, for system calls
//! - [`inspect`]: looking at areas, for reports
//!
//! VAS instances and segments have rooms of their own and link this region's tables.

pub mod access;
pub mod inspect;
pub mod private;
pub mod vma;

pub use access::Access;
pub use private::{FaultOutcome, Space};
pub use vma::{Backing, Prot, Vma, VmaMap};
