//! `VVecDeque` and `VBinaryHeap` against those of the standard library, by random steps on texts: a value
//! that is lost or dropped twice shows as a wrong number of blocks. And what they do without room.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::model::{config, text};
use crate::layout::TypeLayout;
use crate::{
    AllocError, At, CloneIn, Error, Space, VBinaryHeap, VString, VVec, VVecDeque, Write, brand,
};

brand! {
    Queue => VVecDeque<VString<Queue>, Queue>,
    Sorted => VBinaryHeap<VString<Sorted>, Sorted>,
}

fn shown<V: crate::Brand>(value: Option<&VString<V>>, at: &At<V, Write>) -> Option<String> {
    value.map(|value| value.at(at).to_owned())
}

fn run_deque(space: &Space<Queue>, steps: Vec<(u8, u16)>) -> Result<(), Error> {
    let mut std: VecDeque<String> = VecDeque::new();
    space.write(|v| {
        let (root, at) = v.root_mut();
        *root = VVecDeque::new();
        let made = |value: u8| VString::new(at, &text(value));
        for (kind, number) in steps {
            let mut deque = root.at_mut(at);
            let value = number.to_le_bytes()[0];
            let place = usize::from(number) % (std.len() + 1);
            let within = place < std.len();
            match kind % 20 {
                0..=2 => {
                    deque.push_back(made(value)?)?;
                    std.push_back(text(value));
                }
                3..=5 => {
                    deque.push_front(made(value)?)?;
                    std.push_front(text(value));
                }
                6 => assert_eq!(shown(deque.pop_front().as_ref(), at), std.pop_front()),
                7 => assert_eq!(shown(deque.pop_back().as_ref(), at), std.pop_back()),
                8 => {
                    deque.insert(place, made(value)?)?;
                    std.insert(place, text(value));
                }
                9 => assert_eq!(shown(deque.remove(place).as_ref(), at), std.remove(place)),
                10 => {
                    deque.retain(|text| text.at(at).len() % 2 == place % 2);
                    std.retain(|text| text.len() % 2 == place % 2);
                }
                11 => {
                    let mut rest = deque.split_off(place)?;
                    let std_rest = std.split_off(place);
                    assert!(rest.at(at).iter().map(|text| text.at(at)).eq(&std_rest));
                    if value.is_multiple_of(2) {
                        deque.append(&mut rest)?;
                        assert!(rest.is_empty());
                        std.extend(std_rest);
                    }
                }
                12 => {
                    deque.make_contiguous().sort_by(|a, b| a.at(at).cmp(b.at(at)));
                    std.make_contiguous().sort();
                    assert!(deque.as_mut_slices().1.is_empty());
                }
                13 => {
                    deque.truncate(place);
                    std.truncate(place);
                }
                14 if within => {
                    deque.swap(place, std.len() - 1);
                    std.swap(place, std.len() - 1);
                }
                15 => {
                    deque.reserve(place)?;
                    assert!(deque.capacity() >= deque.len() + place);
                }
                16 => {
                    for value in deque.iter_mut().rev().take(3) {
                        value.at_mut(at).push('!')?;
                    }
                    std.iter_mut().rev().take(3).for_each(|value| value.push('!'));
                }
                17 => {
                    let copy = root.clone_in(at)?;
                    assert_eq!(copy.len(), std.len());
                    *root = copy;
                }
                18 => {
                    let more = [made(1)?, made(2)?, made(3)?];
                    deque.extend(more)?;
                    std.extend([1, 2, 3].map(text));
                }
                _ if value < 30 => {
                    deque.clear();
                    std.clear();
                }
                _ => {
                    let found = deque.get_mut(place).map(|text| text.at_mut(at).push('?'));
                    assert_eq!(found.transpose()?, std.get_mut(place).map(|text| text.push('?')));
                }
            }
            let deque = root.at(at);
            assert!(deque.iter().map(|text| text.at(at)).eq(&std));
            assert!(deque.iter().rev().map(|text| text.at(at)).eq(std.iter().rev()));
            assert_eq!(shown(deque.front(), at).as_ref(), std.front());
            assert_eq!(shown(deque.back(), at).as_ref(), std.back());
            assert_eq!(shown(deque.get(place), at).as_ref(), std.get(place));
        }
        let taken = std::mem::take(root).into_iter(at).rev().skip(1);
        assert!(taken.map(|text| text.at(at).to_owned()).eq(std.into_iter().rev().skip(1)));
        Ok::<_, Error>(())
    })
}

