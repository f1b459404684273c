//! The lock of a segment: one page of words that threads of several VMs share.
//!
//! A lock page lies in the segment's file and is mapped by every VM that attaches the segment. The
//! guest kernel acquires and releases uncontended locks (`uncontended`, `switch_fast`); the VMM
//! does the rest. All of it works on [`LockWords`], so that kernel, VMM and tests run the same
//! code. Mapping the page, sleeping and finding out which VMs are alive are the VMM's and not here.
//!
//! - `page`: places and bits of the words; `entry`: a word of the queue; `host`: what the host gives
//! - `uncontended`: in and out without waiting; `waiter`: with; `outcome`: what comes of it
//! - `queue`: whose turn it is; `reap`: what dead VMs left; `members`: VMs that come and leave
//! - `switch`, `switch_fast`: the locks of one address space for those of another
//!
//! Two rules carry the design (docs/src/internals/locks.md has the argument):
//!
//! 1. A VM writes only its own facts: its count of readers, its ownership, its place in the queue.
//!    Others give it permissions, and wipe its facts once it is dead.
//! 2. Every single write leaves a page from which any VM can go on.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod entry;
mod host;
mod inspect;
mod members;
mod outcome;
mod page;
mod queue;
mod reap;
mod switch;
mod switch_fast;
mod uncontended;
mod waiter;

pub use host::Waiting;
pub use inspect::{LockView, inspect};
pub use members::{JoinError, join, leave, mark_inconsistent, recover, reset};
pub use outcome::LockOutcome;
pub use page::{AtomicWords, LockWords, MAX_MEMBERS, Member, Mode, WORDS, state, word};
pub use switch::{Held, LockNeed, LockOps, Switched, switch_locks};
pub use switch_fast::switch_locks_fast;
pub use uncontended::{SCANS_PER_CLEAR, release_fast, try_acquire_fast};
pub use waiter::{Patience, acquire, downgrade, release, upgrade, wake_waiters};

#[cfg(test)]
mod tests;
