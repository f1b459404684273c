//! `run --profile` and `run --profile-exits`: where a program spends its time, and what makes it leave the
//! guest.
//!
//! - here: what is collected, by the thread that it is about; `sheet`: where a process leaves it at its end
//! - `seat`: how a thread is asked where it is; `sampler`: who asks
//! - `walk`: its callers
//!
//! What the addresses are called, and how all that looks in a file, is `report::profile`'s.
//!
//! A thread collects its own samples, when it has left the guest: only then its registers are known, and
//! nobody else needs to stop it. One that is in the VMM is not disturbed: the time that passes is noted for it, and
//! when its exit is served, it accounts for all of that. So no call is interrupted for a profile.
#![forbid(unsafe_code)]

mod sampler;
pub(crate) mod seat;
mod sheet;
mod walk;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::call::{self, CALL_HYPER};
use abi::layout::{CALL_PAGE, GATE_PAGE};
use abi::{GuestVirt, PAGE_SIZE};

pub use sampler::Sampler;
pub use sheet::Sheet;

use self::walk::{Memory, Site};
use super::task::{Process, ThreadCtx};
use crate::private::inspect::Code;
use crate::stats::names;
use crate::vm::exit::Exit;

/// Frames of different stacks that are kept of one process; further stacks are counted as one. A program can
/// have as many as it likes.
const FRAMES_MAX: usize = 1 << 20;
/// What a stack takes besides its frames, in frames.
const FRAMES_BESIDE: usize = 8;
/// Different files whose code is told apart; each is kept open until the end.
const FILES_MAX: usize = 256;
/// What more is called.
const OTHER_STACKS: &str = "other stacks";
const OTHER_FILES: &str = "other files";

/// What is asked for, and where the processes of a run leave what they have collected.
#[derive(Debug)]
pub struct Profiler {
    /// Samples of time, and how many a second.
    pub time: Option<(Sheet, u32)>,
    /// Exits.
    pub exits: Option<Sheet>,
}

/// Why a thread left the guest, and from where.
pub(crate) struct Left {
    /// If that is known.
    site: Option<Site>,
    /// What it has the VMM do; `None` while it runs.
    served: Option<&'static str>,
    frames: Option<Vec<u64>>,
}

impl Left {
    fn walk(&self, ctx: &ThreadCtx<'_>) -> Vec<u64> {
        let frames = |site: &Site| walk::frames(&Program(ctx.process), site);
        self.site.as_ref().map(frames).unwrap_or_default()
    }
}

/// What a process collects.
#[derive(Debug)]
pub struct Profile {
    time: Option<Mutex<Samples>>,
    exits: Option<Mutex<Samples>>,
}

impl Profile {
    /// For what a run is asked for.
    #[must_use]
    pub fn new(profiler: &Profiler) -> Profile {
        Profile {
            time: profiler.time.as_ref().map(|_| Mutex::default()),
            exits: profiler.exits.as_ref().map(|_| Mutex::default()),
        }
    }

    /// The calling thread has left the guest: before its exit is served, which may change registers and memory.
    #[cold]
    pub(crate) fn left(&self, ctx: &ThreadCtx<'_>, exit: &Exit) -> Left {
        let regs = &ctx.vcpu.regs;
        let (served, behind) = match exit {
            // RIP is behind the instruction, which may be its function's last.
            Exit::Syscall(_) => {
                let number = u64::from(regs.rax as u32);
                (Some(names::name(number).unwrap_or("unknown call")), 1)
            }
            Exit::Call(_) => {
                let number = u32::try_from(regs.rax).ok();
                let name = number.and_then(|number| call::name(number & !CALL_HYPER));
                (Some(name.unwrap_or("unknown call")), 1)
            }
            Exit::Exception { vector: 14, .. } => (Some("page fault"), 0),
            Exit::Exception { .. } => (Some("exception"), 0),
            Exit::Kicked => (None, 0),
            Exit::KickedInKernel => (Some("guest kernel"), 0),
            Exit::HostFault => (Some("host fault"), 0),
            Exit::Forbidden { .. } => (Some("forbidden access"), 0),
            Exit::KernelDead { .. } | Exit::Shutdown | Exit::HostGaveUp { .. } => (Some("end"), 0),
        };
        let known = match exit {
            // The registers are the kernel's.
            Exit::KickedInKernel => ctx.vcpu.program_at(),
            Exit::KernelDead { .. } | Exit::Shutdown | Exit::HostGaveUp { .. } => None,
            _ => Some((regs.rip.wrapping_sub(behind), regs.rsp)),
        };
        let site = known.map(|(rip, rsp)| Site { rip, rsp, rbp: regs.rbp });
        let mut left = Left { site, served, frames: None };
        // Who kicks it is not the program.
        let is_its_own = !matches!(exit, Exit::Kicked | Exit::KickedInKernel);
        if let Some(exits) = self.exits.as_ref().filter(|_| is_its_own) {
            let frames = left.walk(ctx);
            left.frames = Some(frames.clone());
            count(exits, ctx, frames, served, 1);
        }
        left
    }

