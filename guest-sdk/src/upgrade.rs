//! Types that have changed: how what an earlier version of a program stored becomes what this one
//! expects.
//!
//! A type says what it was before, `#[storable(version = 2, from = v1::Notes<'v>)]`, and opening a versioned
//! [`Space`](crate::Space) whose root object is one of those makes the root object of today from it, in
//! one visit. The book's page "Changing types" shows it.

use crate::VBox;
use crate::alloc::AllocError;
use crate::array;
use crate::brand::Brand;
use crate::collections::{VBTreeMap, VBinaryHeap, VHashMap, VKey, VVec, VVecDeque};
#[doc(hidden)]
pub use crate::earlier::{EarlierForm, StoredRoot};
use crate::storable::Storable;
use crate::token::{At, Write};

/// Values that are made from those of an earlier type, `Old`.
///
/// `#[derive(Storable)]` with `from = Old` implements it field by field. Implementations for `Option`, arrays,
/// [`VBox`], [`VVec`], [`VVecDeque`], [`VBinaryHeap`] and the maps do it for what is in them; what a
/// [`VPtr`](crate::VPtr), a [`VRc`](crate::VRc) or a [`VId`](crate::VId) points to is shared, and needs an implementation by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made from the earlier type `{Old}`",
    label = "nothing says how to make it from `{Old}`",
    note = "derive it, `#[storable(version = N, from = {Old})]`, or implement `UpgradeFrom`; a field whose \
            type is still the same must not be marked `#[storable(upgrade)]`"
)]
pub trait UpgradeFrom<V: Brand, Old>: Sized {
    /// Makes it. What `old` owns and is not moved on is freed.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room: nothing has changed then.
    fn upgrade_from(old: Old, at: &At<V, Write>) -> Result<Self, AllocError>;
}

/// Types that can be a root object, in each visit: the same type, but with the visit's lifetime. Derived with
/// [`Storable`](macro@crate::Storable) for types without type parameters and with one lifetime at most.
pub trait RootType {
    /// The type in a visit that lasts `'v`.
    type During<'v>;
}

impl<V: Brand, T: UpgradeFrom<V, Old>, Old> UpgradeFrom<V, Option<Old>> for Option<T> {
    fn upgrade_from(old: Option<Old>, at: &At<V, Write>) -> Result<Option<T>, AllocError> {
        old.map(|old| T::upgrade_from(old, at)).transpose()
    }
}

impl<V: Brand, T: UpgradeFrom<V, Old>, Old, const N: usize> UpgradeFrom<V, [Old; N]> for [T; N] {
    fn upgrade_from(old: [Old; N], at: &At<V, Write>) -> Result<[T; N], AllocError> {
        array::try_map(old, |old| T::upgrade_from(old, at))
    }
}

impl<V, T, Old> UpgradeFrom<V, VBox<Old, V>> for VBox<T, V>
where
    V: Brand,
    T: UpgradeFrom<V, Old> + Storable<V>,
    Old: Storable<V>,
{
    fn upgrade_from(old: VBox<Old, V>, at: &At<V, Write>) -> Result<VBox<T, V>, AllocError> {
        VBox::new(at, T::upgrade_from(old.into_inner(at), at)?)
    }
}

impl<V, T, Old> UpgradeFrom<V, VVec<Old, V>> for VVec<T, V>
where
    V: Brand,
    T: UpgradeFrom<V, Old> + Storable<V>,
    Old: Storable<V>,
{
    fn upgrade_from(old: VVec<Old, V>, at: &At<V, Write>) -> Result<VVec<T, V>, AllocError> {
        VVec::try_collect(at, old.into_iter(at).map(|old| T::upgrade_from(old, at)))
    }
}

impl<V, T, Old> UpgradeFrom<V, VBox<[Old], V>> for VBox<[T], V>
where
    V: Brand,
    T: UpgradeFrom<V, Old> + Storable<V>,
    Old: Storable<V>,
{
    fn upgrade_from(old: VBox<[Old], V>, at: &At<V, Write>) -> Result<VBox<[T], V>, AllocError> {
        let new = old.into_iter(at).map(|old| T::upgrade_from(old, at));
        VVec::try_collect(at, new)?.into_boxed(at)
    }
}

