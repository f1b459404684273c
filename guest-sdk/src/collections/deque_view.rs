//! Views of a `VVecDeque`: `DequeRef` reads, `DequeMut` changes.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::Chain;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};
use std::slice;

use super::deque::VVecDeque;
use crate::alloc::AllocError;
use crate::brand::Brand;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// A [`VVecDeque`] to be read. It is copied freely, and compared by what is in it.
pub struct DequeRef<'a, T, V: Brand, M> {
    deque: &'a VVecDeque<T, V>,
    _at: PhantomData<&'a At<V, M>>,
}

/// A [`VVecDeque`] to be changed.
pub struct DequeMut<'a, T, V: Brand> {
    pub(super) deque: &'a mut VVecDeque<T, V>,
    pub(super) at: &'a At<V, Write>,
}

impl<'a, T, V: Brand, M> DequeRef<'a, T, V, M> {
    #[inline]
    pub(super) fn new(deque: &'a VVecDeque<T, V>, _at: &'a At<V, M>) -> DequeRef<'a, T, V, M> {
        DequeRef { deque, _at: PhantomData }
    }
}

impl<'a, T: Storable<V>, V: Brand, M: Mode> DequeRef<'a, T, V, M> {
    /// How many values there are.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.deque.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.deque.is_empty()
    }

    /// The values, in order, as two slices of which the second may be empty.
    #[inline]
    #[must_use]
    pub fn as_slices(self) -> (&'a [T], &'a [T]) {
        self.deque.slices()
    }

    /// The value with a number, counted from the front.
    #[inline]
    #[must_use]
    pub fn get(self, index: usize) -> Option<&'a T> {
        let (first, second) = self.deque.slices();
        first.get(index).or_else(|| second.get(index.wrapping_sub(first.len())))
    }

    /// The first value.
    #[inline]
    #[must_use]
    pub fn front(self) -> Option<&'a T> {
        self.get(0)
    }

    /// The last value.
    #[inline]
    #[must_use]
    pub fn back(self) -> Option<&'a T> {
        self.get(self.deque.len().wrapping_sub(1))
    }

    /// The values, from either end.
    #[inline]
    pub fn iter(self) -> Chain<slice::Iter<'a, T>, slice::Iter<'a, T>> {
        let (first, second) = self.deque.slices();
        first.iter().chain(second)
    }

    /// Whether a value is equal to `value`. It looks at all of them.
    #[must_use]
    pub fn contains(self, value: &T) -> bool
    where
        T: PartialEq,
    {
        let (first, second) = self.deque.slices();
        first.contains(value) || second.contains(value)
    }
}

impl<T, V: Brand, M> Clone for DequeRef<'_, T, V, M> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V: Brand, M> Copy for DequeRef<'_, T, V, M> {}

impl<'a, T: Storable<V>, V: Brand, M: Mode> IntoIterator for DequeRef<'a, T, V, M> {
    type Item = &'a T;
    type IntoIter = Chain<slice::Iter<'a, T>, slice::Iter<'a, T>>;

    #[inline]
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// # Panics
/// If there is no such value.
impl<T: Storable<V>, V: Brand, M: Mode> Index<usize> for DequeRef<'_, T, V, M> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        self.get(index).expect("the deque has no value with this number")
    }
}

impl<T: Storable<V> + PartialEq, V: Brand, M: Mode, N: Mode> PartialEq<DequeRef<'_, T, V, N>>
    for DequeRef<'_, T, V, M>
{
    fn eq(&self, other: &DequeRef<'_, T, V, N>) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<T: Storable<V> + Eq, V: Brand, M: Mode> Eq for DequeRef<'_, T, V, M> {}

impl<T: Storable<V> + PartialOrd, V: Brand, M: Mode> PartialOrd for DequeRef<'_, T, V, M> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.iter().partial_cmp(other.iter())
    }
}

impl<T: Storable<V> + Ord, V: Brand, M: Mode> Ord for DequeRef<'_, T, V, M> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl<T: Storable<V> + Hash, V: Brand, M: Mode> Hash for DequeRef<'_, T, V, M> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.iter().for_each(|value| value.hash(state));
    }
}

