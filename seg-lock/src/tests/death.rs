//! A VM dies at every single access to the page that it makes, whatever it is doing; a survivor
//! then gets the lock with the right verdict and finds nothing left behind.

use super::*;
use crate::entry::{Entry, Want};
use crate::queue::QueueMutex;
use crate::waiter::reap_and_dispatch;
use abi::LeaseId;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What another VM does while the one under test sleeps.
#[derive(Clone, Copy)]
pub(super) enum Event {
    Release(u32, Mode),
    /// All these VMs die.
    Die(&'static [u32]),
    Nothing,
}

/// A host with a clock that only sleeping moves.
pub(super) struct World {
    pub(super) page: Page,
    pub(super) now: Cell<u64>,
    pub(super) dead: RefCell<Vec<LeaseId>>,
    /// When [`Event::Die`] came.
    died: Cell<Option<u64>>,
    pub(super) events: RefCell<VecDeque<Event>>,
    pub(super) stop: Cell<bool>,
}

/// The lease of the VM that has member `number`.
pub(super) fn lease(number: u32) -> LeaseId {
    LeaseId::new(0x7000_0000_0000_0100 + u64::from(number)).unwrap()
}

impl World {
    /// A page with members for VMs 0, 1, 2.
    pub(super) fn new(readers_seen: bool) -> World {
        let world = World {
            page: Page::new(0),
            now: Cell::new(1),
            dead: RefCell::default(),
            died: Cell::new(None),
            events: RefCell::default(),
            stop: Cell::new(false),
        };
        reset(&world.page);
        for number in 0..3 {
            assert_eq!(join(&world.page, &world, lease(number)), Ok(member(number)));
        }
        assert_eq!(world.page.load(word::STATE), 0);
        if readers_seen {
            world.take(0, Mode::Shared);
            world.give(0, Mode::Shared);
            assert_eq!(world.page.load(word::STATE), state::READERS);
        }
        world
    }

    pub(super) fn take(&self, number: u32, mode: Mode) {
        assert_eq!(self.try_take(number, mode, Patience::Try), LockOutcome::Acquired);
    }

    pub(super) fn try_take(&self, number: u32, mode: Mode, patience: Patience) -> LockOutcome {
        acquire(&self.page, self, member(number), lease(number), mode, patience)
    }

    pub(super) fn give(&self, number: u32, mode: Mode) {
        release(&self.page, self, member(number), lease(number), mode);
    }

    pub(super) fn queue_mutex(&self, number: u32) -> QueueMutex<'_, Page, World> {
        QueueMutex { words: &self.page, host: self, me: lease(number) }
    }

    /// Puts a thread of VM `number` into the queue without running it further.
    pub(super) fn queue(&self, number: u32, want: Want) -> (usize, Entry) {
        let queued = self.queue_mutex(number).with(None, |guard| {
            let queued = guard.enqueue(want, member(number)).unwrap();
            guard.dispatch();
            queued
        });
        queued.unwrap()
    }

    fn sleep(&self, nanoseconds: u64) {
        let began = self.now.get();
        self.now.set(began + nanoseconds);
        let event = self.events.borrow_mut().pop_front();
        match event {
            Some(Event::Release(number, mode)) => self.give(number, mode),
            Some(Event::Die(numbers)) => {
                self.dead.borrow_mut().extend(numbers.iter().copied().map(lease));
                self.died.set(Some(began));
            }
            Some(Event::Nothing) | None => {}
        }
    }
}

impl Waiting for World {
    fn wait(&self, index: usize, expected: u32, timeout_ns: u64) {
        assert!(timeout_ns <= 100_000_000, "a sleep is short");
        if self.page.load(index) as u32 == expected {
            self.sleep(timeout_ns);
        }
    }
    fn wake(&self, _: usize, _: u32) {}
    fn pause(&self, timeout_ns: u64) {
        self.sleep(timeout_ns);
    }
    fn is_alive(&self, lease: LeaseId) -> bool {
        // Numbers that were never a lease are no live VM's.
        let known = lease.raw() >> 8 == super::death::lease(0).raw() >> 8;
        known && !self.dead.borrow().contains(&lease)
    }
    fn should_stop(&self) -> bool {
        self.stop.get()
    }
    fn now_ns(&self) -> u64 {
        self.now.get()
    }
    fn spins(&self) -> u32 {
        2
    }
}

