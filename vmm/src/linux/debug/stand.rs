//! A thread comes to a stand, does what the debugger asks of it, and goes on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use abi::Errno;

use super::points::{Kind, peek};
use super::registers::Registers;
use super::seats::{Action, Event, Pass};
use super::watches::Access;
use super::{Debugger, kick_others};
use crate::access::FaultCause;
use crate::linux::SYSCALL_BYTES;
use crate::linux::operands::next_operands;
use crate::linux::signal::info::{SI_USER, SigInfo};
use crate::linux::signal::{Again, Due, Interrupted, from_program};
use crate::linux::task::ThreadCtx;
use crate::vm::{Exit, UserRegs};

/// RFLAGS.TF: an exception after the next instruction.
const TRAP_FLAG: u64 = 0x100;
/// The exceptions of a step and of `int3` (SDM 3A, table 6-1).
const DEBUG: u64 = 1;
const BREAKPOINT: u64 = 3;

/// RFLAGS.RF: changed by exceptions alone.
const RESUME_FLAG: u64 = 0x1_0000;
/// How often an instruction is begun again that does not seem to be made: it has a few pages of code and memory, and as many
/// of page tables, each of which may be an exit.
const BEGUN_AGAIN_MAX: u32 = 64;

/// What a thread under a debugger keeps while it runs.
#[derive(Debug, Default)]
pub struct Debugged {
    /// It goes on for one instruction.
    step: Cell<bool>,
    /// It is stopped behind the next instruction: for that, or for watchpoints.
    is_trapped: Cell<bool>,
    /// Its registers before that instruction.
    before: Cell<UserRegs>,
    /// How often that instruction was begun again.
    begun_again: Cell<u32>,
    /// What its next instruction does in watched pages, if that is known.
    watched_use: RefCell<Option<WatchedUse>>,
    /// Which of the processor's breakpoints its vCPU has (`processor`).
    pub(super) points_version: Cell<u64>,
    /// It is among those that are in the guest (`alone`).
    is_inside: Cell<bool>,
    /// The watchpoint that this instruction concerns.
    watched: Cell<Option<(u64, Access)>>,
    /// The program itself has the trap flag set.
    had_trap_flag: Cell<bool>,
    /// A signal that the debugger sends it.
    injected: Cell<Option<SigInfo>>,
    /// The registers that the debugger gave it in the middle of a call, which it leaves for that.
    abandons: RefCell<Option<Box<Registers>>>,
}

/// An instruction that uses watched pages.
#[derive(Debug)]
struct WatchedUse {
    /// Where it is.
    rip: u64,
    /// Where in the pages, and how, as far as it has been a fault.
    accesses: Vec<(u64, FaultCause)>,
}

enum Place<'s, 'c> {
    /// It would enter the guest next. With the call that it would make again.
    Gate(&'s mut ThreadCtx<'c>, Option<(u64, bool)>),
    /// In a call that waits.
    Call(&'s ThreadCtx<'c>),
}

/// A thread that stands, for what it does for the debugger.
pub struct Standing<'s, 'c> {
    place: Place<'s, 'c>,
    debugger: &'s Debugger,
}

