//! The action for each signal, and signals sent to the process as a unit. State only.

use std::sync::Mutex;

use super::queue::Queue;
use super::thread::UNBLOCKABLE;
use super::{bit, locked};
use crate::process_tree::stop::{self, HostAction};
use crate::process_tree::wire::{Reader, Writer};

const SIGNALS: usize = 64;
pub(super) const SIG_DFL: u64 = 0;
pub(super) const SIG_IGN: u64 = 1;
pub(super) const SA_ONSTACK: u64 = libc::SA_ONSTACK as u64;
pub(super) const SA_RESTART: u64 = libc::SA_RESTART as u64;
pub(super) const SA_NODEFER: u64 = libc::SA_NODEFER as u64;
const SA_RESETHAND: u64 = libc::SA_RESETHAND as u64;
pub(super) const SA_RESTORER: u64 = 0x0400_0000;
/// The flags Linux knows (UAPI_SA_FLAGS); it clears the others, by which programs can tell.
pub(super) const SA_KNOWN: u64 = (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT | libc::SA_SIGINFO)
    as u64
    | 0x800
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | SA_RESTORER;

/// The program's action for a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) handler: u64,
    pub(super) flags: u64,
    pub(super) restorer: u64,
    pub(super) mask: u64,
}

impl Action {
    /// Whether there is a handler.
    pub(super) fn is_handled(&self) -> bool {
        self.handler > SIG_IGN
    }
}

