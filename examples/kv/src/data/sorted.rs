//! A sorted set: scores by member, and members in the order of their scores.
//!
//! The order is one of strings that are the score, as eight bytes that sort as it does, with the member behind them.

use std::ops::Range;

use spacejmp::{AllocError, At, Mode, Storable, VLinearMap, Write};

use super::{Bytes, Kv, Ordered};

/// The content of a sorted set; never empty between visits.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
pub(crate) struct Sorted<'v> {
    scores: VLinearMap<Bytes<'v>, f64, Kv<'v>>,
    order: Ordered<'v>,
}

/// An end of a range of scores or members.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Bound<T> {
    Lowest,
    Highest,
    Including(T),
    Excluding(T),
}

/// A score as bytes in the order of scores: the sign bit turned over, and all others if it is negative.
fn sortable(score: f64) -> [u8; 8] {
    // Minus zero is zero.
    let bits = (score + 0.0).to_bits();
    let sorted = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    sorted.to_be_bytes()
}

fn score_of(key: &[u8]) -> (f64, &[u8]) {
    let (first, member) = key.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let sorted = u64::from_be_bytes(*first);
    let bits = if sorted >> 63 == 1 { sorted & !(1 << 63) } else { !sorted };
    (f64::from_bits(bits), member)
}

fn key(score: f64, member: &[u8]) -> Vec<u8> {
    [&sortable(score), member].concat()
}

impl<'v> Sorted<'v> {
    pub(crate) fn new() -> Sorted<'v> {
        Sorted { scores: VLinearMap::new(), order: Ordered::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(crate) fn score<M: Mode>(&self, at: &At<Kv<'v>, M>, member: &[u8]) -> Option<f64> {
        self.scores.at(at).get(member).copied()
    }

    /// Sets a member's score. The one it had.
    pub(crate) fn set(
        &mut self,
        at: &At<Kv<'v>, Write>,
        member: &[u8],
        score: f64,
    ) -> Result<Option<f64>, AllocError> {
        let before = self.score(at, member);
        if before.is_some_and(|before| sortable(before) == sortable(score)) {
            return Ok(before);
        }
        self.order.insert(at, &key(score, member))?;
        if let Some(before) = before {
            self.order.remove(at, &key(before, member));
        }
        match self.scores.at_mut(at).into_mut(member) {
            Some(held) => *held = score,
            None => {
                self.scores.at_mut(at).insert(Bytes::from_slice(at, member)?, score)?;
            }
        }
        Ok(before)
    }

    /// Removes a member; the score it had.
    pub(crate) fn remove(&mut self, at: &At<Kv<'v>, Write>, member: &[u8]) -> Option<f64> {
        let score = self.scores.at_mut(at).remove(member)?;
        self.order.remove(at, &key(score, member));
        Some(score)
    }

    /// How many members are before it in the order.
    pub(crate) fn rank<M: Mode>(&self, at: &At<Kv<'v>, M>, member: &[u8]) -> Option<usize> {
        let score = self.score(at, member)?;
        Some(self.order.rank(at, &key(score, member)))
    }

    /// Members with their scores by their ranks, in order.
    pub(crate) fn slice<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        ranks: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], f64)> + ExactSizeIterator {
        self.order.slice(at, ranks).into_iter().map(|key| {
            let (score, member) = score_of(key);
            (member, score)
        })
    }

    /// All members with their scores, in order.
    pub(crate) fn iter<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], f64)> + ExactSizeIterator {
        self.slice(at, 0..self.len())
    }

    /// The ranks of those with scores in a range.
    pub(crate) fn by_score<M: Mode>(
        &self,
        at: &At<Kv<'v>, M>,
        low: &Bound<f64>,
        high: &Bound<f64>,
    ) -> Range<usize> {
        let before = |score: &f64| self.order.rank(at, &sortable(*score));
        let through = |score: &f64| {
            let next = u64::from_be_bytes(sortable(*score)).checked_add(1);
            next.map_or(self.len(), |next| self.order.rank(at, &next.to_be_bytes()))
        };
        self.between(low, high, before, through)
    }

    /// The ranks of those in a range of members, for sets whose scores are all the same.
    pub(crate) fn by_member<M: Mode>(
        &self,
        at: &At<Kv<'v>, M>,
        low: &Bound<Vec<u8>>,
        high: &Bound<Vec<u8>>,
    ) -> Range<usize> {
        let ends =
            self.slice(at, 0..1).next().zip(self.slice(at, self.len() - 1..self.len()).next());
        let Some((first, last)) = ends else { return 0..0 };
        if sortable(first.1) == sortable(last.1) {
            let before = |member: &Vec<u8>| self.order.rank(at, &key(first.1, member));
            let through = |member: &Vec<u8>| {
                let next = [&key(first.1, member)[..], &[0]].concat();
                self.order.rank(at, &next)
            };
            return self.between(low, high, before, through);
        }
        // Where scores differ, the order is not that of the members: what Redis finds then is in one piece, too.
        let is_high_enough = |member: &[u8]| match low {
            Bound::Lowest => true,
            Bound::Highest => false,
            Bound::Including(low) => member >= &low[..],
            Bound::Excluding(low) => member > &low[..],
        };
        let is_low_enough = |member: &[u8]| match high {
            Bound::Lowest => false,
            Bound::Highest => true,
            Bound::Including(high) => member <= &high[..],
            Bound::Excluding(high) => member < &high[..],
        };
        if !is_low_enough(first.0) || !is_high_enough(last.0) {
            return 0..0;
        }
        let mut members = self.iter(at).map(|(member, _)| member);
        let start = members.position(is_high_enough).unwrap_or(self.len());
        let more = self.slice(at, start..self.len());
        start..start + more.take_while(|(member, _)| is_low_enough(member)).count()
    }

    /// The ranks of a range: `before` says how many come before something, `through` how many up to it and with it.
    fn between<T>(
        &self,
        low: &Bound<T>,
        high: &Bound<T>,
        before: impl Fn(&T) -> usize,
        through: impl Fn(&T) -> usize,
    ) -> Range<usize> {
        let start = match low {
            Bound::Lowest => 0,
            Bound::Highest => self.len(),
            Bound::Including(low) => before(low),
            Bound::Excluding(low) => through(low),
        };
        let end = match high {
            Bound::Lowest => 0,
            Bound::Highest => self.len(),
            Bound::Including(high) => through(high),
            Bound::Excluding(high) => before(high),
        };
        start..end.max(start)
    }

    /// Any member.
    pub(crate) fn any<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        random: u64,
    ) -> Option<(&'a [u8], f64)> {
        self.scores.at(at).any(random).map(|(member, score)| (member, *score))
    }

    /// As `VLinearMap::scan`.
    pub(crate) fn scan<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        cursor: u64,
        mut visit: impl FnMut(&'a [u8], f64),
    ) -> u64 {
        self.scores.at(at).scan(cursor, |member, score| visit(member, *score))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_scores_and_then_their_members_do() {
        let scores = [
            f64::NEG_INFINITY,
            -1e300,
            -1.5,
            -1.0,
            -1e-300,
            0.0,
            5e-324,
            1.0,
            1.5,
            1e300,
            f64::INFINITY,
        ];
        let keys: Vec<Vec<u8>> =
            scores.iter().flat_map(|&score| [key(score, b"a"), key(score, b"b")]).collect();
        assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]));
        for score in scores {
            assert_eq!(score_of(&key(score, b"member")), (score, &b"member"[..]));
        }
        assert_eq!(key(-0.0, b"m"), key(0.0, b"m"));
    }
}
