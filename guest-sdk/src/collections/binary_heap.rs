//! `VBinaryHeap`: a queue by priority in a VAS.
//!
//! A binary heap as in CLRS chapter 6, in a vector: the children of value `n` are `2n + 1` and
//! `2n + 2`. Values only change places with each other, so a comparison that panics or lies
//! loses none, and there is no unsafe code.

use std::fmt;

use super::key::VKey;
use super::vec::{VVec, VecMut};
use super::within::Within;
use super::words;
use crate::alloc::AllocError;
use crate::brand::Brand;
use crate::check::{Checker, Place, Problem, Walk, elements, numbered};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// Owns values in the heap of `V`, of which the greatest comes out first: what
/// [`BinaryHeap`](std::collections::BinaryHeap) is at home.
///
/// Values are compared by what they lend as keys ([`VKey`]): numbers and tuples by themselves,
/// texts as `str`, a type of one's own by whichever part it says, such as its priority. With
/// [`Reverse`](std::cmp::Reverse) the least comes out first. Of equal values any may be first.
///
/// Looking at the greatest takes constant time; pushing and popping take time in the logarithm of the length, making a heap
/// of a vector time in proportion to it. Where the standard heap would end the process for want of
/// memory there is an [`AllocError`], and the content is unchanged.
///
/// ```
/// use spacejmp::{At, Brand, Mode, Space, Storable, VBinaryHeap, VKey, VString};
///
/// #[derive(Storable)]
/// #[storable(vas = Jobs<'v>)]
/// struct Job<'v> {
///     urgency: u8,
///     name: VString<Jobs<'v>>,
/// }
///
/// impl<'v> VKey<Jobs<'v>> for Job<'v> {
///     type Borrowed = u8;
///
///     fn borrowed<'a, M: Mode>(&'a self, _at: &'a At<Jobs<'v>, M>) -> &'a u8 {
///         &self.urgency
///     }
/// }
///
/// spacejmp::brand! { Jobs<'v> => VBinaryHeap<Job<'v>, Jobs<'v>> }
///
/// let jobs = Space::<Jobs>::in_memory(1 << 20, |_| Ok(VBinaryHeap::new()))?;
/// jobs.write(|v| {
///     let (root, at) = v.root_mut();
///     for (urgency, name) in [(2, "water"), (9, "fire"), (4, "mail")] {
///         root.at_mut(at).push(Job { urgency, name: VString::new(at, name)? })?;
///     }
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// let first = jobs.read(|v| v.root().at(v).peek().map(|job| job.name.at(v).to_owned()))?;
/// assert_eq!(first.as_deref(), Some("fire"));
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[repr(transparent)]
pub struct VBinaryHeap<T, V: Brand> {
    /// No value is greater than the one above it.
    values: VVec<T, V>,
}

/// A [`VBinaryHeap`] to be read. It is copied freely.
pub struct HeapRef<'a, T, V: Brand, M> {
    values: &'a [T],
    at: &'a At<V, M>,
}

/// A [`VBinaryHeap`] to be changed.
pub struct HeapMut<'a, T, V: Brand> {
    values: VecMut<'a, T, V>,
    at: &'a At<V, Write>,
}

impl<T, V: Brand> VBinaryHeap<T, V> {
    /// No values, and no memory yet.
    #[inline]
    #[must_use]
    pub const fn new() -> VBinaryHeap<T, V> {
        VBinaryHeap { values: VVec::new() }
    }

    /// How many values there are. No token is needed: the number is not in `V`'s heap.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values, in no order that is promised.
    #[inline]
    #[must_use]
    pub fn into_vec(self) -> VVec<T, V> {
        self.values
    }

    /// The same, for whoever leaves the order as it is.
    pub(crate) fn values(&self) -> &VVec<T, V> {
        &self.values
    }

    /// A heap of values that lie in a heap's order already.
    pub(crate) fn of_values(values: VVec<T, V>) -> VBinaryHeap<T, V> {
        VBinaryHeap { values }
    }
}

