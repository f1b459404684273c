//! Signals: which the program handles, which are pending, and how one reaches a handler.
//!
//! Signals arrive when a thread is about to enter the guest. A fault goes to the thread that
//! made it, at once; a handler runs with Linux's frame on its stack (`sigframe.rs`). What no
//! handler takes ends the process, with a report when it was a fault.

pub mod info;
mod queue;
mod send;
mod stack;
mod wait;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use abi::Errno;

use super::fault::Fault;
use super::sigframe::{self, FrameSpec, TrapInfo};
use super::{CallResult, Done, value};
use crate::linux::Next;
use crate::linux::task::{Outcome, Process, Thread, ThreadCtx};
use crate::report;
use info::SI_KERNEL;
pub use info::SigInfo;
use queue::Queue;
pub use send::{broken_pipe, file_too_large, send_to_process, send_to_thread};
pub(super) use send::{kill, rt_sigqueueinfo, rt_tgsigqueueinfo, tgkill, tkill};
pub use stack::AltStack;
pub(super) use stack::sigaltstack;
pub(super) use wait::{pause, rt_sigsuspend, rt_sigtimedwait, with_mask};

const SIGNALS: usize = 64;
const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;
const SA_ONSTACK: u64 = libc::SA_ONSTACK as u64;
const SA_RESTART: u64 = libc::SA_RESTART as u64;
const SA_NODEFER: u64 = libc::SA_NODEFER as u64;
const SA_RESETHAND: u64 = libc::SA_RESETHAND as u64;
const SA_RESTORER: u64 = 0x0400_0000;
/// The flags Linux knows (UAPI_SA_FLAGS); it clears the others, which tells programs.
const SA_KNOWN: u64 = (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT | libc::SA_SIGINFO) as u64
    | 0x800
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | SA_RESTORER;

const fn bit(signal: i32) -> u64 {
    match signal {
        1..=64 => 1 << (signal - 1),
        _ => 0,
    }
}

/// Signals that cannot be blocked, caught or ignored.
fn unblockable() -> u64 {
    bit(libc::SIGKILL) | bit(libc::SIGSTOP)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// What the program wants done on a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// The process's side: actions, and signals sent to it as a whole.
#[derive(Debug)]
pub struct SignalActions {
    actions: Mutex<[Action; SIGNALS]>,
    pending: Queue,
}

impl Default for SignalActions {
    fn default() -> Self {
        SignalActions {
            actions: Mutex::new([Action::default(); SIGNALS]),
            pending: Queue::default(),
        }
    }
}

impl SignalActions {
    fn get(&self, signal: i32) -> Action {
        locked(&self.actions).get((signal - 1) as usize).copied().unwrap_or_default()
    }

    /// Whether the program has a handler for `signal`.
    #[must_use]
    pub fn is_handled(&self, signal: i32) -> bool {
        self.get(signal).handler > SIG_IGN
    }

    fn set_of(&self, wanted: impl Fn(u64) -> bool) -> u64 {
        let actions = *locked(&self.actions);
        let signals = (1..).zip(actions).filter(|(_, action)| wanted(action.handler));
        signals.fold(0, |set, (signal, _)| set | bit(signal))
    }

    /// The signals with a handler.
    pub(super) fn handled_set(&self) -> u64 {
        self.set_of(|handler| handler > SIG_IGN)
    }

    /// The signals the program ignores.
    pub(super) fn ignored_set(&self) -> u64 {
        self.set_of(|handler| handler == SIG_IGN)
    }

    /// The signals pending for the process as a whole.
    pub(super) fn pending_set(&self) -> u64 {
        self.pending.set()
    }

    fn is_ignored(&self, signal: i32) -> bool {
        let handler = self.get(signal).handler;
        handler == SIG_IGN || (handler == SIG_DFL && ignored_by_default(signal))
    }
}

/// A thread's side: mask, alternate stack, signals sent to it alone.
#[derive(Debug, Default)]
pub struct ThreadSignals {
    mask: AtomicU64,
    /// What it waits for in `rt_sigtimedwait`.
    awaited: AtomicU64,
    alt: Mutex<AltStack>,
    pending: Queue,
    /// Somebody kicked this thread and it has not looked since.
    kicked: AtomicBool,
    /// The mask to come back to from `rt_sigsuspend`, until a handler's frame has taken it.
    suspended: Mutex<Option<u64>>,
}

impl ThreadSignals {
    /// What a new thread starts with: its creator's mask, nothing else.
    #[must_use]
    pub fn for_child(&self) -> ThreadSignals {
        ThreadSignals { mask: AtomicU64::new(self.mask()), ..ThreadSignals::default() }
    }

    /// Whether a kick is still unanswered.
    #[must_use]
    pub fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::Relaxed)
    }

    /// The signals it blocks.
    pub(super) fn mask(&self) -> u64 {
        self.mask.load(Ordering::Relaxed)
    }

    /// The signals pending for it alone.
    pub(super) fn pending_set(&self) -> u64 {
        self.pending.set()
    }

    fn awaited(&self) -> u64 {
        self.awaited.load(Ordering::Acquire)
    }

    fn suspended_mask(&self) -> Option<u64> {
        locked(&self.suspended).take()
    }

    fn set_suspended(&self, mask: u64) {
        *locked(&self.suspended) = Some(mask);
    }
}

