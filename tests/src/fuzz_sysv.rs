//! Questions about System V objects, as a VMM that a program has taken over could ask them.

use std::cell::Cell;
use std::collections::BTreeSet;

use vmm::process_tree::sysv::{Account, Outcome, State, question};
use vmm::process_tree::wire::Writer;

/// So much may be held.
const LIMIT: u64 = 1 << 20;
const CONNECTIONS: u64 = 4;

struct Held(Cell<u64>);

impl Account for Held {
    fn charge(&self, bytes: u64) -> bool {
        let held = self.0.get().checked_add(bytes).filter(|held| *held <= LIMIT);
        self.0.set(held.unwrap_or(self.0.get()));
        held.is_some()
    }

    fn release(&self, bytes: u64) {
        self.0.set(self.0.get().checked_sub(bytes).expect("no more than was charged"));
    }
}

/// Asks what these bytes say: first all of them as one question, then each 8 as one, of small words. Returns how many
/// were answered with success.
///
/// # Panics
/// When more is released than was charged, more calls wait than connections ask, or one is answered twice.
pub fn questions(bytes: &[u8]) -> u32 {
    let (mut state, account) = (State::new(1000, 1000), Held(Cell::new(0)));
    let mut answered = 0;
    let mut waiting = BTreeSet::new();
    let mut ask = |state: &mut State, connection: u64, text: &[u8], ends: bool| {
        let pid = connection as i32 + 1;
        match state.ask(&account, (connection, pid), text) {
            Outcome::Done(answer, _) => answered += u32::from(answer.is_ok()),
            Outcome::Waits => assert!(waiting.insert(connection), "it waits already"),
        }
        if text.first() == Some(&(question::CANCEL as u8)) {
            waiting.remove(&connection);
        }
        if ends {
            state.end_of(&account, pid);
            waiting.remove(&connection);
        }
        for (connection, ..) in state.settle(&account) {
            assert!(waiting.remove(&connection), "nobody waits for this answer");
        }
        assert!(state.waiting() <= waiting.len(), "more wait than ask");
    };
    ask(&mut state, 0, bytes, false);
    for step in bytes.chunks_exact(8) {
        let small = |at: usize| u64::from(step[at]);
        let mut text = Writer::default();
        // Of ids and keys there are few, so that questions meet.
        let (what, id, number) = (small(0) % 16, small(1) % 3, small(2) % 4);
        let flags = [0o1600, 0o600, 0o3600, 0o4000, 0][step[3] as usize % 5];
        match what {
            question::SHM_GET => text.words(&[what, id, number * 5000, flags]),
            question::SEM_GET => text.words(&[what, id, number, flags]),
            question::MSG_GET => text.words(&[what, id, flags]),
            question::SEM_OPERATE => {
                let add = i64::from(step[4] as i8) % 3;
                text.words(&[what, id, 1, number, add as u64, flags & 0o14000]);
            }
            question::MSG_SEND => {
                text.words(&[what, id, number, flags & 0o4000]);
                text.bytes(&[0; 8192][..usize::from(step[4]) * 32]);
            }
            question::MSG_RECEIVE => text.words(&[what, id, 8192, number, flags & 0o4000]),
            question::SEM_CONTROL => {
                text.words(&[what, id, number, small(4) % 20, 1, small(5) % 3])
            }
            question::MSG_CONTROL | question::SHM_CONTROL => {
                text.words(&[what, id, small(4) % 17, 1000, 1000, 0o600, 8192]);
            }
            _ => text.words(&[what, id, number, small(4)]),
        }
        ask(&mut state, small(7) % CONNECTIONS, &text.finish(), step[7] == 255);
    }
    for connection in 0..CONNECTIONS {
        state.forget(&account, connection);
        state.end_of(&account, connection as i32 + 1);
    }
    assert_eq!(state.waiting(), 0, "a call waits for ever");
    answered
}
