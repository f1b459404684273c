//! `vas_switch` between instances whose segments are locked: the part that the kernel does.

use abi::GuestPhys;
use abi::layout::{LOCK_PAGES, MAX_LOCK_PAGES};
use abi::switch::{InstanceEntry, LockRef};
use seg_lock::{state, word};
use tests::skip_without_kvm;
use vmm::vm::Exit;

use crate::switch::{END, PLACE, Switcher, read_place, switch_to};

const OWN_SLOT: u32 = 3;
const OTHER_SLOT: u64 = 9;

/// Instances that need locks: for each handle from 1 on, numbers of lock pages and whether the
/// lock is exclusive.
pub(crate) struct Locked {
    pub(crate) s: Switcher,
    pages: Vec<GuestPhys>,
}

impl Locked {
    pub(crate) fn new(pages: u32, needs: &[&[(u32, bool)]]) -> Locked {
        Locked::on(Switcher::new(needs.len() as u32), pages, needs)
    }

    pub(crate) fn on(s: Switcher, pages: u32, needs: &[&[(u32, bool)]]) -> Locked {
        let switch = s.bench.kernel.switch.clone();
        let pages = (0..pages).map(|page| switch.map_lock_page(page).unwrap()).collect();
        let mut next = 10;
        for (vh, (need, entry)) in (1..).zip(needs.iter().zip(&s.entries)) {
            let refs: Vec<LockRef> = need
                .iter()
                .map(|&(page, exclusive)| LockRef {
                    page: LOCK_PAGES.raw() + u64::from(page) * 4096,
                    slot: OWN_SLOT,
                    exclusive: exclusive.into(),
                })
                .collect();
            switch.set_lock_list(next, &refs, entry.cr3, entry.generation).unwrap();
            let (lock_first, lock_count) = (next, refs.len() as u32);
            let entry = InstanceEntry { lock_first, lock_count, ..*entry };
            switch.set_instance(vh, &entry, true).unwrap();
            next += lock_count + 1;
        }
        let locked = Locked { s, pages };
        for page in 0..locked.pages.len() {
            locked.set(page, word::MEMBERS_USED, 16);
            locked.set(page, word::STATE, state::READERS);
        }
        locked
    }

    fn set(&self, page: usize, word: usize, value: u64) {
        self.s.bench.machine.mem.store(self.pages[page].offset(word as u64 * 8), value).unwrap();
    }

    fn get(&self, page: usize, word: usize) -> u64 {
        self.s.bench.machine.mem.load(self.pages[page].offset(word as u64 * 8)).unwrap()
    }

    /// Owner and this VM's readers of a lock.
    fn lock(&self, page: usize) -> (u64, u64) {
        let owner = self.get(page, word::STATE) & (state::OWNER | state::CLAIM);
        (owner, self.get(page, word::READER_COUNTS + OWN_SLOT as usize))
    }

    /// Switches in the kernel and reads the word at the address that all instances have.
    #[track_caller]
    fn switch(&mut self, vh: u32) {
        let code = [&switch_to(vh)[..], &read_place(12), &END].concat();
        let code = if vh == 0 { [&switch_to(0)[..], &END].concat() } else { code };
        self.s.bench.load(&code);
        self.s.bench.vcpu.regs.rbx = PLACE;
        self.s.bench.run_to(6);
        let regs = self.s.bench.vcpu.regs;
        assert_eq!((regs.rax, self.s.current()), (0, vh));
        if vh != 0 {
            assert_eq!(regs.r12, 0x1111 * u64::from(vh));
        }
    }

    fn held(&self) -> u32 {
        self.s.bench.kernel.switch.held_locks(0).unwrap().1
    }
}

const FREE: (u64, u64) = (0, 0);
/// For a lock that readers use, too, and for one that they do not.
const FREE_STATES: [u64; 2] = [state::READERS, 0];
const MINE: (u64, u64) = (OWN_SLOT as u64 + 1, 0);
const READING: (u64, u64) = (0, 1);