impl<T: VKey<V>, V: Brand> VBinaryHeap<T, V> {
    /// The values of a vector, which stay where they are but for their order.
    #[must_use]
    pub fn from_vec(at: &At<V, Write>, values: VVec<T, V>) -> VBinaryHeap<T, V> {
        let mut heap = VBinaryHeap { values };
        heap.at_mut(at).rebuild();
        heap
    }

    /// The values of an iterator.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what was taken is dropped.
    pub fn collect(
        at: &At<V, Write>,
        values: impl IntoIterator<Item = T>,
    ) -> Result<VBinaryHeap<T, V>, AllocError> {
        Ok(VBinaryHeap::from_vec(at, VVec::collect(at, values)?))
    }

    /// The values, to be read.
    #[inline]
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> HeapRef<'a, T, V, M> {
        HeapRef { values: self.values.at(at), at }
    }

    /// The values, to be changed.
    #[inline]
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> HeapMut<'a, T, V> {
        HeapMut { values: self.values.at_mut(at), at }
    }

    /// The values, the least first, in the heap's memory.
    #[must_use]
    pub fn into_sorted(mut self, at: &At<V, Write>) -> VVec<T, V> {
        let mut heap = self.at_mut(at);
        for end in (1..heap.len()).rev() {
            heap.values.swap(0, end);
            heap.sink(0, end);
        }
        self.values
    }

    /// Moves the values out, in no order that is promised; the memory is freed with the iterator.
    pub fn into_iter<'a>(
        self,
        at: &'a At<V, Write>,
    ) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator + use<'a, T, V> {
        Within::new(self.values.into_iter(at), at)
    }
}

impl<'a, T: VKey<V>, V: Brand, M: Mode> HeapRef<'a, T, V, M> {
    /// How many values there are.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.values.is_empty()
    }

    /// The greatest value.
    #[inline]
    #[must_use]
    pub fn peek(self) -> Option<&'a T> {
        self.values.first()
    }

    /// The values, in no order that is promised.
    #[inline]
    pub fn iter(self) -> std::slice::Iter<'a, T> {
        self.values.iter()
    }

    /// What the values are compared by, in no order that is promised.
    pub fn keys(
        self,
    ) -> impl DoubleEndedIterator<Item = &'a T::Borrowed> + ExactSizeIterator + Clone {
        let at = self.at;
        self.values.iter().map(|value| value.borrowed(at))
    }
}

impl<T, V: Brand, M> Clone for HeapRef<'_, T, V, M> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V: Brand, M> Copy for HeapRef<'_, T, V, M> {}

impl<'a, T: VKey<V>, V: Brand, M: Mode> IntoIterator for HeapRef<'a, T, V, M> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    #[inline]
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: VKey<V>, V: Brand> HeapMut<'_, T, V> {
    /// To read for a while.
    #[inline]
    #[must_use]
    pub fn as_ref(&self) -> HeapRef<'_, T, V, Write> {
        HeapRef { values: &self.values, at: self.at }
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The greatest value.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> Option<&T> {
        self.values.first()
    }

    /// Adds a value.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    pub fn push(&mut self, value: T) -> Result<(), AllocError> {
        self.values.push(value)?;
        self.rise(self.values.len() - 1);
        Ok(())
    }

    /// Takes the greatest value out.
    pub fn pop(&mut self) -> Option<T> {
        let last = self.values.len().checked_sub(1)?;
        self.values.swap(0, last);
        let greatest = self.values.pop();
        self.sink(0, last);
        greatest
    }

    /// Changes the greatest value, and puts it where it belongs then.
    pub fn change_greatest<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let changed = self.values.first_mut().map(change);
        self.sink(0, self.values.len());
        changed
    }

    /// Adds what an iterator gives. It may use the same token.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what came before it stays.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<(), AllocError> {
        let before = self.values.len();
        let extended = self.values.extend(values);
        // One by one where they are few: each takes a step for each time that the length doubles.
        let (new, all) = (self.values.len() - before, self.values.len());
        if new.saturating_mul(all.max(1).ilog2() as usize) < all {
            (before..all).for_each(|place| self.rise(place));
        } else {
            self.rebuild();
        }
        extended
    }

    /// Moves all values of `other` here.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; both are what they were.
    pub fn append(&mut self, other: &mut VBinaryHeap<T, V>) -> Result<(), AllocError> {
        self.values.append(&mut other.values)?;
        self.rebuild();
        Ok(())
    }

    /// Makes room for `more` values, and for some more so that growing is rare.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn reserve(&mut self, more: usize) -> Result<(), AllocError> {
        self.values.reserve(more)
    }

    /// Drops the values for which `keep` returns false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.values.retain(|value| keep(value));
        self.rebuild();
    }

    /// Drops all values and keeps the memory.
    pub fn clear(&mut self) {
        self.values.clear();
    }

    /// Whether value `a` is less than value `b`.
    fn is_less(&self, a: usize, b: usize) -> bool {
        self.values[a].borrowed(self.at) < self.values[b].borrowed(self.at)
    }

    /// Moves a value up to where it belongs.
    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let above = (place - 1) / 2;
            if !self.is_less(above, place) {
                return;
            }
            self.values.swap(above, place);
            place = above;
        }
    }

    /// Moves a value down to where it belongs, among the first `end`.
    fn sink(&mut self, mut place: usize, end: usize) {
        loop {
            let first = 2 * place + 1;
            if first >= end {
                return;
            }
            let second = first + 1;
            let greater = if second < end && self.is_less(first, second) { second } else { first };
            if !self.is_less(place, greater) {
                return;
            }
            self.values.swap(place, greater);
            place = greater;
        }
    }

    /// Puts all values where they belong.
    fn rebuild(&mut self) {
        let len = self.values.len();
        (0..len / 2).rev().for_each(|place| self.sink(place, len));
    }
}

