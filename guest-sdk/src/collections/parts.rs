//! Keys of several parts of which some are texts or byte strings, looked up by the parts.
//!
//! What such a key lends has to be a reference to something that lies somewhere, and there is no
//! pair of a `str` and a number anywhere: there is the key, and what is asked for, which are two types. So
//! what is lent is a trait object of either, [`Pair`], [`Triple`] or [`Quadruple`], which gives the parts.
//!
//! Two things about it need an argument. An object of a key reads its texts without a token when it
//! is hashed or compared: its reference only exists while a witness is borrowed, and does not leave
//! the thread. And the type of what is lent must not have a lifetime, so the object's is hidden: it is
//! never seen but behind a reference, which has that lifetime or a shorter one.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::Deref;

use super::key::VKey;
use super::string::VString;
use super::vec::VVec;
use crate::brand::{Brand, Invariant};
use crate::storable::Storable;
use crate::token::{At, Mode, Read};

/// A key with a witness that is borrowed as long as it is, which has no size.
#[repr(transparent)]
struct Seen<K, V> {
    key: K,
    _at: PhantomData<(Invariant<V>, *mut ())>,
}

impl<K, V: Brand> Seen<K, V> {
    fn new<'a, M: Mode>(key: &'a K, _at: &'a At<V, M>) -> &'a Seen<K, V> {
        // SAFETY: it is a `K` and nothing else.
        unsafe { &*std::ptr::from_ref(key).cast::<Seen<K, V>>() }
    }

    fn at(&self) -> &At<V, Read> {
        // SAFETY: a reference to this is only made by `new`, which borrows a witness for as long; it
        // is not sent to another thread, since this is not `Sync`.
        unsafe { At::borrowed() }
    }
}

/// What is asked for: `map.get(&By(("abc", &7)))`, for a map whose keys are `(VString<V>, u64)`.
///
/// ```
/// use std::ops::Bound::Included;
///
/// use spacejmp::{By, Space, VBTreeMap, VString};
///
/// type Sales<'v> = VBTreeMap<(VString<Shop<'v>>, u32), u64, Shop<'v>>;
/// spacejmp::brand! { Shop<'v> => Sales<'v> }
///
/// let shop = Space::<Shop>::in_memory(1 << 20, |_| Ok(VBTreeMap::new()))?;
/// shop.write(|v| {
///     let (sales, at) = v.root_mut();
///     for (what, day, count) in [("tea", 1, 30), ("tea", 2, 40), ("rice", 1, 5)] {
///         sales.at_mut(at).insert((VString::new(at, what)?, day), count)?;
///     }
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// shop.read(|v| {
///     let sales = v.root().at(v);
///     assert_eq!(sales.get(&By(("tea", &2))), Some(&40));
///     // All days of tea.
///     let days = (Included(&*By(("tea", &0))), Included(&*By(("tea", &u32::MAX))));
///     assert_eq!(sales.range(days).map(|(key, _)| *key.parts().1).collect::<Vec<_>>(), [1, 2]);
/// })?;
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct By<P>(pub P);