#[test]
fn locks_are_taken_on_the_way_in_and_given_back_on_the_way_out() {
    skip_without_kvm!();
    let needs: [&[(u32, bool)]; 3] = [&[(0, true)], &[(0, false), (1, true)], &[]];
    let mut l = Locked::new(2, &needs);
    for _ in 0..3 {
        l.switch(1);
        assert_eq!((l.lock(0), l.lock(1), l.held()), (MINE, FREE, 1));
        // To itself: nothing changes.
        l.switch(1);
        assert_eq!((l.lock(0), l.lock(1), l.held()), (MINE, FREE, 1));
        l.switch(0);
        assert_eq!((l.lock(0), l.lock(1), l.held()), (FREE, FREE, 0));
        l.switch(2);
        assert_eq!((l.lock(0), l.lock(1), l.held()), (READING, MINE, 2));
        // Without locks, not via home.
        l.switch(3);
        assert_eq!((l.lock(0), l.lock(1), l.held()), (FREE, FREE, 0));
    }
    // The same with a lock used only by writers, whose path is shorter.
    l.set(0, word::STATE, 0);
    l.switch(1);
    assert_eq!((l.lock(0), l.get(0, word::STATE) & state::READERS), (MINE, 0));
    l.switch(0);
    assert_eq!(l.get(0, word::STATE), 0);
}

#[test]
fn locks_of_both_instances_stay_held_and_a_change_of_mode_is_the_vmms() {
    skip_without_kvm!();
    let needs: [&[(u32, bool)]; 4] = [
        &[(0, true), (1, false), (2, true)],
        &[(1, false), (2, true), (3, false)],
        &[(2, false)],
        &[(0, false), (1, false), (2, false), (3, false)],
    ];
    let mut l = Locked::new(4, &needs);
    let locks = |l: &Locked| [l.lock(0), l.lock(1), l.lock(2), l.lock(3)];
    l.switch(1);
    assert_eq!(locks(&l), [MINE, READING, MINE, FREE]);
    l.switch(2);
    assert_eq!(locks(&l), [FREE, READING, MINE, READING]);
    for other_mode in [3, 4] {
        l.s.refused(other_mode);
        assert_eq!((locks(&l), l.held()), ([FREE, READING, MINE, READING], 3));
    }
    l.switch(1);
    l.switch(0);
    assert_eq!((locks(&l), l.held()), ([FREE; 4], 0));
    l.switch(4);
    assert_eq!(locks(&l), [READING; 4]);
}

#[test]
fn a_lock_that_is_not_free_leaves_everything_to_the_vmm_as_it_was() {
    skip_without_kvm!();
    let needs: [&[(u32, bool)]; 2] = [&[(0, true), (1, false), (2, true)], &[(3, true)]];
    let mut l = Locked::new(4, &needs);
    let other_reads = word::READER_COUNTS + OTHER_SLOT as usize;
    let busy = [
        (2, word::STATE, OTHER_SLOT + 1),
        (1, word::STATE, OTHER_SLOT + 1),
        (2, word::STATE, state::WAITERS),
        (0, word::STATE, state::INCONSISTENT),
        (2, other_reads, 1),
    ];
    for from in [0, 2] {
        l.switch(from);
        for (page, at, value) in busy {
            let was = l.get(page, at);
            l.set(page, at, value);
            let before: Vec<_> = (0..4).map(|page| l.lock(page)).collect();
            l.s.refused(1);
            let after: Vec<_> = (0..4).map(|page| l.lock(page)).collect();
            assert_eq!((after, l.held()), (before, u32::from(from != 0)));
            assert_eq!(l.get(page, at), value);
            l.set(page, at, was);
        }
    }
    l.switch(1);
    assert_eq!(l.lock(3), FREE);
}

#[test]
fn who_waits_for_a_lock_given_back_is_made_known_to_the_vmm() {
    skip_without_kvm!();
    for free in FREE_STATES {
        let mut l = Locked::new(1, &[&[(0, true)]]);
        l.set(0, word::STATE, free);
        let machine = l.s.bench.machine.clone();
        let switch = l.s.bench.kernel.switch.clone();
        l.switch(1);
        assert_eq!(switch.take_waited_for(0).unwrap(), None);
        l.set(0, word::STATE, l.get(0, word::STATE) | state::WAITERS);
        let refs = switch.held_locks(0).unwrap();
        l.s.bench.load(&[&switch_to(0)[..], &END].concat());
        let exit = l.s.bench.run();
        assert!(matches!(exit, Exit::Call(_)), "{exit:x?}");
        // The switch is made.
        assert_eq!((l.s.current(), l.s.root(), l.held()), (0, machine.home_root(), 0));
        assert_eq!((l.s.bench.vcpu.regs.rdi, l.lock(0)), (0, FREE));
        assert_eq!(switch.take_waited_for(0).unwrap(), Some(refs));
        assert_eq!(switch.take_waited_for(0).unwrap(), None);
        l.s.bench.vcpu.regs.rax = 0;
        l.s.bench.run_to(6);
    }
}

