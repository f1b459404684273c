//! Keys of maps, and what they are looked up by.
//!
//! `std::borrow::Borrow` cannot serve: the text of a key that lies in a VAS is only reached with a
//! token, and no hash or comparison gets one. So maps hash and compare what a key lends them,
//! as `HashMap<String, _>` does when it is asked for a `str`.

use std::cmp::{Ordering, Reverse};
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::{NonZero, Wrapping};
use std::time::Duration;

use super::total::Total;
use crate::brand::Brand;
use crate::calendar::{StoredDate, StoredDateTime, StoredOffset, StoredSpan, StoredTime};
use crate::storable::Storable;
use crate::token::{At, Mode};
use crate::values::{StoredIp, Timestamp};

/// Keys of maps in `V`.
///
/// Numbers, `bool`, `char`, IP addresses, times, floating-point numbers by [`Total`](super::Total), arrays, tuples, options
/// and `Reverse` of these are looked up by themselves; [`VString`](super::VString) and `VBox<str, V>` by `&str`,
/// [`VVec`](super::VVec) and `VBox<[T], V>` by slices, [`VRc`](crate::VRc) by what its value is looked up by. Tuples of two to four with
/// texts or vectors in them are looked up by their parts: [`By`](super::By). A type of one's own becomes a key by
///
/// ```
/// use spacejmp::{By, Space, Storable, VHashMap, VKey, VString};
///
/// #[derive(Storable, VKey, PartialEq, Eq, PartialOrd, Ord, Hash)]
/// struct Edge {
///     from: u32,
///     to: u32,
/// }
///
/// #[derive(Storable, VKey)]
/// #[storable(vas = Roads<'v>)]
/// struct Sign<'v> {
///     town: VString<Roads<'v>>,
///     edge: Edge,
/// }
///
/// spacejmp::brand! { Roads<'v> => VHashMap<Sign<'v>, u32, Roads<'v>> }
///
/// let roads = Space::<Roads>::in_memory(1 << 20, |_| Ok(VHashMap::new()))?;
/// roads.write(|v| {
///     let (signs, at) = v.root_mut();
///     let sign = Sign { town: VString::new(at, "Ulm")?, edge: Edge { from: 1, to: 2 } };
///     signs.at_mut(at).insert(sign, 40)?;
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// let edge = Edge { from: 1, to: 2 };
/// assert_eq!(roads.read(|v| v.root().at(v).get(&By(("Ulm", &edge))).copied())?, Some(40));
/// # Ok::<_, spacejmp::Error>(())
/// ```
///
/// or, where something else than the value or its parts is to be compared, such as a text in small letters, by an
/// implementation by hand.
///
/// Hashes are kept: a change to how a key of one's own is hashed or ordered, in another build of
/// the program, makes entries unfindable, and no layout shows it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a map in the address space `{V}`",
    label = "not a key",
    note = "keys are numbers, `bool`, `char`, `VString`, arrays and tuples of plain keys, tuples that \
            begin with plain keys and go on with texts, and types with `#[derive(VKey)]`"
)]
pub trait VKey<V: Brand>: Storable<V> {
    /// What a map hashes, compares, and is asked for.
    type Borrowed: ?Sized + Hash + Eq + Ord;

    /// The key as that. It gives the same for as long as the key is in a map.
    fn borrowed<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> &'a Self::Borrowed;
}

/// Types that are looked up by themselves.
macro_rules! own_keys {
    ($([$($parameter:tt)*] $type:ty;)*) => {$(
        impl<V: Brand, $($parameter)*> VKey<V> for $type {
            type Borrowed = $type;

            #[inline]
            fn borrowed<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a $type {
                self
            }
        }
    )*};
}

own_keys! {
    [] u8; [] u16; [] u32; [] u64; [] u128; [] usize;
    [] i8; [] i16; [] i32; [] i64; [] i128; [] isize;
    [] NonZero<u8>; [] NonZero<u16>; [] NonZero<u32>; [] NonZero<u64>; [] NonZero<u128>;
    [] NonZero<usize>; [] NonZero<i8>; [] NonZero<i16>; [] NonZero<i32>; [] NonZero<i64>;
    [] NonZero<i128>; [] NonZero<isize>;
    [] bool; [] char; [] (); [] Duration; [] Ordering; [] Ipv4Addr; [] Ipv6Addr;
    [] Total<f32>; [] Total<f64>; [] StoredIp; [] Timestamp;
    [] StoredDate; [] StoredTime; [] StoredDateTime; [] StoredSpan; [] StoredOffset;
    [T: Storable<V> + Hash + Ord] Reverse<T>;
    [T: Storable<V> + Hash + Ord] Wrapping<T>;
    [T: Storable<V> + Hash + Ord] Option<T>;
    [T: Storable<V> + Hash + Ord, const N: usize] [T; N];
    [A: Storable<V> + Hash + Ord] (A,);
    [A: Storable<V> + Hash + Ord, B: Storable<V> + Hash + Ord] (A, B);
    [A: Storable<V> + Hash + Ord, B: Storable<V> + Hash + Ord, C: Storable<V> + Hash + Ord] (A, B, C);
    [A: Storable<V> + Hash + Ord, B: Storable<V> + Hash + Ord, C: Storable<V> + Hash + Ord, D: Storable<V> + Hash + Ord] (A, B, C, D);
    [A: Storable<V> + Hash + Ord, B: Storable<V> + Hash + Ord, C: Storable<V> + Hash + Ord, D: Storable<V> + Hash + Ord, E: Storable<V> + Hash + Ord] (A, B, C, D, E);
    [A: Storable<V> + Hash + Ord, B: Storable<V> + Hash + Ord, C: Storable<V> + Hash + Ord, D: Storable<V> + Hash + Ord, E: Storable<V> + Hash + Ord, F: Storable<V> + Hash + Ord] (A, B, C, D, E, F);
}
