//! The kernel does to locks what the common algorithm does (`seg_lock`), whatever other vCPUs do between
//! its instructions.

use abi::call::CALL_VAS_SWITCH;
use abi::layout::{LOCK_PAGES, SWITCH_LIVE, VCPU_AREAS};
use abi::shared::VcpuPage;
use abi::switch::LockRef;
use seg_lock::{LockOutcome, LockWords, SCANS_PER_CLEAR, state, switch_locks_fast, word};
use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::offset_of;

use crate::kernel::{HOME_ROOT, Kernel, ROOT, SLOT, WAYS};
use crate::processor::End;

#[test]
fn the_kernel_does_to_one_lock_what_the_common_algorithm_does_whatever_comes_between() {
    let page = LOCK_PAGES.raw() + 20 * 4096;
    let lock = [LockRef { page, slot: SLOT as u32, exclusive: 1 }];
    let mut outcomes = HashMap::new();
    let free = [0, state::READERS];
    let taken = [2, 2 | state::READERS, 2 | state::CLAIM, state::WAITERS, state::INCONSISTENT];
    for (initial, later, changed, way) in free
        .into_iter()
        .chain(taken)
        .flat_map(|initial| [0, state::WAITERS].map(|later| (initial, later)))
        .flat_map(|(initial, later)| [false, true].map(|changed| (initial, later, changed)))
        .flat_map(|(initial, later, changed)| WAYS.map(|way| (initial, later, changed, way)))
    {
        let mut kernel = Kernel::new(way);
        kernel.instance(0, HOME_ROOT, 0, &[]);
        kernel.instance(1, ROOT, 20, &[true]);
        let model = RefCell::new(HashMap::from([(page, initial)]));
        kernel.processor.store(page, initial);
        let words = |page| Words(&model, page);
        let served = |end: End| !matches!(end, End::Out(_));
        let expected = switch_locks_fast(&[], &lock, words);
        let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
        assert_eq!(kernel.processor.load(page), model.borrow()[&page]);
        assert_eq!(served(end), expected == (LockOutcome::Acquired, false), "{initial:#x}");
        if !served(end) {
            continue;
        }
        assert_eq!(kernel.processor.cr3, ROOT);
        let held = model.borrow()[&page] | later;
        model.borrow_mut().insert(page, held);
        kernel.processor.store(page, held);
        if changed {
            // The VMM has to check a VAS first: nothing happens.
            kernel.processor.store(SWITCH_LIVE.raw(), 100);
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 0);
            assert!(!served(end));
            assert_eq!((kernel.processor.load(page), kernel.processor.cr3), (held, ROOT));
            kernel.processor.store(SWITCH_LIVE.raw(), 99);
        }
        let expected = switch_locks_fast(&lock, &[], words);
        let (_, end) = kernel.call(CALL_VAS_SWITCH, 0);
        *outcomes.entry(format!("{expected:?}")).or_insert(0) += 1;
        assert_eq!(kernel.processor.load(page), model.borrow()[&page]);
        assert_eq!(served(end), expected == (LockOutcome::Acquired, false), "{initial:#x}");
        assert_eq!(kernel.processor.cr3, HOME_ROOT);
        let waited_for =
            kernel.processor.load(VCPU_AREAS.raw() + offset_of!(VcpuPage, waited_for) as u64);
        assert_eq!(waited_for, if later == 0 { 0 } else { (20 * 16) << 32 | 1 });
    }
    assert_eq!(
        outcomes,
        HashMap::from([("(Acquired, false)".into(), 8), ("(Acquired, true)".into(), 8)])
    );
}

/// A lock page of the processor's memory, for `seg_lock`.
struct Words<'a>(&'a RefCell<HashMap<u64, u64>>, u64);

impl Words<'_> {
    fn change(&self, index: usize, change: impl FnOnce(u64) -> u64) -> u64 {
        let mut words = self.0.borrow_mut();
        let word = words.entry(self.1 + index as u64 * 8).or_default();
        let before = *word;
        *word = change(before);
        before
    }
}

