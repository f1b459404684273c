//! For programs that run under `spacejmp`: address spaces as ordinary, safe Rust.
//!
//! A program opens a [`Space`]: an address space with a name and a root object of a type of its
//! own. Inside it pointers are pointers; what is written stays, for the next run and for
//! every other program.
//!
//! ```
//! use spacejmp::{Space, Storable, VBox};
//!
//! #[derive(Storable)]
//! #[storable(vas = Journal<'v>)]
//! struct Entry<'v> {
//!     day: u32,
//!     before: Option<VBox<Entry<'v>, Journal<'v>>>,
//! }
//!
//! // `'v` is the time that the thread is inside: what is found there is not kept longer.
//! spacejmp::brand! { Journal<'v> => Option<VBox<Entry<'v>, Journal<'v>>> }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In a VM: `Space::<Journal>::options().open_or_create("journal", |_| Ok(None))?`.
//! let journal = Space::<Journal>::in_memory(1 << 20, |_| Ok(None))?;
//! journal.write(|v| {
//!     let (root, at) = v.root_mut();
//!     let before = root.take();
//!     *root = Some(VBox::new(at, Entry { day: 1, before })?);
//!     Ok::<_, spacejmp::Error>(())
//! })?;
//! let last = journal.read(|v| v.root().as_ref().map(|entry| entry.get(v).day))?;
//! assert_eq!(last, Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! # Mistakes that do not compile
//!
//! | mistake | what would happen | refused by |
//! |---|---|---|
//! | follow a pointer outside its VAS | a fault, or other data at that address | [`VBox::get`], [`VPtr::get`] take a token |
//! | keep a reference after leaving | the same | the token's lifetime ends with the closure |
//! | keep an owner or a pointer over an abort | it points to what never was | the brand's lifetime ends with the closure |
//! | use a pointer in another VAS | the same | its brand is another type |
//! | keep a reference across a switch | the same | [`In::read`] borrows the token mutably |
//! | hand the token to another thread | that thread is at home | tokens are not `Send` |
//! | store a reference, function, trait object, `Rc`, `Vec` | means nothing to the next process | [`Storable`] |
//! | store a pointer of another VAS | the same | [`Storable`] of that VAS only |
//!
//! Each is a test with the compiler's message: `tests/ui`. What is left is a plain reference in the
//! hands of a scoped thread, which is somewhere else: it faults there, and reaches no other data.
//! The book's page "What safe code can and cannot do" lists the attacks that were tried.
//!
//! # Layers
//!
//! - [`call_page`]: the way into the guest kernel, and the only assembly; [`sys`]: one function
//!   per call. C programs have the same layer in `include/spacejmp.h`.
//! - [`Vas`], [`Segment`], [`Attached`]: objects, whatever is in them
//! - [`Space`], [`token`]: being inside; [`brand`](mod@brand), [`storable`], [`layout`]: what may
//!   lie there
//! - [`upgrade`]: types that have changed since their values were stored
//! - [`check`]: whether what is stored is what its types say
//! - [`Shared`]: atomics and [`VOnce`] that several programs use at the same time
//! - [`VBox`], [`VRc`], [`VPtr`], [`VSlice`], [`collections`]: memory there, [`serial`]: in and out of it by `serde`;
//!   [`alloc`]: their way to it; [`heap`]: where it comes from; [`ScopedAlloc`]: the same for
//!   existing code

// Lifetimes are what this API is about, and markers of variance are what they are.
#![allow(clippy::needless_lifetimes, clippy::type_complexity)]
#![warn(missing_debug_implementations)]

// So that the derive macros' paths work in this crate.
extern crate self as spacejmp;

pub mod alloc;
mod alloc_error;
mod array;
mod block_owners;
#[cfg(doctest)]
mod book;
mod boxed;
pub mod brand;
mod calendar;
pub mod call_page;
pub mod check;
mod clone_in;
pub mod collections;
mod counted;
mod earlier;
pub mod error;
#[cfg(any(feature = "chrono", feature = "jiff", feature = "uuid"))]
mod foreign;
mod handle;
mod handles;
pub mod heap;
pub mod layout;
mod location;
#[cfg(doctest)]
mod mistakes;
mod objects;
mod ptr;
mod ready;
mod scope;
pub mod serial;
mod shared;
mod space;
mod space_heap;
pub mod storable;
pub mod sys;
mod thread_state;
pub mod token;
mod type_id;
pub mod upgrade;
mod values;

pub use alloc::{AllocError, VAlloc};
pub use boxed::VBox;
pub use brand::Brand;
pub use calendar::{OutOfRange, StoredDate, StoredDateTime, StoredOffset, StoredSpan, StoredTime};
pub use call_page::{CallPage, NotUnderSpacejmp};
pub use clone_in::CloneIn;
pub use collections::{
    By, Total, VArena, VBTreeMap, VBTreeSet, VBinaryHeap, VHashMap, VHashSet, VId, VKey,
    VLinearMap, VString, VVec, VVecDeque,
};
pub use counted::VRc;
pub use error::{Error, Result};
pub use objects::attached::{AttachOptions, Attached};
pub use objects::segment::{Segment, SegmentInfo, SegmentOptions};
pub use objects::vas::{Vas, VasInfo, VasOptions};
pub use ptr::{VPtr, VSlice};
pub use ready::{Ready, ready};
pub use scope::ScopedAlloc;
pub use shared::{Concurrent, Layouts, NotSet, Shared, VOnce};
pub use space::{InOld, OldSpace, Opening, Space, SpaceOptions};
pub use spacejmp_derive::{CloneIn, Concurrent, Storable, VKey};
pub use storable::Storable;
pub use sys::{Durability, Lifetime, PagePolicy, Right, SyncInterval};
pub use thread_state::{Inside, inside};
pub use token::{At, In, Mode, Read, Write};
pub use upgrade::{RootType, UpgradeFrom};
pub use values::{StoredIp, StoredResult, Timestamp};
