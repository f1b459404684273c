//! A set of byte strings in order that knows their numbers: how many come before a string, and which is the
//! one of a number, in logarithmic time.
//!
//! A B+ tree whose inner nodes have, for each node below, how many strings are there and a lower bound of
//! them. Few nodes change with an insertion, so a commit has few pages to store: a tree with a node for each
//! string would write its count anew in twenty of them.

use std::ops::Range;

use spacejmp::{AllocError, At, Mode, Storable, VVec, Write};

use super::{Bytes, Kv};

/// The most strings, or nodes below, that a node has.
const MOST: usize = 32;
/// A node that has fewer is joined with a neighbour, if both fit into one.
const FEW: usize = MOST / 4;

/// The set.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
pub(crate) struct Ordered<'v> {
    len: usize,
    root: Node<'v>,
}

#[derive(Storable)]
#[storable(vas = Kv<'v>)]
#[repr(u8)]
enum Node<'v> {
    Leaf(VVec<Bytes<'v>, Kv<'v>>),
    Inner(VVec<Below<'v>, Kv<'v>>),
}

/// A node below, as its parent knows it.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
struct Below<'v> {
    /// How many strings it has.
    count: usize,
    /// None of them comes before this one, and none of those in the nodes before it after. What the first
    /// node has here is not looked at.
    low: Bytes<'v>,
    node: Node<'v>,
}

impl<'v> Ordered<'v> {
    pub(crate) const fn new() -> Ordered<'v> {
        Ordered { len: 0, root: Node::Leaf(VVec::new()) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a string; whether it was not there.
    ///
    /// # Errors
    /// There is no room, and the visit has to be undone.
    pub(crate) fn insert(
        &mut self,
        at: &At<Kv<'v>, Write>,
        string: &[u8],
    ) -> Result<bool, AllocError> {
        let (is_new, upper) = self.root.insert(at, string)?;
        self.len += usize::from(is_new);
        if let Some(upper) = upper {
            let lower = std::mem::replace(&mut self.root, Node::Leaf(VVec::new()));
            let count = self.len.saturating_sub(upper.count);
            let lower = Below { count, low: Bytes::new(), node: lower };
            let mut nodes = VVec::new();
            nodes.at_mut(at).push(lower)?;
            nodes.at_mut(at).push(upper)?;
            self.root = Node::Inner(nodes);
        }
        Ok(is_new)
    }

    /// Removes a string; whether it was there.
    pub(crate) fn remove(&mut self, at: &At<Kv<'v>, Write>, string: &[u8]) -> bool {
        let was_there = self.root.remove(at, string);
        self.len -= usize::from(was_there);
        while let Node::Inner(nodes) = &mut self.root
            && nodes.len() < 2
        {
            let only = nodes.at_mut(at).pop();
            self.root = only.map_or(Node::Leaf(VVec::new()), |only| only.node);
        }
        was_there
    }

    /// How many strings come before one, whether or not it is there.
    pub(crate) fn rank<M: Mode>(&self, at: &At<Kv<'v>, M>, string: &[u8]) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(strings) => {
                    return before + strings.at(at).partition_point(|held| held.at(at) < string);
                }
                Node::Inner(nodes) => {
                    let nodes = nodes.at(at);
                    let place = place_of(nodes, at, string);
                    before += nodes.iter().take(place).map(|below| below.count).sum::<usize>();
                    let Some(below) = nodes.get(place) else { return before };
                    node = &below.node;
                }
            }
        }
    }

    /// The strings with these numbers, in order.
    pub(crate) fn slice<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        range: Range<usize>,
    ) -> Vec<&'a [u8]> {
        let wanted = range.len().min(self.len.saturating_sub(range.start));
        let mut found = Vec::with_capacity(wanted);
        self.root.collect(at, range.start, wanted, &mut found);
        found
    }

    /// The first one.
    pub(crate) fn first<'a, M: Mode>(&'a self, at: &'a At<Kv<'v>, M>) -> Option<&'a [u8]> {
        self.slice(at, 0..1).pop()
    }
}

/// Which of some nodes, which are in order, a string is in or would be.
fn place_of<'v, M: Mode>(nodes: &[Below<'v>], at: &At<Kv<'v>, M>, string: &[u8]) -> usize {
    let after = nodes.get(1..).unwrap_or_default();
    after.partition_point(|below| below.low.at(at) <= string)
}

impl<'v> Node<'v> {
    /// How many strings or nodes below it has.
    fn len(&self) -> usize {
        match self {
            Node::Leaf(strings) => strings.len(),
            Node::Inner(nodes) => nodes.len(),
        }
    }

