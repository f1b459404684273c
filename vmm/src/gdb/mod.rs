//! gdb's remote protocol (`run --gdb`): what a debugger asks, and who answers.
//!
//! - `packet`: how packets are framed; `session`: what they mean; [`registers`]: which registers there are, as gdb
//!   numbers them; `signals`: gdb's numbers of signals
//! - `target`: what a session asks of a program; `program`: the program in its VM, `files`: the files that it sees
//! - [`place`]: where gdb connects; [`server`]: the thread that waits for it there
//!
//! How the program's threads stand and go on is `linux::debug`'s.
//!
//! Why the packets are not left to the crate `gdbstub`: it has neither `execve` (`exec-events`), nor
//! `$_siginfo`, names of threads, and signals that pass without a stop (`QPassSignals`).

mod files;
pub mod fuzz;
mod packet;
pub mod place;
mod program;
pub mod registers;
pub mod server;
mod session;
mod signals;
mod target;