#[test]
fn a_deque_does_what_the_standard_one_does() {
    let space = Space::<Queue>::in_memory(1 << 24, |_| Ok(VVecDeque::new())).unwrap();
    let steps = proptest::collection::vec(any::<(u8, u16)>(), 0..if cfg!(miri) { 20 } else { 80 });
    TestRunner::new(config())
        .run(&steps, |steps| {
            run_deque(&space, steps).unwrap();
            prop_assert_eq!(space.blocks(), 1);
            Ok(())
        })
        .unwrap();
}

fn run_heap(space: &Space<Sorted>, steps: Vec<(u8, u8)>) -> Result<(), Error> {
    let mut std: BinaryHeap<String> = BinaryHeap::new();
    space.write(|v| {
        let (root, at) = v.root_mut();
        *root = VBinaryHeap::new();
        let made = |value: u8| VString::new(at, &text(value));
        for (kind, value) in steps {
            let mut heap = root.at_mut(at);
            match kind % 12 {
                0..=3 => {
                    heap.push(made(value)?)?;
                    std.push(text(value));
                }
                4 | 5 => assert_eq!(shown(heap.pop().as_ref(), at), std.pop()),
                6 => {
                    let many = value % 50;
                    for part in [many, 1] {
                        heap.extend((0..part).map(made).collect::<Result<Vec<_>, _>>()?)?;
                        std.extend((0..part).map(text));
                    }
                }
                7 => {
                    heap.retain(|text| text.at(at).len() % 2 == usize::from(value % 2));
                    std.retain(|text| text.len() % 2 == usize::from(value % 2));
                }
                8 => {
                    let mut more = VBinaryHeap::collect(at, [made(1)?, made(value)?])?;
                    heap.append(&mut more)?;
                    assert!(more.is_empty());
                    std.extend([text(1), text(value)]);
                }
                9 => {
                    let was = heap.change_greatest(|text| text.at_mut(at).truncate(3));
                    assert_eq!(
                        was.is_some(),
                        std.peek_mut().map(|mut it| it.truncate(3)).is_some()
                    );
                }
                10 => *root = root.clone_in(at)?,
                _ => {
                    let values = std::mem::take(root).into_vec();
                    *root = VBinaryHeap::from_vec(at, values);
                }
            }
            let heap = root.at(at);
            assert_eq!((heap.len(), shown(heap.peek(), at).as_ref()), (std.len(), std.peek()));
            let mut keys: Vec<&str> = heap.keys().collect();
            keys.sort_unstable();
            assert_eq!(keys, std.clone().into_sorted_vec());
        }
        let sorted = std::mem::take(root).into_sorted(at);
        assert!(sorted.at(at).iter().map(|text| text.at(at)).eq(std.into_sorted_vec()));
        Ok::<_, Error>(())
    })
}

