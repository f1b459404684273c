//! Order, time-outs, stopping, and pages with arbitrary content.

use super::death::{Event, World, lease};
use super::*;
use crate::entry::{Entry, Want};
use crate::waiter;
use proptest::prelude::*;

/// Lets a queued thread go on from where [`World::queue`] left it.
pub(super) fn enter(world: &World, vm: u32, want: Want, index: usize, entry: Entry) -> LockOutcome {
    waiter::resume(world.queue_mutex(vm), member(vm), want, index, entry)
}

fn wait_and_enter(world: &World, vm: u32, want: Want, index: usize, entry: Entry) {
    assert_eq!(enter(world, vm, want, index, entry), LockOutcome::Acquired);
}

pub(super) fn is_granted(world: &World, (index, entry): (usize, Entry)) -> bool {
    world.page.load(index) == entry.granted().raw()
}

#[test]
fn writers_go_in_order_and_waiting_readers_after_the_next_writer() {
    let world = World::new(true);
    world.take(0, Mode::Exclusive);
    let wants = [Want::Exclusive, Want::Exclusive, Want::Shared, Want::Exclusive, Want::Shared];
    let queued = wants.map(|want| world.queue(1, want));
    let going = || queued.map(|place| is_granted(&world, place));
    assert_eq!(going(), [false; 5]);
    world.give(0, Mode::Exclusive);
    assert_eq!(going(), [true, false, false, false, false]);
    let go_in =
        |place: usize| wait_and_enter(&world, 1, wants[place], queued[place].0, queued[place].1);
    go_in(0);
    world.give(1, Mode::Exclusive);
    assert_eq!(going(), [false, false, true, false, true], "all readers that wait, as a batch");
    let late = world.queue(2, Want::Shared);
    go_in(2);
    go_in(4);
    assert!(!is_granted(&world, late), "a reader that comes later does not pass the writer");
    world.give(1, Mode::Shared);
    assert_eq!(going(), [false; 5]);
    world.give(1, Mode::Shared);
    assert_eq!(going(), [false, true, false, false, false]);
    go_in(1);
    world.give(1, Mode::Exclusive);
    assert!(is_granted(&world, late));
    wait_and_enter(&world, 2, Want::Shared, late.0, late.1);
    world.give(2, Mode::Shared);
    go_in(3);
    world.give(1, Mode::Exclusive);
    assert_eq!(world.page.load(word::STATE), state::READERS);
}

#[test]
fn time_runs_out_on_time_and_leaves_no_trace() {
    let world = World::new(true);
    world.take(1, Mode::Exclusive);
    let before = snapshot(&world.page);
    for mode in [Mode::Shared, Mode::Exclusive] {
        assert_eq!(world.try_take(0, mode, Patience::Try), LockOutcome::WouldBlock);
        let start = world.now.get();
        assert_eq!(
            world.try_take(0, mode, Patience::Until(start + 1_500_000_000)),
            LockOutcome::TimedOut
        );
        assert_eq!(world.now.get(), start + 1_500_000_000);
    }
    let mut after = snapshot(&world.page);
    after[word::TICKET] = before[word::TICKET];
    assert!(after == before);
}

#[test]
fn a_stopped_thread_leaves_the_queue_and_lets_others_pass() {
    let world = World::new(true);
    world.take(1, Mode::Shared);
    world.stop.set(true);
    assert_eq!(world.try_take(0, Mode::Exclusive, Patience::Forever), LockOutcome::Interrupted);
    world.stop.set(false);
    assert_eq!(world.page.load(word::STATE), state::READERS);
    world.take(2, Mode::Shared);
}

#[test]
fn an_upgrade_waits_for_other_readers_only() {
    let world = World::new(true);
    world.take(0, Mode::Shared);
    let writer = world.queue(2, Want::Exclusive);
    let upgrade_of =
        |vm: u32, patience| upgrade(&world.page, &world, member(vm), lease(vm), patience);
    assert_eq!(
        upgrade_of(0, Patience::Try),
        LockOutcome::Acquired,
        "ahead of writers, which wait for it"
    );
    downgrade(&world.page, &world, member(0), lease(0));
    world.give(0, Mode::Shared);
    wait_and_enter(&world, 2, Want::Exclusive, writer.0, writer.1);
    world.give(2, Mode::Exclusive);
    world.take(0, Mode::Shared);
    world.take(1, Mode::Shared);
    assert_eq!(upgrade_of(0, Patience::Try), LockOutcome::WouldBlock);
    world.events.borrow_mut().extend([Event::Nothing, Event::Release(1, Mode::Shared)]);
    assert_eq!(upgrade_of(0, Patience::Forever), LockOutcome::Acquired);
    let view = inspect(&world.page);
    assert_eq!((view.owner_lease(), view.readers[0]), (Some(lease(0)), 0));
}