    /// Whether the string is new, and the node that is to follow if this one had to be divided.
    fn insert(
        &mut self,
        at: &At<Kv<'v>, Write>,
        string: &[u8],
    ) -> Result<(bool, Option<Below<'v>>), AllocError> {
        match self {
            Node::Leaf(strings) => {
                let found = strings.at(at).binary_search_by(|held| held.at(at).cmp(string));
                let Err(place) = found else { return Ok((false, None)) };
                let upper = insert_at(at, strings, place, Bytes::from_slice(at, string)?)?;
                let Some(upper) = upper else { return Ok((true, None)) };
                let low = upper.at(at).first().map_or(&[][..], |first| first.at(at));
                let low = Bytes::from_slice(at, low)?;
                Ok((true, Some(Below { count: upper.len(), low, node: Node::Leaf(upper) })))
            }
            Node::Inner(nodes) => {
                let place = place_of(nodes.at(at), at, string);
                let mut held = nodes.at_mut(at);
                let Some(below) = held.get_mut(place) else { return Ok((false, None)) };
                let (is_new, upper) = below.node.insert(at, string)?;
                below.count += usize::from(is_new);
                let Some(upper) = upper else { return Ok((is_new, None)) };
                below.count = below.count.saturating_sub(upper.count);
                let upper = insert_at(at, nodes, place + 1, upper)?;
                let Some(upper) = upper else { return Ok((is_new, None)) };
                let low = upper.at(at).first().map_or(&[][..], |first| first.low.at(at));
                let low = Bytes::from_slice(at, low)?;
                let count = upper.at(at).iter().map(|below| below.count).sum();
                Ok((is_new, Some(Below { count, low, node: Node::Inner(upper) })))
            }
        }
    }

    /// Whether the string was there.
    fn remove(&mut self, at: &At<Kv<'v>, Write>, string: &[u8]) -> bool {
        match self {
            Node::Leaf(strings) => {
                let found = strings.at(at).binary_search_by(|held| held.at(at).cmp(string));
                let Ok(place) = found else { return false };
                strings.at_mut(at).remove(place);
            }
            Node::Inner(nodes) => {
                let place = place_of(nodes.at(at), at, string);
                let mut held = nodes.at_mut(at);
                let Some(below) = held.get_mut(place) else { return false };
                if !below.node.remove(at, string) {
                    return false;
                }
                below.count = below.count.saturating_sub(1);
                let left = below.node.len();
                if left == 0 {
                    held.remove(place);
                } else if left < FEW {
                    let mut pairs = place.checked_sub(1).into_iter().chain([place]);
                    let is_joined = |&first: &usize| match held.get_mut(first..first + 2) {
                        Some([one, other]) => one.join(at, other),
                        _ => false,
                    };
                    if let Some(first) = pairs.find(is_joined) {
                        held.remove(first + 1);
                    }
                }
            }
        }
        true
    }

    /// Appends to `found` until it has `wanted` strings, leaving out the first `skip` of them.
    fn collect<'a, M: Mode>(
        &'a self,
        at: &'a At<Kv<'v>, M>,
        mut skip: usize,
        wanted: usize,
        found: &mut Vec<&'a [u8]>,
    ) {
        match self {
            Node::Leaf(strings) => {
                let some = strings.at(at).iter().skip(skip).take(wanted - found.len());
                found.extend(some.map(|string| string.at(at)));
            }
            Node::Inner(nodes) => {
                for below in nodes.at(at) {
                    if found.len() == wanted {
                        return;
                    }
                    if skip >= below.count {
                        skip -= below.count;
                        continue;
                    }
                    below.node.collect(at, skip, wanted, found);
                    skip = 0;
                }
            }
        }
    }
}

impl<'v> Below<'v> {
    /// Takes the content of the node that follows, if both fit into one and there is memory for it: who removes
    /// strings should not need any.
    fn join(&mut self, at: &At<Kv<'v>, Write>, other: &mut Below<'v>) -> bool {
        if self.node.len() + other.node.len() > MOST {
            return false;
        }
        let is_joined = match (&mut self.node, &mut other.node) {
            (Node::Leaf(strings), Node::Leaf(others)) => strings.at_mut(at).append(others).is_ok(),
            (Node::Inner(nodes), Node::Inner(others)) => {
                let mut nodes = nodes.at_mut(at);
                if nodes.reserve(others.len()).is_err() {
                    return false;
                }
                // It is not the first any more: strings may have been added that come before what it says.
                if let Some(first) = others.at_mut(at).first_mut() {
                    std::mem::swap(&mut first.low, &mut other.low);
                }
                nodes.append(others).is_ok()
            }
            _ => unreachable!("all leaves are equally deep"),
        };
        self.count += if is_joined { other.count } else { 0 };
        is_joined
    }
}