impl<'c> Standing<'_, 'c> {
    /// The thread.
    #[must_use]
    pub fn ctx(&self) -> &ThreadCtx<'c> {
        match &self.place {
            Place::Gate(ctx, _) => ctx,
            Place::Call(ctx) => ctx,
        }
    }

    /// Its registers.
    #[must_use]
    pub fn registers(&self) -> Registers {
        match &self.place {
            Place::Gate(ctx, call) => Registers::of(ctx, *call),
            Place::Call(ctx) => match &*ctx.debugged.abandons.borrow() {
                Some(given) => (**given).clone(),
                None => Registers::of(ctx, ctx.thread.call().map(|number| (number, false))),
            },
        }
    }

    /// Gives it others. A call that it is in ends for that, as if interrupted.
    pub fn set_registers(&mut self, registers: Registers) {
        match &mut self.place {
            Place::Gate(ctx, call) => {
                *call = registers.call();
                registers.apply(ctx);
            }
            Place::Call(ctx) => {
                *ctx.debugged.abandons.borrow_mut() = Some(Box::new(registers));
            }
        }
    }

    /// Reads memory as it sees it, without breakpoints; returns how many bytes there are.
    #[must_use]
    pub fn read(&self, at: u64, buf: &mut [u8]) -> usize {
        let there = peek(self.ctx(), at, buf);
        if let Some(read) = buf.get_mut(..there) {
            self.debugger.lock().points.hide(at, read);
        }
        there
    }

    /// Writes memory as it sees it, also its code.
    ///
    /// # Errors
    /// `EFAULT`; some of it may be written.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.debugger.lock().points.write(self.ctx(), at, bytes)
    }

    /// Makes a watchpoint, or removes it; returns whether that can be done.
    #[must_use]
    pub fn set_watch(&self, at: u64, len: u64, access: Access, is_set: bool) -> bool {
        let (debugger, process) = (self.debugger, self.ctx().process);
        debugger.processor.try_out(process);
        debugger.processor.set_watch(at, len, access, is_set)
            || debugger.set_watch(process, at, len, access, is_set)
    }

    /// Makes a breakpoint.
    ///
    /// # Errors
    /// `EFAULT` where no code can be.
    pub fn insert_point(&self, at: u64) -> Result<(), Errno> {
        self.debugger.lock().points.insert(self.ctx(), at, Kind::Software)
    }

    /// Removes one, if it is there.
    pub fn remove_point(&self, at: u64) {
        self.debugger.lock().points.remove(self.ctx(), at, Kind::Software);
    }

    /// Makes a breakpoint of the processor, or removes it: one of the other kind stands for it where the processor has none
    /// left. Returns whether that can be done.
    #[must_use]
    pub fn set_processor_point(&self, at: u64, is_set: bool) -> bool {
        self.debugger.processor.try_out(self.ctx().process);
        if self.debugger.processor.set_point(at, is_set) {
            return true;
        }
        let points = &mut self.debugger.lock().points;
        if is_set {
            return points.insert(self.ctx(), at, Kind::Processor).is_ok();
        }
        points.remove(self.ctx(), at, Kind::Processor);
        true
    }

    /// Removes all.
    pub fn remove_points(&self) {
        self.debugger.lock().points.remove_all(self.ctx());
    }
}

impl Debugger {
    /// The calling thread stands until it is told how to go on.
    fn sit(&self, standing: &mut Standing<'_, '_>, event: Option<Event>) -> Action {
        let (process, thread) = (standing.ctx().process, standing.ctx().thread);
        let tid = thread.tid;
        thread.signals.set_standing(true);
        let mut inner = self.lock();
        if inner.seats.sit(tid, event) {
            self.wanted.store(true, Ordering::SeqCst);
            let others = inner.seats.tids();
            drop(inner);
            kick_others(process, &others);
            inner = self.lock();
        }
        self.ring();
        let action = loop {
            if process.is_stopping() {
                inner.seats.leave(tid);
                break Action::default();
            }
            if let Some(errand) = inner.seats.take_errand(tid) {
                drop(inner);
                errand(standing);
                inner = self.lock();
                continue;
            }
            if let Some(action) = inner.seats.take_action(tid) {
                break action;
            }
            inner = self.go_on.wait(inner).unwrap_or_else(|poison| poison.into_inner());
        };
        drop(inner);
        thread.signals.set_standing(false);
        action
    }

    fn must_stand(&self, tid: i32) -> bool {
        self.is_wanted() && self.lock().seats.must_stand(tid)
    }

    /// Before a thread enters the guest.
    pub(crate) fn enters(&self, ctx: &mut ThreadCtx<'_>) {
        self.processor.enters(ctx);
        let steps = self.steps.load(Ordering::SeqCst);
        let uses = self.guards.load(Ordering::SeqCst) && self.goes_in(ctx);
        if ctx.vcpu.is_in_kernel() {
            // It was kicked there: the exception of the instruction that it has made may be on its way.
            return;
        }
        ctx.debugged.is_trapped.set(ctx.debugged.step.get() || steps || uses);
        ctx.debugged.watched.set(None);
        if ctx.debugged.is_trapped.get() {
            let operands = (steps || uses).then(|| next_operands(ctx)).flatten();
            let hit = operands.and_then(|operands| self.lock().watches.hit(&operands));
            ctx.debugged.watched.set(hit);
            ctx.debugged.had_trap_flag.set(ctx.vcpu.regs.rflags & TRAP_FLAG != 0);
            ctx.vcpu.regs.rflags |= TRAP_FLAG;
            ctx.debugged.before.set(ctx.vcpu.regs);
            ctx.debugged.begun_again.set(0);
            // SYSRET with the flag would trap before the instruction.
            ctx.vcpu.restore_all();
        }
    }