/// The page as a VM sees it that dies at a given access, and what an outside observer makes of
/// its accesses: whether it is inside exclusively.
pub(super) struct Mortal<'a> {
    page: &'a Page,
    owner: u64,
    left: Cell<usize>,
    inside: Cell<bool>,
}

struct Died;

impl Mortal<'_> {
    fn step(&self) {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            // No panic message: dying is what is asked for.
            None => resume_unwind(Box::new(Died)),
        }
    }

    fn is_owner(&self) -> bool {
        self.page.load(word::STATE) & state::OWNER == self.owner
    }
}

impl LockWords for Mortal<'_> {
    fn load(&self, index: usize) -> u64 {
        self.step();
        self.page.load(index)
    }
    fn store(&self, index: usize, value: u64) {
        self.step();
        self.page.store(index, value);
    }
    fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.step();
        let done = self.page.compare_exchange(index, old, new);
        if done.is_ok() {
            let takes_state =
                index == word::STATE && new & (state::OWNER | state::CLAIM) == self.owner;
            let leaves_queue = index >= word::QUEUE && new == 0 && self.is_owner();
            if takes_state || leaves_queue {
                self.inside.set(true);
            }
        }
        done
    }
    fn fetch_add(&self, index: usize, delta: u64) -> u64 {
        self.step();
        self.page.fetch_add(index, delta)
    }
    fn fetch_sub(&self, index: usize, delta: u64) -> u64 {
        self.step();
        if index == word::STATE && self.is_owner() {
            self.inside.set(delta & state::OWNER == 0);
        }
        self.page.fetch_sub(index, delta)
    }
    fn fetch_or(&self, index: usize, bits: u64) -> u64 {
        self.step();
        self.page.fetch_or(index, bits)
    }
    fn fetch_and(&self, index: usize, bits: u64) -> u64 {
        self.step();
        self.page.fetch_and(index, bits)
    }
    fn swap(&self, index: usize, value: u64) -> u64 {
        self.step();
        self.page.swap(index, value)
    }
}

/// A survivor gets the lock in either mode, is told `inconsistent`, can recover, and leaves a page
/// on which the fast paths work.
fn survivors_go_on(world: &World, inconsistent: bool, case: &str) {
    let verdict = if inconsistent { LockOutcome::OwnerDied } else { LockOutcome::Acquired };
    let soon = || Patience::Until(world.now.get() + 1_000_000_000);
    for mode in [Mode::Shared, Mode::Exclusive, Mode::Shared] {
        assert_eq!(world.try_take(1, mode, soon()), verdict, "{case}, {mode:?}");
        let view = inspect(&world.page);
        assert_eq!(view.owner, (mode == Mode::Exclusive).then_some(member(1)), "{case}");
        assert_eq!(view.readers[1], u64::from(mode == Mode::Shared), "{case}");
        world.give(1, mode);
    }
    assert_eq!(
        join(&world.page, world, lease(9)),
        Ok(member(0)),
        "{case}: the member is free again"
    );
    let view = inspect(&world.page);
    assert_eq!((view.inconsistent, view.readers), (inconsistent, [0; MAX_MEMBERS]), "{case}");
    assert_eq!(world.try_take(2, Mode::Exclusive, soon()), verdict, "{case}");
    assert!(recover(&world.page, member(2)));
    world.give(2, Mode::Exclusive);
    assert_eq!(world.page.load(word::STATE) & !state::READERS, 0, "{case}: no thread waits");
    assert_eq!(world.page.load(word::MUTEX), 0, "{case}");
}

