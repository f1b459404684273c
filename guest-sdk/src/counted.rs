//! `VRc`: a value in a VAS with several owners, and their number beside it.
//!
//! Why the number can be changed through a shared owner, without a cell. It lies in the block of the
//! value, no reference to it is ever made, and who changes it has a witness of writing, which only
//! one thread has at a time; or is a destructor inside, writable, which is the same. Readers, who
//! map the memory read-only, make no owners. Other threads may have references to the value at
//! that time, but not to the number.
//!
//! Why the number is right whatever is undone. An owner lies in the space, and is undone with
//! the number; or it is in a variable of a visit, and does not outlive it: the brand of a
//! versioned space has the visit's lifetime. What is left of raw segments is owners that were leaked, or lost
//! with their process: the number is too high then, and the value stays.
//!
//! Why there are no weak owners: a cycle of owners needs a value that is changed while it has
//! several, and there is none.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::alloc::{AllocError, may_free};
use crate::boxed::{VBox, allocate};
use crate::brand::{Brand, Invariant};
use crate::check::{Checker, Place};
use crate::clone_in::CloneIn;
use crate::collections::VKey;
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// A value and how many own it.
#[repr(C)]
struct Block<T> {
    /// It comes first, so that the block's address is its own.
    owners: usize,
    value: T,
}

/// Owns a `T` in the heap of `V` together with others: what `Rc` is at home.
///
/// [`another`](VRc::another) makes another owner; the last one that is dropped inside `V`, writable,
/// drops the value and frees the memory. How many there are is written beside the value, so only those who may write
/// make owners, and an abort or rollback takes the number back with them. The value is shared, so it is
/// only changed by its only owner. Dropped elsewhere, or lost with a process that is killed, an owner goes on to count,
/// and the value stays.
///
/// ```
/// use spacejmp::{Space, VRc, VString, VVec};
///
/// type Labels<'v> = VVec<VRc<VString<Shop<'v>>, Shop<'v>>, Shop<'v>>;
/// spacejmp::brand! { Shop<'v> => Labels<'v> }
///
/// let shop = Space::<Shop>::in_memory(1 << 20, |_| Ok(VVec::new()))?;
/// let owners = shop.write(|v| {
///     let (labels, at) = v.root_mut();
///     let sale = VRc::new(at, VString::new(at, "sale")?)?;
///     labels.at_mut(at).push(sale.another(at))?;
///     labels.at_mut(at).push(sale.another(at))?;
///     Ok::<_, spacejmp::Error>(sale.owners(at))
/// })?;
/// assert_eq!(owners, 3);
/// // The variable `sale` was one of them.
/// assert_eq!(shop.read(|v| v.root().at(v)[0].owners(v))?, 2);
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[repr(transparent)]
pub struct VRc<T, V: Brand> {
    block: NonNull<Block<T>>,
    _owns: PhantomData<T>,
    _of: Invariant<V>,
}

// SAFETY: the number is only changed with exclusive access to `V`, whichever thread has it; the
// value is moved, dropped and changed by the last owner, and shared by several.
unsafe impl<T: Send + Sync, V: Brand> Send for VRc<T, V> {}
// SAFETY: as above; shared, it gives shared references to its value.
unsafe impl<T: Send + Sync, V: Brand> Sync for VRc<T, V> {}

