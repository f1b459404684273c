//! Which types several programs may use at the same time, and what they look like in memory.

use std::sync::atomic::{
    AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16,
    AtomicU32, AtomicU64, AtomicUsize,
};

use super::Inert;
use crate::layout::LayoutWriter;
use crate::storable::Storable;

/// Types of which several programs use one value at the same time: atomics, [`VOnce`](super::VOnce), arrays of these, and
/// structs with `#[derive(Concurrent)]`.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use spacejmp::{Concurrent, Shared, VOnce};
///
/// #[derive(Concurrent)]
/// struct Statistics {
///     since: VOnce<u64>,
///     hits: [AtomicU64; 4],
/// }
///
/// let statistics = Shared::<Statistics>::in_memory();
/// statistics.visit(|it| it.hits[2].fetch_add(1, Ordering::Relaxed))?;
/// assert_eq!(statistics.visit(|it| it.hits[2].load(Ordering::Relaxed))?, 1);
/// # Ok::<_, spacejmp::Error>(())
/// ```
///
/// Other types that may be changed through a shared reference are none: a `Mutex` has no meaning to another program, and a
/// `Cell` is not for several threads. For what is larger than a word and changes use a [`Space`](crate::Space).
///
/// # Safety
/// - Memory full of zeros is a value of the type.
/// - Whatever safe code does with it, in several programs at once, each of which has it at the same address, is sound.
/// - It holds no address, and nothing has to be done when it ends: it is never dropped.
///
/// [`layout`](Concurrent::layout) describes all that decides whether the bytes mean the same to another build of
/// another program.
#[diagnostic::on_unimplemented(
    message = "several programs cannot use a `{Self}` at the same time",
    label = "not `Concurrent`",
    note = "atomics, `VOnce`, arrays of these, and structs of these with `#[derive(Concurrent)]` are; \
            for everything else there is `Space`"
)]
pub unsafe trait Concurrent: Sized + Sync + 'static {
    /// Describes the type by one call of a method of `layouts`.
    fn layout(layouts: &mut Layouts<'_>);
}

/// Writes a layout; passed to implementations of [`Concurrent`].
#[derive(Debug)]
pub struct Layouts<'a>(pub(super) &'a mut LayoutWriter);

impl Layouts<'_> {
    /// A type without parts.
    pub fn leaf<T>(&mut self, name: &str) {
        self.0.describe::<T>(name, |_| {});
    }

    /// A struct; `fields` describes its fields, by [`field`](Layouts::field).
    pub fn structure<T>(&mut self, name: &str, fields: impl FnOnce(&mut Layouts<'_>)) {
        self.0.describe::<T>(format_args!("struct {name}"), |writer| fields(&mut Layouts(writer)));
    }

    /// A field of the struct that is being described.
    pub fn field<T: Concurrent>(&mut self, name: &str, offset: usize) {
        self.0.label(format_args!("{name} +{offset}: "));
        T::layout(self);
    }

    /// A field whose type is inferred from the path to it.
    #[doc(hidden)]
    pub fn field_of<S, T: Concurrent>(&mut self, name: &str, offset: usize, _way: fn(&S) -> &T) {
        self.field::<T>(name, offset);
    }

    fn array<A, T: Concurrent>(&mut self, len: usize) {
        self.0.describe::<A>(format_args!("array of {len}"), |writer| {
            T::layout(&mut Layouts(writer))
        });
    }

    pub(super) fn once<O, T: Storable<Inert>>(&mut self, slots: usize) {
        self.0.describe::<O>(format_args!("VOnce of {slots} slots"), |writer| {
            writer.part::<T, Inert>(format_args!(""));
        });
    }
}

macro_rules! atomics {
    ($($type:ty),*) => {$(
        // SAFETY: of any bits; changed by single instructions that exclude each other whoever makes them.
        unsafe impl Concurrent for $type {
            fn layout(layouts: &mut Layouts<'_>) {
                layouts.leaf::<$type>(stringify!($type));
            }
        }
    )*};
}

atomics!(AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize);
atomics!(AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize);

// SAFETY: as above; 0 is `false`, and no safe code stores anything but 0 and 1.
unsafe impl Concurrent for AtomicBool {
    fn layout(layouts: &mut Layouts<'_>) {
        layouts.leaf::<AtomicBool>("AtomicBool");
    }
}

// SAFETY: its elements are.
unsafe impl<T: Concurrent, const N: usize> Concurrent for [T; N] {
    fn layout(layouts: &mut Layouts<'_>) {
        layouts.array::<[T; N], T>(N);
    }
}