impl<T: Storable<V> + fmt::Debug, V: Brand, M: Mode> fmt::Debug for DequeRef<'_, T, V, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Storable<V>, V: Brand> DequeMut<'a, T, V> {
    /// To read for a while.
    #[inline]
    #[must_use]
    pub fn as_ref(&self) -> DequeRef<'_, T, V, Write> {
        DequeRef::new(self.deque, self.at)
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.deque.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deque.is_empty()
    }

    /// How many values there is room for without another block.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.deque.capacity()
    }

    /// Makes room for `more` values, and for some more so that growing is rare.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn reserve(&mut self, more: usize) -> Result<(), AllocError> {
        self.deque.reserve(more)
    }

    /// Appends a value.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    #[inline]
    pub fn push_back(&mut self, value: T) -> Result<(), AllocError> {
        self.deque.push_back(value)
    }

    /// Puts a value before the first one.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    #[inline]
    pub fn push_front(&mut self, value: T) -> Result<(), AllocError> {
        self.deque.push_front(value)
    }

    /// Takes the last value out.
    #[inline]
    pub fn pop_back(&mut self) -> Option<T> {
        self.deque.pop_back()
    }

    /// Takes the first value out.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        self.deque.pop_front()
    }

    /// The value with a number, counted from the front.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.as_ref().get(index)
    }

    /// The value with a number, to be changed.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let (first, second) = self.deque.slices_mut();
        match index.checked_sub(first.len()) {
            Some(index) => second.get_mut(index),
            None => first.get_mut(index),
        }
    }

    /// The first value, to be changed.
    #[inline]
    #[must_use]
    pub fn front_mut(&mut self) -> Option<&mut T> {
        self.get_mut(0)
    }

    /// The last value, to be changed.
    #[inline]
    #[must_use]
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.get_mut(self.deque.len().wrapping_sub(1))
    }

    /// The values, from either end, to be changed.
    #[inline]
    pub fn iter_mut(&mut self) -> Chain<slice::IterMut<'_, T>, slice::IterMut<'_, T>> {
        let (first, second) = self.deque.slices_mut();
        first.iter_mut().chain(second)
    }

    /// The values, in order, as two slices to be changed.
    #[inline]
    #[must_use]
    pub fn as_mut_slices(&mut self) -> (&mut [T], &mut [T]) {
        self.deque.slices_mut()
    }

    /// Moves the values so that they are one slice, for sorting and the like. It takes time in
    /// proportion to the capacity, unless they are one already.
    pub fn make_contiguous(&mut self) -> &mut [T] {
        self.deque.straighten()
    }

    /// Swaps two values.
    ///
    /// # Panics
    /// If there is no such value.
    pub fn swap(&mut self, a: usize, b: usize) {
        let len = self.len();
        assert!(a.max(b) < len, "there is no value {}, only {len}", a.max(b));
        self.deque.swap(a, b);
    }

    /// Puts a value before the one at `index`. Values between it and the nearer end move.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    ///
    /// # Panics
    /// If `index` is larger than the length.
    pub fn insert(&mut self, index: usize, value: T) -> Result<(), AllocError> {
        let len = self.len();
        assert!(index <= len, "index {index} is beyond {len} values");
        if index < len / 2 {
            self.push_front(value)?;
            (0..index).for_each(|moved| self.deque.swap(moved, moved + 1));
        } else {
            self.push_back(value)?;
            (index..len).rev().for_each(|moved| self.deque.swap(moved, moved + 1));
        }
        Ok(())
    }

    /// Takes a value out. Values between it and the nearer end move.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        let len = self.len();
        if index >= len {
            return None;
        }
        if index < len / 2 {
            (0..index).rev().for_each(|moved| self.deque.swap(moved, moved + 1));
            self.pop_front()
        } else {
            (index..len - 1).for_each(|moved| self.deque.swap(moved, moved + 1));
            self.pop_back()
        }
    }

    /// Appends what an iterator gives. It may use the same token.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what came before it stays appended.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<(), AllocError> {
        let mut values = values.into_iter();
        // Only to grow rarely: an iterator that promises too much is no error.
        let _ = self.reserve(values.size_hint().0);
        values.try_for_each(|value| self.push_back(value))
    }

    /// Moves all values of `other` to the end.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; both are what they were.
    pub fn append(&mut self, other: &mut VVecDeque<T, V>) -> Result<(), AllocError> {
        self.reserve(other.len())?;
        while let Some(value) = other.pop_front() {
            self.push_back(value)?;
        }
        Ok(())
    }

    /// Moves the values from `index` on into a deque of their own.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; nothing is moved.
    ///
    /// # Panics
    /// If `index` is larger than the length.
    pub fn split_off(&mut self, index: usize) -> Result<VVecDeque<T, V>, AllocError> {
        let len = self.len();
        assert!(index <= len, "index {index} is beyond {len} values");
        let mut rest = VVecDeque::with_capacity(self.at, len - index)?;
        while self.len() > index {
            if let Some(value) = self.pop_back() {
                rest.push_front(value)?;
            }
        }
        Ok(rest)
    }

    /// Drops the values after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        while self.len() > len {
            drop(self.pop_back());
        }
    }

    /// Drops all values and keeps the memory.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Drops the values for which `keep` returns false; the others stay in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        let mut kept = 0;
        for index in 0..self.len() {
            if self.get_mut(index).is_some_and(&mut keep) {
                self.deque.swap(kept, index);
                kept += 1;
            }
        }
        self.truncate(kept);
    }
}

impl<'a, T: Storable<V>, V: Brand> IntoIterator for DequeMut<'a, T, V> {
    type Item = &'a mut T;
    type IntoIter = Chain<slice::IterMut<'a, T>, slice::IterMut<'a, T>>;

    #[inline]
    fn into_iter(self) -> Self::IntoIter {
        let (first, second) = self.deque.slices_mut();
        first.iter_mut().chain(second)
    }
}

/// # Panics
/// If there is no such value.
impl<T: Storable<V>, V: Brand> Index<usize> for DequeMut<'_, T, V> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        self.get(index).expect("the deque has no value with this number")
    }
}

impl<T: Storable<V>, V: Brand> IndexMut<usize> for DequeMut<'_, T, V> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.get_mut(index).expect("the deque has no value with this number")
    }
}

impl<T: Storable<V> + fmt::Debug, V: Brand> fmt::Debug for DequeMut<'_, T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
