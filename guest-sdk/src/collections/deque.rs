//! `VVecDeque`: values in a VAS that come and go at both ends. Here is what is stored; the views are
//! in `deque_view`.
//!
//! A ring in one block: cells that hold a value or nothing, of which those with values follow one
//! another, over the block's end to its beginning if need be. The block is a vector's of
//! `MaybeUninit`, so that its memory is made, grown and freed by the vector's code. What has
//! to be unsafe is to read a cell as the value that it holds.

use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit, offset_of};
use std::ops::Range;
use std::ptr::NonNull;

use allocator_api2::vec::Vec;

use super::deque_view::{DequeMut, DequeRef};
use super::vec::no_room;
use super::within::Within;
use super::words;
use crate::alloc::{AllocError, VAlloc, may_free};
use crate::brand::Brand;
use crate::check::{Checker, Expected, Place, Walk, numbered};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

type Cells<T, V> = Vec<MaybeUninit<T>, VAlloc<V>>;

/// The cells of the first block.
const FIRST: usize = 4;

/// Owns values in the heap of `V` that come and go at both ends: what `VecDeque` is at home.
///
/// [`at`](VVecDeque::at) gives a view to read, [`at_mut`](VVecDeque::at_mut) one to change. Pushing and
/// popping take constant time at either end, but for a push that needs a larger block: that moves
/// all values. A value is found by number in constant time. Where `VecDeque` would end the
/// process for want of memory, these fail with [`AllocError`], and the content is unchanged. Dropped
/// outside `V`, it leaks what it owns, as `VBox` does.
///
/// ```
/// use spacejmp::{Space, VVecDeque};
///
/// spacejmp::brand! { Jobs => VVecDeque<u32, Jobs> }
///
/// let jobs = Space::<Jobs>::in_memory(1 << 20, |_| Ok(VVecDeque::new()))?;
/// let next = jobs.write(|v| {
///     let (root, at) = v.root_mut();
///     let mut jobs = root.at_mut(at);
///     jobs.extend([1, 2, 3])?;
///     jobs.push_front(0)?;
///     Ok::<_, spacejmp::Error>((jobs.pop_front(), jobs.pop_back()))
/// })?;
/// assert_eq!(next, (Some(0), Some(3)));
/// assert_eq!(jobs.read(|v| v.root().at(v).iter().copied().collect::<Vec<_>>())?, [1, 2]);
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[repr(C)]
pub struct VVecDeque<T, V: Brand> {
    /// As long as its capacity, or shorter: cells beyond its length are not used.
    cells: ManuallyDrop<Cells<T, V>>,
    /// The cell of the first value; 0 if there are no cells.
    head: usize,
    /// How many cells from there on hold values, over the end.
    len: usize,
}

impl<T, V: Brand> VVecDeque<T, V> {
    /// No values, and no memory yet.
    #[inline]
    #[must_use]
    pub const fn new() -> VVecDeque<T, V> {
        let cells = ManuallyDrop::new(Vec::new_in(VAlloc::of_owner()));
        VVecDeque { cells, head: 0, len: 0 }
    }

