//! The process's own address space: the private region, PML4 slots 0 to 31.
//!
//! - [`vma`]: which addresses are in use and for what (pure, no memory behind it)
//! - [`region`]: the memory behind them: blocks and their page tables
//! - `recycle`: places given to other addresses; `pins`: what must not be, because a call uses it
//! - `held`: which pages may hold host memory; `charge`: what of it is charged
//! - [`mmap`]: making, changing and ending areas; [`brk`]; [`mremap`]
//! - [`fork`]: the region of a process that forks, for its child; `copying`: what of it is copied
//! - [`snapshot`]: the region of a process that is snapshotted
//! - `image_pages`: what it has in common with another process, until it is written
//! - [`fault`]: page faults; [`promote`]: small pages that become a large one
//! - [`guards`]: pages that a debugger watches
//! - [`mlock`]: areas that stay in the host's memory; [`stack`]: the first thread's stack
//! - [`access`]: the VMM's own access to the region
//! - [`holes`]: ranges with holes, for calls that accept them
//! - [`inspect`]: read-only views of areas, for reports; [`content`]: what is in them, for core files
//!
//! VAS instances link this region's tables; what they have besides is `crate::vas`'s, of which
//! nothing is imported here, nor the other way round.

pub mod access;
pub mod brk;
mod charge;
pub mod content;
mod copying;
pub mod fault;
pub mod fork;
pub mod guards;
mod held;
pub mod holes;
mod image_pages;
pub mod inspect;
pub mod mlock;
pub mod mmap;
pub mod mremap;
mod pins;
pub mod promote;
mod recycle;
pub mod region;
pub mod snapshot;
pub mod stack;
pub mod vma;

pub use holes::{Piece, PieceBacking, Pieces};
pub use mremap::{Destination, Source};
pub(crate) use pins::PrivatePins;
pub use region::PrivateRegion;
pub use vma::{Backing, MemoryLock, OnFork, Prot, Vma, VmaMap, page_up};
