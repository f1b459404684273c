//! What several owners have together, and what pointers point to.
//!
//! A value with several owners is looked at where the first of them is. What pointers point to is looked at when all that is owned has been:
//! it has no owner, may point back, and no key is compared through it.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ops::Range;

use super::checker::{Checker, Frame, Label, Needed, Walk, elements, unnamed};
use super::place::Place;
use super::report::{Expected, Finding, MAX_LISTED, Problem};
use crate::brand::Brand;
use crate::storable::Storable;
use crate::type_id;

/// A value that several own.
pub(super) struct Counted {
    of: TypeId,
    /// How many owners were met, and how many there should be.
    found: usize,
    recorded: usize,
    /// The block.
    place: Place,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Frames for it wait for their turn: the first looks at it.
    Waiting,
    /// What it owns is being looked at.
    Begun,
    Done {
        is_sound: bool,
    },
}

/// A block that pointers point to.
pub(super) struct Shared {
    of: TypeId,
    /// Of its values those that are looked at, or will be: beginnings and ends.
    seen: BTreeMap<usize, usize>,
}

impl Shared {
    /// Adds values; returns those that are new.
    fn add(&mut self, range: Range<usize>) -> Vec<Range<usize>> {
        let Range { start, end } = range;
        let (mut from, mut to) = (start, end);
        // Those that overlap it or are beside it, from the last one on.
        let mut overlapping = Vec::new();
        while let Some((&before, &until)) = self.seen.range(..=to).next_back() {
            if until < start {
                break;
            }
            self.seen.remove(&before);
            overlapping.push(before..until);
            (from, to) = (from.min(before), to.max(until));
        }
        self.seen.insert(from, to);
        let (mut new, mut next) = (Vec::new(), start);
        for Range { start: before, end: until } in overlapping.into_iter().rev() {
            if next < before.min(end) {
                new.push(next..before.min(end));
            }
            next = next.max(until);
        }
        if next < end {
            new.push(next..end);
        }
        new
    }
}

/// A type's name without its module and parameters.
fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name)
}

