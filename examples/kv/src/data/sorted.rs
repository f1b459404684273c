//! A sorted set: scores by member, and members in the order of their scores.
//!
//! The order is a map whose keys are the score, as eight bytes that sort as it does, with the member behind them.

use std::ops::Bound as Edge;

use spacejmp::{AllocError, At, Mode, Storable, VBTreeMap, VLinearMap, Write};

use super::{Bytes, Kv};

/// The content of a sorted set; never empty between visits.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
pub(crate) struct Sorted<'v> {
    scores: VLinearMap<Bytes<'v>, f64, Kv<'v>>,
    order: VBTreeMap<Bytes<'v>, (), Kv<'v>>,
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
        Sorted { scores: VLinearMap::new(), order: VBTreeMap::new() }
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
        self.order.at_mut(at).insert(Bytes::from_slice(at, &key(score, member))?, ())?;
        if let Some(before) = before {
            self.order.at_mut(at).remove(&key(before, member));
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
        self.order.at_mut(at).remove(&key(score, member));
        Some(score)
    }

    /// How many members are before it in the order.
    pub(crate) fn rank<M: Mode>(&self, at: &At<Kv<'v>, M>, member: &[u8]) -> Option<usize> {
        let score = self.score(at, member)?;
        let end = key(score, member);
        Some(self.order.at(at).range((Edge::Unbounded, Edge::Excluded(&end[..]))).count())
    }

    /// All members with their scores, in order.
    pub(crate) fn iter<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], f64)> + ExactSizeIterator {
        self.order.at(at).iter().map(|(key, ())| {
            let (score, member) = score_of(key);
            (member, score)
        })
    }

    /// Those with scores in a range, in order.
    pub(crate) fn by_score<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        low: &Bound<f64>,
        high: &Bound<f64>,
    ) -> Vec<(&'a [u8], f64)> {
        // What comes after all members of a score.
        let after = |score: &f64| {
            let next = u64::from_be_bytes(sortable(*score)).checked_add(1);
            next.map(|next| next.to_be_bytes().to_vec())
        };
        let start = match low {
            Bound::Lowest => Some(Vec::new()),
            Bound::Highest => None,
            Bound::Including(score) => Some(sortable(*score).to_vec()),
            Bound::Excluding(score) => after(score),
        };
        let end = match high {
            Bound::Lowest => Some(Vec::new()),
            Bound::Highest => None,
            Bound::Including(score) => after(score),
            Bound::Excluding(score) => Some(sortable(*score).to_vec()),
        };
        let Some(start) = start else { return Vec::new() };
        if end.as_ref().is_some_and(|end| *end <= start) {
            return Vec::new();
        }
        let end = end.as_deref().map_or(Edge::Unbounded, Edge::Excluded);
        let range = self.order.at(at).range((Edge::Included(&start[..]), end));
        range
            .map(|(key, ())| {
                let (score, member) = score_of(key);
                (member, score)
            })
            .collect()
    }

    /// Those in a range of members, for sets whose scores are all the same.
    pub(crate) fn by_member<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        low: &Bound<Vec<u8>>,
        high: &Bound<Vec<u8>>,
    ) -> Vec<(&'a [u8], f64)> {
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
        // Where scores differ, the order is not that of the members: what Redis finds then is in one piece, too.
        let ends = self.iter(at).next().zip(self.iter(at).next_back());
        if !ends.is_some_and(|(first, last)| is_low_enough(first.0) && is_high_enough(last.0)) {
            return Vec::new();
        }
        let from = self.iter(at).skip_while(|(member, _)| !is_high_enough(member));
        from.take_while(|(member, _)| is_low_enough(member)).collect()
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
