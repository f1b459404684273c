//! A program running in its VM: one `spacejmp run`.
//!
//! Its state is in `linux::task`; this module is about what happens to it.
//!
//! - [`config`]: the caller's request
//! - [`executable`]: which files run; `libraries`: what a dynamic program is shown of the host
//! - `assemble`: a VM, and a process of it
//! - [`start`]: from a file to a first thread ready to run; `start_forked`: from a
//!   copy of another process; [`start_kept`]: from a snapshot of one; [`run`]: from there to its end
//! - [`thread`]: one thread is one vCPU on one host thread; the run loop
//! - [`supervise`]: the event loop; what ends a process from outside
//! - [`host_signals`]: signals the host sends to us; [`truncation`]: the one that we cause
//!   ourselves
//! - [`tree`]: how the processes that it starts come to VMs of their own
//! - `timer_events`: the program's timers, as the event loop reads them
//! - [`needs`]: what a program needs, without running it
//! - [`remedy`]: what to do about a program that could not be started, and the exit status

mod assemble;
pub mod config;
pub mod executable;
pub mod host_signals;
pub mod kept_vases;
mod libraries;
pub mod needs;
pub mod private_tmp;
pub mod remedy;
mod resolver;
pub mod run;
pub mod start;
mod start_forked;
pub mod start_kept;
pub mod supervise;
mod text_busy;
pub mod thread;
mod timer_events;
pub mod tree;
pub mod truncation;

pub use crate::linux::task::{Outcome, Process, Thread, ThreadCtx, ThreadTable};
pub use config::{Command, Libraries, RunConfig};
pub use host_signals::HostSignals;
pub use private_tmp::PrivateTmp;
pub use run::Ended;
pub use start::StartError;
pub use start_kept::Snapshot;
pub use supervise::Supervise;
pub use tree::ProcessTree;
