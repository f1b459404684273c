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
use crate::storable::Storable;
use crate::token::{At, Mode};

/// Keys of maps in `V`.
///
/// Numbers, `bool`, `char`, IP addresses, floating-point numbers by [`Total`](super::Total), arrays, tuples, options
/// and `Reverse` of these are looked up by themselves. A type
/// of one's own becomes a key with
///
/// ```
/// use spacejmp::collections::VKey;
/// use spacejmp::{At, Brand, Mode, Storable};
///
/// #[derive(Storable, PartialEq, Eq, PartialOrd, Ord, Hash)]
/// struct Edge {
///     from: u32,
///     to: u32,
/// }
///
/// impl<V: Brand> VKey<V> for Edge {
///     type Borrowed = Edge;
///
///     fn borrowed<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a Edge {
///         self
///     }
/// }
/// ```
///
/// Hashes are kept: a change to how a key of one's own is hashed or ordered, in another build of
/// the program, makes entries unfindable, and no layout shows it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a map in the address space `{V}`",
    label = "not a key",
    note = "keys are numbers, `bool`, `char`, `VString`, arrays and tuples of plain keys, and types \
            that implement `VKey`"
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
    [] Total<f32>; [] Total<f64>;
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