fn is_ignored_by_default(signal: i32) -> bool {
    // Stopping and continuing are between the shell and the VMM itself.
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

/// The process's side: actions, and signals sent to it as a unit.
#[derive(Debug)]
pub struct SignalActions {
    actions: Mutex<[Action; SIGNALS]>,
    pub(super) pending: Queue,
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
    /// The same actions for another process, without the handlers if `clear_handlers`.
    #[must_use]
    pub(in crate::linux) fn copy(&self, clear_handlers: bool) -> SignalActions {
        let mut actions = *locked(&self.actions);
        for action in actions.iter_mut().filter(|action| clear_handlers && action.is_handled()) {
            *action = Action::default();
        }
        SignalActions { actions: Mutex::new(actions), pending: Queue::default() }
    }

    /// Writes the actions for another VMM.
    pub(in crate::linux) fn encode(&self, out: &mut Writer) {
        for action in *locked(&self.actions) {
            out.words(&[action.handler, action.flags, action.restorer, action.mask]);
        }
    }

    /// What [`SignalActions::encode`] wrote; `None` if it is less.
    pub(in crate::linux) fn decode(input: &mut Reader<'_>) -> Option<SignalActions> {
        let mut actions = [Action::default(); SIGNALS];
        for action in &mut actions {
            let [handler, flags, restorer, mask] = input.words()?;
            let flags = flags & SA_KNOWN;
            *action = Action { handler, flags, restorer, mask: mask & !UNBLOCKABLE };
        }
        Some(SignalActions { actions: Mutex::new(actions), pending: Queue::default() })
    }

    /// What a program starts with: the default, except for what it is to ignore.
    #[must_use]
    pub fn ignoring(ignored: u64) -> SignalActions {
        let all = SignalActions::default();
        for signal in (1..=SIGNALS as i32).filter(|signal| ignored & bit(*signal) != 0) {
            all.set(signal, Action { handler: SIG_IGN, ..Action::default() });
        }
        all
    }

    /// Whether nobody is to wait for children, and whether to tell of those that stop.
    #[must_use]
    pub(crate) fn for_children(&self) -> (bool, bool) {
        let action = self.get(libc::SIGCHLD);
        let nobody = action.handler == SIG_IGN || action.flags & libc::SA_NOCLDWAIT as u64 != 0;
        (nobody, action.flags & libc::SA_NOCLDSTOP as u64 == 0)
    }

    /// The action on `signal`; for a number that is not a signal, the default.
    pub(super) fn get(&self, signal: i32) -> Action {
        locked(&self.actions).get((signal - 1) as usize).copied().unwrap_or_default()
    }

    /// What the host is to do with one of the signals that stop, so that it has the effect that the program
    /// chose.
    pub(crate) fn mirror_stop(&self, signal: i32) {
        let action = match self.get(signal).handler {
            SIG_DFL => HostAction::Default,
            SIG_IGN => HostAction::Ignore,
            _ => HostAction::Tell,
        };
        stop::set_action(signal, action);
    }

    /// Whether the program chose to ignore it.
    pub(crate) fn has_ignored(&self, signal: i32) -> bool {
        self.get(signal).handler == SIG_IGN
    }

    /// Sets it.
    pub(super) fn set(&self, signal: i32, action: Action) {
        if let Some(place) = locked(&self.actions).get_mut((signal - 1) as usize) {
            *place = action;
        }
    }

    /// Records that the handler of `signal` is about to run: with `SA_RESETHAND`, only this once.
    pub(super) fn note_handled(&self, signal: i32) {
        if let Some(action) = locked(&self.actions).get_mut((signal - 1) as usize)
            && action.flags & SA_RESETHAND != 0
        {
            action.handler = SIG_DFL;
        }
    }

    /// Whether the program has a handler for `signal`.
    #[must_use]
    pub fn is_handled(&self, signal: i32) -> bool {
        self.get(signal).is_handled()
    }

    fn set_of(&self, wanted: impl Fn(u64) -> bool) -> u64 {
        let actions = *locked(&self.actions);
        let signals = (1..).zip(actions).filter(|(_, action)| wanted(action.handler));
        signals.fold(0, |set, (signal, _)| set | bit(signal))
    }

    /// The signals with a handler.
    pub(in crate::linux) fn handled_set(&self) -> u64 {
        self.set_of(|handler| handler > SIG_IGN)
    }

    /// The signals the program ignores.
    pub(in crate::linux) fn ignored_set(&self) -> u64 {
        self.set_of(|handler| handler == SIG_IGN)
    }

    /// The signals pending for the process as a unit.
    pub(in crate::linux) fn pending_set(&self) -> u64 {
        self.pending.set()
    }

    /// Whether `signal` does nothing, by the program's choice or by default.
    pub(super) fn is_ignored(&self, signal: i32) -> bool {
        let handler = self.get(signal).handler;
        handler == SIG_IGN || (handler == SIG_DFL && is_ignored_by_default(signal))
    }

    /// Whether any of the signals in `set` has an effect.
    pub(super) fn heeds_any(&self, mut set: u64) -> bool {
        while set != 0 {
            if !self.is_ignored((set.trailing_zeros() + 1).cast_signed()) {
                return true;
            }
            set &= set - 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLER: u64 = 0x40_1000;

    fn actions(of: &[(i32, u64, u64)]) -> SignalActions {
        let actions = SignalActions::default();
        for &(signal, handler, flags) in of {
            actions.set(signal, Action { handler, flags, ..Action::default() });
        }
        actions
    }

    #[test]
    fn only_signals_that_do_something_are_heeded() {
        let actions = actions(&[
            (libc::SIGUSR1, SIG_IGN, 0),
            (libc::SIGCHLD, HANDLER, 0),
            (libc::SIGWINCH, SIG_DFL, 0),
        ]);
        assert!(!actions.heeds_any(0));
        assert!(!actions.heeds_any(bit(libc::SIGUSR1) | bit(libc::SIGWINCH) | bit(libc::SIGSTOP)));
        for signal in [libc::SIGCHLD, libc::SIGUSR2, libc::SIGKILL, 64] {
            assert!(actions.heeds_any(bit(signal)), "{signal}");
            assert!(actions.heeds_any(bit(signal) | bit(libc::SIGUSR1)), "{signal}");
        }
        assert_eq!(actions.handled_set(), bit(libc::SIGCHLD));
        assert_eq!(actions.ignored_set(), bit(libc::SIGUSR1));
    }

    #[test]
    fn a_handler_that_resets_runs_once() {
        let actions = actions(&[(libc::SIGUSR1, HANDLER, SA_RESETHAND), (64, HANDLER, 0)]);
        for signal in [libc::SIGUSR1, 64] {
            assert!(actions.is_handled(signal));
            actions.note_handled(signal);
        }
        assert!(!actions.is_handled(libc::SIGUSR1));
        assert!(actions.is_handled(64));
    }

    #[test]
    fn a_number_that_is_no_signals_has_the_default_action() {
        let actions = SignalActions::default();
        for signal in [i32::MIN + 1, -1, 0, 65, i32::MAX] {
            actions.set(signal, Action { handler: HANDLER, ..Action::default() });
            actions.note_handled(signal);
            assert_eq!(actions.get(signal), Action::default(), "{signal}");
        }
    }
}