/// Lets VM 0 do `work` once for every access it makes, and die there. `prepare` sets the situation
/// up and returns whether the VM is inside, and whether the content is inconsistent already.
fn die_everywhere(
    name: &str,
    prepare: impl Fn(&World) -> (bool, bool),
    work: impl Fn(&Mortal<'_>, &World),
    rest: impl Fn(&World),
) {
    let mut verdicts = [0, 0];
    // The last: the next writer on the fast path clears the readers' mark.
    for (readers_seen, looked) in [(false, 0), (true, 0), (true, SCANS_PER_CLEAR - 1)] {
        for accesses in 0.. {
            assert!(accesses < 100_000, "{name} does not end");
            let world = World::new(readers_seen);
            world.page.store(word::SCANS, looked);
            let (inside, inconsistent) = prepare(&world);
            let mortal = Mortal {
                page: &world.page,
                owner: member(0).owner(),
                left: Cell::new(accesses),
                inside: Cell::new(inside),
            };
            let died = catch_unwind(AssertUnwindSafe(|| work(&mortal, &world)));
            let finished = match died {
                Ok(()) => true,
                Err(why) if why.is::<Died>() => false,
                Err(why) => resume_unwind(why),
            };
            world.dead.borrow_mut().push(lease(0));
            rest(&world);
            let inconsistent = inconsistent || mortal.inside.get();
            verdicts[usize::from(inconsistent)] += 1;
            survivors_go_on(
                &world,
                inconsistent,
                &format!("{name}, {readers_seen}, {looked}, death at access {accesses}"),
            );
            if finished {
                break;
            }
        }
    }
    println!("{name}: {verdicts:?} deaths left the content consistent, inconsistent");
}

const CLEAN: (bool, bool) = (false, false);
const FOREVER: Patience = Patience::Forever;

fn in_and_out(mode: Mode, patience: Patience) -> impl Fn(&Mortal<'_>, &World) {
    move |page, world| {
        if acquire(page, world, member(0), lease(0), mode, patience).is_held() {
            assert_eq!(page.inside.get(), mode == Mode::Exclusive);
            release(page, world, member(0), lease(0), mode);
            assert!(!page.inside.get());
        }
    }
}

#[test]
fn death_on_the_short_way_in_or_out() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        die_everywhere("short", |_| CLEAN, in_and_out(mode, FOREVER), |_| ());
    }
}

#[test]
fn death_while_waiting_for_a_holder_and_after() {
    for (mode, held) in [
        (Mode::Exclusive, Mode::Shared),
        (Mode::Exclusive, Mode::Exclusive),
        (Mode::Shared, Mode::Exclusive),
    ] {
        let prepare = |world: &World| {
            world.take(1, held);
            world.events.borrow_mut().extend([Event::Nothing, Event::Release(1, held)]);
            CLEAN
        };
        let rest = |world: &World| {
            // The holder that has not been asked for its release yet.
            if world.events.borrow_mut().drain(..).any(|event| matches!(event, Event::Release(..)))
            {
                world.give(1, held);
            }
        };
        die_everywhere("waiting", prepare, in_and_out(mode, FOREVER), rest);
    }
}

#[test]
fn death_while_trying_in_vain_or_running_out_of_time() {
    for patience in [Patience::Try, Patience::Until(150_000_000)] {
        for mode in [Mode::Shared, Mode::Exclusive] {
            let prepare = |world: &World| {
                world.take(1, Mode::Exclusive);
                CLEAN
            };
            die_everywhere("in vain", prepare, in_and_out(mode, patience), |world| {
                world.give(1, Mode::Exclusive)
            });
        }
    }
}

#[test]
fn death_while_handing_over() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let queued = RefCell::new(Vec::new());
        let prepare = |world: &World| {
            world.take(0, mode);
            let wants = [(1, Want::Exclusive), (2, Want::Shared), (1, Want::Shared)];
            *queued.borrow_mut() =
                wants.map(|(vm, want)| (vm, want, world.queue(vm, want))).to_vec();
            (mode == Mode::Exclusive, false)
        };
        let rest = |world: &World| {
            // In whatever order they are let go: a death can cost a thread its turn.
            let mut waiting = queued.borrow().clone();
            for _ in 0..waiting.len() {
                let looked = world.queue_mutex(1).with(None, reap_and_dispatch);
                assert!(looked.is_ok());
                let goes = |&(_, _, place): &(u32, Want, (usize, Entry))| {
                    super::queueing::is_granted(world, place)
                };
                let next = waiting.iter().position(goes).expect("the lock is granted to one");
                let (vm, want, (index, entry)) = waiting.remove(next);
                assert!(super::queueing::enter(world, vm, want, index, entry).is_held());
                world.give(vm, if want == Want::Shared { Mode::Shared } else { Mode::Exclusive });
            }
        };
        let work =
            |page: &Mortal<'_>, world: &World| release(page, world, member(0), lease(0), mode);
        die_everywhere("handing over", prepare, work, rest);
    }
}

