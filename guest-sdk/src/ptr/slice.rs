//! `VSlice`: many values in one block of a VAS, each of which a `VPtr` may point to.

use std::marker::PhantomData;
use std::mem::offset_of;
use std::ops::Range;
use std::ptr::NonNull;

use super::VPtr;
use crate::brand::{Brand, Invariant};
use crate::check::{Checker, Place};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{In, Mode, Write};

/// Points to values that lie one after another in `V`: to many what [`VPtr`] is to one.
///
/// It comes from [`VVec::share`](crate::VVec::share), with one allocation for all, which is how a
/// large structure of nodes that point to each other is built. It is copied freely; parts of it are
/// slices too, and its values have pointers. As with `VPtr`, the values are never freed while
/// the segment exists, reading takes the token and writing all of it.
///
/// ```
/// use spacejmp::{Space, Storable, VPtr, VSlice, VVec};
///
/// #[derive(Storable)]
/// #[storable(vas = Map)]
/// struct Town {
///     roads: VSlice<VPtr<Town, Map>, Map>,
/// }
///
/// spacejmp::brand! { Map => VSlice<Town, Map> }
///
/// let space = Space::<Map>::in_memory(1 << 20, |_| Ok(VSlice::empty()))?;
/// space.write(|v| {
///     let towns = VVec::collect(v, (0..3).map(|_| Town { roads: VSlice::empty() }))?.share();
///     let roads = VVec::collect(v, [1, 2, 2, 0].map(|to| towns.ptr(to)))?.share();
///     for (town, part) in towns.get_mut(v).iter_mut().zip([0..2, 2..3, 3..4]) {
///         town.roads = roads.part(part);
///     }
///     *v.root_mut().0 = towns;
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// let second_of_first = space.read(|v| {
///     let towns = *v.root();
///     towns.index_of(towns.get(v)[0].roads.get(v)[1])
/// })?;
/// assert_eq!(second_of_first, Some(2));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[repr(C)]
pub struct VSlice<T, V: Brand> {
    first: NonNull<T>,
    len: usize,
    _points: PhantomData<(*mut T, Invariant<V>)>,
}

// SAFETY: as for `VPtr`, which it is to each of its values.
unsafe impl<T: Send + Sync, V: Brand> Send for VSlice<T, V> {}
// SAFETY: as above; a shared slice can be copied.
unsafe impl<T: Send + Sync, V: Brand> Sync for VSlice<T, V> {}

impl<T, V: Brand> VSlice<T, V> {
    /// No values.
    #[inline]
    #[must_use]
    pub const fn empty() -> VSlice<T, V> {
        VSlice { first: NonNull::dangling(), len: 0, _points: PhantomData }
    }

    /// The values of a block.
    ///
    /// # Safety
    /// `len` valid values lie at `first`, in `V`; they are reached only through this slice and what
    /// is made from it, and never freed.
    pub(crate) const unsafe fn new(first: NonNull<T>, len: usize) -> VSlice<T, V> {
        VSlice { first, len, _points: PhantomData }
    }

    /// How many values there are. No token is needed: the number is not in `V`'s heap.
    #[inline]
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// A pointer to one value.
    ///
    /// # Panics
    /// If there is no such value.
    #[inline]
    #[must_use]
    pub fn ptr(self, index: usize) -> VPtr<T, V> {
        assert!(index < self.len, "there is no value {index}, only {}", self.len);
        // SAFETY: within the values, as was just checked.
        let value = unsafe { self.first.add(index) };
        VPtr { value, _points: PhantomData }
    }

    /// Some of the values.
    ///
    /// # Panics
    /// If the range is not one of the slice.
    #[inline]
    #[must_use]
    pub fn part(self, range: Range<usize>) -> VSlice<T, V> {
        let Range { start, end } = range;
        assert!(start <= end && end <= self.len, "there is no part {start}..{end}");
        // SAFETY: within the values or at their end, as was just checked.
        let first = unsafe { self.first.add(start) };
        VSlice { first, len: end - start, _points: PhantomData }
    }

    /// Which of the values a pointer points to, if it is one of them.
    #[inline]
    #[must_use]
    pub fn index_of(self, value: VPtr<T, V>) -> Option<usize> {
        // Below the first the distance wraps and is larger than any length.
        let distance = value.value.addr().get().wrapping_sub(self.first.addr().get());
        // Values without a size are all at the same place.
        let index = distance / const { if size_of::<T>() == 0 { 1 } else { size_of::<T>() } };
        (index < self.len).then_some(index)
    }
}