    /// How many values there are. No token is needed: the number is not in `V`'s heap.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many values there is room for without another block.
    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.cells.len()
    }

    /// The cell of value `index`, which may be the first one that there is not.
    #[inline]
    fn cell(&self, index: usize) -> usize {
        let until_end = self.cells.len() - self.head;
        if index < until_end { self.head + index } else { index - until_end }
    }

    /// The cells with values: from the first on, and from the block's beginning on.
    #[inline]
    fn occupied(&self) -> (Range<usize>, Range<usize>) {
        let until_end = self.cells.len() - self.head;
        match self.len.checked_sub(until_end) {
            None => (self.head..self.head + self.len, 0..0),
            Some(rest) => (self.head..self.cells.len(), 0..rest),
        }
    }

    /// The values, in order: the first part, and what is behind the block's end.
    #[inline]
    pub(super) fn slices(&self) -> (&[T], &[T]) {
        let (first, second) = self.occupied();
        // SAFETY: `head` and `len` say which cells hold values, and these are they.
        let first = unsafe { self.cells[first].assume_init_ref() };
        // SAFETY: as above.
        (first, unsafe { self.cells[second].assume_init_ref() })
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn slices_mut(&mut self) -> (&mut [T], &mut [T]) {
        let (first, second) = self.occupied();
        let (beginning, end) = self.cells.split_at_mut(first.start);
        // SAFETY: `head` and `len` say which cells hold values, and these are they.
        let first = unsafe { end[..first.len()].assume_init_mut() };
        // SAFETY: as above; they end where the first ones begin, at the latest.
        (first, unsafe { beginning[second].assume_init_mut() })
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let cell = self.head;
        self.head = self.cell(1);
        self.len -= 1;
        // SAFETY: there was a first value, which is not counted any more.
        Some(unsafe { self.cells[cell].assume_init_read() })
    }

    #[inline]
    pub(super) fn pop_back(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: there was a last value, which is not counted any more.
        Some(unsafe { self.cells[self.cell(self.len)].assume_init_read() })
    }

    /// Swaps two cells' content: those of values that there are.
    #[inline]
    pub(super) fn swap(&mut self, a: usize, b: usize) {
        let (a, b) = (self.cell(a), self.cell(b));
        self.cells.swap(a, b);
    }

    /// Puts a value behind the last one; there is a free cell.
    #[inline]
    fn put_back(&mut self, value: T) {
        let cell = self.cell(self.len);
        self.cells[cell].write(value);
        self.len += 1;
    }

    /// Puts a value before the first one; there is a free cell.
    #[inline]
    fn put_front(&mut self, value: T) {
        let cell = self.head.checked_sub(1).unwrap_or(self.cells.len() - 1);
        self.cells[cell].write(value);
        self.head = cell;
        self.len += 1;
    }

    /// Turns the block so that the values follow one another from its beginning on, unless they do so
    /// somewhere in it.
    pub(super) fn straighten(&mut self) -> &mut [T] {
        if self.len > self.cells.len() - self.head {
            self.cells.rotate_left(self.head);
            self.head = 0;
        }
        self.slices_mut().0
    }
}

impl<T: Storable<V>, V: Brand> VVecDeque<T, V> {
    /// No values, with room for `count`.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn with_capacity(_at: &At<V, Write>, count: usize) -> Result<VVecDeque<T, V>, AllocError> {
        let mut deque = VVecDeque::new();
        deque.grow_to(count)?;
        Ok(deque)
    }

    /// The values of an iterator.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; what was taken is dropped.
    pub fn collect(
        at: &At<V, Write>,
        values: impl IntoIterator<Item = T>,
    ) -> Result<VVecDeque<T, V>, AllocError> {
        let mut deque = VVecDeque::new();
        deque.at_mut(at).extend(values)?;
        Ok(deque)
    }

    /// As [`collect`](VVecDeque::collect), of values that may fail to be made, as those that need
    /// memory of their own.
    ///
    /// # Errors
    /// The first one, of the iterator or for want of room; what was taken is dropped.
    pub fn try_collect(
        at: &At<V, Write>,
        values: impl IntoIterator<Item = Result<T, AllocError>>,
    ) -> Result<VVecDeque<T, V>, AllocError> {
        let mut deque = VVecDeque::new();
        for value in values {
            deque.at_mut(at).push_back(value?)?;
        }
        Ok(deque)
    }

    /// The values, to be read.
    #[inline]
    #[must_use]
    pub fn at<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> DequeRef<'a, T, V, M> {
        DequeRef::new(self, at)
    }

    /// The values, to be changed.
    #[inline]
    #[must_use]
    pub fn at_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> DequeMut<'a, T, V> {
        DequeMut { deque: self, at }
    }

    /// Moves the values out, in order; the memory is freed with the iterator.
    #[inline]
    pub fn into_iter<'a>(
        self,
        at: &'a At<V, Write>,
    ) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator + use<'a, T, V> {
        Within::new(Taken(self), at)
    }

    #[inline]
    pub(super) fn push_back(&mut self, value: T) -> Result<(), AllocError> {
        if self.len == self.cells.len() {
            self.reserve(1)?;
        }
        self.put_back(value);
        Ok(())
    }

    #[inline]
    pub(super) fn push_front(&mut self, value: T) -> Result<(), AllocError> {
        if self.len == self.cells.len() {
            self.reserve(1)?;
        }
        self.put_front(value);
        Ok(())
    }

    /// Makes room for `more` values, and for twice as many as there was room for at least.
    #[cold]
    #[inline(never)]
    pub(super) fn reserve(&mut self, more: usize) -> Result<(), AllocError> {
        let needed = self.len.checked_add(more).ok_or_else(|| AllocError::new::<V>(usize::MAX))?;
        match needed > self.cells.len() {
            true => self.grow_to(needed.max(self.cells.len().saturating_mul(2)).max(FIRST)),
            false => Ok(()),
        }
    }

    /// Gives the block so many cells, which are not fewer than it has.
    fn grow_to(&mut self, count: usize) -> Result<(), AllocError> {
        let before = self.cells.len();
        let more = count - before;
        self.cells.try_reserve_exact(more).map_err(|error| no_room::<V>(&error))?;
        // SAFETY: there is room for them, and a cell may hold nothing.
        unsafe { self.cells.set_len(count) };
        if self.len > before - self.head {
            // The values up to the old end go to the new one.
            self.cells[self.head..].rotate_right(more);
            self.head += more;
        }
        Ok(())
    }
}