#[test]
fn death_while_repairing() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let prepare = |world: &World| {
            world.take(2, mode);
            world.queue(2, Want::Exclusive);
            world.queue(2, Want::Shared);
            world.dead.borrow_mut().push(lease(2));
            (false, mode == Mode::Exclusive)
        };
        // The dead VM 2 gets a new lease in its member before the survivors' check uses it.
        let rest = |world: &World| {
            let newcomer = join(&world.page, world, lease(3)).unwrap();
            assert!(newcomer == member(0) || newcomer == member(2));
            leave(&world.page, world, newcomer, lease(3));
            world.dead.borrow_mut().retain(|&dead| dead != lease(2));
            world.page.store(word::LEASES + 2, lease(2).raw());
        };
        for patience in [FOREVER, Patience::Try] {
            die_everywhere("repairing", prepare, in_and_out(Mode::Exclusive, patience), rest);
        }
    }
}

#[test]
fn death_with_the_mutex_of_the_dead() {
    let prepare = |world: &World| {
        world.take(1, Mode::Exclusive);
        world.page.store(word::MUTEX, lease(8).raw() << 1);
        world.dead.borrow_mut().push(lease(8));
        world.events.borrow_mut().extend([
            Event::Nothing,
            Event::Nothing,
            Event::Release(1, Mode::Exclusive),
        ]);
        CLEAN
    };
    let rest = |world: &World| {
        if world.events.borrow_mut().drain(..).any(|event| matches!(event, Event::Release(..))) {
            world.give(1, Mode::Exclusive);
        }
        let stolen = world.queue_mutex(1).with(None, reap_and_dispatch);
        assert!(stolen.is_ok());
    };
    die_everywhere("dead mutex", prepare, in_and_out(Mode::Shared, FOREVER), rest);
}

#[test]
fn death_while_changing_the_mode() {
    let up = |page: &Mortal<'_>, world: &World| {
        assert_eq!(upgrade(page, world, member(0), lease(0), FOREVER), LockOutcome::Acquired);
        assert!(page.inside.get());
        downgrade(page, world, member(0), lease(0));
        release(page, world, member(0), lease(0), Mode::Shared);
    };
    let shared = |world: &World| {
        world.take(0, Mode::Shared);
        CLEAN
    };
    die_everywhere("upgrade", shared, up, |_| ());
    let down = |page: &Mortal<'_>, world: &World| downgrade(page, world, member(0), lease(0));
    let exclusive = |world: &World| {
        world.take(0, Mode::Exclusive);
        (true, false)
    };
    die_everywhere("downgrade", exclusive, down, |_| ());
}

#[test]
fn death_while_coming_and_going() {
    let work = |page: &Mortal<'_>, world: &World| {
        leave(page, world, member(0), lease(0));
        assert_eq!(join(page, world, lease(0)), Ok(member(0)));
    };
    die_everywhere("members", |_| CLEAN, work, |_| ());
}

/// What the dead leave to somebody who waits, however long already: by a clock that only sleeping moves, and that has
/// run through the whole sleep in which they die.
#[test]
fn who_waits_when_holders_and_all_before_it_die_has_the_lock_within_a_second() {
    const SECOND: u64 = 1_000_000_000;
    let dead_mutex = |world: &World| world.page.store(word::MUTEX, lease(0).raw() << 1);
    let mut longest = 0;
    for (held, wanted) in [
        (Mode::Exclusive, Mode::Exclusive),
        (Mode::Exclusive, Mode::Shared),
        (Mode::Shared, Mode::Exclusive),
    ] {
        for (slept, with_mutex) in (0..50).flat_map(|slept| [(slept, false), (slept, true)]) {
            let world = World::new(false);
            world.take(0, held);
            // Before it in the queue are those of a VM that dies, too.
            world.queue(2, Want::Exclusive);
            world.queue(2, Want::Shared);
            let mut events = vec![Event::Nothing; slept];
            events.push(Event::Die(&[0, 2]));
            if with_mutex {
                dead_mutex(&world);
            }
            world.events.borrow_mut().extend(events);
            let expected = if held == Mode::Exclusive {
                LockOutcome::OwnerDied
            } else {
                LockOutcome::Acquired
            };
            assert_eq!(world.try_take(1, wanted, FOREVER), expected, "{held:?}, {wanted:?}");
            let died = world.died.get().expect("it cannot have the lock before");
            longest = longest.max(world.now.get() - died);
        }
    }
    assert!((1..=SECOND).contains(&longest), "{longest} ns");
}