/// Drops what a timer that is no more has left pending.
pub(crate) fn forget_timer(process: &Process, timer: i32) {
    process.signals.pending.remove_timer(timer);
    for thread in process.threads.all() {
        thread.signals.pending.remove_timer(timer);
    }
}

impl Thread {
    pub(crate) fn mark_kicked(&self) {
        self.signals.kicked.store(true, Ordering::Relaxed);
    }

    /// Whether a blocking call of this thread should give up: the process ends, or a signal
    /// can be taken.
    #[must_use]
    pub fn is_interrupted(&self, process: &Process) -> bool {
        self.signals.kicked.store(false, Ordering::Relaxed);
        if process.is_stopping() {
            return true;
        }
        let open = self.signals.pending.set() | process.signals.pending.set();
        let mut open = open & !self.signals.mask();
        while open != 0 {
            let signal = (open.trailing_zeros() + 1).cast_signed();
            if !process.signals.is_ignored(signal) {
                return true;
            }
            open &= open - 1;
        }
        false
    }
}

impl ThreadCtx<'_> {
    /// As [`Thread::is_interrupted`], for the calling thread.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.thread.is_interrupted(self.process)
    }

    /// Takes the next pending signal of `wanted`, the thread's own before the process's.
    fn take(&self, wanted: u64) -> Option<SigInfo> {
        let own = || self.thread.signals.pending.take(wanted);
        let info = own().or_else(|| self.process.signals.pending.take(wanted))?;
        self.process.timers.note_taken(&info);
        Some(info)
    }
}

fn ignored_by_default(signal: i32) -> bool {
    // Stopping and continuing are a shell's business with the VMM itself.
    [
        libc::SIGCHLD,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ]
    .contains(&signal)
}

/// Hands pending signals to their handlers before the thread goes on.
pub fn deliver_pending(ctx: &mut ThreadCtx<'_>) -> Next {
    deliver(ctx, None)
}

/// Whether a call that a signal interrupted is made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// Unless a handler without `SA_RESTART` runs (ERESTARTSYS in Linux).
    UnlessHandled,
    /// After any handler (ERESTARTNOINTR).
    Always,
}

/// A call that was interrupted: its number, and how long the instruction was.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    /// The call's number.
    pub number: u64,
    /// Bytes to go back.
    pub bytes: u64,
    /// When.
    pub again: Again,
}

/// As [`deliver_pending`], after a blocking call was interrupted: RAX holds `EINTR`; unless a
/// handler forbids it, the call is made again.
pub fn deliver_after_interruption(ctx: &mut ThreadCtx<'_>, call: Interrupted) -> Next {
    deliver(ctx, Some(call))
}

fn repeat(ctx: &mut ThreadCtx<'_>, call: Interrupted) {
    ctx.vcpu.regs.rip = ctx.vcpu.regs.rip.wrapping_sub(call.bytes);
    ctx.vcpu.regs.rax = call.number;
}

