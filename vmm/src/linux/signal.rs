//! Signals: which the program handles, which are pending, and how one reaches a handler.
//!
//! Signals arrive when a thread is about to enter the guest. A fault goes to the thread that
//! made it, at once; a handler runs with Linux's frame on its stack (`sigframe.rs`). What no
//! handler takes ends the process, with a report when it was a fault.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use abi::Errno;

use super::fault::Fault;
use super::sigframe::{self, AltStack, FrameSpec, SigInfo, TrapInfo};
use super::time::read_timespec;
use super::{CallResult, Done, Fail, value};
use crate::process::table::PID;
use crate::process::thread::Next;
use crate::process::{Outcome, Process, Thread, ThreadCtx};
use crate::report;

const SIGNALS: usize = 64;
const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;
const SA_ONSTACK: u64 = libc::SA_ONSTACK as u64;
const SA_RESTART: u64 = libc::SA_RESTART as u64;
const SA_NODEFER: u64 = libc::SA_NODEFER as u64;
const SA_RESETHAND: u64 = libc::SA_RESETHAND as u64;
const SI_USER: i32 = 0;
const SI_TKILL: i32 = -6;

fn bit(signal: i32) -> u64 {
    1u64.checked_shl((signal - 1) as u32).unwrap_or(0)
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
    pending: Mutex<VecDeque<SigInfo>>,
    has_pending: AtomicBool,
}

impl Default for SignalActions {
    fn default() -> Self {
        SignalActions {
            actions: Mutex::new([Action::default(); SIGNALS]),
            pending: Mutex::default(),
            has_pending: AtomicBool::new(false),
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
        locked(&self.pending).iter().fold(0, |set, info| set | bit(info.signo))
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
    alt: Mutex<AltStack>,
    pending: Mutex<VecDeque<SigInfo>>,
    has_pending: AtomicBool,
    /// Somebody kicked this thread and it has not looked since.
    kicked: AtomicBool,
    /// The mask to come back to from `rt_sigsuspend`, until a handler's frame has taken it.
    suspended: Mutex<Option<u64>>,
}

impl ThreadSignals {
    /// What a new thread starts with: its creator's mask, nothing else.
    #[must_use]
    pub fn for_child(&self) -> ThreadSignals {
        let mask = AtomicU64::new(self.mask.load(Ordering::Relaxed));
        ThreadSignals { mask, ..ThreadSignals::default() }
    }

    /// The signals it blocks.
    pub(super) fn mask(&self) -> u64 {
        self.mask.load(Ordering::Relaxed)
    }

    /// The signals pending for it alone.
    pub(super) fn pending_set(&self) -> u64 {
        locked(&self.pending).iter().fold(0, |set, info| set | bit(info.signo))
    }

    /// Whether a kick is still unanswered.
    #[must_use]
    pub fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::Relaxed)
    }
}

/// Most signals kept pending; more of the same would be merged anyway.
const PENDING_LIMIT: usize = 256;

fn enqueue(queue: &Mutex<VecDeque<SigInfo>>, flag: &AtomicBool, info: SigInfo) {
    let mut queue = locked(queue);
    // Ordinary signals do not queue: one pending instance is all there is.
    if queue.len() < PENDING_LIMIT && !queue.iter().any(|p| p.signo == info.signo) {
        queue.push_back(info);
    }
    flag.store(true, Ordering::Release);
}

/// Sends `info` to one thread.
pub fn send_to_thread(process: &Process, thread: &Thread, info: SigInfo) {
    enqueue(&thread.signals.pending, &thread.signals.has_pending, info);
    process.threads.kick_until_heard(thread);
}

/// Sends `info` to the process: any thread that does not block it takes it.
pub fn send_to_process(process: &Process, info: SigInfo) {
    enqueue(&process.signals.pending, &process.signals.has_pending, info);
    let open =
        |t: &&std::sync::Arc<Thread>| t.signals.mask.load(Ordering::Relaxed) & bit(info.signo) == 0;
    let threads = process.threads.all();
    if let Some(thread) = threads.iter().find(open) {
        process.threads.kick_until_heard(thread);
    }
}

