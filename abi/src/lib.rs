//! What the guest kernel, the VMM and programs must agree on: numbers, layouts, encodings.
//!
//! 1. No I/O, no allocation, no `unsafe`: everything here can be reasoned about on its own, and
//!    tested on the host.
//! 2. Values from outside become types in one place, a checked constructor.
//! 3. A number that two crates share is defined once, here.
//!
//! - [`addr`]: guest addresses and page sizes; [`layout`]: the address map
//! - [`pte`], [`table`], [`walk`]: page-table entries, a single page table, and the page-table
//!   walker and editor
//! - [`call`]: SpaceJMP's calls and the ports of the kernel's `OUT`; [`errno`]: error numbers
//! - [`objects`]: ids, flags and structures of the calls on VASes and segments
//! - [`shared`]: structures in memory that kernel and VMM both see; [`switch`]: those of
//!   `vas_switch`; [`tag`]: when the TLB may be kept

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod addr;
pub mod call;
pub mod errno;
pub mod layout;
pub mod objects;
pub mod pte;
pub mod shared;
pub mod switch;
pub mod table;
pub mod tag;
pub mod walk;

pub use addr::{GuestPhys, GuestVirt, Level, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M, PageSize};
pub use errno::Errno;
pub use objects::{LeaseId, Right, SegId, VasId};
pub use pte::{Pte, Rights};
pub use table::{Entry, Table};
