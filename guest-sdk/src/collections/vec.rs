//! `VVec`: values one after another in a VAS.
//!
//! Inside is `allocator-api2`'s `Vec`, which is never handed out mutably: it could be moved out
//! and dropped or grown without a token. Views have its methods instead, and errors where it
//! would end the process.

use std::fmt;
use std::hash::Hash;
use std::iter::FusedIterator;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;

use allocator_api2::collections::{TryReserveError, TryReserveErrorKind};
use allocator_api2::vec::Vec;

use super::key::VKey;
use super::within::Within;
use super::words;
use crate::alloc::{AllocError, VAlloc, may_free};
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::check::{Checker, Place, numbered};
use crate::layout::LayoutWriter;
use crate::ptr::VSlice;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// Owns values one after another in the heap of `V`: what `Vec` is at home.
///
/// [`at`](VVec::at) gives the slice, [`at_mut`](VVec::at_mut) a view with `Vec`'s methods. Where
/// `Vec` would end the process for want of memory, these fail with [`AllocError`], and the content
/// is unchanged. Dropped outside `V`, it leaks what it owns, as `VBox` does.
///
/// ```
/// use spacejmp::{Space, collections::VVec};
///
/// spacejmp::brand! { Primes => VVec<u32, Primes> }
///
/// let space = Space::<Primes>::in_memory(1 << 20, |at| VVec::from_slice(at, &[2, 3, 5]))?;
/// space.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut primes = root.at_mut(at);
///     primes.push(11)?;
///     primes.insert(3, 7)?;
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// assert_eq!(space.read(|v| v.root().at(v).iter().sum::<u32>())?, 28);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[repr(transparent)]
pub struct VVec<T, V: Brand> {
    inner: ManuallyDrop<Vec<T, VAlloc<V>>>,
}

/// A [`VVec`] to be changed. It derefs to the slice.
pub struct VecMut<'a, T, V: Brand> {
    vec: &'a mut Vec<T, VAlloc<V>>,
    at: &'a At<V, Write>,
}

pub(super) fn no_room<V: Brand>(error: &TryReserveError) -> AllocError {
    AllocError::new::<V>(match error.kind() {
        TryReserveErrorKind::AllocError { layout, .. } => layout.size(),
        TryReserveErrorKind::CapacityOverflow => usize::MAX,
    })
}

impl<T, V: Brand> VVec<T, V> {
    /// No values, and no memory yet.
    #[inline]
    #[must_use]
    pub const fn new() -> VVec<T, V> {
        VVec { inner: ManuallyDrop::new(Vec::new_in(VAlloc::of_owner())) }
    }
}

impl<T: Storable<V>, V: Brand> VVec<T, V> {
    /// No values, with room for `count`.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn with_capacity(at: &At<V, Write>, count: usize) -> Result<VVec<T, V>, AllocError> {
        let mut vec = VVec::new();
        vec.at_mut(at).reserve_exact(count)?;
        Ok(vec)
    }

    /// Copies of `values`.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn from_slice(at: &At<V, Write>, values: &[T]) -> Result<VVec<T, V>, AllocError>
    where
        T: Clone,
    {
        let mut vec = VVec::with_capacity(at, values.len())?;
        vec.at_mut(at).extend_from_slice(values)?;
        Ok(vec)
    }

    /// The values of an iterator.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what was taken is dropped.
    pub fn collect(
        at: &At<V, Write>,
        values: impl IntoIterator<Item = T>,
    ) -> Result<VVec<T, V>, AllocError> {
        let mut vec = VVec::new();
        vec.at_mut(at).extend(values)?;
        Ok(vec)
    }

    /// As [`collect`](VVec::collect), of values that may fail to be made, as those that need memory
    /// of their own.
    ///
    /// # Errors
    /// The first one, of the iterator or for want of room; what was taken is dropped.
    pub fn try_collect(
        at: &At<V, Write>,
        values: impl IntoIterator<Item = Result<T, AllocError>>,
    ) -> Result<VVec<T, V>, AllocError> {
        let values = values.into_iter();
        let mut vec = VVec::new();
        // As for `extend`.
        let _ = vec.at_mut(at).reserve(values.size_hint().0);
        for value in values {
            vec.at_mut(at).push(value?)?;
        }
        Ok(vec)
    }

    /// The values.
    #[inline]
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a [T] {
        &self.inner
    }

    /// The values, to be changed.
    #[inline]
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> VecMut<'a, T, V> {
        VecMut { vec: &mut self.inner, at }
    }

    /// The values in a box, which has a word less and does not grow. They move if there is room for more
    /// of them, since a box has a block of just its size.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; the values are dropped.
    pub fn into_boxed(mut self, _at: &At<V, Write>) -> Result<VBox<[T], V>, AllocError> {
        let mut vec = self.take();
        if vec.len() < vec.capacity() {
            let mut whole = Vec::new_in(VAlloc::of_owner());
            whole.try_reserve_exact(vec.len()).map_err(|error| no_room::<V>(&error))?;
            whole.append(&mut vec);
            vec = whole;
        }
        let mut vec = ManuallyDrop::new(vec);
        let first = NonNull::new(vec.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: the values are those of the vector, which no code reaches or frees any more, in a
        // block of their size.
        Ok(unsafe { VBox::of(NonNull::slice_from_raw_parts(first, vec.len())) })
    }

    /// The values of a box, which stay where they are.
    pub(crate) fn of_boxed(values: VBox<[T], V>) -> VVec<T, V> {
        let values = values.into_pointer();
        let (first, len) = (values.cast::<T>(), values.len());
        // SAFETY: the values lie in a block of their size from this allocator, and the box is gone.
        let vec = unsafe { Vec::from_raw_parts_in(first.as_ptr(), len, len, VAlloc::of_owner()) };
        VVec { inner: ManuallyDrop::new(vec) }
    }

    /// Moves the values out; the memory is freed with the iterator.
    #[inline]
    pub fn into_iter<'a>(
        mut self,
        at: &'a At<V, Write>,
    ) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator + FusedIterator + use<'a, T, V>
    {
        Within::new(self.take().into_iter(), at)
    }
}

