//! Where threads were, and who had called them: addresses with the names and source lines of what is there.
//!
//! Callers are those that `linux::profile` finds, so a guess: a function without a frame pointer hides its caller.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use object::ReadCache;

use super::crash::printable;
use super::lines::lines;
use super::symbols::{Positioned, located};
use crate::linux::core_dump::ThreadRegisters;
use crate::linux::profile::callers_of;
use crate::linux::task::Process;
use crate::stats::names;
use crate::vm::UserRegs;

/// Programs larger than this are reported without symbols, to be quick and small.
const FILE_MAX: u64 = 512 << 20;
/// The instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Frames shown of a thread.
const FRAMES_MAX: usize = 64;
/// Threads shown.
const THREADS_MAX: usize = 256;

/// An address on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where the thread was, or will go on.
    pub(super) address: u64,
    /// What is to be looked up: of a caller the call, and not what follows it.
    inside: u64,
}

/// The frame of a thread with these registers, and its callers', `max` in all.
pub(super) fn frames(process: &Process, regs: &UserRegs, max: usize) -> Vec<Frame> {
    let mut callers = callers_of(process, regs.rip, regs.rsp, regs.rbp);
    let private = &process.private;
    let mut top = [0; 8];
    // A call to an invalid address has pushed its return address and nothing else yet.
    if private.code_at(regs.rip).is_none() && private.copy_in(regs.rsp, &mut top).is_ok() {
        let back = u64::from_le_bytes(top);
        if private.code_at(back).is_some() && callers.first() != Some(&back.wrapping_sub(1)) {
            callers.insert(0, back.wrapping_sub(1));
        }
    }
    // One that is in a call is at what follows it.
    let mut before = [0; SYSCALL.len()];
    let is_behind_call = private.copy_in(regs.rip.wrapping_sub(2), &mut before).is_ok();
    let is_behind_call = is_behind_call && before == SYSCALL;
    let own = Frame { address: regs.rip, inside: regs.rip.wrapping_sub(is_behind_call.into()) };
    let frame = |inside: u64| Frame { address: inside.wrapping_add(1), inside };
    std::iter::once(own).chain(callers.into_iter().map(frame)).take(max).collect()
}

/// What is known of some addresses.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<u64, String>);

impl Places {
    /// Of these frames.
    pub(super) fn of<'f>(process: &Process, frames: impl Iterator<Item = &'f Frame>) -> Places {
        // With addresses, and where in the file these are.
        type InFile = (Arc<File>, Vec<(u64, u64)>);
        let mut files: Vec<InFile> = Vec::new();
        let mut places = BTreeMap::new();
        for &Frame { inside, .. } in frames {
            let Some(code) = process.private.code_at(inside) else { continue };
            let Some((file, offset)) = code.file else { continue };
            if places.insert(inside, String::new()).is_some() {
                continue;
            }
            match files.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &file)) {
                Some((_, places)) => places.push((inside, offset)),
                None => files.push((file, vec![(inside, offset)])),
            }
        }
        for (file, wanted) in files {
            let found = in_file(process, &file, &wanted);
            places.extend(wanted.into_iter().map(|(at, _)| at).zip(found));
        }
        Places(places)
    }

    /// `0x401136 main+0x9 at demo.c:12`.
    pub(super) fn show(&self, frame: &Frame) -> String {
        match self.0.get(&frame.inside).filter(|place| !place.is_empty()) {
            Some(place) => format!("{:#x} {place}", frame.address),
            None => format!("{:#x}", frame.address),
        }
    }
}

/// What is at these addresses of the program, with their offsets in a file.
fn in_file(process: &Process, file: &File, wanted: &[(u64, u64)]) -> Vec<String> {
    let offsets: Vec<u64> = wanted.iter().map(|(_, offset)| *offset).collect();
    let is_read = file.metadata().is_ok_and(|data| data.is_file() && data.len() <= FILE_MAX);
    let read = ReadCache::new(Positioned::new(file));
    let found = if is_read { located(&read, &offsets) } else { vec![(None, None); offsets.len()] };
    let addresses: Vec<u64> = found.iter().map(|(at, _)| at.unwrap_or(u64::MAX)).collect();
    let sources = if is_read { lines(&read, &addresses) } else { vec![None; offsets.len()] };
    // The program itself is named in the first line.
    let program = process.executable.bias..process.executable.end;
    let of_library = !wanted.iter().any(|(at, _)| program.contains(at));
    let path = process.files.name_of_host(file.as_fd()).unwrap_or_default();
    let short = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let short = printable(if short.is_empty() { b"?" } else { short }, 64);
    let describe = |((offset, (_, name)), source)| {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = match (name, of_library) {
            (Some(name), false) => write!(text, "{name}"),
            (Some(name), true) => write!(text, "{name} in {short}"),
            (None, _) => write!(text, "{short}+{offset:#x}"),
        };
        if let Some(source) = source {
            let _ = write!(text, " at {source}");
        }
        text
    };
    offsets.iter().zip(found).zip(sources).map(describe).collect()
}

/// The calls that the threads of a process are in, before it is stopped.
#[derive(Debug, Clone)]
pub struct InCalls(BTreeMap<i32, u64>);

impl InCalls {
    /// Of a process.
    #[must_use]
    pub fn of(process: &Process) -> InCalls {
        let threads = process.threads.all();
        InCalls(threads.iter().filter_map(|it| Some((it.tid, it.call()?))).collect())
    }
}

/// Where each of these threads, which all stand still, was; the one that is to blame first.
#[must_use]
pub fn of_all(process: &Process, threads: &[ThreadRegisters], calls: &InCalls) -> String {
    let left_out = threads.len().saturating_sub(THREADS_MAX);
    let shown = threads.iter().take(THREADS_MAX);
    let stacks: Vec<_> =
        shown.map(|thread| (thread.tid, frames(process, &thread.regs, FRAMES_MAX))).collect();
    let places = Places::of(process, stacks.iter().flat_map(|(_, frames)| frames));
    let mut text = String::new();
    for (index, (tid, frames)) in stacks.iter().enumerate() {
        let thread = process.threads.get(*tid);
        let name = printable(&thread.map(|thread| thread.name()).unwrap_or_default(), 15);
        let call = calls.0.get(tid).filter(|_| index > 0);
        let call = call.map(|number| match names::name(*number) {
            Some(name) => format!(", in {name}"),
            None => format!(", in call {number}"),
        });
        let _ = writeln!(text, "  thread     {tid} `{name}`{}", call.unwrap_or_default());
        for (depth, frame) in frames.iter().enumerate() {
            let _ = writeln!(text, "  {:<11}{}", format!("  #{depth}"), places.show(frame));
        }
    }
    if left_out > 0 {
        let _ = writeln!(text, "  thread     {left_out} more");
    }
    text
}
