//! The program in its VM, as a session asks for it: what a thread alone may do, it does itself.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::sync::Arc;

use abi::Errno;

use super::target::{Ended, File, Target};
use crate::linux::debug::Debugger;
use crate::linux::debug::registers::Registers;
use crate::linux::debug::seats::{Action, Event};
use crate::linux::debug::watches::Access;
use crate::linux::task::{Outcome, Process};
use crate::vas::HOME;
use crate::vm::machine::leaf;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Program<'a>(pub(super) &'a Arc<Debugger>);

impl Program<'_> {
    fn process(self) -> Option<Arc<Process>> {
        self.0.process()
    }
}

impl Target for Program<'_> {
    fn pid(&self) -> i32 {
        self.process().map_or_else(|| std::process::id().cast_signed(), |process| process.pid())
    }

    fn tids(&self) -> Vec<i32> {
        self.0.tids()
    }

    fn name(&self, tid: i32) -> Vec<u8> {
        let thread = self.process().and_then(|process| process.threads.get(tid));
        thread.map(|thread| thread.name()).unwrap_or_default()
    }

    fn registers(&self, tid: i32) -> Option<Registers> {
        self.0.have(tid, |standing| standing.registers())
    }

    fn set_registers(&self, tid: i32, registers: Registers) -> bool {
        self.0.have(tid, |standing| standing.set_registers(registers)).is_some()
    }

    fn avx(&self) -> Option<usize> {
        let process = self.process()?;
        let component = leaf(&process.machine.cpuid, 0xd, 2)?;
        (process.machine.xcr0() & 4 != 0).then_some(component.ebx as usize)
    }

    fn read(&self, tid: i32, at: u64, len: usize) -> Vec<u8> {
        let read = self.0.have(tid, move |standing| {
            let mut bytes = vec![0; len];
            let there = standing.read(at, &mut bytes);
            bytes.truncate(there);
            bytes
        });
        read.unwrap_or_default()
    }

    fn write(&self, tid: i32, at: u64, bytes: Vec<u8>) -> bool {
        let written = self.0.have(tid, move |standing| standing.write(at, &bytes).is_ok());
        written.unwrap_or(false)
    }

    fn set_point(&self, tid: i32, at: u64, is_set: bool) -> bool {
        let done = self.0.have(tid, move |standing| {
            if is_set {
                return standing.insert_point(at).is_ok();
            }
            standing.remove_point(at);
            true
        });
        done.unwrap_or(false)
    }

    fn set_processor_point(&self, tid: i32, at: u64, is_set: bool) -> bool {
        let done = self.0.have(tid, move |standing| standing.set_processor_point(at, is_set));
        done.unwrap_or(false)
    }

    fn set_watch(&self, at: u64, len: u64, access: Access, is_set: bool) -> bool {
        // Whichever: it is in no thread's registers.
        let Some(tid) = self.tids().first().copied() else { return false };
        let done = self.0.have(tid, move |standing| standing.set_watch(at, len, access, is_set));
        done.unwrap_or(false)
    }

    fn told(&self, tid: i32) -> Option<Event> {
        self.0.told(tid)
    }

    fn resume(&self, actions: &[(i32, Action)], rest: Option<Action>) {
        self.0.resume(actions, rest);
    }

    fn pass_signals(&self, set: u64) {
        self.0.pass_signals(set);
    }

    fn kill(&self) {
        if let Some(process) = self.process() {
            process.stop(Outcome::Interrupted { signal: libc::SIGKILL as u8 });
        }
    }

    fn auxv(&self) -> Vec<u8> {
        self.process().map(|process| process.facts.auxv.clone()).unwrap_or_default()
    }

    fn executable(&self) -> Vec<u8> {
        self.process().map(|process| super::files::executable(&process)).unwrap_or_default()
    }

    fn open(&self, tid: i32, path: Vec<u8>) -> Result<File, Errno> {
        let open = move |standing: &mut crate::linux::debug::stand::Standing<'_, '_>| {
            super::files::open(standing.ctx().process, &path)
        };
        self.0.have(tid, open).unwrap_or(Err(Errno::ESRCH))
    }

    fn read_file(&self, tid: i32, file: File, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        self.0.have(tid, move |_| file.read(at, len)).unwrap_or(Err(Errno::ESRCH))
    }

    fn monitor(&self, tid: i32, command: &str) -> Option<String> {
        match command {
            "vas" => Some(vases(&*self.process()?, tid)),
            _ => None,
        }
    }
}

/// The address spaces that are attached, what is in them, and which threads are.
fn vases(process: &Process, selected: i32) -> String {
    let Some(live) = process.vases.live() else {
        return "a thread is changing address spaces; ask again later\n".to_owned();
    };
    let threads = process.threads.all();
    let inside = |handle: u32| {
        let inside = threads.iter().filter(|it| process.vases.handle_of(it.vcpu()) == handle);
        let tids: Vec<String> = inside.map(|thread| thread.tid.to_string()).collect();
        if tids.is_empty() { String::new() } else { format!("  threads {}", tids.join(" ")) }
    };
    let here = process.threads.get(selected).map(|it| process.vases.handle_of(it.vcpu()));
    let mark = |handle: u32| if here == Some(handle) { '*' } else { ' ' };
    let mut text = format!("{} home{}\n", mark(HOME), inside(HOME));
    for vas in &live.vases {
        let _ = writeln!(
            text,
            "{} {} (handle {}){}",
            mark(vas.handle),
            vas.name,
            vas.handle,
            inside(vas.handle)
        );
        for segment in &vas.segments {
            let rights = if segment.writable { "rw-" } else { "r--" };
            let end = segment.base.saturating_add(segment.bytes);
            let version = segment.version.map(|it| format!(" version {it}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "    {:#x}-{end:#x} {rights} {}{version}",
                segment.base, segment.name
            );
        }
    }
    text
}

/// How gdb is told of the end of a program.
pub(super) fn ended(outcome: &Outcome) -> Ended {
    match outcome {
        Outcome::Exited(status) => Ended::Exited(*status),
        Outcome::Killed { signal, .. } | Outcome::Interrupted { signal } => {
            Ended::Killed(i32::from(*signal))
        }
        Outcome::TimedOut | Outcome::OutOfMemory { .. } | Outcome::HostFailed(_) => {
            Ended::Killed(libc::SIGKILL)
        }
    }
}