impl Thread {
    pub(crate) fn mark_kicked(&self) {
        self.signals.kicked.store(true, Ordering::Relaxed);
    }
}

impl Thread {
    /// Whether a blocking call of this thread should give up: the process ends, or a signal
    /// can be taken.
    #[must_use]
    pub fn is_interrupted(&self, process: &Process) -> bool {
        self.signals.kicked.store(false, Ordering::Relaxed);
        if process.is_stopping() {
            return true;
        }
        let mask = self.signals.mask.load(Ordering::Relaxed);
        let wanted = |queue: &Mutex<VecDeque<SigInfo>>, flag: &AtomicBool| {
            flag.load(Ordering::Acquire)
                && locked(queue)
                    .iter()
                    .any(|i| mask & bit(i.signo) == 0 && !process.signals.is_ignored(i.signo))
        };
        let (own, all) = (&self.signals, &process.signals);
        wanted(&own.pending, &own.has_pending) || wanted(&all.pending, &all.has_pending)
    }
}

impl ThreadCtx<'_> {
    /// As [`Thread::is_interrupted`], for the calling thread.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.thread.is_interrupted(self.process)
    }

    /// Takes the first pending signal in `wanted`.
    fn take(&self, wanted: u64) -> Option<SigInfo> {
        let own = &self.thread.signals;
        let all = &self.process.signals;
        for (queue, flag) in [(&own.pending, &own.has_pending), (&all.pending, &all.has_pending)] {
            if !flag.load(Ordering::Acquire) {
                continue;
            }
            let mut queue = locked(queue);
            let at = queue.iter().position(|i| wanted & bit(i.signo) != 0);
            let taken = at.and_then(|at| queue.remove(at));
            flag.store(!queue.is_empty(), Ordering::Release);
            if taken.is_some() {
                return taken;
            }
        }
        None
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

/// As [`deliver_pending`], after a blocking call was interrupted: RAX holds `EINTR`; unless a
/// handler without `SA_RESTART` runs, the call is made again.
pub fn deliver_after_interruption(ctx: &mut ThreadCtx<'_>, number: u64, back: u64) -> Next {
    deliver(ctx, Some((number, back)))
}

fn deliver(ctx: &mut ThreadCtx<'_>, mut restart: Option<(u64, u64)>) -> Next {
    ctx.thread.signals.kicked.store(false, Ordering::Relaxed);
    if ctx.process.is_stopping() {
        return Next::Stop;
    }
    loop {
        let mask = ctx.thread.signals.mask.load(Ordering::Relaxed);
        let Some(info) = ctx.take(!mask) else { break };
        if ctx.process.signals.is_ignored(info.signo) {
            continue;
        }
        let action = ctx.process.signals.get(info.signo);
        if action.handler == SIG_DFL {
            return kill_process(ctx, info.signo, String::new());
        }
        if let Some((number, back)) = restart.take()
            && action.flags & SA_RESTART != 0
        {
            ctx.vcpu.regs.rip = ctx.vcpu.regs.rip.wrapping_sub(back);
            ctx.vcpu.regs.rax = number;
        }
        if enter_handler(ctx, info, action, TrapInfo::default()).is_err() {
            let text = report::lost_stack(ctx, info.signo);
            return kill_process(ctx, libc::SIGSEGV, text);
        }
    }
    if let Some((number, back)) = restart {
        ctx.vcpu.regs.rip = ctx.vcpu.regs.rip.wrapping_sub(back);
        ctx.vcpu.regs.rax = number;
    }
    Next::Run
}

fn kill_process(ctx: &ThreadCtx<'_>, signal: i32, report: String) -> Next {
    ctx.process.stop(Outcome::Killed { signal: signal as u8, report });
    Next::Stop
}

fn enter_handler(
    ctx: &mut ThreadCtx<'_>,
    info: SigInfo,
    action: Action,
    trap: TrapInfo,
) -> Result<(), Errno> {
    let signals = &ctx.thread.signals;
    let old_mask = signals.mask.load(Ordering::Relaxed);
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
        return kill_process(ctx, libc::SIGSEGV, text);
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
        let action =
            Action { handler: word(0)?, flags: word(1)?, restorer: word(2)?, mask: word(3)? };
        if let Some(slot) = locked(&ctx.process.signals.actions).get_mut((signal - 1) as usize) {
            *slot = action;
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
    match sigframe::pop(ctx) {
        Ok((mask, alt)) => {
            ctx.thread.signals.mask.store(mask & !unblockable(), Ordering::Relaxed);
            *locked(&ctx.thread.signals.alt) = alt;
            Ok(Done::Registers)
        }
        Err(_) => {
            let text = report::lost_stack(ctx, libc::SIGSEGV);
            super::stop(ctx, Outcome::Killed { signal: libc::SIGSEGV as u8, report: text })
        }
    }
}

/// `rt_sigpending(2)`.
pub(super) fn rt_sigpending(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let set = |queue: &Mutex<VecDeque<SigInfo>>| {
        locked(queue).iter().fold(0, |set, info| set | bit(info.signo))
    };
    let pending = set(&ctx.thread.signals.pending) | set(&ctx.process.signals.pending);
    let mask = ctx.thread.signals.mask.load(Ordering::Relaxed);
    ctx.user().copy_out(a[0], &(pending & mask).to_le_bytes())?;
    value(0)
}

/// Sleeps until a signal can be taken; wakes now and then because a kick between the check
/// and the sleep would be lost if the sender did not repeat it.
fn sleep_until_signal(ctx: &ThreadCtx<'_>) {
    while !ctx.is_interrupted() {
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}

/// `pause(2)`.
pub(super) fn pause(ctx: &mut ThreadCtx<'_>, _a: &[u64; 6]) -> CallResult {
    sleep_until_signal(ctx);
    Err(Errno::EINTR.into())
}

/// `rt_sigsuspend(2)`.
pub(super) fn rt_sigsuspend(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[1] != 8 {
        return Err(Errno::EINVAL.into());
    }
    let wanted = ctx.user().read_u64(a[0])? & !unblockable();
    let before = ctx.thread.signals.mask.swap(wanted, Ordering::Relaxed);
    sleep_until_signal(ctx);
    ctx.thread.signals.set_suspended(before);
    ctx.vcpu.regs.rax = Errno::EINTR.as_result();
    // The handler's frame carries the old mask, which rt_sigreturn restores.
    if deliver_pending(ctx) == Next::Stop {
        return Ok(Done::Stop);
    }
    if ctx.thread.signals.suspended_mask().is_some() {
        ctx.thread.signals.mask.store(before, Ordering::Relaxed);
    }
    Ok(Done::Registers)
}

/// Runs `wait` with the signal mask at `mask_at` (0: as it is), as `ppoll` and `pselect6`
/// do. A handler that ends the wait returns to the old mask.
pub(super) fn with_mask(
    ctx: &mut ThreadCtx<'_>,
    mask_at: u64,
    wait: impl FnOnce(&mut ThreadCtx<'_>) -> CallResult,
) -> CallResult {
    if mask_at == 0 {
        return wait(ctx);
    }
    let wanted = ctx.user().read_u64(mask_at)? & !unblockable();
    let before = ctx.thread.signals.mask.swap(wanted, Ordering::Relaxed);
    let result = wait(ctx);
    if result == Err(Fail::Errno(Errno::EINTR)) {
        ctx.thread.signals.set_suspended(before);
        ctx.vcpu.regs.rax = Errno::EINTR.as_result();
        if deliver_pending(ctx) == Next::Stop {
            return Ok(Done::Stop);
        }
        if ctx.thread.signals.suspended_mask().is_some() {
            ctx.thread.signals.mask.store(before, Ordering::Relaxed);
        }
        return Ok(Done::Registers);
    }
    ctx.thread.signals.mask.store(before, Ordering::Relaxed);
    result
}

/// `rt_sigtimedwait(2)`.
pub(super) fn rt_sigtimedwait(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [set, info_at, timeout, set_bytes, ..] = *a;
    if set_bytes != 8 {
        return Err(Errno::EINVAL.into());
    }
    let wanted = ctx.user().read_u64(set)?;
    let deadline = match timeout {
        0 => None,
        at => {
            let ts = read_timespec(ctx, at)?;
            let wait = std::time::Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32);
            std::time::Instant::now().checked_add(wait)
        }
    };
    loop {
        if let Some(info) = ctx.take(wanted) {
            if info_at != 0 {
                ctx.user().copy_out(info_at, &info.head_bytes())?;
            }
            return value(info.signo as u64);
        }
        if ctx.is_interrupted() {
            return Err(Fail::Errno(Errno::EINTR));
        }
        if deadline.is_some_and(|d| std::time::Instant::now() >= d) {
            return Err(Errno::EAGAIN.into());
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

/// `sigaltstack(2)`.
pub(super) fn sigaltstack(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [new, old, ..] = *a;
    let current = *locked(&ctx.thread.signals.alt);
    let on_it = current.holds(ctx.vcpu.regs.rsp);
    if new != 0 {
        let user = ctx.user();
        let base = user.read_u64(new)?;
        let flags = user.read_u32(new.wrapping_add(8))?;
        let size = user.read_u64(new.wrapping_add(16))?;
        if on_it {
            return Err(Errno::EPERM.into());
        }
        let disable = flags & libc::SS_DISABLE as u32 != 0;
        if !disable && size < libc::MINSIGSTKSZ as u64 {
            return Err(Errno::ENOMEM.into());
        }
        *locked(&ctx.thread.signals.alt) =
            if disable { AltStack::default() } else { AltStack { base, flags: 0, size } };
    }
    if old != 0 {
        let flags = match current.size {
            0 => libc::SS_DISABLE as u32,
            _ if on_it => libc::SS_ONSTACK as u32,
            _ => 0,
        };
        let words = [current.base, u64::from(flags), current.size];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        ctx.user().copy_out(old, &bytes)?;
    }
    value(0)
}

fn from_program(signal: i32, code: i32) -> SigInfo {
    let uid = u64::from(rustix::process::getuid().as_raw());
    SigInfo { signo: signal, code, value: PID as u64 | uid << 32 }
}

/// `kill(2)`: there is one process to send to.
pub(super) fn kill(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let pid = a[0] as i32;
    if ![PID, 0, -1, -PID].contains(&pid) {
        return Err(Errno::ESRCH.into());
    }
    if a[1] != 0 {
        let info = from_program(signal_number(a[1])?, SI_USER);
        send_to_process(ctx.process, info);
    }
    value(0)
}

fn send_to_tid(ctx: &ThreadCtx<'_>, tid: i32, signal: u64) -> CallResult {
    let thread = ctx.process.threads.get(tid).ok_or(Errno::ESRCH)?;
    if signal != 0 {
        let info = from_program(signal_number(signal)?, SI_TKILL);
        if thread.tid == ctx.thread.tid {
            enqueue(&thread.signals.pending, &thread.signals.has_pending, info);
        } else {
            send_to_thread(ctx.process, &thread, info);
        }
    }
    value(0)
}

/// `tkill(2)`.
pub(super) fn tkill(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    send_to_tid(ctx, a[0] as i32, a[1])
}

/// `tgkill(2)`.
pub(super) fn tgkill(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[0] as i32 != PID {
        return Err(Errno::ESRCH.into());
    }
    send_to_tid(ctx, a[1] as i32, a[2])
}

/// The signal a write into a pipe without readers brings along.
pub fn broken_pipe(ctx: &ThreadCtx<'_>) {
    let info = from_program(libc::SIGPIPE, SI_USER);
    let own = &ctx.thread.signals;
    enqueue(&own.pending, &own.has_pending, info);
}

impl ThreadSignals {
    fn suspended_mask(&self) -> Option<u64> {
        let mut slot = locked(&self.suspended);
        slot.take()
    }

    fn set_suspended(&self, mask: u64) {
        *locked(&self.suspended) = Some(mask);
    }
}
