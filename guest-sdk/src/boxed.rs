//! `VBox`: owns one value in a VAS. What is special about boxes of slices and texts is with the
//! collections, which they are made of.

use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;

use crate::alloc::{AllocError, VAlloc, may_free};
use crate::brand::{Brand, Invariant};
use crate::check::{Checker, Place, unnamed};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// Owns a `T` in the heap of `V`: what `Box` is at home.
///
/// It may be anywhere, in a local variable too, but its content is only reached with the token of
/// `V`. Dropped inside `V`, writable, it drops its content and frees the memory; dropped
/// elsewhere it leaks both, since it must not touch them. `Option<VBox<T, V>>` is as large as an
/// address.
///
/// `VBox<[T], V>` and `VBox<str, V>` own values or text that do not grow any more: two words instead of the three of a
/// `VVec` or `VString`, which become such boxes by `into_boxed`.
///
/// ```
/// # use spacejmp::{Space, VBox};
/// spacejmp::brand! { Numbers => Option<VBox<u64, Numbers>> }
///
/// let space = Space::<Numbers>::in_memory(1 << 20, |at| Ok(Some(VBox::new(at, 6)?)))?;
/// let product = space.write(|v| {
///     let (root, at) = v.root_mut();
///     let number = root.as_mut().map(|number| number.get_mut(at));
///     Ok::<_, spacejmp::Error>(number.map(|number| {
///         *number *= 7;
///         *number
///     }))
/// })?;
/// assert_eq!(product, Some(42));
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[repr(transparent)]
pub struct VBox<T: ?Sized, V: Brand> {
    value: NonNull<T>,
    _owns: PhantomData<T>,
    _of: Invariant<V>,
}

// SAFETY: it is the only way to its value.
unsafe impl<T: Send + ?Sized, V: Brand> Send for VBox<T, V> {}
// SAFETY: shared, it only gives shared references to its value.
unsafe impl<T: Sync + ?Sized, V: Brand> Sync for VBox<T, V> {}

/// A block in `V`'s heap that holds `value`.
#[inline]
pub(crate) fn allocate<T, V: Brand>(at: &At<V, Write>, value: T) -> Result<NonNull<T>, AllocError> {
    allocate_in(at, Layout::new::<T>(), value)
}

/// A block that holds a root object: one of at least a byte, so that a root without size has an
/// address in `V` as well.
pub(crate) fn allocate_root<V: Brand>(
    at: &At<V, Write>,
    value: V::Root,
) -> Result<NonNull<V::Root>, AllocError> {
    let (size, align) = (size_of::<V::Root>(), align_of::<V::Root>());
    let layout = root_layout(size, align).ok_or_else(|| AllocError::new::<V>(size))?;
    allocate_in(at, layout, value)
}

fn root_layout(size: usize, align: usize) -> Option<Layout> {
    Layout::from_size_align(size.max(1), align).ok()
}

/// Frees the block of a root object that was of this size and alignment.
///
/// # Safety
/// The thread is inside `V`, writable; the value was moved out, and nothing uses it there any more.
pub(crate) unsafe fn free_root<V: Brand>(root: NonNull<()>, size: usize, align: usize) {
    if let Some(layout) = root_layout(size, align) {
        // SAFETY: the block came from `allocate_root` with this layout.
        unsafe { VAlloc::<V>::of_owner().deallocate(root.cast(), layout) };
    }
}

/// A block of this layout, which is at least the value's, that holds `value`.
#[inline]
fn allocate_in<T, V: Brand>(
    _at: &At<V, Write>,
    layout: Layout,
    value: T,
) -> Result<NonNull<T>, AllocError> {
    let block = VAlloc::<V>::of_owner()
        .allocate(layout)
        .map_err(|_| AllocError::new::<V>(layout.size()))?
        .cast::<T>();
    // SAFETY: the block is fresh, and large and aligned enough.
    unsafe { block.write(value) };
    Ok(block)
}

