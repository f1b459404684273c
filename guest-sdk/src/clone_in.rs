//! Deep copies in a VAS: what `Clone` cannot make there, since it has no token and no way to say that there is no
//! room.

use std::cmp::{Ordering, Reverse};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::{NonZero, Wrapping};
use std::ops::Range;
use std::time::Duration;

use crate::alloc::AllocError;
use crate::array;
use crate::brand::Brand;
use crate::calendar::{StoredDate, StoredDateTime, StoredOffset, StoredSpan, StoredTime};
use crate::collections::{
    Total, VBTreeMap, VBTreeSet, VBinaryHeap, VHashMap, VHashSet, VId, VKey, VString, VVec,
    VVecDeque,
};
use crate::storable::Storable;
use crate::token::{At, Write};
use crate::values::{StoredIp, StoredResult, Timestamp};
use crate::{VBox, VPtr, VSlice};

/// Values that can be copied with all that they own.
///
/// Derive it beside `Storable`: `#[derive(Storable, CloneIn)]`. What owners point to is copied, too; a
/// [`VPtr`] or a [`VSlice`] points to the same values afterwards, as a reference that is cloned, and a
/// [`VRc`](crate::VRc) is another owner of the same value.
///
/// ```
/// use spacejmp::{CloneIn, Space, Storable, VString, VVec};
///
/// #[derive(Storable, CloneIn)]
/// #[storable(vas = Plans<'v>)]
/// struct Plan<'v> {
///     name: VString<Plans<'v>>,
///     days: VVec<u32, Plans<'v>>,
/// }
///
/// spacejmp::brand! { Plans<'v> => VVec<Plan<'v>, Plans<'v>> }
///
/// let space = Space::<Plans>::in_memory(1 << 20, |at| {
///     let plan = Plan { name: VString::new(at, "spring")?, days: VVec::from_slice(at, &[80, 140])? };
///     VVec::collect(at, [plan])
/// })?;
/// space.write(|v| {
///     let (plans, at) = v.root_mut();
///     let mut copy = plans.at(at)[0].clone_in(at)?;
///     copy.days.at_mut(at).push(170)?;
///     plans.at_mut(at).push(copy)?;
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// let days = space.read(|v| v.root().at(v).iter().map(|plan| plan.days.len()).collect::<Vec<_>>())?;
/// assert_eq!(days, [2, 3]);
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no deep copy in the address space `{V}`",
    label = "cannot be copied with what it owns",
    note = "derive it: `#[derive(Storable, CloneIn)]`"
)]
pub trait CloneIn<V: Brand>: Sized {
    /// A copy of it, and of all that it owns.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what was copied is freed.
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError>;
}

/// Types that own nothing.
macro_rules! leaves {
    ($([$($parameter:tt)*] $type:ty;)*) => {$(
        impl<V: Brand, $($parameter)*> CloneIn<V> for $type {
            #[inline]
            fn clone_in(&self, _at: &At<V, Write>) -> Result<$type, AllocError> {
                Ok(*self)
            }
        }
    )*};
}

leaves! {
    [] u8; [] u16; [] u32; [] u64; [] u128; [] usize;
    [] i8; [] i16; [] i32; [] i64; [] i128; [] isize;
    [] f32; [] f64; [] bool; [] char; [] (); [] Duration; [] Ordering;
    [] NonZero<u8>; [] NonZero<u16>; [] NonZero<u32>; [] NonZero<u64>; [] NonZero<u128>;
    [] NonZero<usize>; [] NonZero<i8>; [] NonZero<i16>; [] NonZero<i32>; [] NonZero<i64>;
    [] NonZero<i128>; [] NonZero<isize>;
    [] Ipv4Addr; [] Ipv6Addr; [] StoredIp; [] Timestamp;
    [] StoredDate; [] StoredTime; [] StoredDateTime; [] StoredSpan; [] StoredOffset; [F: Copy] Total<F>;
    [T: ?Sized] PhantomData<T>;
    [T] VPtr<T, V>;
    [T] VSlice<T, V>;
    [T] VId<T>;
}

impl<V: Brand, T: CloneIn<V>> CloneIn<V> for Wrapping<T> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        self.0.clone_in(at).map(Wrapping)
    }
}

impl<V: Brand, T: CloneIn<V>> CloneIn<V> for Reverse<T> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        self.0.clone_in(at).map(Reverse)
    }
}

impl<V: Brand, T: CloneIn<V>> CloneIn<V> for Range<T> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        Ok(self.start.clone_in(at)?..self.end.clone_in(at)?)
    }
}

impl<V: Brand, T: CloneIn<V>> CloneIn<V> for Option<T> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        self.as_ref().map(|value| value.clone_in(at)).transpose()
    }
}