    /// Whether the calling thread, which was to make one instruction, has been stopped before that instruction, and is to
    /// enter the guest again as it is: with the memory open that it has open, and alone if it is.
    ///
    /// An exit in the middle of an instruction, as for memory that KVM has yet to map, leaves no step pending (SDM 3C,
    /// 28.3.4 "Saving Non-Register State"). Where it does, as in Bochs 2.7, the step comes first when the guest is entered again. Whoever
    /// takes it for made closes the memory, which has KVM map it anew, and so on without end. An instruction that does not
    /// change any register, but jumps to itself, can be made any number of times.
    pub(crate) fn begins_again(ctx: &ThreadCtx<'_>, exit: &Exit) -> bool {
        let Exit::Exception { vector, .. } = exit else { return false };
        let debugged = &ctx.debugged;
        let times = debugged.begun_again.get();
        let is_unmade = u64::from(*vector) == DEBUG
            && debugged.is_trapped.get()
            && ctx.vcpu.hits() == 0
            && times < BEGUN_AGAIN_MAX
            && have_not_moved(debugged.before.get(), ctx.vcpu.regs);
        if is_unmade {
            debugged.begun_again.set(times + 1);
        }
        is_unmade
    }

    /// Where pages are watched: waits until the calling thread may enter the guest, alone if its next instruction uses
    /// one of them, which is open then. Returns whether that is so.
    fn goes_in(&self, ctx: &ThreadCtx<'_>) -> bool {
        let (process, tid) = (ctx.process, ctx.thread.tid);
        let mut watched_use = ctx.debugged.watched_use.borrow_mut();
        if watched_use.as_ref().is_some_and(|used| used.rip != ctx.vcpu.regs.rip) {
            // It was made, or something else came first.
            *watched_use = None;
        }
        let uses = watched_use.as_ref().filter(|_| !ctx.vcpu.is_in_kernel());
        let kick = |others: &BTreeSet<i32>| {
            for thread in others.iter().filter_map(|tid| process.threads.get(*tid)) {
                process.threads.kick_until_acknowledged(&thread);
            }
        };
        let is_in = self.alone.enter(tid, uses.is_some(), kick, || process.is_stopping());
        ctx.debugged.is_inside.set(is_in);
        for (gva, cause) in uses.filter(|_| is_in).into_iter().flat_map(|used| &used.accesses) {
            // What cannot be resolved is a fault again, and has been one.
            let _ = process.private.open_guarded(*gva, *cause);
        }
        uses.is_some() && is_in
    }

    /// A page fault of the calling thread was resolved: if the page is watched, the instruction has not been made, and
    /// will be a fault again unless the thread is alone.
    pub(crate) fn faulted(&self, ctx: &ThreadCtx<'_>, gva: u64, cause: FaultCause) {
        if !self.guards.load(Ordering::SeqCst) || !ctx.process.private.is_guarded(gva, cause) {
            return;
        }
        let rip = ctx.vcpu.regs.rip;
        let mut watched_use = ctx.debugged.watched_use.borrow_mut();
        match &mut *watched_use {
            // It uses several.
            Some(used) if used.rip == rip => used.accesses.push((gva, cause)),
            _ => *watched_use = Some(WatchedUse { rip, accesses: vec![(gva, cause)] }),
        }
    }

    /// After it has left the guest; with whether it made a call.
    pub(crate) fn left(&self, ctx: &mut ThreadCtx<'_>, called: bool) {
        if ctx.debugged.is_inside.take() {
            // First the pages: others come in at once.
            if ctx.debugged.watched_use.borrow().is_some() {
                ctx.process.private.close_guarded();
            }
            self.alone.leave(ctx.thread.tid);
        }
        let debugged = &ctx.debugged;
        if debugged.is_trapped.get() && !ctx.vcpu.is_in_kernel() && !debugged.had_trap_flag.get() {
            ctx.vcpu.regs.rflags &= !TRAP_FLAG;
            if called {
                ctx.vcpu.regs.r11 &= !TRAP_FLAG;
            }
        }
    }

    /// Whether the calling thread, which goes on for one instruction, has done that: it made a call, or stands
    /// at the beginning of a handler.
    pub(crate) fn steps(ctx: &ThreadCtx<'_>) -> bool {
        ctx.debugged.step.get()
    }