impl<T: Storable<V>, V: Brand> VRc<T, V> {
    /// Moves `value` into `V`, with one owner. The segment grows if necessary and possible.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    pub fn new(at: &At<V, Write>, value: T) -> Result<VRc<T, V>, AllocError> {
        allocate(at, Block { owners: 1, value }).map(VRc::of)
    }

    /// Another owner of the same value.
    ///
    /// # Panics
    /// If there are as many as can be counted, which takes leaking them on purpose.
    #[must_use]
    pub fn another(&self, at: &At<V, Write>) -> VRc<T, V> {
        let owners = self.owners(at);
        assert!(owners < usize::MAX, "a value has as many owners as can be counted");
        self.set_owners(owners + 1, at);
        VRc::of(self.block)
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn get<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a T {
        // SAFETY: the value is there until its last owner is dropped, the witness says that its
        // memory is mapped, and both are borrowed. It is only written by an only owner, which is
        // borrowed mutably then.
        unsafe { &(*self.block.as_ptr()).value }
    }

    /// The value, to be changed, if this is its only owner.
    #[must_use]
    pub fn get_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> Option<&'a mut T> {
        if self.owners(at) != 1 {
            return None;
        }
        // SAFETY: as for `get`; the exclusive borrow of the only owner rules out any other access.
        Some(unsafe { &mut (*self.block.as_ptr()).value })
    }

    /// The value, to be changed. If it has other owners, this becomes the only owner of a copy.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room for the copy; the owner is as it was.
    pub fn make_mut<'a>(&'a mut self, at: &'a At<V, Write>) -> Result<&'a mut T, AllocError>
    where
        T: CloneIn<V>,
    {
        if self.owners(at) != 1 {
            *self = VRc::new(at, self.get(at).clone_in(at)?)?;
        }
        Ok(self.get_mut(at).expect("it has one owner"))
    }

    /// Takes the value out and frees its memory.
    ///
    /// # Errors
    /// The owner, if there are others.
    pub fn into_inner(self, at: &At<V, Write>) -> Result<T, VRc<T, V>> {
        if self.owners(at) != 1 {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: the block came from `allocate`, and nobody else owns it.
        let block: VBox<Block<T>, V> = unsafe { VBox::of(this.block) };
        Ok(block.into_inner(at).value)
    }

    /// Whether both own the same value.
    #[must_use]
    pub fn is_same(&self, other: &VRc<T, V>) -> bool {
        self.block == other.block
    }
}

impl<T, V: Brand> VRc<T, V> {
    fn of(block: NonNull<Block<T>>) -> VRc<T, V> {
        VRc { block, _owns: PhantomData, _of: PhantomData }
    }

    /// How many owners there are. It is at least the number of those that can be reached.
    #[must_use]
    pub fn owners<M: Mode>(&self, _at: &At<V, M>) -> usize {
        // SAFETY: the block, which begins with the number, is there as long as it has an owner; the
        // witness says that it is mapped, and that no other thread writes it.
        unsafe { self.block.cast::<usize>().read() }
    }

    fn set_owners(&self, owners: usize, _at: &At<V, Write>) {
        // SAFETY: as above; the witness says that this thread may write, and no other one reads.
        unsafe { self.block.cast::<usize>().write(owners) };
    }
}

impl<T, V: Brand> Drop for VRc<T, V> {
    fn drop(&mut self) {
        if !may_free::<V>(self.block.cast()) {
            return;
        }
        // SAFETY: the thread is inside and may write, and goes nowhere else before the last use of it.
        let at: &At<V, Write> = unsafe { At::borrowed() };
        match self.owners(at) {
            // SAFETY: the block came from `allocate`, and this is its last owner.
            1 => drop::<VBox<Block<T>, V>>(unsafe { VBox::of(self.block) }),
            owners => self.set_owners(owners - 1, at),
        }
    }
}

impl<T, V: Brand> std::fmt::Debug for VRc<T, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VRc<{}>({:p})", V::NAME, self.block)
    }
}

// SAFETY: the address is one of `V`'s heap, and the value there is its owners'. `drop` checks
// where the thread is. The number is written by those only who may write.
unsafe impl<T: Storable<V>, V: Brand> Storable<V> for VRc<T, V> {
    const HAS_ONE_NICHE: bool = true;

    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("VRc version 1", |writer| writer.part::<T, V>(format_args!("")));
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VRc");
        let value = std::mem::offset_of!(Block<T>, value);
        checker.one_of_several::<T, Block<T>>(place.word(0), value);
    }
}

/// Another owner of the same value, as `Rc`'s clone is.
impl<V: Brand, T: Storable<V>> CloneIn<V> for VRc<T, V> {
    fn clone_in(&self, at: &At<V, Write>) -> Result<Self, AllocError> {
        Ok(self.another(at))
    }
}

/// It is looked up by what its value is looked up by: many keys can be one text.
impl<T: VKey<V>, V: Brand> VKey<V> for VRc<T, V> {
    type Borrowed = T::Borrowed;

    #[inline]
    fn borrowed<'a, M: Mode>(&'a self, at: &'a At<V, M>) -> &'a T::Borrowed {
        self.get(at).borrowed(at)
    }
}
