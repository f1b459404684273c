//! A list: elements by consecutive numbers in an ordered map, so that both ends, and any place by its
//! number, are found in logarithmic time. What is inserted or removed in the middle moves the shorter side.

use std::ops::Range;

use spacejmp::{AllocError, At, Mode, Storable, VBTreeMap, Write};

use super::{Bytes, Kv};

/// The content of a list; never empty between visits.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
pub(crate) struct List<'v> {
    first: i64,
    elements: VBTreeMap<i64, Bytes<'v>, Kv<'v>>,
}

impl<'v> List<'v> {
    pub(crate) fn new() -> List<'v> {
        List { first: 0, elements: VBTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(crate) fn get<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        index: usize,
    ) -> Option<&'a [u8]> {
        let number = self.first + i64::try_from(index).ok()?;
        self.elements.at(at).get(&number).map(|element| element.at(at))
    }

    pub(crate) fn range<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        range: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let numbers = self.first + range.start as i64..self.first + range.end as i64;
        self.elements.at(at).range(numbers).map(|(_, element)| element.at(at))
    }

    pub(crate) fn push_front(
        &mut self,
        at: &At<Kv<'v>, Write>,
        element: &[u8],
    ) -> Result<(), AllocError> {
        let element = Bytes::from_slice(at, element)?;
        self.elements.at_mut(at).insert(self.first - 1, element)?;
        self.first -= 1;
        Ok(())
    }

    pub(crate) fn push_back(
        &mut self,
        at: &At<Kv<'v>, Write>,
        element: &[u8],
    ) -> Result<(), AllocError> {
        let element = Bytes::from_slice(at, element)?;
        let number = self.first + self.len() as i64;
        self.elements.at_mut(at).insert(number, element)?;
        Ok(())
    }

    pub(crate) fn pop_front(&mut self, at: &At<Kv<'v>, Write>) -> Option<Vec<u8>> {
        let (_, element) = self.elements.at_mut(at).pop_first()?;
        self.first += 1;
        Some(element.at(at).to_vec())
    }

    pub(crate) fn pop_back(&mut self, at: &At<Kv<'v>, Write>) -> Option<Vec<u8>> {
        let (_, element) = self.elements.at_mut(at).pop_last()?;
        Some(element.at(at).to_vec())
    }

    pub(crate) fn set(
        &mut self,
        at: &At<Kv<'v>, Write>,
        index: usize,
        element: &[u8],
    ) -> Result<(), AllocError> {
        let element = Bytes::from_slice(at, element)?;
        if let Some(held) = self.elements.at_mut(at).into_mut(&(self.first + index as i64)) {
            *held = element;
        }
        Ok(())
    }

    /// Puts an element before the one at `index`.
    pub(crate) fn insert(
        &mut self,
        at: &At<Kv<'v>, Write>,
        index: usize,
        element: &[u8],
    ) -> Result<(), AllocError> {
        if index * 2 < self.len() {
            self.push_front(at, element)?;
            for place in 0..index {
                self.swap(at, place);
            }
        } else {
            self.push_back(at, element)?;
            for place in (index..self.len() - 1).rev() {
                self.swap(at, place);
            }
        }
        Ok(())
    }

    /// An element and the one after it change places.
    fn swap(&mut self, at: &At<Kv<'v>, Write>, place: usize) {
        let number = self.first + place as i64;
        let mut elements = self.elements.at_mut(at);
        let mut pair = elements.range_mut(number..=number + 1);
        if let (Some((_, one)), Some((_, other))) = (pair.next(), pair.next()) {
            std::mem::swap(one, other);
        }
    }

    /// Keeps the elements of a range.
    pub(crate) fn trim(&mut self, at: &At<Kv<'v>, Write>, range: Range<usize>) {
        let after = self.len() - range.end;
        for _ in 0..after {
            self.elements.at_mut(at).pop_last();
        }
        for _ in 0..range.start {
            self.elements.at_mut(at).pop_first();
        }
        self.first += range.start as i64;
    }

    /// Removes up to `most` elements that are equal to `element`, from the front or from the back. How many.
    ///
    /// # Errors
    /// There is no room, and the visit has to be undone.
    pub(crate) fn remove(
        &mut self,
        at: &At<Kv<'v>, Write>,
        element: &[u8],
        most: usize,
        from_back: bool,
    ) -> Result<usize, AllocError> {
        let len = self.len();
        let is_equal = |(_, held): &(usize, &[u8])| *held == element;
        let found: Vec<usize> = if from_back {
            let all =
                self.range(at, 0..len).rev().zip((0..len).rev()).map(|(held, place)| (place, held));
            let mut found: Vec<usize> =
                all.filter(is_equal).take(most).map(|(place, _)| place).collect();
            found.reverse();
            found
        } else {
            let all = self.range(at, 0..len).enumerate();
            all.filter(is_equal).take(most).map(|(place, _)| place).collect()
        };
        let Some(&first) = found.first() else { return Ok(0) };
        // Those that stay move up, one after the other.
        let mut next = found.iter().copied().peekable();
        let mut to = first;
        let mut elements = self.elements.at_mut(at);
        let mut kept: Vec<Bytes<'v>> = Vec::new();
        for place in first..len {
            let Some((_, element)) = elements.remove_entry(&(self.first + place as i64)) else {
                continue;
            };
            if next.next_if_eq(&place).is_none() {
                kept.push(element);
            }
        }
        for element in kept {
            elements.insert(self.first + to as i64, element)?;
            to += 1;
        }
        Ok(found.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::data::{Change, test_space};

    #[derive(Debug, Clone)]
    enum Step {
        Push(bool, u8),
        Pop(bool),
        Set(usize, u8),
        Insert(usize, u8),
        Trim(usize, usize),
        Remove(u8, usize, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (any::<bool>(), 0..4_u8).prop_map(|(end, value)| Step::Push(end, value)),
            2 => any::<bool>().prop_map(Step::Pop),
            2 => (0..30_usize, 0..4_u8).prop_map(|(place, value)| Step::Set(place, value)),
            3 => (0..30_usize, 0..4_u8).prop_map(|(place, value)| Step::Insert(place, value)),
            1 => (0..4_usize, 5..30_usize).prop_map(|(start, end)| Step::Trim(start, end)),
            2 => (0..4_u8, 1..4_usize, any::<bool>()).prop_map(|(value, most, back)| Step::Remove(value, most, back)),
        ]
    }

    #[test]
    fn a_list_does_what_a_vector_does() {
        let space = test_space();
        proptest!(|(steps in prop::collection::vec(step(), 0..120))| {
            let mut model: Vec<u8> = Vec::new();
            space.write(|v| {
                let (root, at) = v.root_mut();
                let mut change = Change { root, at, now: 1, db: 0, is_retry: false };
                change.remove(b"l");
                let list = change.list_or_new(b"l").expect("there is room");
                for step in &steps {
                    match *step {
                        Step::Push(true, value) => {
                            list.push_front(at, &[value])?;
                            model.insert(0, value);
                        }
                        Step::Push(false, value) => {
                            list.push_back(at, &[value])?;
                            model.push(value);
                        }
                        Step::Pop(true) => {
                            let first = (!model.is_empty()).then(|| vec![model.remove(0)]);
                            assert_eq!(list.pop_front(at), first);
                        }
                        Step::Pop(false) => assert_eq!(list.pop_back(at), model.pop().map(|value| vec![value])),
                        Step::Set(place, value) if place < model.len() => {
                            list.set(at, place, &[value])?;
                            model[place] = value;
                        }
                        Step::Insert(place, value) if place <= model.len() => {
                            list.insert(at, place, &[value])?;
                            model.insert(place, value);
                        }
                        Step::Trim(start, end) if end <= model.len() => {
                            list.trim(at, start..end);
                            model = model[start..end].to_vec();
                        }
                        Step::Remove(value, most, from_back) => {
                            let mut places: Vec<usize> = (0..model.len()).filter(|&place| model[place] == value).collect();
                            if from_back {
                                places.reverse();
                            }
                            places.truncate(most);
                            assert_eq!(list.remove(at, &[value], most, from_back)?, places.len());
                            places.sort_unstable();
                            for &place in places.iter().rev() {
                                model.remove(place);
                            }
                        }
                        _ => {}
                    }
                    let all: Vec<u8> = list.range(at, 0..list.len()).map(|element| element[0]).collect();
                    assert_eq!(all, model);
                    assert_eq!(list.get(at, 1), model.get(1).map(std::slice::from_ref));
                }
                Ok::<_, spacejmp::Error>(())
            }).unwrap();
        });
    }
}
