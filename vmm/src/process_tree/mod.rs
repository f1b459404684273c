//! The processes of a run: what their VMMs have in common, and how one reaches another.
//!
//! Each process that a program starts is a VM of its own, in a host process of its own, with the
//! host's number, parent, group and session. This module has what that needs of the host and
//! nothing of the programs:
//!
//! - [`fork`]: making host processes, before there is guest memory; [`wait`]: waiting for them
//! - [`channel`]: messages with descriptors between them
//! - [`wire`]: how those messages are written
//! - [`door`]: how they reach a server that one of them is
//! - [`names`]: the names of files in memory, which all VMMs of a run have in common
//! - [`sysv`]: System V shared memory, semaphores and message queues
//! - [`shown`]: what each of them shows of itself to the others
//! - [`stop`]: the signals by which a terminal stops them
//! - [`images`]: which images of memory each of them has
//! - [`shared_words`]: memory that all VMMs of a run share
//! - [`disk_use`]: what they add to disks, counted there
//! - [`registry`]: a table in such memory: who belongs to it, and what it holds

pub mod channel;
pub mod disk_use;
pub mod door;
pub mod fork;
pub mod images;
pub mod names;
pub mod registry;
pub mod shared_words;
pub mod shown;
pub mod stop;
pub mod sysv;
pub mod wait;
pub mod wire;

pub use channel::Channel;
pub use registry::{Member, Registry};