#[test]
fn members_run_out_and_those_of_the_dead_come_back() {
    let world = World::new(true);
    for number in 3..MAX_MEMBERS as u32 {
        assert_eq!(join(&world.page, &world, lease(number)), Ok(member(number)));
    }
    assert_eq!(join(&world.page, &world, lease(7)), Ok(member(7)), "once is enough");
    assert_eq!(join(&world.page, &world, lease(99)), Err(JoinError::Full));
    world.take(40, Mode::Shared);
    assert!(!try_acquire_fast(&world.page, member(0), Mode::Exclusive), "no reader is overlooked");
    world.dead.borrow_mut().push(lease(40));
    assert_eq!(join(&world.page, &world, lease(99)), Ok(member(40)));
    world.take(0, Mode::Exclusive);
}

#[test]
fn a_full_queue_keeps_nobody_out_for_good() {
    let world = World::new(true);
    world.take(1, Mode::Exclusive);
    let queued: Vec<_> =
        (word::QUEUE..word::QUEUE_END).map(|_| world.queue(2, Want::Shared)).collect();
    assert_eq!(
        world.try_take(0, Mode::Exclusive, Patience::Until(90_000_000)),
        LockOutcome::TimedOut
    );
    world.dead.borrow_mut().push(lease(2));
    world.events.borrow_mut().extend([Event::Nothing, Event::Release(1, Mode::Exclusive)]);
    assert_eq!(queued.len(), 376);
    let soon = Patience::Until(world.now.get() + 1_000_000_000);
    assert_eq!(world.try_take(0, Mode::Exclusive, soon), LockOutcome::Acquired);
}

#[test]
fn a_reset_keeps_what_is_known_of_the_content() {
    let world = World::new(true);
    world.take(1, Mode::Shared);
    assert!(!reset(&world.page));
    assert!(snapshot(&world.page).iter().all(|&word| word == 0));
    let world = World::new(false);
    world.take(1, Mode::Exclusive);
    assert!(!recover(&world.page, member(0)), "only the holder says so");
    assert!(reset(&world.page) && reset(&world.page));
    join(&world.page, &world, lease(0)).unwrap();
    assert_eq!(world.try_take(0, Mode::Exclusive, Patience::Try), LockOutcome::OwnerDied);
    assert!(recover(&world.page, member(0)));
    mark_inconsistent(&world.page);
    world.give(0, Mode::Exclusive);
    assert_eq!(world.try_take(0, Mode::Shared, Patience::Try), LockOutcome::OwnerDied);
}

proptest! {
    #[test]
    fn nonsense_in_the_page_neither_crashes_nor_hangs(
        scribbles in proptest::collection::vec(
            (prop_oneof![0usize..8, 8usize..76, 136usize..144, 0usize..WORDS], prop_oneof![any::<u64>(), 0u64..0x1000, Just(u64::MAX)]),
            1..40,
        ),
        dead in any::<bool>(),
    ) {
        let world = World::new(true);
        if dead {
            world.dead.borrow_mut().push(lease(1));
        }
        for (index, value) in scribbles {
            world.page.store(index, value);
        }
        for mode in [Mode::Shared, Mode::Exclusive] {
            for patience in [Patience::Try, Patience::Until(world.now.get() + 1_000_000_000)] {
                let start = world.now.get();
                if world.try_take(0, mode, patience).is_held() {
                    world.give(0, mode);
                }
                prop_assert!(world.now.get() <= start + 1_100_000_000);
            }
        }
        let _ = inspect(&world.page);
        let start = world.now.get();
        let _ = join(&world.page, &world, lease(5));
        prop_assert!(world.now.get() <= start + 11_000_000_000);
    }
}