impl<V, T, Old> UpgradeFrom<V, VVecDeque<Old, V>> for VVecDeque<T, V>
where
    V: Brand,
    T: UpgradeFrom<V, Old> + Storable<V>,
    Old: Storable<V>,
{
    fn upgrade_from(old: VVecDeque<Old, V>, at: &At<V, Write>) -> Result<Self, AllocError> {
        VVecDeque::try_collect(at, old.into_iter(at).map(|old| T::upgrade_from(old, at)))
    }
}

impl<V, T, Old> UpgradeFrom<V, VBinaryHeap<Old, V>> for VBinaryHeap<T, V>
where
    V: Brand,
    T: UpgradeFrom<V, Old> + VKey<V>,
    Old: VKey<V>,
{
    fn upgrade_from(old: VBinaryHeap<Old, V>, at: &At<V, Write>) -> Result<Self, AllocError> {
        Ok(VBinaryHeap::from_vec(at, UpgradeFrom::upgrade_from(old.into_vec(), at)?))
    }
}

impl<V, K, T, Old> UpgradeFrom<V, VBTreeMap<K, Old, V>> for VBTreeMap<K, T, V>
where
    V: Brand,
    K: VKey<V>,
    T: UpgradeFrom<V, Old> + Storable<V>,
    Old: Storable<V>,
{
    fn upgrade_from(mut old: VBTreeMap<K, Old, V>, at: &At<V, Write>) -> Result<Self, AllocError> {
        let (mut old, mut map) = (old.at_mut(at), VBTreeMap::new());
        while let Some((key, old)) = old.pop_first() {
            map.at_mut(at).insert(key, T::upgrade_from(old, at)?)?;
        }
        Ok(map)
    }
}