impl<V: Brand> Checker<'_, V> {
    /// Looks at an owner of a value that others may own, too, in a block that begins with the number of owners.
    pub(crate) fn one_of_several<T: Storable<V>, B>(&mut self, address: usize, value: usize) {
        let of = type_id::of::<B>();
        let is_known = !self.is_shallow() && self.counted.contains_key(&address);
        if !is_known {
            let Some(place) = self.claim(address, Needed::of::<B>()) else { return };
            let recorded = place.word(0);
            let state = State::Waiting;
            self.counted.insert(address, Counted { of, found: 1, recorded, place, state });
            self.push_counted::<T>(address, place, value);
            if self.wanted.get(&address).is_some_and(Option::is_none) {
                let path = self.path();
                self.wanted.insert(address, Some(path));
            }
            return;
        }
        let problem = match self.counted.get_mut(&address) {
            Some(counted) if counted.of != of => Some(Problem::TwoTypes { address }),
            Some(counted) => {
                counted.found += 1;
                match counted.state {
                    // Maybe before the frame that was first: whoever looks at this owner's surroundings has to know.
                    State::Waiting => {
                        let place = counted.place;
                        return self.push_counted::<T>(address, place, value);
                    }
                    State::Begun => Some(Problem::OwnsItself { address }),
                    State::Done { is_sound: true } => None,
                    State::Done { is_sound: false } => return self.add_taint(),
                }
            }
            None => None,
        };
        if let Some(problem) = problem {
            self.damaged(problem);
        }
    }

    fn push_counted<T: Storable<V>>(&mut self, address: usize, place: Place, value: usize) {
        let mut walk = Walk::new(place, 1);
        walk.numbers = [address, value];
        self.push(counted::<T, V>, unnamed, walk);
    }

    /// Looks at a pointer to `len` values, which belong to nobody.
    pub(crate) fn pointer<T: Storable<V>>(&mut self, address: usize, len: usize) {
        let (size, align) = (size_of::<T>(), align_of::<T>());
        if address == 0 || !address.is_multiple_of(align) {
            return self.damaged(match address {
                0 => Problem::NoBlock { address },
                _ => Problem::Misaligned { address, align },
            });
        }
        if size == 0 || len == 0 || self.is_shallow() {
            return;
        }
        let bytes = len as u128 * size as u128;
        let Some(block) = self.block(address, Needed { bytes, align, from_start: false }) else {
            return;
        };
        let (start, of) = (block.address(), type_id::of::<T>());
        if !self.shared.contains_key(&start) {
            if !self.blocks.reach(block) {
                return self.damaged(Problem::TwoOwners { address });
            }
            self.report.blocks += 1;
            self.report.bytes += block.bytes as u64;
            self.shared.insert(start, Shared { of, seen: BTreeMap::new() });
        }
        let first = (address - start) / size;
        let new = match self.shared.get_mut(&start) {
            Some(shared) if shared.of == of && (address - start).is_multiple_of(size) => {
                shared.add(first..first + len)
            }
            _ => return self.damaged(Problem::TwoTypes { address }),
        };
        if T::ANY_BITS {
            return;
        }
        for Range { start: from, end } in new {
            let Some(place) = block.place().part(from * size, (end - from) * size) else {
                continue;
            };
            let show = if end - from == 1 { unnamed } else { super::checker::numbered };
            let name = format!("({} at {:#x})", short_name::<T>(), place.address());
            let labels = Box::new([Label::Name(name)]);
            let walk = Walk::new(place, end - from);
            self.pending.push(Frame { parent: None, labels, step: elements::<T, V>, show, walk });
        }
    }

    /// Looks at what pointers point to, and at what pointers there point to.
    pub(super) fn run_pending(&mut self) {
        while let Some(frame) = self.pending.pop() {
            self.frames.push(frame);
            self.run();
        }
    }

    /// Values that have more owners than they count, by address. Those that count more are noted.
    pub(super) fn miscounted(&mut self) -> Vec<(usize, usize, usize)> {
        let mut wrong = Vec::new();
        for (&address, counted) in &self.counted {
            let Counted { found, recorded, .. } = *counted;
            match recorded.checked_sub(found) {
                None => wrong.push((address, found, recorded)),
                Some(lost) => self.report.lost_owners += lost as u64,
            }
        }
        wrong.sort_unstable();
        wrong
    }

    /// Reports one of them, found on this way.
    pub(super) fn tell_miscounted(&mut self, path: String, found: usize, recorded: usize) {
        self.report.damages += 1;
        if self.report.findings.len() < MAX_LISTED {
            let problem = Problem::Number {
                what: "its number of owners",
                found: recorded as u128,
                expected: Expected::AtLeast(found as u128),
            };
            self.report.findings.push(Finding { path, problem });
        }
    }
}

/// The step of a value that several own: the value, unless it was looked at meanwhile, and then whether all was sound.
fn counted<T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) -> bool {
    let taint = checker.taint();
    let walk = checker.walk();
    let (place, mark, [address, value]) = (walk.place, walk.mark, walk.numbers);
    walk.phase += 1;
    let phase = walk.phase;
    let Some(counted) = checker.counted.get_mut(&address) else { return false };
    match (phase, counted.state) {
        (1, State::Waiting) => {
            counted.state = State::Begun;
            checker.walk().mark = taint;
            checker.part::<T>(place, value);
            true
        }
        (2, State::Begun) => {
            counted.state = State::Done { is_sound: taint == mark };
            false
        }
        (_, State::Done { is_sound: true }) => false,
        (_, State::Done { is_sound: false } | State::Waiting | State::Begun) => {
            checker.add_taint();
            false
        }
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of ranges is what is compared")]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_new_once() {
        let mut shared = Shared { of: TypeId::of::<u8>(), seen: BTreeMap::new() };
        assert_eq!(shared.add(2..4), [2..4]);
        assert_eq!(shared.add(6..7), [6..7]);
        assert!(shared.add(3..4).is_empty());
        assert_eq!(shared.add(0..10), [0..2, 4..6, 7..10]);
        assert!(shared.add(0..10).is_empty());
        assert_eq!(shared.seen.len(), 1);
        assert_eq!(shared.add(9..11), [10..11]);
    }
}
