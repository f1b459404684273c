//! A process that has forked, on the way to the VMM of its child: what a child inherits (fork(2)).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::{Errno, GuestVirt};
use kvm_bindings::kvm_xsave;

use crate::files::{Files, HandedOver, Leaving, MemoryAccount, Sent};
use crate::linux::limits::Limits;
use crate::linux::prctl::Settings;
use crate::linux::proc::Facts;
use crate::linux::signal::{AltStack, SignalActions};
use crate::linux::sysv::Attached;
use crate::linux::task::{Process, ProgramName};
use crate::private::fork::RegionCopy;
use crate::process_tree::wire::{Reader, Writer};
use crate::vas::attach::again::ForChild;
use crate::vm::UserRegs;

/// What [`ForkedProcess::encode`] wrote is not what is read.
const BAD: Errno = Errno::from_raw(libc::EPROTO);
/// The general registers, RIP and RFLAGS.
const REGISTERS: usize = 18;

/// The one thread of the child, which is a copy of the caller.
#[derive(Debug)]
pub struct ForkedThread {
    /// Its registers, as it returns from the call.
    pub regs: UserRegs,
    /// Its thread pointer.
    pub fs_base: GuestVirt,
    /// The other one.
    pub gs_base: GuestVirt,
    /// Its x87, SSE and AVX state.
    pub fpu: Box<kvm_xsave>,
    /// The signals it blocks.
    pub mask: u64,
    /// Its alternate stack.
    pub alt: AltStack,
    /// Its name.
    pub name: Vec<u8>,
    /// Where its number is to be stored (`CLONE_CHILD_SETTID`).
    pub set_tid: u64,
    /// What is cleared at its end (`CLONE_CHILD_CLEARTID`).
    pub clear_tid: u64,
}

/// A copy of a process.
#[derive(Debug)]
pub struct ForkedProcess {
    /// Its memory.
    pub region: RegionCopy,
    /// Its files; they know its executable.
    pub files: Files,
    /// Its thread.
    pub thread: ForkedThread,
    /// Its limits.
    pub limits: Limits,
    /// Its actions for signals.
    pub actions: SignalActions,
    /// Its settings.
    pub settings: Settings,
    /// Its name.
    pub program: ProgramName,
    /// Where its executable was loaded, and the end of that.
    pub loaded: [u64; 2],
    /// What `/proc` shows of it.
    pub facts: Facts,
    /// The address spaces that it has attached.
    pub attached: Vec<ForChild>,
    /// The System V segments that it has attached.
    pub sysv: Attached,
    /// A debugger's breakpoints in its code, which are its parent's, and the bytes in their places.
    pub points: Vec<(u64, u8)>,
}

/// What of a process is neither its memory nor its files.
pub(super) struct Rest<'a> {
    pub(super) process: &'a Process,
    pub(super) thread: &'a ForkedThread,
    pub(super) actions: &'a SignalActions,
    pub(super) attached: &'a [ForChild],
}

fn words_of(regs: &UserRegs) -> [u64; REGISTERS] {
    let r = regs;
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15, r.rip, r.rflags,
    ]
}

fn registers(words: [u64; REGISTERS]) -> UserRegs {
    let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags] =
        words;
    UserRegs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    }
}

impl ForkedThread {
    /// Writes it for another VMM.
    pub(in crate::linux) fn encode(&self, out: &mut Writer) {
        out.words(&words_of(&self.regs));
        out.words(&[self.fs_base.raw(), self.gs_base.raw(), self.mask]);
        out.words(&[self.alt.base, u64::from(self.alt.flags), self.alt.size]);
        out.words(&[self.set_tid, self.clear_tid]);
        out.bytes(&self.name);
        let fpu: Vec<u8> = self.fpu.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        out.bytes(&fpu);
    }

