//! The VMM's exchange of locks: what is held afterwards, and what is held while waiting.

use super::*;
use abi::SegId;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// A thread's locks. Other threads hold some that no try ever gets, and keep others for a while.
struct Thread {
    held: RefCell<BTreeMap<SegId, Mode>>,
    busy: Vec<SegId>,
    stop_after: Cell<usize>,
    lost_any: Cell<bool>,
}

impl Thread {
    fn answer(&self, sid: SegId, patience: Patience) -> LockOutcome {
        if patience == Patience::Forever {
            let in_order = self.held.borrow().keys().all(|&held| held < sid);
            assert!(in_order, "waits for {sid} holding {:?}", self.held.borrow());
            let Some(left) = self.stop_after.get().checked_sub(1) else {
                return LockOutcome::Interrupted;
            };
            self.stop_after.set(left);
            return LockOutcome::Acquired;
        }
        match patience {
            _ if !self.busy.contains(&sid) => LockOutcome::OwnerDied,
            Patience::Try => LockOutcome::WouldBlock,
            _ => LockOutcome::TimedOut,
        }
    }
}

impl LockOps for Thread {
    fn acquire(&self, need: LockNeed, patience: Patience) -> LockOutcome {
        assert!(!self.held.borrow().contains_key(&need.sid), "no thread takes a lock twice");
        let outcome = self.answer(need.sid, patience);
        if outcome.is_held() {
            self.held.borrow_mut().insert(need.sid, need.mode);
        }
        outcome
    }
    fn release(&self, need: LockNeed) {
        assert_eq!(self.held.borrow_mut().remove(&need.sid), Some(need.mode));
        self.lost_any.set(true);
    }
    fn upgrade(&self, sid: SegId, patience: Patience) -> LockOutcome {
        assert_ne!(patience, Patience::Forever, "two upgrades would wait for each other");
        assert_eq!(self.held.borrow().get(&sid), Some(&Mode::Shared));
        let outcome = self.answer(sid, patience);
        if outcome.is_held() {
            self.held.borrow_mut().insert(sid, Mode::Exclusive);
        }
        outcome
    }
    fn downgrade(&self, sid: SegId) {
        assert_eq!(self.held.borrow_mut().insert(sid, Mode::Shared), Some(Mode::Exclusive));
    }
}

fn needs(kinds: &[u8]) -> Vec<LockNeed> {
    let sid = |number: usize| SegId::new(number as u64 + 1).unwrap();
    let mode = |kind: u8| if kind == 1 { Mode::Shared } else { Mode::Exclusive };
    let named = kinds.iter().enumerate().filter(|&(_, &kind)| kind > 0);
    named.map(|(number, &kind)| LockNeed { sid: sid(number), mode: mode(kind) }).collect()
}

fn as_map(locks: &[LockNeed]) -> BTreeMap<SegId, Mode> {
    locks.iter().map(|lock| (lock.sid, lock.mode)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn a_switch_ends_with_the_new_locks_or_as_it_says(
        kinds in proptest::collection::vec((0u8..3, 0u8..3, any::<bool>()), 0..6),
        patience in prop_oneof![Just(Patience::Try), Just(Patience::Until(5)), Just(Patience::Forever)],
        stop_after in 0usize..8,
    ) {
        let old = needs(&kinds.iter().map(|kinds| kinds.0).collect::<Vec<_>>());
        let new = needs(&kinds.iter().map(|kinds| kinds.1).collect::<Vec<_>>());
        let sids = (1..).filter_map(SegId::new);
        let busy = sids.zip(&kinds).filter(|(_, kinds)| kinds.2).map(|(sid, _)| sid).collect();
        let thread = Thread {
            held: RefCell::new(as_map(&old)), busy, stop_after: Cell::new(stop_after), lost_any: Cell::new(false),
        };
        let needed = |need: &LockNeed| match old.iter().find(|lock| lock.sid == need.sid) {
            Some(lock) => lock.mode == Mode::Shared && need.mode == Mode::Exclusive,
            None => true,
        };
        let blocked = new.iter().find(|need| needed(need) && thread.busy.contains(&need.sid)).map(|need| need.sid);
        let Switched { outcome, held, refused } = switch_locks(&old, &new, &thread, patience);
        prop_assert_eq!((held == Held::New, refused.is_none()), (outcome.is_held(), outcome.is_held()));
        match held {
            Held::New => {
                prop_assert_eq!(&*thread.held.borrow(), &as_map(&new));
                prop_assert!(patience == Patience::Forever || blocked.is_none());
                if blocked.is_none() {
                    prop_assert_eq!(outcome == LockOutcome::OwnerDied, new.iter().any(needed));
                }
            }
            Held::Old => {
                prop_assert_eq!(&*thread.held.borrow(), &as_map(&old));
                prop_assert_eq!(refused, blocked);
                let expected = if patience == Patience::Try { LockOutcome::WouldBlock } else { LockOutcome::TimedOut };
                prop_assert_eq!(outcome, expected);
                prop_assert_ne!(patience, Patience::Forever);
            }
            Held::Nothing => {
                prop_assert!(thread.held.borrow().is_empty());
                prop_assert_eq!((outcome, patience), (LockOutcome::Interrupted, Patience::Forever));
            }
        }
    }
}

#[test]
fn what_is_taken_before_a_failure_is_given_back_and_nothing_else() {
    let thread = Thread {
        held: RefCell::new(as_map(&needs(&[2, 0, 1, 2]))),
        busy: needs(&[0, 0, 0, 0, 1]).iter().map(|need| need.sid).collect(),
        stop_after: Cell::new(0),
        lost_any: Cell::new(false),
    };
    // Nothing new before the one that fails: so nothing at all may be released.
    let failed =
        switch_locks(&needs(&[2, 0, 1, 2]), &needs(&[1, 0, 1, 2, 2]), &thread, Patience::Until(9));
    assert_eq!(failed.held, Held::Old);
    assert!(!thread.lost_any.get());
}