fn deliver(ctx: &mut ThreadCtx<'_>, mut interrupted: Option<Interrupted>) -> Next {
    ctx.thread.signals.kicked.store(false, Ordering::Relaxed);
    if ctx.process.is_stopping() {
        return Next::Stop;
    }
    while let Some(info) = ctx.take(!ctx.thread.signals.mask()) {
        if ctx.process.signals.is_ignored(info.signo) {
            continue;
        }
        let action = ctx.process.signals.get(info.signo);
        if action.handler == SIG_DFL {
            return kill_process(ctx, info.signo, String::new());
        }
        if let Some(call) = interrupted.take()
            && (call.again == Again::Always || action.flags & SA_RESTART != 0)
        {
            repeat(ctx, call);
        }
        if enter_handler(ctx, info, action, TrapInfo::default()).is_err() {
            let text = report::lost_stack(ctx, info.signo);
            if force_segv(ctx, Some(info.signo), text) == Next::Stop {
                return Next::Stop;
            }
        }
    }
    if let Some(call) = interrupted {
        repeat(ctx, call);
    }
    Next::Run
}

fn kill_process(ctx: &ThreadCtx<'_>, signal: i32, report: String) -> Next {
    ctx.process.stop(Outcome::Killed { signal: signal as u8, report });
    Next::Stop
}

/// Gives the program the SIGSEGV for a frame that could not be written, of the signal `lost`,
/// or read back. Its handler may run on another stack. Without one that can run, or when it
/// was SIGSEGV's frame, the process ends with `report` (Linux's `force_sigsegv`).
fn force_segv(ctx: &mut ThreadCtx<'_>, lost: Option<i32>, report: String) -> Next {
    let action = ctx.process.signals.get(libc::SIGSEGV);
    let blocked = ctx.thread.signals.mask() & bit(libc::SIGSEGV) != 0;
    let info = SigInfo::new(libc::SIGSEGV, SI_KERNEL, 0);
    if action.handler <= SIG_IGN
        || blocked
        || lost == Some(libc::SIGSEGV)
        || enter_handler(ctx, info, action, TrapInfo::default()).is_err()
    {
        return kill_process(ctx, libc::SIGSEGV, report);
    }
    Next::Run
}

fn enter_handler(
    ctx: &mut ThreadCtx<'_>,
    info: SigInfo,
    action: Action,
    trap: TrapInfo,
) -> Result<(), Errno> {
    if action.flags & SA_RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let signals = &ctx.thread.signals;
    let old_mask = signals.mask();
    let spec = FrameSpec {
        handler: action.handler,
        restorer: action.restorer,
        on_alt_stack: action.flags & SA_ONSTACK != 0,
        info,
        trap,
        old_mask: signals.suspended_mask().unwrap_or(old_mask),
        alt: *locked(&signals.alt),
    };
    sigframe::push(ctx, &spec)?;
    if spec.alt.disarms() {
        *locked(&ctx.thread.signals.alt) = AltStack::default();
    }
    let own = if action.flags & SA_NODEFER != 0 { 0 } else { bit(info.signo) };
    let mask = (old_mask | action.mask | own) & !unblockable();
    ctx.thread.signals.mask.store(mask, Ordering::Relaxed);
    if action.flags & SA_RESETHAND != 0
        && let Some(slot) = locked(&ctx.process.signals.actions).get_mut((info.signo - 1) as usize)
    {
        slot.handler = SIG_DFL;
    }
    Ok(())
}

