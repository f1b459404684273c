//! The process's own address space: the private region, PML4 slots 0 to 31.
//!
//! - [`vma`]: which addresses are in use and for what (pure bookkeeping, no memory)
//! - [`region`]: the memory behind them: slots, chunks, page tables
//! - `recycle`: chunks and tables reused for other addresses; `pins`: what must not be reused
//!   because a call uses it
//! - `held`: which pages may hold host memory; `charge`: accounting for them
//! - [`mmap`]: creating, changing and removing areas; [`brk`]; [`mremap`]
//! - [`fault`]: page faults; [`promote`]: small pages promoted to a large one
//! - [`mlock`]: areas that stay in the host's memory; [`stack`]: the first thread's stack
//! - [`access`]: the VMM's own access to the region
//! - [`holes`]: ranges with holes, for calls that accept them
//! - [`inspect`]: read-only views of areas, for reports
//!
//! VAS instances and segments have their own modules and link this region's tables.

pub mod access;
pub mod brk;
mod charge;
pub mod fault;
mod held;
pub mod holes;
pub mod inspect;
pub mod mlock;
pub mod mmap;
pub mod mremap;
mod pins;
pub mod promote;
mod recycle;
pub mod region;
pub mod stack;
pub mod vma;

pub use holes::{Piece, PieceBacking, Pieces};
pub use mremap::{Destination, Source};
pub(crate) use pins::PrivatePins;
pub use region::PrivateRegion;
pub use vma::{Backing, MemoryLock, Prot, Vma, VmaMap, page_up};
