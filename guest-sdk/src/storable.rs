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
use crate::check::{Checker, Place};
use crate::earlier::{EarlierForm, StoredRoot};
use crate::layout::{Fingerprint, LayoutWriter, Parts};

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

    /// Whether any bytes are a value that owns nothing, so that a check need not look at them one by one.
    #[doc(hidden)]
    const ANY_BITS: bool = false;

    /// Looks at the bytes of what should be a value, for [`Space::check`](crate::Space::check): whether they are one, part by part
    /// ([`Checker::field`]), or else what is wrong ([`Checker::no_value`]). The bytes may be anything. `#[derive(Storable)]` implements it.
    ///
    /// An implementation that does nothing says that any bytes are a value that owns nothing. Without one the report says that values of the type were not
    /// looked into ([`CheckReport::unknown`](crate::check::CheckReport::unknown)).
    fn check_stored(_place: Place, checker: &mut Checker<'_, V>) {
        checker.unknown::<Self>();
    }

    /// What a key is called in the path to its entry, where it has a short name.
    #[doc(hidden)]
    fn show_stored(_place: Place, _checker: &mut Checker<'_, V>) -> Option<String> {
        None
    }

    /// Tells the type's fields and variants.
    #[doc(hidden)]
    fn parts<W: Parts<V>>(_parts: &mut W) {}

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
/// in it, and those that have exactly one. Whether a number is that of a value says a function, if any: of the last so many bytes, or of all.
macro_rules! leaves {
    ($has_one_niche:literal, $any:literal, $check:expr, $show:expr; $($type:ty),*) => {$(
        // SAFETY: plain bits, without addresses.
        unsafe impl<V: Brand> Storable<V> for $type {
            const HAS_ONE_NICHE: bool = $has_one_niche;
            const ANY_BITS: bool = $any;

            fn layout(writer: &mut LayoutWriter) {
                writer.describe::<$type>(stringify!($type), |_| {});
            }

            fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
                let is_value: fn(Place) -> bool = $check;
                if !is_value(place) {
                    checker.no_value(stringify!($type), place.number(0, size_of::<$type>()));
                }
            }

            fn show_stored(place: Place, _checker: &mut Checker<'_, V>) -> Option<String> {
                let show: fn(Place) -> Option<String> = $show;
                show(place)
            }
        }
    )*};
}

/// A number without a sign, as the name of a key.
fn unsigned(place: Place) -> Option<String> {
    Some(place.number(0, place.bytes()).to_string())
}

/// The same with a sign.
fn signed(place: Place) -> Option<String> {
    let above = 128_u32.saturating_sub(8 * place.bytes() as u32);
    let number = place.number(0, place.bytes()).checked_shl(above).unwrap_or(0).cast_signed();
    Some((number >> above.min(127)).to_string())
}

/// What of a duration are its nanoseconds: the standard library promises nothing about it.
fn nanoseconds_offset() -> usize {
    let duration = Duration::new(0, 1);
    let start = std::ptr::from_ref(&duration).cast::<u32>();
    // SAFETY: four bytes of it that are no padding, wherever the nanoseconds are, and aligned.
    if unsafe { start.read() } == 1 { 0 } else { 8 }
}

const _: () = assert!(size_of::<Duration>() == 16);

leaves!(false, true, |_| true, unsigned; u8, u16, u32, u64, u128, usize);
leaves!(false, true, |_| true, signed; i8, i16, i32, i64, i128, isize);
leaves!(false, true, |_| true, |_| None; f32, f64, ());
leaves!(false, true, |_| true, |place| {
    let octets = place.number(0, 4) as u32;
    Some(Ipv4Addr::from(octets.swap_bytes()).to_string())
}; Ipv4Addr);
leaves!(false, true, |_| true, |place| {
    Some(Ipv6Addr::from(place.number(0, 16).swap_bytes()).to_string())
}; Ipv6Addr);
leaves!(false, false, |place| place.number(0, 1) <= 1, |place| {
    Some((place.number(0, 1) == 1).to_string())
}; bool);
leaves!(false, false, |place| char::from_u32(place.number(0, 4) as u32).is_some(), |place| {
    char::from_u32(place.number(0, 4) as u32).map(|it| format!("{it:?}"))
}; char);
leaves!(false, false, |place| place.number(nanoseconds_offset(), 4) < 1_000_000_000, |_| None; Duration);
leaves!(false, false, |place| matches!(place.number(0, 1), 0 | 1 | 0xff), |_| None; Ordering);
leaves!(true, false, |place| place.number(0, place.bytes()) != 0, unsigned;
    NonZero<u8>, NonZero<u16>, NonZero<u32>, NonZero<u64>, NonZero<u128>, NonZero<usize>);
leaves!(true, false, |place| place.number(0, place.bytes()) != 0, signed;
    NonZero<i8>, NonZero<i16>, NonZero<i32>, NonZero<i64>, NonZero<i128>, NonZero<isize>);

// SAFETY: its content is.
unsafe impl<V: Brand, T: Storable<V>> Storable<V> for Wrapping<T> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("Wrapping", |writer| writer.part::<T, V>(format_args!("")));
    }

    const ANY_BITS: bool = T::ANY_BITS;

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.part::<T>(place, 0);
    }

    fn show_stored(place: Place, checker: &mut Checker<'_, V>) -> Option<String> {
        T::show_stored(place, checker)
    }
}

// SAFETY: its content is.
unsafe impl<V: Brand, T: Storable<V>> Storable<V> for Reverse<T> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("Reverse", |writer| writer.part::<T, V>(format_args!("")));
    }

    const ANY_BITS: bool = T::ANY_BITS;

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.part::<T>(place, 0);
    }

    fn show_stored(place: Place, checker: &mut Checker<'_, V>) -> Option<String> {
        T::show_stored(place, checker)
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

    const ANY_BITS: bool = T::ANY_BITS;

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.field::<T>(place, "start", std::mem::offset_of!(Self, start));
        checker.field::<T>(place, "end", std::mem::offset_of!(Self, end));
    }
}

// SAFETY: no bytes.
unsafe impl<V: Brand, T: ?Sized + Send + Sync + 'static> Storable<V> for PhantomData<T> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("PhantomData", |_| {});
    }

    const ANY_BITS: bool = true;

    fn check_stored(_place: Place, _checker: &mut Checker<'_, V>) {}
}

// SAFETY: its elements are.
unsafe impl<V: Brand, T: Storable<V>, const N: usize> Storable<V> for [T; N] {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>(format_args!("array of {N}"), |writer| {
            writer.part::<T, V>(format_args!(""));
        });
    }

    const ANY_BITS: bool = T::ANY_BITS;

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        if !T::ANY_BITS {
            checker.elements_of::<T>(place, N);
        }
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

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.option::<T>(place);
    }

    fn show_stored(place: Place, checker: &mut Checker<'_, V>) -> Option<String> {
        checker.show_option::<T>(place)
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

            const ANY_BITS: bool = true $(&& <$name as Storable<V>>::ANY_BITS)*;

            fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
                $(
                    let offset = std::mem::offset_of!(Self, $index);
                    checker.field::<$name>(place, stringify!($index), offset);
                )*
            }

            fn show_stored(place: Place, checker: &mut Checker<'_, V>) -> Option<String> {
                let mut parts = Vec::new();
                $(
                    let part = place.part(std::mem::offset_of!(Self, $index), size_of::<$name>())?;
                    parts.push(<$name as Storable<V>>::show_stored(part, checker)?);
                )*
                Some(format!("({})", parts.join(", ")))
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