impl<T, V: Brand> Default for VBinaryHeap<T, V> {
    fn default() -> VBinaryHeap<T, V> {
        VBinaryHeap::new()
    }
}

impl<T, V: Brand> fmt::Debug for VBinaryHeap<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VBinaryHeap<{}>(len {})", V::NAME, self.len())
    }
}

impl<T: fmt::Debug, V: Brand, M: Mode> fmt::Debug for HeapRef<'_, T, V, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

impl<T: fmt::Debug, V: Brand> fmt::Debug for HeapMut<'_, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

// SAFETY: its vector is.
unsafe impl<T: VKey<V>, V: Brand> Storable<V> for VBinaryHeap<T, V> {
    const HAS_ONE_NICHE: bool = true;

    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("VBinaryHeap version 1", |writer| {
            writer.part::<VVec<T, V>, V>(format_args!(""));
        });
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VBinaryHeap");
        let [address, capacity, len] = words::in_vec(place);
        let Some((values, count)) = checker.claim_values::<T>(address, len, capacity) else {
            return;
        };
        let mut walk = Walk::new(values, count);
        (walk.mark, walk.numbers) = (checker.taint(), [len, 0]);
        checker.push(values_in_order::<T, V>, numbered, walk);
    }
}

/// The step of a check that goes through the values, and then looks at their order.
fn values_in_order<T: VKey<V>, V: Brand>(checker: &mut Checker<'_, V>) -> bool {
    if elements::<T, V>(checker) {
        return true;
    }
    let (at, taint) = (checker.at(), checker.taint());
    let walk = checker.walk();
    let ([len, _], place) = (walk.numbers, walk.place);
    if walk.phase > 0 || taint != walk.mark {
        return false;
    }
    walk.phase = 1;
    let count = if size_of::<T>() == 0 { 0 } else { len };
    let value = |index: usize| {
        let part = place.part(index * size_of::<T>(), size_of::<T>())?;
        // SAFETY: it was looked at, with all that it owns, and found to be a value.
        Some(unsafe { part.value::<T>() }.borrowed(at))
    };
    let is_greater = |&index: &usize| value(index) > value((index - 1) / 2);
    match checker.guarded(|| (1..count).find(is_greater)) {
        None => checker.damaged(Problem::Panicked),
        Some(Some(index)) => {
            checker.walk().next = index + 1;
            checker.damaged(Problem::Order("it is greater than the value above it in the heap"));
        }
        Some(None) => {}
    }
    false
}