#[test]
fn a_heap_does_what_the_standard_one_does() {
    let space = Space::<Sorted>::in_memory(1 << 24, |_| Ok(VBinaryHeap::new())).unwrap();
    let steps = proptest::collection::vec(any::<(u8, u8)>(), 0..if cfg!(miri) { 20 } else { 60 });
    TestRunner::new(config())
        .run(&steps, |steps| {
            run_heap(&space, steps).unwrap();
            prop_assert_eq!(space.blocks(), 1);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_deque_and_a_heap_without_room_say_so_and_keep_what_they_have() {
    brand! { Narrow => (VVecDeque<u64, Narrow>, VBinaryHeap<Reverse<u64>, Narrow>) }
    let space = Space::<Narrow>::in_memory(8192, |_| Ok(Default::default())).unwrap();
    space
        .write(|v| {
            let ((deque, heap), at) = v.root_mut();
            let mut deque = deque.at_mut(at);
            let count = (0..).find(|&number| deque.push_front(number).is_err()).unwrap();
            assert!(count > 100, "{count}");
            assert!(deque.push_back(7).is_err() && deque.insert(3, 7).is_err());
            assert!(deque.extend(0..1).is_err());
            assert_eq!(deque.reserve(usize::MAX), Err(AllocError::new::<Narrow>(usize::MAX)));
            assert!(deque.reserve(usize::MAX / 2).is_err());
            assert!(deque.split_off(1).is_err());
            let mut one = VVecDeque::new();
            assert!(one.at_mut(at).append(deque.deque).is_err() && one.is_empty());
            assert!(deque.as_ref().iter().copied().eq((0..count).rev()));
            deque.clear();
            let mut heap = heap.at_mut(at);
            let count = (0..).find(|&number| heap.push(Reverse(number)).is_err()).unwrap();
            assert!(heap.append(&mut VBinaryHeap::collect(at, [])?).is_ok());
            assert!(heap.reserve(usize::MAX).is_err());
            assert!((0..count).all(|number| heap.pop() == Some(Reverse(number))));
            assert_eq!(heap.pop(), None);
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn values_without_bytes_and_absurd_capacities_need_no_memory() {
    brand! { Nothing => VVecDeque<(), Nothing> }
    let space = Space::<Nothing>::in_memory(4096, |_| Ok(VVecDeque::new())).unwrap();
    space
        .write(|v| {
            let (root, at) = v.root_mut();
            let mut deque = root.at_mut(at);
            deque.reserve(usize::MAX)?;
            for _ in 0..3 {
                deque.push_front(())?;
                deque.push_back(())?;
            }
            assert_eq!((deque.as_ref().iter().count(), deque.pop_front()), (6, Some(())));
            assert_eq!(deque.make_contiguous().len(), 5);
            assert!(VVecDeque::<u8, Nothing>::with_capacity(at, usize::MAX).is_err());
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), 1);
}

#[test]
fn a_deque_is_compared_hashed_and_shown_by_what_is_in_it_wherever_its_block_ends() {
    brand! { Two => (VVecDeque<u8, Two>, VVecDeque<u8, Two>) }
    let space = Space::<Two>::in_memory(4096, |_| Ok(Default::default())).unwrap();
    let seen = space.write(|v| {
        let ((one, two), at) = v.root_mut();
        one.at_mut(at).extend([1, 2, 3])?;
        two.at_mut(at).extend([2, 3])?;
        two.at_mut(at).push_front(1)?;
        let hash = |deque: &VVecDeque<u8, Two>| {
            std::hash::BuildHasher::hash_one(&foldhash::fast::FixedState::default(), deque.at(at))
        };
        assert_ne!(one.at(at).as_slices(), two.at(at).as_slices());
        assert_eq!((one.at(at), hash(one)), (two.at(at), hash(two)));
        assert_eq!((one.at(at)[1], two.at(at).contains(&9)), (2, false));
        two.at_mut(at)[2] = 9;
        assert!(one.at(at) < two.at(at) && two.at(at).contains(&9));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one.at(at)[3])).is_err());
        Ok::<_, Error>(format!("{:?} {one:?}", two.at(at)))
    });
    assert_eq!(seen, Ok("[1, 2, 9] VVecDeque<Two>(len 3)".to_owned()));
}

#[test]
fn what_panics_when_it_is_dropped_keeps_no_other_value_alive() {
    #[derive(crate::Storable)]
    #[storable(vas = Bombs)]
    struct Bomb(VString<Bombs>, bool);
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!self.1, "on purpose");
        }
    }
    brand! { Bombs => VVecDeque<Bomb, Bombs> }
    let space = Space::<Bombs>::in_memory(1 << 16, |_| Ok(VVecDeque::new())).unwrap();
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        for number in 0..6 {
            root.at_mut(at).push_front(Bomb(VString::new(at, "text")?, number == 3))?;
        }
        let deque = std::mem::take(root);
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(deque)));
        assert!(dropped.is_err());
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
    assert_eq!(space.blocks(), 1);
}

/// Stored queues are read by other builds: what they look like is written down here.
#[test]
fn the_layouts_are_those_of_the_first_release() {
    let deque = TypeLayout::of::<VVecDeque<u32, Queue>, Queue>().text().to_owned();
    assert_eq!(
        deque,
        "VVecDeque version 1, words pcl (40 bytes, align 8)\n  head +24: usize (8 bytes, align 8)\n  \
         len +32: usize, as line 2\n  u32 (4 bytes, align 4)\n"
    );
    let heap = TypeLayout::of::<VBinaryHeap<u32, Sorted>, Sorted>().text().to_owned();
    assert_eq!(
        heap,
        "VBinaryHeap version 1 (24 bytes, align 8)\n  VVec version 1, words pcl (24 bytes, align 8)\n    \
         u32 (4 bytes, align 4)\n"
    );
    let none = TypeLayout::of::<Option<VVecDeque<u32, Queue>>, Queue>();
    assert!(none.text().starts_with("Option (40 bytes"), "{}", none.text());
    let _: VVec<u32, Queue> = VVec::new();
}