    /// What [`ForkedThread::encode`] has written; `None` for what no VMM writes.
    pub(in crate::linux) fn decode(input: &mut Reader<'_>) -> Option<ForkedThread> {
        let regs = registers(input.words()?);
        let [fs, gs, mask] = input.words()?;
        let [base, flags, size] = input.words()?;
        let [set_tid, clear_tid] = input.words()?;
        let name = input.bytes()?;
        let mut fpu = Box::new(kvm_xsave::default());
        let words = input.bytes()?.as_chunks().0;
        if words.len() != fpu.region.len() || name.len() > 15 {
            return None;
        }
        for (to, from) in fpu.region.iter_mut().zip(words) {
            *to = u32::from_le_bytes(*from);
        }
        Some(ForkedThread {
            regs,
            fs_base: GuestVirt::new(fs).ok()?,
            gs_base: GuestVirt::new(gs).ok()?,
            fpu,
            mask,
            alt: AltStack { base, flags: u32::try_from(flags).ok()?, size },
            name: name.to_vec(),
            set_tid,
            clear_tid,
        })
    }
}

/// The message for another VMM, with what goes with it.
pub(super) fn encode(region: &RegionCopy, files: Leaving, rest: &Rest<'_>) -> (Vec<u8>, Vec<Sent>) {
    let mut out = Writer::default();
    let mut shared = Vec::new();
    let Rest { process, thread, actions, attached } = rest;
    thread.encode(&mut out);
    out.words(process.limits.all().as_flattened());
    actions.encode(&mut out);
    out.words(&[process.settings.bits(), process.executable.bias, process.executable.end]);
    out.bytes(&process.program.path);
    out.bytes(process.program.short.as_bytes());
    let facts = &process.facts;
    out.words(&[facts.args.start, facts.args.end, facts.env.start, facts.env.end, facts.stack]);
    out.bytes(&facts.auxv);
    ForChild::encode(attached, &mut out);
    process.sysv.encode(&mut out);
    let points = process.vm.debug.as_ref().map(|debug| debug.points()).unwrap_or_default();
    out.words(&[points.len() as u64]);
    points.iter().for_each(|(at, byte)| out.words(&[*at, u64::from(*byte)]));
    region.encode(&mut out, &mut shared);
    out.bytes(&files.bytes);
    let shared = shared.into_iter().map(Sent::File);
    (out.finish(), shared.chain(files.fds).collect())
}

impl ForkedProcess {
    /// What another VMM has encoded; `base` are files in the same name space.
    ///
    /// # Errors
    /// `EPROTO` for what no VMM sends, and the host's.
    pub fn decode(
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        base: &Files,
        account: Arc<dyn MemoryAccount>,
    ) -> Result<ForkedProcess, Errno> {
        let mut input = Reader(bytes);
        let mut fds = fds.into_iter();
        let thread = ForkedThread::decode(&mut input).ok_or(BAD)?;
        let limits = Limits::of(input.words::<32>().ok_or(BAD)?.as_chunks().0).ok_or(BAD)?;
        let actions = SignalActions::decode(&mut input).ok_or(BAD)?;
        let [settings, bias, end] = input.words().ok_or(BAD)?;
        let path = input.bytes().ok_or(BAD)?.to_vec();
        let short = String::from_utf8_lossy(input.bytes().ok_or(BAD)?).into_owned();
        let [args, args_end, env, env_end, stack] = input.words().ok_or(BAD)?;
        let auxv = input.bytes().ok_or(BAD)?.to_vec();
        if args > args_end || env > env_end {
            return Err(BAD);
        }
        let facts = Facts::of_copy([args..args_end, env..env_end], stack, auxv);
        let attached = ForChild::decode(&mut input).ok_or(BAD)?;
        let sysv = Attached::decode(&mut input).ok_or(BAD)?;
        let count = input.count(16).ok_or(BAD)?;
        let point = |[at, byte]: [u64; 2]| (at, byte as u8);
        let points = (0..count).map(|_| input.words().map(point)).collect::<Option<_>>();
        let region = RegionCopy::decode(&mut input, &mut fds.by_ref().map(File::from), &account)?;
        let bytes = input.bytes().ok_or(BAD)?.to_vec();
        let files = base.taken_over(HandedOver { bytes, fds: fds.collect() }, account)?;
        Ok(ForkedProcess {
            region,
            files,
            thread,
            limits,
            actions,
            settings: Settings::of_bits(settings),
            program: ProgramName { path, short },
            loaded: [bias, end],
            facts,
            attached,
            sysv,
            points: points.ok_or(BAD)?,
        })
    }
}