    /// What is due to a thread that has left the guest, or is about to enter it for the first time, once it
    /// may go on.
    pub(crate) fn due(&self, ctx: &mut ThreadCtx<'_>, mut due: Due, called: bool) -> Due {
        ctx.thread.signals.acknowledge_kick();
        let abandoned = ctx.debugged.abandons.take();
        let is_stepping = ctx.debugged.step.get();
        let mut call = match &due {
            Due::Call(Interrupted { number, again, .. }) => {
                Some((*number, *again == Again::Always))
            }
            _ => None,
        };
        if let Some(registers) = abandoned {
            call = registers.call();
            registers.apply(ctx);
            due = after_stand(ctx, call);
        }
        let event = self.event(ctx, &mut due, is_stepping && called);
        if event.is_none() && !self.must_stand(ctx.thread.tid) {
            return due;
        }
        if matches!(
            event,
            Some(Event::Breakpoint | Event::ProcessorBreakpoint | Event::Step | Event::Watch(..))
        ) {
            due = Due::Nothing;
        }
        let mut standing = Standing { place: Place::Gate(ctx, call), debugger: self };
        let action = self.sit(&mut standing, event);
        let Place::Gate(ctx, call) = standing.place else { return due };
        ctx.debugged.step.set(action.step);
        if !matches!(due, Due::Fault(_) | Due::BadFrame) {
            due = after_stand(ctx, call);
        }
        match (action.pass, &due) {
            (Pass::AsItWas, _) => due,
            (Pass::Signal(signal), Due::Fault(fault)) if fault.info.signo == signal => due,
            (Pass::Signal(signal), _) => {
                ctx.debugged.injected.set(Some(from_program(ctx, signal, SI_USER)));
                without_fault(due)
            }
            (Pass::Nothing, _) => without_fault(due),
        }
    }

    /// What happened to the calling thread that the debugger is told of.
    fn event(&self, ctx: &mut ThreadCtx<'_>, due: &mut Due, has_stepped: bool) -> Option<Event> {
        let mut inner = self.lock();
        if inner.seats.is_away() || ctx.process.is_stopping() {
            return None;
        }
        if inner.is_replaced && ctx.thread.tid == ctx.process.pid() {
            inner.is_replaced = false;
            return Some(Event::Replaced);
        }
        let Due::Fault(fault) = due else { return has_stepped.then_some(Event::Step) };
        match fault.trap.trapno {
            BREAKPOINT if inner.points.has(ctx.vcpu.regs.rip.wrapping_sub(1)) => {
                ctx.vcpu.regs.rip = ctx.vcpu.regs.rip.wrapping_sub(1);
                ctx.vcpu.restore_all();
                Some(match inner.points.stands_for_processor(ctx.vcpu.regs.rip) {
                    true => Event::ProcessorBreakpoint,
                    false => Event::Breakpoint,
                })
            }
            DEBUG if let Some(event) = self.processor.event(ctx) => Some(event),
            DEBUG if let Some((at, access)) = ctx.debugged.watched.take() => {
                Some(Event::Watch(at, access))
            }
            DEBUG if ctx.debugged.step.get() => Some(Event::Step),
            // Nothing that is watched.
            DEBUG if ctx.debugged.is_trapped.get() && !ctx.debugged.had_trap_flag.get() => {
                *due = Due::Nothing;
                None
            }
            _ if inner.passes(fault.info.signo) => None,
            _ => {
                fault.locate(ctx.vcpu.regs.rip);
                Some(Event::Signal(fault.info))
            }
        }
    }

    /// A signal is about to be delivered to the calling thread: the one that is, if one is.
    pub(crate) fn signal(
        &self,
        ctx: &mut ThreadCtx<'_>,
        info: SigInfo,
        interrupted: &mut Option<Interrupted>,
    ) -> Option<SigInfo> {
        let inner = self.lock();
        let passes = inner.seats.is_away() || inner.passes(info.signo);
        drop(inner);
        if passes || info.signo == libc::SIGKILL || ctx.process.is_stopping() {
            return Some(info);
        }
        let call = interrupted.map(|call| (call.number, call.again == Again::Always));
        let mut standing = Standing { place: Place::Gate(ctx, call), debugger: self };
        let action = self.sit(&mut standing, Some(Event::Signal(info)));
        let Place::Gate(ctx, call) = standing.place else { return Some(info) };
        ctx.debugged.step.set(action.step);
        *interrupted = match after_stand(ctx, call) {
            Due::Call(call) => Some(call),
            _ => None,
        };
        match action.pass {
            Pass::AsItWas => Some(info),
            Pass::Signal(signal) if signal == info.signo => Some(info),
            Pass::Signal(signal) => Some(from_program(ctx, signal, SI_USER)),
            Pass::Nothing => None,
        }
    }

