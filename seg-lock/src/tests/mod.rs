//! The lock on a plain array of atomics, without waiting. Death, threads and the order of a switch
//! have their own files.

mod death;
mod queueing;
mod switches;

use super::*;
use crate::uncontended::try_acquire_short;
use abi::switch::LockRef;
use std::sync::atomic::AtomicU64;

pub(crate) struct Page(Vec<AtomicU64>);

impl Page {
    pub(crate) fn new(initial: u64) -> Page {
        let page = Page((0..WORDS).map(|_| AtomicU64::new(0)).collect());
        page.store(word::STATE, initial);
        page.store(word::MEMBERS_USED, MAX_MEMBERS as u64);
        page
    }
}

impl AtomicWords for Page {
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }
}

fn member(raw: u32) -> Member {
    Member::new(raw).unwrap()
}

/// All of the page but the count of scans for readers, which is a hint: a switch that acquires a
/// lock and has to release it has scanned, too.
fn snapshot(page: &Page) -> Vec<u64> {
    (0..WORDS).filter(|&index| index != word::SCANS).map(|index| page.load(index)).collect()
}

#[test]
fn readers_share_and_writers_are_alone() {
    let page = Page::new(state::READERS);
    for reader in [0, 1, 63, 0] {
        assert!(try_acquire_fast(&page, member(reader), Mode::Shared));
    }
    let held = snapshot(&page);
    assert!(!try_acquire_fast(&page, member(5), Mode::Exclusive));
    assert_eq!(snapshot(&page), held, "a failed try changes nothing");
    for reader in [0, 1, 63, 0] {
        assert!(release_fast(&page, member(reader), Mode::Shared));
    }
    assert!(try_acquire_fast(&page, member(63), Mode::Exclusive));
    let held = snapshot(&page);
    for mode in [Mode::Shared, Mode::Exclusive] {
        assert!(!try_acquire_fast(&page, member(63), mode));
        assert!(!try_acquire_fast(&page, member(0), mode));
    }
    assert_eq!(snapshot(&page), held, "a failed try changes nothing");
    assert!(release_fast(&page, member(63), Mode::Exclusive));
    assert_eq!(page.load(word::STATE), state::READERS);
}

#[test]
fn a_lock_without_readers_lets_writers_in_and_readers_not() {
    let page = Page::new(0);
    assert!(!try_acquire_fast(&page, member(3), Mode::Shared));
    assert!(try_acquire_fast(&page, member(3), Mode::Exclusive));
    assert!(!try_acquire_fast(&page, member(4), Mode::Exclusive));
    assert!(release_fast(&page, member(3), Mode::Exclusive));
    assert_eq!(page.load(word::STATE), 0);
}

#[test]
fn writers_stop_looking_for_readers_that_have_gone_and_the_next_reader_is_told_to_wait_its_turn() {
    let page = Page::new(state::READERS);
    for turn in 1..=3 {
        for look in 1..=SCANS_PER_CLEAR {
            assert!(try_acquire_fast(&page, member(1), Mode::Exclusive), "{turn}, {look}");
            let mark = if look == SCANS_PER_CLEAR { 0 } else { state::READERS };
            assert_eq!(page.load(word::STATE), member(1).owner() | mark, "{turn}, {look}");
            // A thread that comes while it is inside stays out.
            assert!(!try_acquire_fast(&page, member(2), Mode::Shared));
            assert!(release_fast(&page, member(1), Mode::Exclusive));
            assert_eq!(page.load(word::STATE), mark, "{turn}, {look}");
        }
        // The shortest path, without a scan.
        assert!(try_acquire_short(&page, member(1), Mode::Exclusive));
        assert!(release_fast(&page, member(1), Mode::Exclusive));
        // Readers come back through the queue, which sets the mark again.
        assert!(!try_acquire_fast(&page, member(2), Mode::Shared));
        page.fetch_or(word::STATE, state::READERS);
        assert!(try_acquire_fast(&page, member(2), Mode::Shared));
        // A failed scan does not count: it has found a reader.
        assert!(!try_acquire_fast(&page, member(1), Mode::Exclusive));
        assert_eq!(page.load(word::SCANS), 0);
        assert!(release_fast(&page, member(2), Mode::Shared));
    }
}