/// Inserts a value. If there is no room, what follows it moves to another vector, which is returned: half of all,
/// but nothing if the value is to be the last. What arrives in order, as times do, then leaves full nodes.
fn insert_at<'v, T: Storable<Kv<'v>>>(
    at: &At<Kv<'v>, Write>,
    lower: &mut VVec<T, Kv<'v>>,
    place: usize,
    value: T,
) -> Result<Option<VVec<T, Kv<'v>>>, AllocError> {
    let len = lower.len();
    if len < MOST {
        return lower.at_mut(at).insert(place, value).map(|()| None);
    }
    let half = if place == len { len } else { len / 2 };
    let mut upper = VVec::new();
    upper.at_mut(at).extend(lower.at_mut(at).drain(half..))?;
    if place < half {
        lower.at_mut(at).insert(place, value)?;
    } else {
        upper.at_mut(at).insert(place - half, value)?;
    }
    Ok(Some(upper))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::data::test_space;

    /// How many strings there are and how many levels: all counts are right, and no node is too large or empty.
    fn check<'v, M: Mode>(node: &Node<'v>, at: &At<Kv<'v>, M>, is_root: bool) -> (usize, usize) {
        assert!(node.len() <= MOST && (is_root || node.len() > 0));
        match node {
            Node::Leaf(strings) => (strings.len(), 1),
            Node::Inner(nodes) => {
                let below = nodes.at(at).iter().map(|below| {
                    let (count, depth) = check(&below.node, at, false);
                    assert_eq!(count, below.count);
                    (count, depth)
                });
                let below: Vec<_> = below.collect();
                assert!(below.iter().all(|(_, depth)| *depth == below[0].1));
                (below.iter().map(|(count, _)| count).sum(), below[0].1 + 1)
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16),
        Remove(u16),
        /// So many from a number on, in order.
        Fill(u16, u16),
        Empty(u16, u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..3000_u16).prop_map(Step::Insert),
            6 => (0..3000_u16).prop_map(Step::Remove),
            2 => (0..3000_u16, 0..400_u16).prop_map(|(from, count)| Step::Fill(from, count)),
            2 => (0..3000_u16, 0..400_u16).prop_map(|(from, count)| Step::Empty(from, count)),
        ]
    }

    fn name(number: u16) -> Vec<u8> {
        // Of several lengths; the order is not that of the numbers.
        number.to_string().into_bytes()
    }

    #[test]
    fn ranks_and_slices_are_those_of_a_set_in_order() {
        let space = test_space();
        let config = ProptestConfig::with_cases(64);
        proptest!(config, |(steps in prop::collection::vec(step(), 0..40), asked in prop::collection::vec(0..3500_u16, 8))| {
            let mut model: BTreeSet<Vec<u8>> = BTreeSet::new();
            space.write(|v| {
                let (_, at) = v.root_mut();
                let mut set = Ordered::new();
                for step in &steps {
                    let (numbers, inserts) = match *step {
                        Step::Insert(number) => (number..number + 1, true),
                        Step::Remove(number) => (number..number + 1, false),
                        Step::Fill(from, count) => (from..from + count, true),
                        Step::Empty(from, count) => (from..from + count, false),
                    };
                    for number in numbers {
                        let name = name(number);
                        if inserts {
                            assert_eq!(set.insert(at, &name)?, model.insert(name));
                        } else {
                            assert_eq!(set.remove(at, &name), model.remove(&name));
                        }
                    }
                    assert_eq!(set.len(), model.len());
                    assert_eq!(check(&set.root, at, true).0, model.len());
                    let all: Vec<&[u8]> = model.iter().map(|name| &name[..]).collect();
                    assert_eq!(set.slice(at, 0..usize::MAX), all);
                    assert_eq!(set.first(at), all.first().copied());
                    for pair in asked.windows(2) {
                        let rank = all.partition_point(|held| *held < &name(pair[0])[..]);
                        assert_eq!(set.rank(at, &name(pair[0])), rank);
                        let (start, end) = (usize::from(pair[0].min(pair[1])), usize::from(pair[0].max(pair[1])));
                        assert_eq!(set.slice(at, start..end), all.get(start.min(all.len())..end.min(all.len())).unwrap());
                    }
                }
                Ok::<_, spacejmp::Error>(())
            }).unwrap();
        });
    }

    #[test]
    fn what_arrives_in_order_leaves_full_nodes() {
        let space = test_space();
        space
            .write(|v| {
                let (_, at) = v.root_mut();
                let mut set = Ordered::new();
                for number in 0..3200_u32 {
                    set.insert(at, &number.to_be_bytes())?;
                }
                let Node::Inner(nodes) = &set.root else { panic!("a leaf has 3200") };
                let leaves: usize = nodes.at(at).iter().map(|below| below.node.len()).sum();
                assert_eq!(leaves, 100);
                Ok::<_, spacejmp::Error>(())
            })
            .unwrap();
    }
}