impl LockWords for Words<'_> {
    fn load(&self, index: usize) -> u64 {
        self.change(index, |value| value)
    }
    fn store(&self, index: usize, value: u64) {
        self.change(index, |_| value);
    }
    fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        let found = self.change(index, |found| if found == old { new } else { found });
        if found == old { Ok(found) } else { Err(found) }
    }
    fn fetch_add(&self, index: usize, delta: u64) -> u64 {
        self.change(index, |value| value.wrapping_add(delta))
    }
    fn fetch_sub(&self, index: usize, delta: u64) -> u64 {
        self.change(index, |value| value.wrapping_sub(delta))
    }
    fn fetch_or(&self, index: usize, bits: u64) -> u64 {
        self.change(index, |value| value | bits)
    }
    fn fetch_and(&self, index: usize, bits: u64) -> u64 {
        self.change(index, |value| value & bits)
    }
    fn swap(&self, index: usize, value: u64) -> u64 {
        self.change(index, |_| value)
    }
}

#[test]
fn the_kernel_does_to_locks_what_the_common_algorithm_does() {
    // What other VMs may have written into a lock that we do not hold.
    let states = [
        0,
        state::READERS,
        2,
        2 | state::READERS,
        2 | state::CLAIM,
        state::WAITERS,
        state::WAITERS | state::READERS,
        state::INCONSISTENT,
    ];
    let refs = |modes: &[bool]| -> Vec<LockRef> {
        let page = |index: usize| LOCK_PAGES.raw() + (20 + index as u64) * 4096;
        let lock = |(index, &exclusive): (usize, &bool)| LockRef {
            page: page(index),
            slot: SLOT as u32,
            exclusive: exclusive.into(),
        };
        modes.iter().enumerate().map(lock).collect()
    };
    let mut outcomes = HashMap::new();
    for case in 0..4 * 64 * 4 * 2_usize {
        let (modes, rest) = ([case & 1 != 0, case & 2 != 0], case / 4);
        let (first, second, rest) = (states[rest % 8], states[rest / 8 % 8], rest / 64);
        let (readers, later) = (rest % 4, if rest / 4 == 0 { 0 } else { state::WAITERS });
        for way in WAYS {
            let mut kernel = Kernel::new(way);
            kernel.instance(0, HOME_ROOT, 0, &[]);
            kernel.instance(1, ROOT, 20, &modes);
            let refs = refs(&modes);
            let model = RefCell::new(HashMap::new());
            let set = |kernel: &mut Kernel, lock: usize, index: usize, value: u64| {
                kernel.processor.store(refs[lock].page + index as u64 * 8, value);
                model.borrow_mut().insert(refs[lock].page + index as u64 * 8, value);
            };
            for (lock, word) in [first, second].into_iter().enumerate() {
                set(&mut kernel, lock, word::STATE, word);
                set(&mut kernel, lock, word::MEMBERS_USED, 8);
                // The second one's next writer clears the readers' mark.
                set(&mut kernel, lock, word::SCANS, lock as u64 * (SCANS_PER_CLEAR - 1));
                set(&mut kernel, lock, word::READER_COUNTS + 6, (readers >> lock & 1) as u64);
            }
            let same = |kernel: &Kernel| {
                for (&address, &value) in model.borrow().iter() {
                    assert_eq!(kernel.processor.load(address), value, "{case} {address:#x}");
                }
            };
            let words = |page| Words(&model, page);
            let expected = switch_locks_fast(&[], &refs, words);
            *outcomes.entry(format!("taking: {expected:?}")).or_insert(0) += 1;
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 1);
            same(&kernel);
            let served = |end: End| !matches!(end, End::Out(_));
            assert_eq!(served(end), expected == (LockOutcome::Acquired, false), "{case}");
            if !served(end) {
                continue;
            }
            // Another thread starts waiting for the second while we are inside.
            let word = kernel.processor.load(refs[1].page) | later;
            model.borrow_mut().insert(refs[1].page, word);
            kernel.processor.store(refs[1].page, word);
            let expected = switch_locks_fast(&refs, &[], words);
            *outcomes.entry(format!("giving back: {expected:?}")).or_insert(0) += 1;
            let (_, end) = kernel.call(CALL_VAS_SWITCH, 0);
            same(&kernel);
            assert_eq!(served(end), expected == (LockOutcome::Acquired, false), "{case}");
            let waited_for =
                kernel.processor.load(VCPU_AREAS.raw() + offset_of!(VcpuPage, waited_for) as u64);
            assert_eq!(waited_for != 0, expected == (LockOutcome::Acquired, true));
            assert_eq!(kernel.processor.cr3, HOME_ROOT);
        }
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes.len(), 4, "each way to end was seen: {outcomes:?}");
}