impl<T, V: Brand> VVec<T, V> {
    /// Gives up the ownership: the values may be pointed to from anywhere, and are never freed
    /// while the segment exists. They stay where they are.
    #[must_use]
    pub fn share(mut self) -> VSlice<T, V> {
        let mut vec = ManuallyDrop::new(self.take());
        let first = NonNull::new(vec.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: they are the vector's values, which no code reaches or frees without it.
        unsafe { VSlice::new(first, vec.len()) }
    }

    /// Takes the vector and leaves an empty one, which owns nothing.
    #[inline]
    fn take(&mut self) -> Vec<T, VAlloc<V>> {
        std::mem::replace(&mut *self.inner, Vec::new_in(VAlloc::of_owner()))
    }

    /// How many values there are. No token is needed: the number is not in `V`'s heap.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

impl<'a, T: Storable<V>, V: Brand> VecMut<'a, T, V> {
    /// The slice, for as long as the view was made for.
    #[inline]
    #[must_use]
    pub fn into_slice(self) -> &'a mut [T] {
        self.vec
    }

    /// How many values there is room for without another block.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.vec.capacity()
    }

    /// Makes room for `more` values, and for some more so that growing is rare.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    #[inline]
    pub fn reserve(&mut self, more: usize) -> Result<(), AllocError> {
        self.vec.try_reserve(more).map_err(|error| no_room::<V>(&error))
    }