/// Gives a fault to the program's handler, or ends the process with a report.
pub fn deliver_fault(ctx: &mut ThreadCtx<'_>, mut fault: Fault) -> Next {
    let signo = fault.info.signo;
    if let Some(kind) = fault.kind() {
        ctx.process.stats.fault(kind);
    }
    if matches!(signo, libc::SIGFPE | libc::SIGILL | libc::SIGTRAP) && fault.info.value == 0 {
        // For these si_addr is the instruction.
        fault.info.value = ctx.vcpu.regs.rip;
    }
    let action = ctx.process.signals.get(signo);
    let blocked = ctx.thread.signals.mask.load(Ordering::Relaxed) & bit(signo) != 0;
    if action.handler <= SIG_IGN || blocked {
        let text = report::crash(ctx, &fault);
        return kill_process(ctx, signo, text);
    }
    if enter_handler(ctx, fault.info, action, fault.trap).is_err() {
        let mut text = report::crash(ctx, &fault);
        text.push_str("  (its handler could not be called: there is no room on the stack)\n");
        if force_segv(ctx, Some(signo), text) == Next::Stop {
            return Next::Stop;
        }
    }
    deliver_pending(ctx)
}

fn signal_number(raw: u64) -> Result<i32, Errno> {
    match raw as i32 {
        n @ 1..=64 => Ok(n),
        _ => Err(Errno::EINVAL),
    }
}

/// `rt_sigaction(2)`.
pub(super) fn rt_sigaction(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [signal, new, old, set_bytes, ..] = *a;
    let signal = signal_number(signal)?;
    if set_bytes != 8 || (new != 0 && bit(signal) & unblockable() != 0) {
        return Err(Errno::EINVAL.into());
    }
    let before = ctx.process.signals.get(signal);
    if new != 0 {
        let word = |i: u64| ctx.user().read_u64(new.wrapping_add(i * 8));
        let action = Action {
            handler: word(0)?,
            flags: word(1)? & SA_KNOWN,
            restorer: word(2)?,
            mask: word(3)? & !unblockable(),
        };
        if let Some(slot) = locked(&ctx.process.signals.actions).get_mut((signal - 1) as usize) {
            *slot = action;
        }
        // What is ignored does not stay pending, blocked or not.
        if ctx.process.signals.is_ignored(signal) {
            ctx.process.signals.pending.remove(bit(signal));
            for thread in ctx.process.threads.all() {
                thread.signals.pending.remove(bit(signal));
            }
        }
    }
    if old != 0 {
        let words = [before.handler, before.flags, before.restorer, before.mask];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        ctx.user().copy_out(old, &bytes)?;
    }
    value(0)
}

/// `rt_sigprocmask(2)`.
pub(super) fn rt_sigprocmask(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [how, new, old, set_bytes, ..] = *a;
    if set_bytes != 8 {
        return Err(Errno::EINVAL.into());
    }
    let before = ctx.thread.signals.mask.load(Ordering::Relaxed);
    if new != 0 {
        let set = ctx.user().read_u64(new)?;
        let mask = match how as i32 {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        ctx.thread.signals.mask.store(mask & !unblockable(), Ordering::Relaxed);
    }
    if old != 0 {
        ctx.user().copy_out(old, &before.to_le_bytes())?;
    }
    value(0)
}

/// `rt_sigreturn(2)`.
pub(super) fn rt_sigreturn(ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    let returned = sigframe::read(ctx).and_then(|frame| {
        // Linux, too, has the mask back even if the rest turns out to be bad.
        ctx.thread.signals.mask.store(frame.mask() & !unblockable(), Ordering::Relaxed);
        sigframe::restore(ctx, &frame)?;
        // A frame may hold a stack that `sigaltstack` would refuse; then nothing changes.
        let _ = stack::set(ctx, frame.alt());
        Ok(())
    });
    if returned.is_err() {
        let text = report::lost_stack(ctx, libc::SIGSEGV);
        if force_segv(ctx, None, text) == Next::Stop {
            return Ok(Done::Stop);
        }
    }
    Ok(Done::Registers)
}

/// `rt_sigpending(2)`.
pub(super) fn rt_sigpending(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    // A shorter set is as good to Linux here.
    let bytes = usize::try_from(a[1]).ok().filter(|&bytes| bytes <= 8).ok_or(Errno::EINVAL)?;
    let pending = ctx.thread.signals.pending.set() | ctx.process.signals.pending.set();
    let set = (pending & ctx.thread.signals.mask()).to_le_bytes();
    ctx.user().copy_out(a[0], set.get(..bytes).unwrap_or_default())?;
    value(0)
}