impl<T: Storable<V>, V: Brand> VBox<T, V> {
    /// Moves `value` into `V`. The segment grows if necessary and possible.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    #[inline]
    pub fn new(at: &At<V, Write>, value: T) -> Result<VBox<T, V>, AllocError> {
        allocate(at, value).map(|value| VBox { value, _owns: PhantomData, _of: PhantomData })
    }
}

impl<T, V: Brand> VBox<T, V> {
    /// Takes the value out and frees its memory.
    #[inline]
    #[must_use]
    pub fn into_inner(self, _at: &At<V, Write>) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: as for `get`; the box is not used again.
        let value = unsafe { this.value.read() };
        this.free(Layout::new::<T>());
        value
    }
}

impl<T: ?Sized, V: Brand> VBox<T, V> {
    /// The owner of a value.
    ///
    /// # Safety
    /// The value lies in a block of `V`'s heap that has its layout, or has no size; nothing else
    /// owns it.
    pub(crate) const unsafe fn of(value: NonNull<T>) -> VBox<T, V> {
        VBox { value, _owns: PhantomData, _of: PhantomData }
    }

    /// Gives up the ownership: the value and its block belong to whoever has the pointer.
    pub(crate) fn into_pointer(self) -> NonNull<T> {
        ManuallyDrop::new(self).value
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn get<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a T {
        // SAFETY: the value is valid until the box is dropped, the witness says that its memory is
        // mapped, and both are borrowed. Only `get_mut` writes it, with the box borrowed mutably.
        unsafe { self.value.as_ref() }
    }

    /// The value, to be changed.
    #[inline]
    #[must_use]
    pub fn get_mut<'a>(&'a mut self, _at: &'a At<V, Write>) -> &'a mut T {
        // SAFETY: as for `get`; the exclusive borrow of the box rules out any other access.
        unsafe { self.value.as_mut() }
    }

    /// Frees the memory, which has this layout and whose content was moved out or dropped.
    fn free(&self, layout: Layout) {
        // SAFETY: the block came from this allocator with this layout, and is no longer used.
        unsafe { VAlloc::<V>::of_owner().deallocate(self.value.cast(), layout) };
    }
}

impl<T: ?Sized, V: Brand> Drop for VBox<T, V> {
    #[inline]
    fn drop(&mut self) {
        if !may_free::<V>(self.value.cast()) {
            return;
        }
        // SAFETY: the thread is inside and may write; the box is the only owner of the value.
        let layout = Layout::for_value(unsafe { self.value.as_ref() });
        // SAFETY: as above.
        unsafe { self.value.drop_in_place() };
        self.free(layout);
    }
}

impl<T: ?Sized, V: Brand> std::fmt::Debug for VBox<T, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VBox<{}>({:p})", V::NAME, self.value)
    }
}

/// What a box may hold, and what the box looks like then.
#[doc(hidden)]
pub trait Content<V: Brand>: Send + Sync {
    fn describe_box(writer: &mut LayoutWriter);
    fn check_box(place: Place, checker: &mut Checker<'_, V>);
    fn show_box(_place: Place, _checker: &mut Checker<'_, V>) -> Option<String> {
        None
    }
}

impl<T: Storable<V>, V: Brand> Content<V> for T {
    fn describe_box(writer: &mut LayoutWriter) {
        let part = |writer: &mut LayoutWriter| writer.part::<T, V>(format_args!(""));
        writer.describe::<VBox<T, V>>("VBox version 1", part);
    }

    fn check_box(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VBox");
        checker.values::<T>(place.word(0), 1, 1, unnamed);
    }
}

// SAFETY: the address is one of `V`'s heap, and the box owns what lies there. `drop` checks
// where the thread is. No values and no text have no memory, and their address is never used.
unsafe impl<T: Content<V> + ?Sized, V: Brand> Storable<V> for VBox<T, V> {
    const HAS_ONE_NICHE: bool = true;

    fn layout(writer: &mut LayoutWriter) {
        T::describe_box(writer);
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        T::check_box(place, checker);
    }

    fn show_stored(place: Place, checker: &mut Checker<'_, V>) -> Option<String> {
        T::show_box(place, checker)
    }
}