    /// Its exit is served. The time that has passed is accounted for.
    #[cold]
    pub(crate) fn served(&self, ctx: &ThreadCtx<'_>, mut left: Left) {
        let Some(time) = &self.time else { return };
        let ticks = ctx.thread.seat.take_ticks();
        if ticks > 0 {
            let served = left.served;
            let frames = left.frames.take().unwrap_or_else(|| left.walk(ctx));
            count(time, ctx, frames, served, u64::from(ticks));
        }
    }

    /// What was collected of time, and of exits; once.
    #[must_use]
    pub fn take(&self) -> [Option<Samples>; 2] {
        [&self.time, &self.exits].map(|of| of.as_ref().map(|of| std::mem::take(&mut *locked(of))))
    }
}

/// Counts a stack of the calling thread's.
#[inline(never)]
fn count(
    of: &Mutex<Samples>,
    ctx: &ThreadCtx<'_>,
    frames: Vec<u64>,
    served: Option<&'static str>,
    weight: u64,
) {
    let stack = Stack { thread: ctx.thread.name(), frames, served };
    locked(of).add(stack, weight, &|at| ctx.process.private.code_at(at));
}

fn locked(samples: &Mutex<Samples>) -> MutexGuard<'_, Samples> {
    samples.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// A thread's stack, and what it had the VMM do.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stack {
    /// The thread's name, as the program has set it.
    pub thread: Vec<u8>,
    /// Addresses in functions, the innermost first; as many as [`Stack::DEPTH_MAX`] may not be all.
    pub frames: Vec<u64>,
    /// What the VMM did.
    pub served: Option<&'static str>,
}

impl Stack {
    /// Frames that are kept of one: the innermost.
    pub const DEPTH_MAX: usize = 127;
}

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// So many bytes from the start of a file of [`Samples::files`].
    File(usize, u64),
    /// In memory of the program that is for this.
    Memory(&'static str),
}

/// Stacks and their weights.
#[derive(Debug, Default)]
pub struct Samples {
    /// How often each was met.
    pub stacks: BTreeMap<Stack, u64>,
    /// Where their addresses were, when they were met first.
    pub places: BTreeMap<u64, Place>,
    /// The files.
    pub files: Vec<Arc<File>>,
    /// Of all stacks, with what these take besides.
    kept_frames: usize,
}

impl Samples {
    /// Counts a stack, whose addresses are where `code_at` says.
    fn add(&mut self, mut stack: Stack, weight: u64, code_at: &dyn Fn(u64) -> Option<Code>) {
        if let Some(met) = self.stacks.get_mut(&stack) {
            *met = met.saturating_add(weight);
            return;
        }
        let more = stack.frames.len() + FRAMES_BESIDE;
        if self.kept_frames + more > FRAMES_MAX {
            stack = Stack { thread: Vec::new(), frames: Vec::new(), served: Some(OTHER_STACKS) };
        } else {
            self.kept_frames += more;
        }
        for &at in &stack.frames {
            if !self.places.contains_key(&at) {
                let place = self.place(code_at(at));
                self.places.insert(at, place);
            }
        }
        let met = self.stacks.entry(stack).or_default();
        *met = met.saturating_add(weight);
    }

    fn place(&mut self, code: Option<Code>) -> Place {
        let Some(code) = code else { return Place::Memory("unmapped") };
        let Some((file, offset)) = code.file else {
            return Place::Memory(if code.label.is_empty() { "memory" } else { code.label });
        };
        let known = self.files.iter().position(|known| Arc::ptr_eq(known, &file));
        match known {
            Some(index) => Place::File(index, offset),
            None if self.files.len() >= FILES_MAX => Place::Memory(OTHER_FILES),
            None => {
                self.files.push(file);
                Place::File(self.files.len() - 1, offset)
            }
        }
    }
}

