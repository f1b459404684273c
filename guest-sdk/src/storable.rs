//! What may lie in a VAS: the trait, and its implementations for types of the language and the
//! standard library.
//!
//! Left out on purpose, because another process cannot use them: references and raw pointers,
//! functions, trait objects, `Box`, `Vec`, `String`, `Rc`, `Arc` and everything else that
//! allocates at home, handles. Left out because several programs read at once, from memory that
//! is mapped read-only: `Cell`, `RefCell`, `Mutex`, atomics.

use std::cmp::{Ordering, Reverse};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::{NonZero, Wrapping};
use std::ops::Range;
use std::time::Duration;

use crate::alloc_error::AllocError;
use crate::brand::Brand;
use crate::earlier::{EarlierForm, StoredRoot};
use crate::layout::{Fingerprint, LayoutWriter};

/// Types whose values may lie in the VAS `V`.
///
/// Derive it: `#[derive(Storable)]` checks every field.
///
/// # Safety
/// A value of the type, wherever in `V` it lies,
/// - means the same to every process that is inside `V`: it holds no address but of memory
///   that `V`'s heap manages and the value owns or shares by the rules of `VBox` and `VPtr`;
/// - is not changed through a shared reference (no `UnsafeCell`): readers map it read-only;
/// - does not touch `V` when it is dropped by a thread that is not inside `V`, writable
///   ([`inside`](crate::inside)).
///
/// [`layout`](Storable::layout) describes all that decides whether the bytes mean the same
/// to another build of another program.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in the address space `{V}`",
    label = "may not lie in `{V}`",
    note = "an address space holds what means the same to every process: numbers, arrays, `VBox`, \
            `VPtr` and collections of the same address space, and structs of these with \
            `#[derive(Storable)]`",
    note = "instead of `Box`, `Vec`, `String` and `HashMap` use `VBox`, `VVec`, `VString` and \
            `VHashMap`; instead of references, `Rc` and `Arc` use `VPtr`; instead \
            of functions and trait objects use an enum; instead of `Cell`, `Mutex` and atomics use \
            `write`, which is exclusive"
)]
pub unsafe trait Storable<V: Brand>: Sized + Send + Sync {
    /// Whether the type has exactly one value that is none, so that a compiler has no choice of how
    /// to write `None` of it where that takes no room.
    #[doc(hidden)]
    const HAS_ONE_NICHE: bool = false;

    /// Which version of the type this is: 1 where nothing says otherwise.
    #[doc(hidden)]
    const VERSION: u32 = 1;

    /// Describes the type by one call of [`LayoutWriter::describe`].
    fn layout(writer: &mut LayoutWriter);

    /// The earlier version of the type that has this layout, if there is one.
    #[doc(hidden)]
    fn earlier(_wanted: Fingerprint) -> Option<EarlierForm> {
        None
    }

    /// Makes a value from that of an earlier version, if `stored` is one.
    #[doc(hidden)]
    fn from_earlier(_stored: StoredRoot<'_, V>) -> Option<Result<Self, AllocError>> {
        None
    }
}

/// Implements the trait for types without inner parts: those without a niche or with several values
/// in it, and those that have exactly one.
macro_rules! leaves {
    ($has_one_niche:literal: $($type:ty),*) => {$(
        // SAFETY: plain bits, without addresses.
        unsafe impl<V: Brand> Storable<V> for $type {
            const HAS_ONE_NICHE: bool = $has_one_niche;

            fn layout(writer: &mut LayoutWriter) {
                writer.describe::<$type>(stringify!($type), |_| {});
            }
        }
    )*};
}

leaves!(false: u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);
leaves!(false: f32, f64, bool, char, (), Duration, Ordering, Ipv4Addr, Ipv6Addr);
leaves!(true: NonZero<u8>, NonZero<u16>, NonZero<u32>, NonZero<u64>, NonZero<u128>, NonZero<usize>);
leaves!(true: NonZero<i8>, NonZero<i16>, NonZero<i32>, NonZero<i64>, NonZero<i128>, NonZero<isize>);

// SAFETY: its content is.
unsafe impl<V: Brand, T: Storable<V>> Storable<V> for Wrapping<T> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("Wrapping", |writer| writer.part::<T, V>(format_args!("")));
    }
}

// SAFETY: its content is.
unsafe impl<V: Brand, T: Storable<V>> Storable<V> for Reverse<T> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("Reverse", |writer| writer.part::<T, V>(format_args!("")));
    }
}

// SAFETY: its ends are.
unsafe impl<V: Brand, T: Storable<V>> Storable<V> for Range<T> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("Range", |writer| {
            writer.field::<T, V>("start", std::mem::offset_of!(Self, start));
            writer.field::<T, V>("end", std::mem::offset_of!(Self, end));
        });
    }
}

// SAFETY: no bytes.
unsafe impl<V: Brand, T: ?Sized + Send + Sync + 'static> Storable<V> for PhantomData<T> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("PhantomData", |_| {});
    }
}

// SAFETY: its elements are.
unsafe impl<V: Brand, T: Storable<V>, const N: usize> Storable<V> for [T; N] {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>(format_args!("array of {N}"), |writer| {
            writer.part::<T, V>(format_args!(""));
        });
    }
}

/// The language leaves open where an `Option` keeps its content: size and alignment tell a niche
/// from a tag, and compilers have not moved either so far. They have changed which values of a
/// niche stand for `None`: where there is a choice, the layout names the compiler, and another one
/// is refused. A user-defined enum with `repr(u8)` has a promised layout.
// SAFETY: its content is.
unsafe impl<V: Brand, T: Storable<V>> Storable<V> for Option<T> {
    fn layout(writer: &mut LayoutWriter) {
        let in_niche = size_of::<Option<T>>() == size_of::<T>();
        let name = match in_niche && !T::HAS_ONE_NICHE {
            true => concat!("Option with a niche of ", env!("SPACEJMP_COMPILER")),
            false => "Option",
        };
        writer.describe::<Self>(name, |writer| writer.part::<T, V>(format_args!("")));
    }
}

macro_rules! tuples {
    ($($name:ident $index:tt),*) => {
        // SAFETY: its fields are.
        unsafe impl<V: Brand, $($name: Storable<V>),*> Storable<V> for ($($name,)*) {
            fn layout(writer: &mut LayoutWriter) {
                writer.describe::<Self>("tuple", |writer| {
                    $(
                        let offset = std::mem::offset_of!(Self, $index);
                        writer.field::<$name, V>(stringify!($index), offset);
                    )*
                });
            }
        }
    };
}

tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
