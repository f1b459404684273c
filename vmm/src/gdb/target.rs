//! What a session asks of the program that is debugged.
#![forbid(unsafe_code)]

use abi::Errno;

use crate::linux::debug::registers::Registers;
use crate::linux::debug::seats::{Action, Event};
use crate::linux::debug::watches::Access;

/// How a program ended, as gdb tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// With a status.
    Exited(u8),
    /// By a signal.
    Killed(i32),
}

/// A program whose threads all stand.
pub(super) trait Target {
    /// Its number.
    fn pid(&self) -> i32;
    /// Its threads; none once it is ending.
    fn tids(&self) -> Vec<i32>;
    /// A thread's name.
    fn name(&self, tid: i32) -> Vec<u8>;
    /// A thread's registers.
    fn registers(&self, tid: i32) -> Option<Registers>;
    /// Gives a thread registers.
    fn set_registers(&self, tid: i32, registers: Registers) -> bool;
    /// Where the AVX part of the XSAVE area is, if the program has that.
    fn avx(&self) -> Option<usize>;
    /// Memory as a thread sees it: as much as there is, `len` bytes at most.
    fn read(&self, tid: i32, at: u64, len: usize) -> Vec<u8>;
    /// Writes memory as a thread sees it.
    fn write(&self, tid: i32, at: u64, bytes: Vec<u8>) -> bool;
    /// Makes a breakpoint, or removes it.
    fn set_point(&self, tid: i32, at: u64, is_set: bool) -> bool;
    /// Makes a breakpoint of the processor, or removes it.
    fn set_processor_point(&self, tid: i32, at: u64, is_set: bool) -> bool;
    /// Makes a watchpoint, or removes it.
    fn set_watch(&self, at: u64, len: u64, access: Access, is_set: bool) -> bool;
    /// What was told of a thread last.
    fn told(&self, tid: i32) -> Option<Event>;
    /// Lets threads go on: these, and the others if `rest` says how.
    fn resume(&self, actions: &[(i32, Action)], rest: Option<Action>);
    /// Signals that pass without a stop: a bit each.
    fn pass_signals(&self, set: u64);
    /// Ends it.
    fn kill(&self);
    /// Its auxiliary vector.
    fn auxv(&self) -> Vec<u8>;
    /// The path of its executable, as it sees it.
    fn executable(&self) -> Vec<u8>;
    /// Opens a file as a thread sees it, to read.
    fn open(&self, tid: i32, path: Vec<u8>) -> Result<File, Errno>;
    /// Reads from one.
    fn read_file(&self, tid: i32, file: File, at: u64, len: usize) -> Result<Vec<u8>, Errno>;
    /// What a `monitor` command prints; `None` if there is no such command.
    fn monitor(&self, tid: i32, command: &str) -> Option<String>;
}

/// An open file of the program's, or generated text.
#[derive(Clone, Debug)]
pub(super) enum File {
    Host(std::sync::Arc<std::fs::File>),
    Text(std::sync::Arc<[u8]>),
}