#[test]
fn waiters_and_inconsistency_send_everybody_the_long_way() {
    for flag in [state::WAITERS, state::INCONSISTENT] {
        for initial in [flag, flag | state::READERS] {
            let page = Page::new(initial);
            for mode in [Mode::Shared, Mode::Exclusive] {
                assert!(!try_acquire_fast(&page, member(0), mode));
                assert_eq!(page.load(word::STATE), initial);
            }
        }
    }
}

#[test]
fn a_release_tells_of_waiters() {
    for mode in [Mode::Shared, Mode::Exclusive] {
        let page = Page::new(state::READERS);
        assert!(try_acquire_fast(&page, member(2), mode));
        page.fetch_or(word::STATE, state::WAITERS);
        assert!(!release_fast(&page, member(2), mode));
        assert_eq!(page.load(word::STATE), state::READERS | state::WAITERS);
    }
}

fn lock_refs(locks: &[(u64, bool)]) -> Vec<LockRef> {
    locks
        .iter()
        .map(|&(page, exclusive)| LockRef { page, slot: 7, exclusive: exclusive.into() })
        .collect()
}

#[test]
fn a_fast_switch_exchanges_all_locks_or_none() {
    const PAGES: usize = 4;
    // Each lock: in neither list, or shared or exclusive in one, or combinations; 9^4 cases,
    // each free of others, or one lock held by another VM.
    let mut refused = 0;
    for case in 0..9usize.pow(PAGES as u32) {
        let kind = |page: usize| case / 9usize.pow(page as u32) % 9;
        let list = |which: fn(usize) -> usize| {
            let named = (0..PAGES).filter(|&page| which(kind(page)) > 0);
            lock_refs(&named.map(|page| (page as u64, which(kind(page)) == 2)).collect::<Vec<_>>())
        };
        let (old, new) = (list(|kind| kind % 3), list(|kind| kind / 3));
        for other in 0..=PAGES {
            let pages: Vec<Page> = (0..PAGES)
                .map(|page| Page::new(if page % 2 == 0 { state::READERS } else { 0 }))
                .collect();
            for lock in &old {
                pages[lock.page as usize].fetch_or(word::STATE, state::READERS);
            }
            let words_of = |page: u64| &pages[page as usize];
            assert_eq!(switch_locks_fast(&[], &old, words_of), (LockOutcome::Acquired, false));
            if let Some(page) = pages.get(other) {
                try_acquire_fast(page, member(9), Mode::Exclusive);
            }
            let before: Vec<_> = pages.iter().map(snapshot).collect();
            let result = switch_locks_fast(&old, &new, words_of);
            if result == (LockOutcome::WouldBlock, false) {
                assert!(before == pages.iter().map(snapshot).collect::<Vec<_>>());
                refused += 1;
                continue;
            }
            assert_eq!(result, (LockOutcome::Acquired, false));
            for (number, page) in pages.iter().enumerate() {
                let wanted = new.iter().find(|lock| lock.page == number as u64);
                let owner =
                    if number == other && before[number][0] & state::OWNER == 10 { 10 } else { 0 };
                let (owner, readers) = wanted
                    .map_or((owner, 0), |lock| if lock.exclusive == 1 { (8, 0) } else { (0, 1) });
                assert_eq!(
                    page.load(word::STATE) & (state::OWNER | state::CLAIM),
                    owner,
                    "case {case}"
                );
                assert_eq!(page.load(member(7).reader_count()), readers, "case {case}");
            }
        }
    }
    assert!(refused > 0);
}
