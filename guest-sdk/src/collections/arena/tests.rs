//! The arena against a table of what is in it and a list of what is not any more.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{VArena, VId};
use crate::{Error, Space, VBox, brand};

const ROOM: usize = 4 << 20;

#[derive(Debug, Clone)]
enum Step {
    Insert(u64),
    Remove(prop::sample::Index),
    RemoveStale(prop::sample::Index),
    Change(prop::sample::Index, u64),
    Retain(u64),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => any::<u64>().prop_map(Step::Insert),
        6 => any::<prop::sample::Index>().prop_map(Step::Remove),
        2 => any::<prop::sample::Index>().prop_map(Step::RemoveStale),
        4 => (any::<prop::sample::Index>(), any::<u64>())
            .prop_map(|(which, value)| Step::Change(which, value)),
        1 => (1..6_u64).prop_map(Step::Retain),
        1 => Just(Step::Clear),
    ]
}

brand! { Model => VArena<u64, Model> }

#[derive(Default)]
struct Expected {
    there: BTreeMap<VId<u64>, u64>,
    gone: Vec<VId<u64>>,
    most: usize,
}

impl Expected {
    fn which(&self, index: &prop::sample::Index) -> Option<VId<u64>> {
        let count = self.there.len();
        (count > 0).then(|| self.there.keys().nth(index.index(count)).copied()).flatten()
    }

    fn take(&mut self, step: &Step, arena: &mut super::ArenaMut<'_, u64, Model>) {
        match step {
            Step::Insert(value) => {
                let id = arena.insert(*value).unwrap();
                assert_eq!(self.there.insert(id, *value), None);
                assert!(!self.gone.contains(&id), "{id:?} has come back");
                self.most = self.most.max(self.there.len());
            }
            Step::Remove(index) => {
                let Some(id) = self.which(index) else { return };
                assert_eq!(arena.remove(id), self.there.remove(&id));
                self.gone.push(id);
            }
            Step::RemoveStale(index) => {
                if !self.gone.is_empty() {
                    assert_eq!(arena.remove(self.gone[index.index(self.gone.len())]), None);
                }
            }
            Step::Change(index, value) => {
                let Some(id) = self.which(index) else { return };
                assert_eq!(Some(arena[id]), self.there.insert(id, *value));
                arena[id] = *value;
            }
            Step::Retain(n) => {
                arena.retain(|_, value| value.is_multiple_of(*n));
                let gone = self.there.extract_if(.., |_, value| !value.is_multiple_of(*n));
                self.gone.extend(gone.map(|(id, _)| id));
            }
            Step::Clear => {
                arena.clear();
                self.gone.extend(std::mem::take(&mut self.there).into_keys());
            }
        }
    }

    fn check(&self, arena: &mut super::ArenaMut<'_, u64, Model>) {
        assert_eq!(arena.len(), self.there.len());
        let found: BTreeMap<_, _> = arena.as_ref().iter().map(|(id, it)| (id, *it)).collect();
        assert_eq!(found, self.there);
        assert_eq!(arena.as_ref().iter().len(), arena.as_ref().iter().count());
        let found: BTreeMap<_, _> = arena.iter_mut().map(|(id, it)| (id, *it)).collect();
        assert_eq!(found, self.there);
        for &id in &self.gone {
            assert!(arena.get(id).is_none() && arena.get_mut(id).is_none(), "{id:?}");
        }
        // Slots are filled again before there are new ones.
        assert_eq!(arena.arena.slots.len(), self.most);
    }
}

#[test]
fn ids_find_their_values_until_these_are_removed_and_nothing_afterwards() {
    let space = Space::<Model>::in_memory(ROOM, |_| Ok(VArena::new())).unwrap();
    let cases = if cfg!(miri) { 2 } else { 64 };
    let steps = prop::collection::vec(step(), 1..if cfg!(miri) { 30 } else { 200 });
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps)| {
        space.write(|v| {
            let (arena, at) = v.root_mut();
            *arena = VArena::new();
            let mut expected = Expected::default();
            for step in &steps {
                expected.take(step, &mut arena.at_mut(at));
                expected.check(&mut arena.at_mut(at));
            }
            Ok::<_, Error>(())
        }).unwrap();
    });
}