impl<V: Brand, T: CloneIn<V>, E: CloneIn<V>> CloneIn<V> for StoredResult<T, E> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        Ok(match self {
            StoredResult::Ok(value) => StoredResult::Ok(value.clone_in(at)?),
            StoredResult::Err(error) => StoredResult::Err(error.clone_in(at)?),
        })
    }
}

impl<V: Brand, T: CloneIn<V>, const N: usize> CloneIn<V> for [T; N] {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        array::try_map(self.each_ref(), |value| value.clone_in(at))
    }
}

impl<V: Brand, T: CloneIn<V> + Storable<V>> CloneIn<V> for VBox<T, V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        VBox::new(at, self.get(at).clone_in(at)?)
    }
}

impl<V: Brand, T: CloneIn<V> + Storable<V>> CloneIn<V> for VVec<T, V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        let mut copy = VVec::with_capacity(at, self.len())?;
        for value in self.at(at) {
            copy.at_mut(at).push(value.clone_in(at)?)?;
        }
        Ok(copy)
    }
}

impl<V: Brand, T: CloneIn<V> + Storable<V>> CloneIn<V> for VBox<[T], V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        VVec::try_collect(at, self.get(at).iter().map(|value| value.clone_in(at)))?.into_boxed(at)
    }
}

impl<V: Brand> CloneIn<V> for VBox<str, V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        VBox::from_text(at, self.get(at))
    }
}

impl<V: Brand, T: CloneIn<V> + Storable<V>> CloneIn<V> for VVecDeque<T, V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        let mut copy = VVecDeque::with_capacity(at, self.len())?;
        for value in self.at(at) {
            copy.at_mut(at).push_back(value.clone_in(at)?)?;
        }
        Ok(copy)
    }
}

/// As it lies: nothing is compared.
impl<V: Brand, T: CloneIn<V> + VKey<V>> CloneIn<V> for VBinaryHeap<T, V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        self.values().clone_in(at).map(VBinaryHeap::of_values)
    }
}

impl<V: Brand> CloneIn<V> for VString<V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        VString::new(at, self.at(at))
    }
}

impl<V, K, T> CloneIn<V> for VBTreeMap<K, T, V>
where
    V: Brand,
    K: VKey<V> + CloneIn<V>,
    T: CloneIn<V> + Storable<V>,
{
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        let mut copy = VBTreeMap::new();
        for (key, value) in self.at(at).stored() {
            copy.at_mut(at).insert(key.clone_in(at)?, value.clone_in(at)?)?;
        }
        Ok(copy)
    }
}

impl<V, K, T> CloneIn<V> for VHashMap<K, T, V>
where
    V: Brand,
    K: VKey<V> + CloneIn<V>,
    T: CloneIn<V> + Storable<V>,
{
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        let mut copy = VHashMap::with_capacity(at, self.len())?;
        for (key, value) in self.at(at).stored() {
            copy.at_mut(at).insert(key.clone_in(at)?, value.clone_in(at)?)?;
        }
        Ok(copy)
    }
}

impl<V: Brand, K: VKey<V> + CloneIn<V>> CloneIn<V> for VBTreeSet<K, V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        self.as_map().clone_in(at).map(VBTreeSet::of_map)
    }
}

impl<V: Brand, K: VKey<V> + CloneIn<V>> CloneIn<V> for VHashSet<K, V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        self.as_map().clone_in(at).map(VHashSet::of_map)
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),*);)*) => {$(
        impl<V: Brand, $($name: CloneIn<V>),*> CloneIn<V> for ($($name,)*) {
            fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
                Ok(($(self.$index.clone_in(at)?,)*))
            }
        }
    )*};
}