/// The program's memory, as far as it is its own: stacks and code are not in segments.
struct Program<'a>(&'a Process);

impl Memory for Program<'_> {
    fn read(&self, at: u64, buf: &mut [u8]) -> bool {
        self.0.private.copy_in(at, buf).is_ok()
    }

    fn is_code(&self, at: u64) -> bool {
        self.0.private.code_at(at).is_some()
    }

    fn is_call_page(&self, at: u64) -> bool {
        let is_in = |page: GuestVirt| at & !(PAGE_SIZE - 1) == page.raw();
        is_in(CALL_PAGE) || is_in(GATE_PAGE)
    }
}

/// Addresses in the calls that have led to where a thread is, the last call first, as far as they can be told.
pub(crate) fn callers_of(process: &Process, rip: u64, rsp: u64, rbp: u64) -> Vec<u64> {
    let mut frames = walk::frames(&Program(process), &Site { rip, rsp, rbp });
    if frames.first() == Some(&rip) {
        frames.remove(0);
    }
    frames
}

impl Profiler {
    /// Empty.
    ///
    /// # Errors
    /// The host has no memory or no descriptor.
    pub fn new(samples_a_second: Option<u32>, exits: bool) -> io::Result<Profiler> {
        let time =
            samples_a_second.map(|hz| Ok::<_, io::Error>((Sheet::new()?, hz))).transpose()?;
        Ok(Profiler { time, exits: exits.then(Sheet::new).transpose()? })
    }

    /// What the processes of the run must keep open.
    pub(crate) fn sheets(&self) -> impl Iterator<Item = &Sheet> {
        self.time.iter().map(|(sheet, _)| sheet).chain(&self.exits)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Code, FILES_MAX, FRAMES_MAX, OTHER_FILES, OTHER_STACKS, Place, Samples, Stack};

    fn stack(frames: Vec<u64>) -> Stack {
        Stack { thread: b"t".to_vec(), frames, served: None }
    }

    #[test]
    fn stacks_are_counted_and_addresses_are_where_they_were_first() {
        let mut samples = Samples::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let first = |at| {
            let code = Code { file: Some((file.clone(), at - 1)), label: "program code" };
            (at < 9).then_some(code)
        };
        samples.add(stack(vec![1, 2]), 3, &first);
        samples.add(stack(vec![1, 2]), 4, &|_| unreachable!("both are known"));
        samples.add(stack(vec![2, 9]), 1, &first);
        let other = |_| Some(Code { file: None, label: "" });
        samples.add(stack(vec![1, 4]), 1, &other);
        assert_eq!(samples.stacks[&stack(vec![1, 2])], 7);
        let places: Vec<_> = samples.places.into_iter().collect();
        let expected = [
            (1, Place::File(0, 0)),
            (2, Place::File(0, 1)),
            (4, Place::Memory("memory")),
            (9, Place::Memory("unmapped")),
        ];
        assert_eq!((places.as_slice(), samples.files.len()), (&expected[..], 1));
    }

    #[test]
    fn a_program_cannot_make_it_keep_any_number_of_stacks_or_files() {
        let mut samples = Samples::default();
        let code = |_| Some(Code { file: None, label: "heap" });
        let all = FRAMES_MAX as u64 / 100;
        for number in 0..all {
            samples.add(stack((number..number + 120).collect()), 1, &code);
        }
        samples.add(stack(vec![0]), 1, &|_| unreachable!("it is known"));
        let frames: usize = samples.stacks.keys().map(|stack| stack.frames.len()).sum();
        assert!(frames <= FRAMES_MAX, "{frames}");
        let others = Stack { thread: vec![], frames: vec![], served: Some(OTHER_STACKS) };
        assert!(samples.stacks[&others] > 1000);
        assert_eq!(samples.stacks.values().sum::<u64>(), all + 1, "none is lost");

        let mut samples = Samples::default();
        for number in 0..2 * FILES_MAX as u64 {
            let file = Arc::new(tempfile::tempfile().unwrap());
            samples.add(stack(vec![number]), 1, &|_| {
                Some(Code { file: Some((file.clone(), 0)), label: "" })
            });
        }
        assert_eq!(samples.files.len(), FILES_MAX);
        assert_eq!(samples.places[&(2 * FILES_MAX as u64 - 1)], Place::Memory(OTHER_FILES));
    }
}
