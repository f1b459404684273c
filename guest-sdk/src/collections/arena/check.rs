//! A check of a `VArena`: its slots, and the list of those that are empty.

use std::mem::offset_of;

use super::{Slot, VArena};
use crate::brand::Brand;
use crate::check::{Checker, Expected, Place, Problem, Walk, numbered};
use crate::collections::{VVec, words};
use crate::storable::Storable;

/// Looks at an arena.
pub(super) fn check<T: Storable<V>, V: Brand>(arena: Place, checker: &mut Checker<'_, V>) {
    checker.count("VArena");
    let slots = offset_of!(VArena<T, V>, slots);
    let Some(slots) = arena.part(slots, size_of::<VVec<Slot<T>, V>>()) else { return };
    let [address, capacity, count] = words::in_vec(slots);
    let claimed = checker.claim_values::<Slot<T>>(address, count, capacity);
    if checker.is_shallow() {
        return;
    }
    let number = |offset| arena.number(offset, 4) as usize;
    let [len, free] = [offset_of!(VArena<T, V>, len), offset_of!(VArena<T, V>, free)].map(number);
    let Some((slots, count)) = claimed else {
        if capacity == 0 && (len, free) != (0, 0) {
            checker.wrong_number(
                "its length or first empty slot",
                len.max(free),
                Expected::Exactly(0),
            );
        }
        return;
    };
    let mut walk = Walk::new(slots, count);
    (walk.numbers, walk.nodes) = ([0; 2], vec![arena]);
    checker.push(slots_of::<T, V>, numbered, walk);
}

/// The step of a check that goes through the slots, and then through those that are empty.
fn slots_of<T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) -> bool {
    loop {
        let walk = checker.walk();
        let (slots, index) = (walk.place, walk.next);
        if index >= walk.count {
            if walk.phase == 0 {
                walk.phase = 1;
                check_counts::<T, V>(checker);
            }
            return false;
        }
        walk.next += 1;
        let slot = slots.part(index * size_of::<Slot<T>>(), size_of::<Slot<T>>());
        let value =
            slot.and_then(|slot| slot.part(offset_of!(Slot<T>, value), size_of::<Option<T>>()));
        let (Some(slot), Some(value)) = (slot, value) else { continue };
        match checker.option::<T>(value) {
            Some(true) => {
                checker.walk().numbers[0] += 1;
                if slot.number(offset_of!(Slot<T>, fillings), 4) == 0 {
                    let least = Expected::AtLeast(1);
                    checker.wrong_number("how often its slot was filled", 0, least);
                }
            }
            Some(false) => {}
            // Which slots are full is not known then.
            None => checker.walk().numbers[1] = 1,
        }
        if checker.has_more_below() {
            return true;
        }
    }
}

/// Whether there are as many values as the arena counts, and whether all empty slots that can be used are on the list.
fn check_counts<T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) {
    let walk = checker.walk();
    let ([full, is_unknown], slots, count) = (walk.numbers, walk.place, walk.count);
    let Some(&arena) = walk.nodes.first() else { return };
    // What follows is about the arena, and none of its slots.
    walk.next = 0;
    if is_unknown == 1 {
        return;
    }
    let number = |offset| arena.number(offset, 4) as usize;
    let [len, free] = [offset_of!(VArena<T, V>, len), offset_of!(VArena<T, V>, free)].map(number);
    if len != full {
        return checker.wrong_number("its length", len, Expected::Exactly(full as u128));
    }
    let slot = |index: usize| slots.part(index * size_of::<Slot<T>>(), size_of::<Slot<T>>());
    let mut is_empty = Vec::with_capacity(count);
    for index in 0..count {
        let value = slot(index)
            .and_then(|slot| slot.part(offset_of!(Slot<T>, value), size_of::<Option<T>>()));
        is_empty.push(value.and_then(|value| checker.is_none::<T>(value)) == Some(true));
    }
    let mut listed = vec![false; count];
    let mut next = free;
    while let Some(index) = next.checked_sub(1) {
        match (is_empty.get(index), listed.get(index), slot(index)) {
            (Some(true), Some(false), Some(slot)) => {
                listed[index] = true;
                next = slot.number(offset_of!(Slot<T>, next), 4) as usize;
            }
            _ => {
                let problem =
                    "its list of empty slots leads to one that is not empty, or twice to one";
                return checker.damaged(Problem::Order(problem));
            }
        }
    }
    let is_lost = |&index: &usize| {
        let fillings = slot(index).map_or(0, |slot| slot.number(offset_of!(Slot<T>, fillings), 4));
        // One that was filled too often is not used again.
        is_empty[index] && !listed[index] && fillings < u128::from(u32::MAX)
    };
    if let Some(index) = (0..count).find(is_lost) {
        checker.walk().next = index + 1;
        checker.damaged(Problem::Order("the slot is empty, and not on the list of these"));
    }
}