impl<V, K, T, Old> UpgradeFrom<V, VHashMap<K, Old, V>> for VHashMap<K, T, V>
where
    V: Brand,
    K: VKey<V>,
    T: UpgradeFrom<V, Old> + Storable<V>,
    Old: Storable<V>,
{
    fn upgrade_from(mut old: VHashMap<K, Old, V>, at: &At<V, Write>) -> Result<Self, AllocError> {
        let mut map = VHashMap::with_capacity(at, old.len())?;
        for (key, old) in old.at_mut(at).drain() {
            map.at_mut(at).insert(key, T::upgrade_from(old, at)?)?;
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::TypeLayout;
    use crate::{Error, Space, Storable, VString, brand};

    mod v1 {
        #[derive(crate::Storable)]
        pub(super) struct Entry(pub(super) u8);
    }

    #[derive(Storable)]
    #[storable(version = 2, from = v1::Entry, name = Entry)]
    struct Second(u8, #[storable(new = 7)] u8);

    /// Fails for one value, as when there is no room.
    #[derive(Storable)]
    #[storable(vas = Here, version = 5, from = Second, with = third, name = Entry)]
    struct Third(VString<Here>);

    brand! { Here => VVec<Third, Here> }

    fn third(old: Second, at: &At<Here, Write>) -> Result<Third, AllocError> {
        match old {
            Second(13, _) => Err(AllocError::new::<Here>(13)),
            Second(number, more) => Ok(Third(VString::new(at, &format!("{number} {more}"))?)),
        }
    }

    #[test]
    fn a_version_is_part_of_a_layout_from_the_second_on() {
        let name = |layout: &TypeLayout| TypeLayout::name_in(layout.text()).to_owned();
        let first = TypeLayout::of::<v1::Entry, Here>();
        let second = TypeLayout::of::<Second, Here>();
        assert_eq!(name(&first), "struct Entry");
        assert_eq!(name(&second), "struct Entry version 2");
        assert_eq!(TypeLayout::versioned_name_in(first.text()), ("struct Entry", 1));
        assert_eq!(TypeLayout::versioned_name_in(second.text()), ("struct Entry", 2));
        assert_eq!(TypeLayout::versioned_name_in("VVec version 1, words abc (24 bytes)").1, 1);
    }

    #[test]
    fn earlier_versions_are_found_through_all_steps_and_nothing_else_is() {
        let find = |layout: TypeLayout| <Third as Storable<Here>>::earlier(layout.fingerprint());
        let first = TypeLayout::of::<v1::Entry, Here>();
        let found = find(first.clone()).expect("it is one");
        assert_eq!(found, EarlierForm { layout: first, size: 1, align: 1 });
        assert!(find(TypeLayout::of::<Second, Here>()).is_some());
        // Today's is no earlier one.
        assert!(find(TypeLayout::of::<Third, Here>()).is_none());
        assert!(find(TypeLayout::of::<u8, Here>()).is_none());
    }

    type Holders<T> =
        (VVec<Option<VBox<T, Here>>, Here>, VBTreeMap<u8, T, Here>, VHashMap<u8, [T; 2], Here>);

    fn filled(at: &At<Here, Write>, from: u8) -> Result<Holders<Second>, AllocError> {
        let numbers = from..from + 4;
        let entry = |n| Ok(if n == from { None } else { Some(VBox::new(at, Second(n, 1))?) });
        let list = VVec::try_collect(at, numbers.clone().map(entry))?;
        let (mut ordered, mut hashed) = (VBTreeMap::new(), VHashMap::new());
        for n in numbers {
            ordered.at_mut(at).insert(n, Second(n, 2))?;
            hashed.at_mut(at).insert(n, [Second(n, 3), Second(n, 4)])?;
        }
        Ok((list, ordered, hashed))
    }

    #[test]
    fn what_is_in_collections_is_made_anew_and_what_was_there_is_freed_also_after_an_error() {
        let space = Space::<Here>::in_memory(1 << 20, |_| Ok(VVec::new())).expect("a space");
        let queues = space.write(|v| {
            let at = v.root_mut().1;
            let mut deque = VVecDeque::collect(at, [Second(2, 2)])?;
            deque.at_mut(at).push_front(Second(1, 2))?;
            let deque: VVecDeque<Third, Here> = UpgradeFrom::upgrade_from(deque, at)?;
            let slice = VVec::collect(at, [Second(3, 4)])?.into_boxed(at)?;
            let slice: VBox<[Third], Here> = UpgradeFrom::upgrade_from(slice, at)?;
            let all = deque.at(at).iter().chain(slice.get(at));
            Ok::<_, Error>(all.map(|entry| entry.0.at(at).to_owned()).collect::<Vec<_>>())
        });
        assert_eq!(queues, Ok(["1 2", "2 2", "3 4"].map(str::to_owned).to_vec()));
        assert_eq!(space.blocks(), 1, "all of it was dropped");

        let seen = space.write(|v| {
            let at = v.root_mut().1;
            let (list, ordered, hashed) = filled(at, 0)?;
            let list: VVec<Option<VBox<Third, Here>>, Here> = UpgradeFrom::upgrade_from(list, at)?;
            let ordered: VBTreeMap<u8, Third, Here> = UpgradeFrom::upgrade_from(ordered, at)?;
            let hashed: VHashMap<u8, [Third; 2], Here> = UpgradeFrom::upgrade_from(hashed, at)?;
            let texts = list.at(at).iter().flatten().map(|entry| entry.get(at).0.at(at).to_owned());
            assert_eq!(texts.collect::<Vec<_>>(), ["1 1", "2 1", "3 1"]);
            let texts =
                ordered.at(at).iter().map(|(key, entry)| format!("{key}: {}", entry.0.at(at)));
            assert_eq!(texts.collect::<Vec<_>>(), ["0: 0 2", "1: 1 2", "2: 2 2", "3: 3 2"]);
            let two = hashed.at(at).get(&3).map(|both| both.each_ref().map(|entry| entry.0.at(at)));
            assert_eq!((two, hashed.len()), (Some(["3 3", "3 4"]), 4));
            Ok::<_, Error>(())
        });
        assert_eq!(seen, Ok(()));
        assert_eq!(space.blocks(), 1, "all of it was dropped");

        let refused = space.write(|v| {
            let at = v.root_mut().1;
            let (list, ordered, hashed) = filled(at, 10)?;
            let list: Result<VVec<Option<VBox<Third, Here>>, Here>, _> =
                UpgradeFrom::upgrade_from(list, at);
            let ordered: Result<VBTreeMap<u8, Third, Here>, _> =
                UpgradeFrom::upgrade_from(ordered, at);
            let hashed: Result<VHashMap<u8, [Third; 2], Here>, _> =
                UpgradeFrom::upgrade_from(hashed, at);
            let bytes = [list.map(|_| ()), ordered.map(|_| ()), hashed.map(|_| ())];
            Ok::<_, Error>(bytes.map(|result| result.map_err(|error| error.bytes)))
        });
        assert_eq!(refused, Ok([Err(13); 3]));
        assert_eq!(space.blocks(), 1, "all of it was dropped");
    }
}
