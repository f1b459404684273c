//! Threads that want the guest alone, of the host's scheduler; in every order they are under loom (`seg-lock/tests/alone.rs`).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::alone::Alone;

#[test]
fn whoever_is_alone_meets_nobody_and_all_get_their_turns() {
    let gate = Alone::default();
    let (inside, kicked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for tid in 0..4 {
            let (gate, inside, kicked) = (&gate, &inside, &kicked);
            scope.spawn(move || {
                for turn in 0..500 {
                    let alone = (turn + tid) % 5 == 0;
                    let kick = |others: &std::collections::BTreeSet<i32>| {
                        assert!(!others.contains(&tid));
                        kicked.fetch_add(1, Ordering::SeqCst);
                    };
                    assert!(gate.enter(tid, alone, kick, || false));
                    let before = inside.fetch_add(1, Ordering::SeqCst);
                    assert!(!alone || before == 0);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(gate.leave(tid), alone);
                }
            });
        }
    });
}

#[test]
fn nobody_waits_in_a_process_that_is_ending() {
    let gate = Alone::default();
    assert!(gate.enter(1, false, |_| (), || false));
    let stopping = AtomicBool::new(false);
    let told = |others: &std::collections::BTreeSet<i32>| {
        assert!(others.contains(&1));
        stopping.store(true, Ordering::SeqCst);
    };
    assert!(!gate.enter(2, true, told, || stopping.load(Ordering::SeqCst)));
    // It has given up its place.
    assert!(gate.enter(3, false, |_| (), || false));
}