    /// Makes room for `more` values and not for others.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn reserve_exact(&mut self, more: usize) -> Result<(), AllocError> {
        self.vec.try_reserve_exact(more).map_err(|error| no_room::<V>(&error))
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) -> Result<(), AllocError> {
        self.reserve(1)
    }

    /// Appends a value.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), AllocError> {
        if self.vec.len() == self.vec.capacity() {
            self.grow()?;
        }
        self.vec.push(value);
        Ok(())
    }

    /// Takes the last value out.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.vec.pop()
    }

    /// Puts a value before the one at `index`.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    ///
    /// # Panics
    /// If `index` is larger than the length.
    #[inline]
    pub fn insert(&mut self, index: usize, value: T) -> Result<(), AllocError> {
        self.reserve(1)?;
        self.vec.insert(index, value);
        Ok(())
    }

    /// Removes a value; those after it move up.
    ///
    /// # Panics
    /// If there is no such value.
    #[inline]
    pub fn remove(&mut self, index: usize) -> T {
        self.vec.remove(index)
    }

    /// Takes a value out; the last one takes its place.
    ///
    /// # Panics
    /// If there is no such value.
    #[inline]
    pub fn swap_remove(&mut self, index: usize) -> T {
        self.vec.swap_remove(index)
    }

    /// Appends what an iterator gives. It may use the same token.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what came before it stays appended.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<(), AllocError> {
        let mut values = values.into_iter();
        // Only to grow rarely: an iterator that promises too much is no error.
        let _ = self.reserve(values.size_hint().0);
        values.try_for_each(|value| self.push(value))
    }

    /// Appends copies.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is appended.
    #[inline]
    pub fn extend_from_slice(&mut self, values: &[T]) -> Result<(), AllocError>
    where
        T: Clone,
    {
        self.reserve(values.len())?;
        let length = self.vec.len();
        // `Vec`'s own copies value by value: for bytes that is several times as long.
        self.vec.spare_capacity_mut()[..values.len()].write_clone_of_slice(values);
        // SAFETY: these many are behind the old ones, initialised by the line above.
        unsafe { self.vec.set_len(length + values.len()) };
        Ok(())
    }

    /// Moves all values of `other` to the end.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; both are what they were.
    pub fn append(&mut self, other: &mut VVec<T, V>) -> Result<(), AllocError> {
        self.reserve(other.len())?;
        self.vec.append(&mut other.inner);
        Ok(())
    }

    /// Moves the values from `index` on into a vector of their own.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is moved.
    ///
    /// # Panics
    /// If `index` is larger than the length.
    pub fn split_off(&mut self, index: usize) -> Result<VVec<T, V>, AllocError> {
        let len = self.vec.len();
        assert!(index <= len, "index {index} is beyond {len} values");
        let mut rest = VVec::with_capacity(self.at, len - index)?;
        rest.inner.extend(self.vec.drain(index..));
        Ok(rest)
    }

    /// Drops values from the end, or appends copies of `value`, until there are `len`.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is appended.
    pub fn resize(&mut self, len: usize, value: T) -> Result<(), AllocError>
    where
        T: Clone,
    {
        self.reserve(len.saturating_sub(self.vec.len()))?;
        self.vec.resize(len, value);
        Ok(())
    }

    /// Drops the values after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.vec.truncate(len);
    }

    /// Drops all values and keeps the memory.
    pub fn clear(&mut self) {
        self.vec.clear();
    }

    /// Drops the values for which `keep` returns false.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        self.vec.retain_mut(|value| keep(value));
    }

    /// Drops all but the first of equal neighbours.
    pub fn dedup(&mut self)
    where
        T: PartialEq,
    {
        self.vec.dedup();
    }

    /// Drops all but the first of neighbours with equal keys.
    pub fn dedup_by_key<Q: PartialEq>(&mut self, key: impl FnMut(&mut T) -> Q) {
        self.vec.dedup_by_key(key);
    }

    /// Takes the values of a range out, whether they are taken from the iterator or not.
    ///
    /// # Panics
    /// If the range is not one of the vector.
    pub fn drain(
        &mut self,
        range: impl RangeBounds<usize>,
    ) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator + FusedIterator {
        Within::new(self.vec.drain(range), self.at)
    }
}

impl<T, V: Brand> Deref for VecMut<'_, T, V> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.vec
    }
}

impl<T, V: Brand> DerefMut for VecMut<'_, T, V> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.vec
    }
}

impl<'a, T: Storable<V>, V: Brand> IntoIterator for VecMut<'a, T, V> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    #[inline]
    fn into_iter(self) -> std::slice::IterMut<'a, T> {
        self.into_slice().iter_mut()
    }
}

impl<T, V: Brand> Drop for VVec<T, V> {
    #[inline]
    fn drop(&mut self) {
        if may_free::<V>(NonNull::from(self.inner.as_slice()).cast()) {
            drop(self.take());
        }
    }
}

impl<T, V: Brand> Default for VVec<T, V> {
    fn default() -> VVec<T, V> {
        VVec::new()
    }
}

impl<T: fmt::Debug, V: Brand> fmt::Debug for VecMut<'_, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vec.as_slice().fmt(f)
    }
}

impl<T, V: Brand> fmt::Debug for VVec<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VVec<{}>(len {})", V::NAME, self.len())
    }
}

// SAFETY: its memory is `V`'s and owned by it, or it has none; `drop` checks where the thread
// is. An empty vector's address is that of no memory, and never used.
unsafe impl<T: Storable<V>, V: Brand> Storable<V> for VVec<T, V> {
    const HAS_ONE_NICHE: bool = true;

    fn layout(writer: &mut LayoutWriter) {
        let name = format_args!("VVec version 1, words {}", words::of_vec()).to_string();
        writer.describe::<Self>(name, |writer| writer.part::<T, V>(format_args!("")));
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VVec");
        let [address, capacity, len] = words::in_vec(place);
        checker.values::<T>(address, len, capacity, numbered);
    }

    fn show_stored(place: Place, checker: &mut Checker<'_, V>) -> Option<String> {
        let [address, _, len] = words::in_vec(place);
        if size_of::<T>() == 1 && T::ANY_BITS { checker.show_bytes(address, len) } else { None }
    }
}

/// A vector is looked up by a slice: byte strings are keys, too.
impl<T: Storable<V> + Hash + Ord, V: Brand> VKey<V> for VVec<T, V> {
    type Borrowed = [T];

    #[inline]
    fn borrowed<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> &'a [T] {
        self.at(at)
    }
}