#[test]
fn one_lock_of_writers_only_is_taken_and_given_back_whatever_comes_between() {
    skip_without_kvm!();
    let mut l = Locked::new(2, &[&[(0, true)], &[(1, true)], &[]]);
    let switch = l.s.bench.kernel.switch.clone();
    (0..2).for_each(|page| l.set(page, word::STATE, 0));
    let locks = |l: &Locked| (l.lock(0), l.lock(1), l.held());
    for _ in 0..3 {
        l.switch(1);
        assert_eq!(locks(&l), (MINE, FREE, 1));
        // To the current VAS, directly into another VAS with a lock, into one without, home.
        l.switch(1);
        assert_eq!(locks(&l), (MINE, FREE, 1));
        l.switch(2);
        assert_eq!(locks(&l), (FREE, MINE, 1));
        l.switch(3);
        assert_eq!(locks(&l), (FREE, FREE, 0));
        l.switch(2);
        l.switch(0);
        assert_eq!(locks(&l), (FREE, FREE, 0));
        // A VAS has changed in the meantime: the VMM switches home, and the lock stays held.
        l.switch(1);
        let live = switch.changes().unwrap();
        switch.set_seen(live.wrapping_add(1)).unwrap();
        l.s.refused(0);
        assert_eq!((locks(&l), l.s.current()), ((MINE, FREE, 1), 1));
        switch.set_seen(live).unwrap();
        // An invalid handle, from inside and from home.
        l.s.refused(77);
        assert_eq!(locks(&l), (MINE, FREE, 1));
        l.switch(0);
        l.s.refused(77);
        // Another VM's.
        for taken in [OTHER_SLOT + 1, state::WAITERS, state::INCONSISTENT] {
            l.set(0, word::STATE, taken);
            l.s.refused(1);
            assert_eq!((l.get(0, word::STATE), l.held(), l.s.current()), (taken, 0, 0));
            l.set(0, word::STATE, 0);
        }
    }
    assert_eq!((l.get(0, word::STATE), l.get(1, word::STATE)), (0, 0));
}

#[test]
fn of_many_locks_given_back_all_are_whoever_waits() {
    skip_without_kvm!();
    let needs: &[(u32, bool)] = &[(0, true), (1, false), (2, true), (3, false)];
    for waited_for in 0..4 {
        let mut l = Locked::new(4, &[needs]);
        let switch = l.s.bench.kernel.switch.clone();
        l.switch(1);
        let refs = switch.held_locks(0).unwrap();
        assert_eq!(refs.1, 4);
        l.set(waited_for, word::STATE, l.get(waited_for, word::STATE) | state::WAITERS);
        l.s.bench.load(&[&switch_to(0)[..], &END].concat());
        let exit = l.s.bench.run();
        assert!(matches!(exit, Exit::Call(_)), "{exit:x?}");
        assert_eq!((l.s.current(), l.held()), (0, 0), "{waited_for}");
        assert_eq!([0, 1, 2, 3].map(|page| l.lock(page)), [FREE; 4], "{waited_for}");
        assert_eq!(switch.take_waited_for(0).unwrap(), Some(refs), "{waited_for}");
        l.s.bench.vcpu.regs.rax = 0;
        l.s.bench.run_to(6);
        // The next one is a plain switch again.
        l.set(waited_for, word::STATE, state::READERS);
        l.switch(1);
        l.switch(0);
    }
}

#[test]
fn tables_have_ends() {
    skip_without_kvm!();
    let s = Switcher::new(1);
    let switch = &s.bench.kernel.switch;
    assert!(switch.map_lock_page(MAX_LOCK_PAGES).is_err());
    assert!(switch.map_lock_page(MAX_LOCK_PAGES - 1).is_ok());
    let last = (abi::layout::LOCK_REFS_BYTES / 16) as u32 - 1;
    assert!(switch.set_lock_list(last - 1, &[LockRef::default()], 0, 0).is_ok());
    assert!(switch.set_lock_list(last, &[LockRef::default()], 0, 0).is_err());
    assert!(switch.set_lock_list(0, &[], 0, 0).is_err());
    let handles = abi::objects::MAX_INSTANCES;
    assert!(switch.set_instance(handles, &InstanceEntry::default(), true).is_err());
    assert!(switch.set_instance(handles - 1, &InstanceEntry::default(), true).is_ok());
    assert!(switch.current_instance(abi::layout::MAX_VCPUS).is_err());
    assert!(switch.held_locks(1).is_err(), "there is one vCPU");
}