/// The values of a deque on their way out.
struct Taken<T, V: Brand>(VVecDeque<T, V>);

impl<T, V: Brand> Iterator for Taken<T, V> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len, Some(self.0.len))
    }
}

impl<T, V: Brand> DoubleEndedIterator for Taken<T, V> {
    #[inline]
    fn next_back(&mut self) -> Option<T> {
        self.0.pop_back()
    }
}

impl<T, V: Brand> ExactSizeIterator for Taken<T, V> {}

/// Frees the values that are left, and the block, also when dropping one of them panics.
struct Rest<'a, T, V: Brand>(&'a mut VVecDeque<T, V>);

impl<T, V: Brand> Drop for Rest<'_, T, V> {
    fn drop(&mut self) {
        while let Some(value) = self.0.pop_front() {
            drop(value);
        }
        self.0.head = 0;
        *self.0.cells = Vec::new_in(VAlloc::of_owner());
    }
}

impl<T, V: Brand> Drop for VVecDeque<T, V> {
    #[inline]
    fn drop(&mut self) {
        if may_free::<V>(NonNull::from(self.cells.as_slice()).cast()) {
            let rest = Rest(self);
            while let Some(value) = rest.0.pop_front() {
                drop(value);
            }
        }
    }
}

impl<T, V: Brand> Default for VVecDeque<T, V> {
    fn default() -> VVecDeque<T, V> {
        VVecDeque::new()
    }
}

impl<T, V: Brand> fmt::Debug for VVecDeque<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VVecDeque<{}>(len {})", V::NAME, self.len)
    }
}

// SAFETY: its memory is `V`'s and owned by it, or it has none; `drop` checks where the thread
// is. An empty vector's address is that of no memory, and never used.
unsafe impl<T: Storable<V>, V: Brand> Storable<V> for VVecDeque<T, V> {
    const HAS_ONE_NICHE: bool = true;

    fn layout(writer: &mut LayoutWriter) {
        let name = format_args!("VVecDeque version 1, words {}", words::of_vec()).to_string();
        writer.describe::<Self>(name, |writer| {
            writer.field::<usize, V>("head", offset_of!(VVecDeque<T, V>, head));
            writer.field::<usize, V>("len", offset_of!(VVecDeque<T, V>, len));
            writer.part::<T, V>(format_args!(""));
        });
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VVecDeque");
        let [head, len] = [offset_of!(Self, head), offset_of!(Self, len)].map(|at| place.word(at));
        let Some(vec) = place.part(offset_of!(Self, cells), size_of::<Cells<T, V>>()) else {
            return;
        };
        let [address, capacity, cells] = words::in_vec(vec);
        let last = cells.saturating_sub(1);
        for (what, found, most) in [("its length", len, cells), ("its first cell", head, last)] {
            if found > most && !checker.is_shallow() {
                return checker.wrong_number(what, found, Expected::AtMost(most as u128));
            }
        }
        let Some((place, _)) = checker.claim_values::<T>(address, cells, capacity) else { return };
        if len > 0 && !T::ANY_BITS {
            let mut walk = Walk::new(place, if size_of::<T>() == 0 { 1 } else { len });
            walk.numbers = [head, cells];
            checker.push(ring::<T, V>, numbered, walk);
        }
    }
}

/// The step of a check that goes through the values of a ring.
fn ring<T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) -> bool {
    let walk = checker.walk();
    if walk.next >= walk.count {
        return false;
    }
    let ([head, cells], index, place) = (walk.numbers, walk.next, walk.place);
    walk.next += 1;
    let until_end = cells - head;
    let cell = if index < until_end { head + index } else { index - until_end };
    checker.part::<T>(place, cell * size_of::<T>());
    true
}