brand! { Spent => VArena<u64, Spent> }

#[test]
fn a_slot_that_was_filled_too_often_is_not_filled_again() {
    let space = Space::<Spent>::in_memory(ROOM, |_| Ok(VArena::new())).unwrap();
    space
        .write(|v| {
            let (arena, at) = v.root_mut();
            let first = arena.at_mut(at).insert(1).unwrap();
            arena.at_mut(at).remove(first);
            arena.slots.at_mut(at)[0].fillings = u32::MAX - 1;
            let last = arena.at_mut(at).insert(2).unwrap();
            assert_eq!((last.slot, last.filling.get()), (0, u32::MAX));
            assert_eq!(arena.at_mut(at).remove(last), Some(2));
            let next = arena.at_mut(at).insert(3).unwrap();
            assert_eq!(next.slot, 1);
            assert_eq!(arena.at(at).get(last), None);
            Ok::<_, Error>(())
        })
        .unwrap();
}

brand! { Owners => VArena<VBox<u64, Owners>, Owners> }

#[test]
fn removed_values_are_freed_and_so_is_the_arena() {
    let space = Space::<Owners>::in_memory(ROOM, |_| Ok(VArena::new())).unwrap();
    let before = space.blocks();
    space
        .write(|v| {
            let (arena, at) = v.root_mut();
            let mut view = arena.at_mut(at);
            let ids: Vec<_> =
                (0..100).map(|i| view.insert(VBox::new(at, i).unwrap()).unwrap()).collect();
            view.retain(|_, value| *value.get(at) % 3 == 0);
            assert_eq!(view.len(), 34);
            drop(view.remove(ids[3]));
            let [a, b] = view.get_disjoint_mut([ids[6], ids[9]]).unwrap();
            std::mem::swap(a, b);
            assert_eq!((*view[ids[6]].get(at), *view[ids[9]].get(at)), (9, 6));
            assert!(view.get_disjoint_mut([ids[6], ids[6]]).is_none());
            assert!(view.get_disjoint_mut([ids[6], ids[7]]).is_none());
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), before + 33 + 1);
    space
        .write(|v| {
            *v.root_mut().0 = VArena::new();
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), before);
}

brand! { Narrow => VArena<[u64; 16], Narrow> }

#[test]
fn when_there_is_no_room_the_arena_is_as_it_was() {
    let space = Space::<Narrow>::in_memory(16 << 10, |_| Ok(VArena::new())).unwrap();
    space
        .write(|v| {
            let (arena, at) = v.root_mut();
            let mut ids = Vec::new();
            let error = loop {
                match arena.at_mut(at).insert([ids.len() as u64; 16]) {
                    Ok(id) => ids.push(id),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.brand, "Narrow");
            assert_eq!(arena.len(), ids.len());
            assert!(ids.iter().zip(0..).all(|(&id, i)| arena.at(at)[id][7] == i));
            // There is room in the slots of others.
            arena.at_mut(at).remove(ids[5]);
            assert!(arena.at_mut(at).insert([7; 16]).is_ok());
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn its_layout_names_its_slots_and_what_is_in_them() {
    let layout = crate::layout::TypeLayout::of::<VArena<u64, Model>, Model>();
    let text = layout.text();
    assert!(text.starts_with("VArena version 1 (32 bytes, align 8)\n  slots +0: VVec"), "{text}");
    let slot = "\
    arena's slot (24 bytes, align 8)
      value +8: Option (16 bytes, align 8)
        u64 (8 bytes, align 8)
  free, len +24: array of 2 (8 bytes, align 4)
";
    assert!(text.contains(slot), "{text}");
    let id = crate::layout::TypeLayout::of::<Option<VId<u64>>, Model>();
    assert!(id.text().starts_with("Option (8 bytes, align 4)\n"), "{}", id.text());
}
