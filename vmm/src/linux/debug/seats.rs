//! Which threads stand, what happened to them, and what is to become of them. State only: who waits and
//! who is woken is `super`'s.

use std::collections::{BTreeMap, BTreeSet};

use super::stand::Standing;
use super::watches::Access;
use crate::linux::signal::SigInfo;

/// What a thread is asked to do where it stands.
pub(super) type Errand = Box<dyn FnOnce(&mut Standing<'_, '_>) + Send>;

/// What happened to a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It has come to a breakpoint.
    Breakpoint,
    /// It has come to one of the processor's, or what stands for it.
    ProcessorBreakpoint,
    /// It has done one instruction.
    Step,
    /// It has used what is watched: that watchpoint's address.
    Watch(u64, Access),
    /// It is about to get a signal.
    Signal(SigInfo),
    /// It is the first one of another program (`execve`).
    Replaced,
}

/// What becomes of the signal that a thread stands at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pass {
    /// It gets it, as without a debugger.
    #[default]
    AsItWas,
    /// It does not.
    Nothing,
    /// It gets this one, whether it stands at one or not.
    Signal(i32),
}

/// How a thread goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Action {
    /// For one instruction.
    pub step: bool,
    /// With which signal.
    pub pass: Pass,
}

#[derive(Default, PartialEq, Eq, Debug)]
enum Mode {
    /// All stand, or are about to.
    #[default]
    Halted,
    /// They run: all, or these alone.
    Running(Option<BTreeSet<i32>>),
    /// There is no debugger.
    Away,
}

#[derive(Default)]
struct Seat {
    /// What happened, until it is told.
    event: Option<Event>,
    told: Option<Event>,
    action: Option<Action>,
    errand: Option<Errand>,
    /// The how manyth to come.
    came: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Seats {
    mode: Mode,
    seats: BTreeMap<i32, Seat>,
    came: u64,
    /// The threads that went on last, if not all: of others nothing is told.
    among: Option<BTreeSet<i32>>,
}

impl Seats {
    /// Whether a thread may not go on.
    pub(super) fn must_stand(&self, tid: i32) -> bool {
        match &self.mode {
            Mode::Halted => true,
            Mode::Running(None) | Mode::Away => false,
            Mode::Running(Some(these)) => !these.contains(&tid),
        }
    }

    /// Whether there is a debugger.
    pub(super) fn is_away(&self) -> bool {
        self.mode == Mode::Away
    }

    /// Whether all threads are to stand.
    pub(super) fn is_halted(&self) -> bool {
        self.mode == Mode::Halted
    }

    /// Whether threads that begin now run.
    pub(super) fn lets_new_ones_run(&self) -> bool {
        matches!(self.mode, Mode::Running(None) | Mode::Away)
    }

    /// The threads are another program's.
    pub(super) fn begins(&mut self) {
        self.among = None;
    }

    /// There is a debugger from now on; the threads run.
    pub(super) fn arrives(&mut self) {
        self.mode = Mode::Running(None);
    }

    /// All threads are to stand.
    pub(super) fn halt(&mut self) {
        self.mode = Mode::Halted;
    }

    /// A thread stands. Returns whether the others have to be told that they must, too.
    pub(super) fn sit(&mut self, tid: i32, event: Option<Event>) -> bool {
        self.came += 1;
        let seat = Seat { event, came: self.came, ..Seat::default() };
        self.seats.insert(tid, seat);
        let halts = event.is_some() && matches!(self.mode, Mode::Running(_));
        if halts {
            self.halt();
        }
        halts
    }

    /// A thread goes, whatever it was told.
    pub(super) fn leave(&mut self, tid: i32) {
        self.seats.remove(&tid);
    }

    /// Whether a thread stands.
    pub(super) fn has(&self, tid: i32) -> bool {
        self.seats.contains_key(&tid)
    }

    /// Those that stand.
    pub(super) fn tids(&self) -> Vec<i32> {
        self.seats.keys().copied().collect()
    }

