//! Boxes of values that do not grow, and of text: what a `VVec` or a `VString` becomes.

use std::hash::Hash;

use super::key::VKey;
use super::string::VString;
use super::vec::VVec;
use super::words;
use crate::alloc::AllocError;
use crate::boxed::{Content, VBox};
use crate::brand::Brand;
use crate::check::{Checker, Place, numbered};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

impl<T: Storable<V>, V: Brand> VBox<[T], V> {
    /// Copies of `values`; none have no memory.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn from_slice(at: &At<V, Write>, values: &[T]) -> Result<VBox<[T], V>, AllocError>
    where
        T: Clone,
    {
        VVec::from_slice(at, values)?.into_boxed(at)
    }

    /// Moves the values out; the memory is freed with the iterator.
    pub fn into_iter<'a>(
        self,
        at: &'a At<V, Write>,
    ) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator + use<'a, T, V> {
        VVec::of_boxed(self).into_iter(at)
    }
}

impl<V: Brand> VBox<str, V> {
    /// A copy of `text`; an empty one has no memory.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn from_text(at: &At<V, Write>, text: &str) -> Result<VBox<str, V>, AllocError> {
        VString::new(at, text)?.into_boxed(at)
    }
}

impl<T: Storable<V>, V: Brand> Content<V> for [T] {
    fn describe_box(writer: &mut LayoutWriter) {
        let part = |writer: &mut LayoutWriter| writer.part::<T, V>(format_args!(""));
        writer.describe::<VBox<[T], V>>(name_of_wide("values"), part);
    }

    fn check_box(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VBox of values");
        let [address, len] = words::in_wide_pointer(place);
        checker.values::<T>(address, len, len, numbered);
    }
}

impl<V: Brand> Content<V> for str {
    fn describe_box(writer: &mut LayoutWriter) {
        writer.describe::<VBox<str, V>>(name_of_wide("text"), |_| {});
    }

    fn check_box(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VBox of text");
        let [address, len] = words::in_wide_pointer(place);
        checker.text(address, len, len);
    }

    fn show_box(place: Place, checker: &mut Checker<'_, V>) -> Option<String> {
        let [address, len] = words::in_wide_pointer(place);
        checker.show_bytes(address, len)
    }
}

/// A pointer to values, as the compiler lays it out: which word is which is part of the layout.
fn name_of_wide(of: &str) -> String {
    format!("VBox of {of} version 1, words {}", words::of_wide_pointer())
}

/// A box is looked up by the slice: byte strings are keys, too.
impl<T: Storable<V> + Hash + Ord, V: Brand> VKey<V> for VBox<[T], V> {
    type Borrowed = [T];

    #[inline]
    fn borrowed<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> &'a [T] {
        self.get(at)
    }
}

impl<V: Brand> VKey<V> for VBox<str, V> {
    type Borrowed = str;

    #[inline]
    fn borrowed<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> &'a str {
        self.get(at)
    }
}