tuples! {
    (A 0);
    (A 0, B 1);
    (A 0, B 1, C 2);
    (A 0, B 1, C 2, D 3);
    (A 0, B 1, C 2, D 3, E 4);
    (A 0, B 1, C 2, D 3, E 4, F 5);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Space, brand};

    #[derive(crate::Storable, crate::CloneIn)]
    #[storable(vas = V)]
    struct Tree<T, V: Brand> {
        name: VString<V>,
        value: T,
        below: VVec<Tree<T, V>, V>,
        first: Option<VBox<[VString<V>; 2], V>>,
        by_name: VBTreeMap<VString<V>, VHashMap<u8, VString<V>, V>, V>,
        seen: (VHashSet<VString<V>, V>, VBTreeSet<u32, V>),
        kind: Kind<V>,
    }

    #[derive(crate::Storable, crate::CloneIn)]
    #[repr(u8)]
    #[storable(vas = V)]
    enum Kind<V: Brand> {
        Plain,
        Named { name: VString<V> },
        Numbered(Range<u64>, Reverse<i8>),
    }

    brand! {
        Woods => Option<Tree<f32, Woods>>,
        Small => Option<Tree<f32, Small>>,
        Shared => (VPtr<u64, Shared>, VPtr<u64, Shared>),
    }

    fn text<V: Brand>(at: &At<V, Write>, text: &str) -> Result<VString<V>, AllocError> {
        VString::new(at, text)
    }

    fn tree<V: Brand>(at: &At<V, Write>, depth: u8) -> Result<Tree<f32, V>, AllocError> {
        let mut by_name = VBTreeMap::new();
        let mut inner = VHashMap::new();
        inner.at_mut(at).insert(depth, text(at, "leaf")?)?;
        by_name.at_mut(at).insert(text(at, "key")?, inner)?;
        let mut seen = (VHashSet::new(), VBTreeSet::new());
        seen.0.at_mut(at).insert(text(at, "seen")?)?;
        seen.1.at_mut(at).extend([5, 3, 4])?;
        let below = (0..depth).map(|_| tree(at, depth - 1));
        Ok(Tree {
            name: text(at, "oak")?,
            value: f32::from(depth),
            below: VVec::try_collect(at, below)?,
            first: Some(VBox::new(at, [text(at, "a")?, text(at, "b")?])?),
            by_name,
            seen,
            kind: match depth {
                0 => Kind::Plain,
                1 => Kind::Numbered(3..9, Reverse(2)),
                _ => Kind::Named { name: text(at, "root")? },
            },
        })
    }

    fn shown<V: Brand>(tree: &Tree<f32, V>, at: &At<V, Write>) -> String {
        let below: Vec<String> = tree.below.at(at).iter().map(|tree| shown(tree, at)).collect();
        let first = tree.first.as_ref().map(|pair| pair.get(at).each_ref().map(|it| it.at(at)));
        let by_name = tree.by_name.at(at).iter();
        let by_name: Vec<_> = by_name
            .map(|(key, map)| {
                (key, map.at(at).iter().map(|(n, it)| (*n, it.at(at))).collect::<Vec<_>>())
            })
            .collect();
        let kind = match &tree.kind {
            Kind::Plain => "plain".to_owned(),
            Kind::Named { name } => name.at(at).to_owned(),
            Kind::Numbered(range, reverse) => format!("{range:?} {reverse:?}"),
        };
        let seen = (tree.seen.0.at(at), tree.seen.1.at(at));
        format!(
            "{} {} {first:?} {by_name:?} {seen:?} {kind} {below:?}",
            tree.name.at(at),
            tree.value
        )
    }

    #[test]
    fn a_copy_has_all_of_the_original_and_shares_nothing_with_it() {
        let space = Space::<Woods>::in_memory(1 << 20, |_| Ok(None)).expect("a space");
        let done = space.write(|v| {
            let at = v.root_mut().1;
            let mut original = tree(at, 2)?;
            let before = shown(&original, at);
            assert!(before.contains("3..9") && before.contains("leaf"), "{before}");
            let copy = original.clone_in(at)?;
            assert_eq!(shown(&copy, at), before);
            original.name.at_mut(at).push_str("!")?;
            original.below.at_mut(at).clear();
            original.by_name.at_mut(at).clear();
            original.seen.1.at_mut(at).clear();
            drop(original);
            assert_eq!(shown(&copy, at), before);
            Ok::<_, Error>(())
        });
        assert_eq!(done, Ok(()));
        assert_eq!(space.blocks(), 1, "both are freed");
    }

    #[test]
    fn a_copy_for_which_there_is_no_room_leaves_nothing_behind() {
        let space = Space::<Small>::in_memory(12 << 10, |_| Ok(None)).expect("a space");
        let copied = space.write(|v| {
            let (root, at) = v.root_mut();
            *root = Some(tree(at, 2)?);
            let mut copies = Vec::new();
            while let Ok(copy) = root.as_ref().expect("it was made").clone_in(at) {
                copies.push(copy);
            }
            *root = None;
            Ok::<_, Error>(copies.len())
        });
        assert!(copied.as_ref().is_ok_and(|copies| *copies < 50), "{copied:?}");
        assert_eq!(space.blocks(), 1);
    }

    #[test]
    fn a_pointer_that_is_copied_points_to_the_same_value() {
        let space = Space::<Shared>::in_memory(1 << 20, |at| {
            let pointer = VPtr::new(at, 7)?;
            (pointer, pointer).clone_in(at)
        });
        let same = space.expect("a space").read(|v| (v.root().0 == v.root().1, *v.root().1.get(v)));
        assert_eq!(same, Ok((true, 7)));
    }
}