    /// Gives a thread something to do; `false` if it does not stand, or has something to do.
    pub(super) fn give(&mut self, tid: i32, errand: Errand) -> bool {
        match self.seats.get_mut(&tid) {
            Some(seat) if seat.errand.is_none() => {
                seat.errand = Some(errand);
                true
            }
            _ => false,
        }
    }

    /// What a thread is to do.
    pub(super) fn take_errand(&mut self, tid: i32) -> Option<Errand> {
        self.seats.get_mut(&tid)?.errand.take()
    }

    /// How a thread goes on, if it does: then it stands no more.
    pub(super) fn take_action(&mut self, tid: i32) -> Option<Action> {
        // It may have been told to go on earlier, when others halted it before it did.
        if self.must_stand(tid) {
            return None;
        }
        // One that came when all had been told to go on was told nothing itself.
        let action = self.seats.get(&tid)?.action.unwrap_or_default();
        self.leave(tid);
        Some(action)
    }

    /// What happened first and was not told.
    pub(super) fn next_event(&mut self) -> Option<(i32, Event)> {
        let among = &self.among;
        let is_among = |tid: &i32| among.as_ref().is_none_or(|these| these.contains(tid));
        let untold = self.seats.iter_mut();
        let untold = untold.filter(|(tid, seat)| seat.event.is_some() && is_among(tid));
        let (tid, seat) = untold.min_by_key(|(_, seat)| seat.came)?;
        let event = seat.event.take()?;
        seat.told = Some(event);
        // It did not go on with what it was told before.
        seat.action = None;
        Some((*tid, event))
    }

    /// What was told of a thread last.
    pub(super) fn told(&self, tid: i32) -> Option<Event> {
        self.seats.get(&tid)?.told
    }

    /// Says how threads go on; see [`super::Debugger::resume`]. Returns whether they do.
    pub(super) fn resume(&mut self, actions: &[(i32, Action)], rest: Option<Action>) -> bool {
        let mut has_untold = false;
        let mut these = BTreeSet::new();
        for (tid, seat) in &mut self.seats {
            if matches!(seat.event, Some(Event::Breakpoint | Event::ProcessorBreakpoint)) {
                // It stands before it, and comes to it again, if it is still there.
                seat.event = None;
            }
            let action = actions.iter().find(|(of, _)| of == tid).map(|(_, action)| *action);
            let Some(action) = action.or(rest) else { continue };
            these.insert(*tid);
            has_untold |= seat.event.is_some();
            // What it was told before something else had to be told first.
            let earlier = seat.action.map(|action| action.pass);
            let pass = earlier.filter(|pass| matches!(pass, Pass::Signal(_)));
            seat.action = Some(Action { pass: pass.unwrap_or(action.pass), ..action });
        }
        let these = rest.is_none().then_some(these);
        self.among.clone_from(&these);
        if !has_untold {
            self.mode = Mode::Running(these);
        }
        !has_untold
    }