    /// A signal is about to end the program, which stands then if that was asked for. Returns whether it ends.
    pub(crate) fn dies(&self, ctx: &mut ThreadCtx<'_>, info: SigInfo) -> bool {
        let tell = self.on_crash.lock().unwrap_or_else(|poison| poison.into_inner()).take();
        if let Some(tell) = tell {
            self.is_present.store(true, Ordering::SeqCst);
            // All others come to a stand when this one has.
            self.lock().seats.arrives();
            tell(info.signo);
        } else if !self.is_present() || !self.must_stand(ctx.thread.tid) {
            return true;
        }
        let mut standing = Standing { place: Place::Gate(ctx, None), debugger: self };
        let action = self.sit(&mut standing, Some(Event::Signal(info)));
        ctx.debugged.step.set(action.step);
        match action.pass {
            Pass::AsItWas => true,
            Pass::Signal(signal) if signal == info.signo => true,
            Pass::Signal(signal) => {
                ctx.debugged.injected.set(Some(from_program(ctx, signal, SI_USER)));
                false
            }
            Pass::Nothing => false,
        }
    }

    /// The signal that the debugger has sent to the calling thread.
    pub(crate) fn injected(ctx: &ThreadCtx<'_>) -> Option<SigInfo> {
        ctx.debugged.injected.take()
    }

    /// In the middle of a call that waits: stands, if all do. Returns whether the call is to end, because the
    /// debugger has given the thread other registers.
    pub(crate) fn in_call(&self, ctx: &ThreadCtx<'_>) -> bool {
        // Before looking: a later kick is another one.
        ctx.thread.signals.acknowledge_kick();
        while self.must_stand(ctx.thread.tid)
            && ctx.debugged.abandons.borrow().is_none()
            && !ctx.process.is_stopping()
        {
            let mut standing = Standing { place: Place::Call(ctx), debugger: self };
            let action = self.sit(&mut standing, None);
            ctx.debugged.step.set(action.step);
            if let Pass::Signal(signal) = action.pass {
                ctx.debugged.injected.set(Some(from_program(ctx, signal, SI_USER)));
                return true;
            }
        }
        ctx.debugged.abandons.borrow().is_some()
    }

    /// Whether a call that waits and cannot stand is to end, to be made again.
    pub(crate) fn interrupts(&self, tid: i32) -> bool {
        self.must_stand(tid)
    }
}

/// What is due to a thread that stood between calls, or at one that is to be made again.
fn after_stand(ctx: &mut ThreadCtx<'_>, call: Option<(u64, bool)>) -> Due {
    let Some((number, always)) = call else { return Due::Nothing };
    // Unless it is made again, it has failed.
    ctx.vcpu.regs.rax = Errno::EINTR.as_result();
    let again = if always { Again::Always } else { Again::UnlessHandled };
    Due::Call(Interrupted { number, bytes: SYSCALL_BYTES, again })
}

fn have_not_moved(mut before: UserRegs, mut after: UserRegs) -> bool {
    before.rflags &= !RESUME_FLAG;
    after.rflags &= !RESUME_FLAG;
    before == after
}

fn without_fault(due: Due) -> Due {
    match due {
        Due::Fault(_) | Due::BadFrame => Due::Nothing,
        due => due,
    }
}

#[cfg(test)]
mod tests {
    use super::{RESUME_FLAG, UserRegs, have_not_moved};

    #[test]
    fn an_instruction_was_made_if_any_register_says_so_but_for_the_flag_of_exceptions() {
        let before = UserRegs { rip: 0x1000, rcx: 3, rflags: 0x302, ..UserRegs::default() };
        let resumed = UserRegs { rflags: before.rflags | RESUME_FLAG, ..before };
        assert!(have_not_moved(before, before) && have_not_moved(before, resumed));
        assert!(have_not_moved(resumed, before));
        // One turn of `rep movsb` stays where it is.
        assert!(!have_not_moved(before, UserRegs { rcx: 2, ..before }));
        assert!(!have_not_moved(before, UserRegs { rip: 0x1001, ..before }));
        assert!(!have_not_moved(before, UserRegs { rflags: 0x346, ..before }));
    }
}