impl<T: Storable<V>, V: Brand> VSlice<T, V> {
    /// The values.
    #[inline]
    #[must_use]
    pub fn get<'a, M: Mode>(self, _v: &'a In<V, M>) -> &'a [T] {
        // SAFETY: they are never freed, the token proves that they are mapped, and any code that
        // writes them has the token borrowed mutably.
        unsafe { NonNull::slice_from_raw_parts(self.first, self.len).as_ref() }
    }

    /// The values, for the token of an old version.
    ///
    /// # Safety
    /// As [`VPtr::get_in_old`].
    pub(crate) unsafe fn get_in_old<'a>(self) -> &'a [T] {
        // SAFETY: they are never freed; all else the caller promises.
        unsafe { NonNull::slice_from_raw_parts(self.first, self.len).as_ref() }
    }

    /// The values, to be changed. Nothing else of `V` can be used meanwhile.
    #[inline]
    #[must_use]
    pub fn get_mut<'a>(self, _v: &'a mut In<V, Write>) -> &'a mut [T] {
        // SAFETY: as for `get`; the token is borrowed mutably.
        unsafe { NonNull::slice_from_raw_parts(self.first, self.len).as_mut() }
    }
}

impl<T, V: Brand> Clone for VSlice<T, V> {
    #[inline]
    fn clone(&self) -> VSlice<T, V> {
        *self
    }
}

impl<T, V: Brand> Copy for VSlice<T, V> {}

impl<T, V: Brand> Default for VSlice<T, V> {
    fn default() -> VSlice<T, V> {
        VSlice::empty()
    }
}

impl<T, V: Brand> std::fmt::Debug for VSlice<T, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VSlice<{}>(len {} at {:p})", V::NAME, self.len, self.first)
    }
}

// SAFETY: the address is one of `V`'s heap, of values that are never freed; `VSlice` has the
// rules of sharing in its methods. An empty slice's address is never used.
unsafe impl<T: Storable<V>, V: Brand> Storable<V> for VSlice<T, V> {
    const HAS_ONE_NICHE: bool = true;

    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("VSlice version 1", |writer| writer.part::<T, V>(format_args!("")));
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VSlice");
        let [first, len] =
            [offset_of!(Self, first), offset_of!(Self, len)].map(|at| place.word(at));
        checker.pointer::<T>(first, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Space, VVec};

    crate::brand! { Row => (VSlice<u32, Row>, VSlice<(), Row>) }

    #[test]
    fn parts_and_pointers_reach_the_values_they_say_and_no_others() {
        let empty = |_: &crate::At<Row, Write>| Ok((VSlice::empty(), VSlice::empty()));
        let space = Space::<Row>::in_memory(1 << 20, empty).unwrap();
        let checked = space.write(|v| {
            let row = VVec::collect(v, 0..10)?.share();
            let other = VVec::collect(v, 0..10)?.share();
            let part = row.part(3..6);
            part.get_mut(v)[0] = 30;
            *row.ptr(5).get_mut(v) = 50;
            assert_eq!(row.get(v), [0, 1, 2, 30, 4, 50, 6, 7, 8, 9]);
            assert_eq!(part.get(v), [30, 4, 50]);
            assert_eq!(row.index_of(part.ptr(2)), Some(5));
            let (below, above) = (row.ptr(2), row.ptr(6));
            assert_eq!([below, above, other.ptr(4)].map(|it| part.index_of(it)), [None; 3]);
            assert!(row.part(10..10).get(v).is_empty() && row.part(4..4).is_empty());

            // What has no memory works as well.
            let none = VVec::<u32, Row>::new().share();
            assert!(none.get(v).is_empty() && none.index_of(row.ptr(0)).is_none());
            let units = VVec::collect(v, [(); 3])?.share();
            assert_eq!((units.get(v).len(), units.index_of(units.ptr(2))), (3, Some(0)));
            *v.root_mut().0 = (row, units);
            Ok::<_, Error>(())
        });
        checked.unwrap();
        assert_eq!(space.read(|v| v.root().0.get(v)[5]).unwrap(), 50);
    }

    #[test]
    #[should_panic(expected = "there is no value 3, only 3")]
    fn there_is_no_pointer_past_the_end() {
        let values = [1, 2, 3];
        // SAFETY: nothing is read through it.
        let slice = unsafe { VSlice::<u32, Row>::new(NonNull::from(&values[0]), 3) };
        let _ = slice.ptr(3);
    }

    #[test]
    #[should_panic(expected = "there is no part 2..4")]
    fn there_is_no_part_past_the_end() {
        let values = [1, 2, 3];
        // SAFETY: as above.
        let slice = unsafe { VSlice::<u32, Row>::new(NonNull::from(&values[0]), 3) };
        let _ = slice.part(2..4);
    }
}