    /// All go on as without a debugger.
    pub(super) fn let_go(&mut self) {
        self.mode = Mode::Away;
        for seat in self.seats.values_mut() {
            // What it has said of a signal holds; what it was not told of happens.
            let pass = match (seat.event, seat.told) {
                (None, Some(Event::Signal(_))) => Pass::Nothing,
                _ => Pass::AsItWas,
            };
            seat.action = Some(Action { step: false, pass });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Event, Pass, Seats};
    use crate::linux::signal::SigInfo;

    const SEGV: Event = Event::Signal(SigInfo::new(11, 1, 0));
    const USR1: Event = Event::Signal(SigInfo::new(10, 0, 0));
    const GO: Action = Action { step: false, pass: Pass::Nothing };
    const STEP: Action = Action { step: true, pass: Pass::Nothing };

    fn running() -> Seats {
        let mut seats = Seats::default();
        assert!(!seats.sit(1, None), "all stand from the beginning");
        assert!(seats.resume(&[], Some(GO)));
        assert_eq!(seats.take_action(1), Some(GO));
        seats
    }

    #[test]
    fn one_event_halts_all_and_each_is_told_once_in_its_order() {
        let mut seats = running();
        assert!(!seats.must_stand(2));
        assert!(seats.sit(2, Some(SEGV)), "the others are kicked");
        assert!(seats.must_stand(1));
        assert!(!seats.sit(1, Some(USR1)));
        assert_eq!(seats.next_event(), Some((2, SEGV)));
        assert_eq!(seats.told(2), Some(SEGV));
        let passed = Action { step: false, pass: Pass::Signal(11) };
        // The other one has not been told.
        assert!(!seats.resume(&[(2, passed)], Some(GO)));
        assert_eq!((seats.take_action(1), seats.take_action(2)), (None, None));
        assert_eq!(seats.next_event(), Some((1, USR1)));
        // The debugger does not say twice that the first one gets its signal.
        assert!(seats.resume(&[], Some(GO)));
        assert_eq!(seats.take_action(2), Some(passed));
        assert_eq!(seats.take_action(1), Some(GO));
        assert!(seats.tids().is_empty());
    }

    #[test]
    fn threads_that_come_to_a_breakpoint_at_the_same_time_come_to_it_again() {
        let mut seats = running();
        seats.sit(1, Some(Event::Breakpoint));
        seats.sit(2, Some(Event::Breakpoint));
        assert_eq!(seats.next_event(), Some((1, Event::Breakpoint)));
        assert!(seats.resume(&[], Some(GO)));
        assert_eq!(seats.next_event(), None);
    }

    #[test]
    fn one_thread_steps_alone_and_new_ones_wait_meanwhile() {
        let mut seats = running();
        seats.sit(1, Some(Event::Breakpoint));
        seats.sit(2, None);
        seats.next_event();
        assert!(seats.resume(&[(1, STEP)], None));
        assert_eq!((seats.take_action(1), seats.take_action(2)), (Some(STEP), None));
        assert!(!seats.must_stand(1) && seats.must_stand(2) && seats.must_stand(3));
        assert!(!seats.lets_new_ones_run());
        assert!(seats.sit(1, Some(Event::Step)));
    }

    #[test]
    fn a_thread_that_did_not_go_on_in_time_stays_when_another_one_steps() {
        let mut seats = running();
        seats.sit(1, Some(Event::Breakpoint));
        seats.sit(2, None);
        seats.next_event();
        assert!(seats.resume(&[], Some(GO)));
        assert_eq!(seats.take_action(1), Some(GO));
        assert!(seats.sit(1, Some(Event::Breakpoint)));
        seats.next_event();
        assert!(seats.resume(&[(1, STEP)], None));
        assert_eq!((seats.take_action(2), seats.take_action(1)), (None, Some(STEP)));
    }

    #[test]
    fn while_one_thread_steps_nothing_is_told_of_others() {
        let mut seats = running();
        seats.sit(1, Some(Event::Breakpoint));
        seats.sit(2, Some(USR1));
        seats.sit(3, Some(Event::Breakpoint));
        assert_eq!(seats.next_event(), Some((1, Event::Breakpoint)));
        assert!(seats.resume(&[(1, STEP)], None));
        assert_eq!(seats.take_action(1), Some(STEP));
        assert!(seats.sit(1, Some(Event::Step)));
        assert_eq!(seats.next_event(), Some((1, Event::Step)));
        // But when they are to go on.
        assert!(!seats.resume(&[], Some(GO)));
        assert_eq!(seats.next_event(), Some((2, USR1)));
        assert_eq!(seats.next_event(), None);
    }

    #[test]
    fn when_the_debugger_leaves_what_it_was_not_told_happens() {
        let mut seats = running();
        seats.sit(1, Some(SEGV));
        seats.sit(2, Some(USR1));
        seats.next_event();
        seats.let_go();
        assert!(seats.is_away() && !seats.must_stand(1));
        assert_eq!(seats.take_action(1), Some(GO));
        assert_eq!(seats.take_action(2), Some(Action::default()));
    }
}
