//! The process's own address space: the private region, PML4 slots 0 to 31.
//!
//! - [`vma`]: which addresses are in use and for what (pure, no memory behind it)
//! - [`private`]: the memory behind them: slots, chunks, page tables
//! - `recycle`: places given to other addresses; `pins`: what must not be, because a call uses it
//! - `held`: which pages may hold host memory; `charge`: what of it is charged
//! - [`map`]: making, changing and ending areas; [`heap`]: `brk`; [`remap`]: `mremap`
//! - [`fault`]: page faults; [`join`]: small pages that become a large one
//! - [`mlock`]: areas that stay in the host's memory; [`stack`]: the first thread's stack
//! - [`access`]: the VMM's own way to the region
//! - [`holes`]: what calls find that take a range with holes in it
//! - [`inspect`]: looking at areas, for reports
//!
//! VAS instances and segments have rooms of their own and link this region's tables.

pub mod access;
mod charge;
pub mod fault;
pub mod heap;
mod held;
pub mod holes;
pub mod inspect;
pub mod join;
pub mod map;
pub mod mlock;
mod pins;
pub mod private;
mod recycle;
pub mod remap;
pub mod stack;
pub mod vma;

pub use access::Access;
pub use fault::FaultOutcome;
pub use holes::{Piece, PieceBacking, Pieces};
pub(crate) use pins::PrivatePins;
pub use private::Space;
pub use remap::{Destination, Source};
pub use vma::{Backing, MemoryLock, Prot, Vma, VmaMap, page_up};