/// What belongs to a number of parts: the trait of objects, what is lent, the trait of keys, and what is asked for.
macro_rules! parts {
    ($lent:ident, $object:ident, $keys:ident, $count:literal, $($part:ident),+) => {
        trait $object<$($part: ?Sized),+> {
            fn parts(&self) -> ($(&$part,)+);
        }

        #[doc = concat!("What a key of ", $count, " parts lends a map. It is hashed and compared as the tuple of them is.")]
        #[repr(transparent)]
        pub struct $lent<$($part: ?Sized),+>(dyn $object<$($part),+>);

        #[doc = concat!("Keys of ", $count, " parts. `#[derive(VKey)]` implements it.")]
        #[doc(hidden)]
        pub trait $keys<V: Brand> {
            $(
                /// What a part lends.
                type $part: ?Sized;
            )+

            /// The parts.
            fn parts<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> ($(&'a Self::$part,)+);
        }

        impl<K: $keys<V>, V: Brand> $object<$(K::$part),+> for Seen<K, V> {
            fn parts(&self) -> ($(&K::$part,)+) {
                self.key.parts(self.at())
            }
        }

        impl<$($part: ?Sized),+> $object<$($part),+> for ($(&$part,)+) {
            fn parts(&self) -> ($(&$part,)+) {
                *self
            }
        }

        impl<$($part: ?Sized),+> $lent<$($part),+> {
            /// The key's parts.
            pub fn of<'a, K, V: Brand, M: Mode>(key: &'a K, at: &'a At<V, M>) -> &'a Self
            where
                K: $keys<V, $($part = $part),+>,
            {
                Self::of_object(Seen::new(key, at))
            }

            fn of_object<'a>(object: &'a (dyn $object<$($part),+> + 'a)) -> &'a Self {
                // SAFETY: the type is an object and nothing else, and is not seen but behind a
                // reference of this lifetime: a longer one of the object means nothing.
                unsafe { std::mem::transmute::<&'a (dyn $object<$($part),+> + 'a), &'a Self>(object) }
            }

            /// The parts.
            #[must_use]
            pub fn parts(&self) -> ($(&$part,)+) {
                self.0.parts()
            }
        }

        impl<$($part: ?Sized),+> Deref for By<($(&$part,)+)> {
            type Target = $lent<$($part),+>;

            fn deref(&self) -> &Self::Target {
                $lent::of_object(&self.0)
            }
        }

        impl<$($part: ?Sized + PartialEq),+> PartialEq for $lent<$($part),+> {
            fn eq(&self, other: &Self) -> bool {
                self.parts() == other.parts()
            }
        }

        impl<$($part: ?Sized + Eq),+> Eq for $lent<$($part),+> {}

        impl<$($part: ?Sized + Ord),+> PartialOrd for $lent<$($part),+> {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl<$($part: ?Sized + Ord),+> Ord for $lent<$($part),+> {
            fn cmp(&self, other: &Self) -> Ordering {
                self.parts().cmp(&other.parts())
            }
        }

        impl<$($part: ?Sized + Hash),+> Hash for $lent<$($part),+> {
            fn hash<S: Hasher>(&self, state: &mut S) {
                self.parts().hash(state);
            }
        }

        impl<$($part: ?Sized + fmt::Debug),+> fmt::Debug for $lent<$($part),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.parts().fmt(f)
            }
        }
    };
}

parts!(Pair, OfTwo, TwoParts, "two", A, B);
parts!(Triple, OfThree, ThreeParts, "three", A, B, C);
parts!(Quadruple, OfFour, FourParts, "four", A, B, C, D);

/// A tuple whose first part that is no plain key is `$owner`: before it are plain keys, after it any. No two of these
/// overlap, and none with tuples of plain keys, which are looked up by themselves.
macro_rules! tuple {
    ($lent:ident $keys:ident [$($more:tt)*] $owner:ty, $lends:ty:
     $($plain:ident $plain_index:tt)* ; $at:ident $owner_index:tt ; $($any:ident $any_index:tt)*) => {
        impl<V: Brand, $($more)* $($plain: Storable<V> + Hash + Ord,)* $($any: VKey<V>,)*> $keys<V>
            for ($($plain,)* $owner, $($any,)*)
        {
            $(type $plain = $plain;)*
            type $at = $lends;
            $(type $any = <$any as VKey<V>>::Borrowed;)*

            fn parts<'a, M: Mode>(&'a self, at: &'a At<V, M>)
                -> ($(&'a $plain,)* &'a $lends, $(&'a <$any as VKey<V>>::Borrowed,)*)
            {
                ($(&self.$plain_index,)* self.$owner_index.at(at), $(self.$any_index.borrowed(at),)*)
            }
        }

        impl<V: Brand, $($more)* $($plain: Storable<V> + Hash + Ord,)* $($any: VKey<V>,)*> VKey<V>
            for ($($plain,)* $owner, $($any,)*)
        {
            type Borrowed = $lent<$($plain,)* $lends, $(<$any as VKey<V>>::Borrowed),*>;

            fn borrowed<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> &'a Self::Borrowed {
                $lent::of(self, at)
            }
        }
    };
}

macro_rules! tuples {
    ($([$($more:tt)*] $owner:ty, $lends:ty;)*) => {$(
        tuple!(Pair TwoParts [$($more)*] $owner, $lends: ; A 0 ; B 1);
        tuple!(Pair TwoParts [$($more)*] $owner, $lends: A 0 ; B 1 ;);
        tuple!(Triple ThreeParts [$($more)*] $owner, $lends: ; A 0 ; B 1 C 2);
        tuple!(Triple ThreeParts [$($more)*] $owner, $lends: A 0 ; B 1 ; C 2);
        tuple!(Triple ThreeParts [$($more)*] $owner, $lends: A 0 B 1 ; C 2 ;);
        tuple!(Quadruple FourParts [$($more)*] $owner, $lends: ; A 0 ; B 1 C 2 D 3);
        tuple!(Quadruple FourParts [$($more)*] $owner, $lends: A 0 ; B 1 ; C 2 D 3);
        tuple!(Quadruple FourParts [$($more)*] $owner, $lends: A 0 B 1 ; C 2 ; D 3);
        tuple!(Quadruple FourParts [$($more)*] $owner, $lends: A 0 B 1 C 2 ; D 3 ;);
    )*};
}

tuples! {
    [] VString<V>, str;
    [T: Storable<V> + Hash + Ord,] VVec<T, V>, [T];
}
