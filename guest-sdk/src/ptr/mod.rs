//! `VPtr`: a pointer into a VAS that may be copied, for shared and cyclic structures; in `slice` the
//! same for many values at once.

mod slice;

use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::alloc::AllocError;
use crate::boxed;
use crate::brand::{Brand, Invariant};
use crate::check::{Checker, Place};
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, In, Mode, Write};

pub use slice::VSlice;

/// Points to a `T` in `V`, like a plain pointer: it is copied freely, may form cycles, and is as
/// quick to follow as `&T`.
///
/// What it points to is never freed while the segment exists, which is why copies of it can be
/// trusted; what is to be freed has one owner, a `VBox`. Reading takes the token, and writing all of it:
/// while something is written through a `VPtr` nothing else of the VAS is borrowed.
///
/// ```
/// use spacejmp::{Space, Storable, VPtr};
///
/// #[derive(Storable)]
/// #[storable(vas = Ring)]
/// struct Node {
///     value: u32,
///     next: Option<VPtr<Node, Ring>>,
/// }
///
/// spacejmp::brand! { Ring => Option<VPtr<Node, Ring>> }
///
/// let space = Space::<Ring>::in_memory(1 << 20, |_| Ok(None))?;
/// let sum = space.write(|v| {
///     let last = VPtr::new(v, Node { value: 2, next: None })?;
///     let first = VPtr::new(v, Node { value: 1, next: Some(last) })?;
///     last.get_mut(v).next = Some(first);
///     let around = [first, last].map(|node| node.get(v).next);
///     Ok::<u32, spacejmp::Error>(around.iter().flatten().map(|node| node.get(v).value).sum())
/// })?;
/// assert_eq!(sum, 3);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[repr(transparent)]
pub struct VPtr<T, V: Brand> {
    value: NonNull<T>,
    _points: PhantomData<(*mut T, Invariant<V>)>,
}

// SAFETY: any thread with a token may read the value, and with an exclusive one write and
// replace it.
unsafe impl<T: Send + Sync, V: Brand> Send for VPtr<T, V> {}
// SAFETY: as above; a shared pointer can be copied.
unsafe impl<T: Send + Sync, V: Brand> Sync for VPtr<T, V> {}

impl<T: Storable<V>, V: Brand> VPtr<T, V> {
    /// Moves `value` into `V`, where it stays. The segment grows if necessary and possible.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; `value` is dropped.
    #[inline]
    pub fn new(at: &At<V, Write>, value: T) -> Result<VPtr<T, V>, AllocError> {
        boxed::allocate(at, value).map(|value| VPtr { value, _points: PhantomData })
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn get<'a, M: Mode>(self, _v: &'a In<V, M>) -> &'a T {
        // SAFETY: it is never freed, the token proves that it is mapped, and any code that writes
        // it has the token borrowed mutably.
        unsafe { self.value.as_ref() }
    }

    /// The value, for the token of an old version.
    ///
    /// # Safety
    /// As long as it is used the thread is inside a version of `V` that has the value, and nobody writes it.
    #[inline]
    pub(crate) unsafe fn get_in_old<'a>(self) -> &'a T {
        // SAFETY: it is never freed; all else the caller promises.
        unsafe { self.value.as_ref() }
    }

    /// The value, to be changed. Nothing else of `V` can be used meanwhile.
    #[inline]
    #[must_use]
    pub fn get_mut<'a>(mut self, _v: &'a mut In<V, Write>) -> &'a mut T {
        // SAFETY: as for `get`; the token is borrowed mutably.
        unsafe { self.value.as_mut() }
    }

    /// The value, to be changed, and the witness that owners within it ask for.
    #[inline]
    #[must_use]
    pub fn open_mut<'a>(mut self, v: &'a mut In<V, Write>) -> (&'a mut T, &'a At<V, Write>) {
        // SAFETY: as for `get_mut`; what the witness gives access to has other owners.
        (unsafe { self.value.as_mut() }, &*v)
    }

    /// The address, the same in every process.
    #[inline]
    #[must_use]
    pub fn address(self) -> usize {
        self.value.as_ptr().addr()
    }
}

impl<T, V: Brand> Clone for VPtr<T, V> {
    #[inline]
    fn clone(&self) -> VPtr<T, V> {
        *self
    }
}

impl<T, V: Brand> Copy for VPtr<T, V> {}

impl<T, V: Brand> PartialEq for VPtr<T, V> {
    #[inline]
    fn eq(&self, other: &VPtr<T, V>) -> bool {
        self.value == other.value
    }
}

impl<T, V: Brand> Eq for VPtr<T, V> {}

impl<T, V: Brand> Hash for VPtr<T, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl<T, V: Brand> std::fmt::Debug for VPtr<T, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VPtr<{}>({:p})", V::NAME, self.value)
    }
}

// SAFETY: the address is one of `V`'s heap, of a value that is never freed; `VPtr` has the rules
// of sharing in its methods.
unsafe impl<T: Storable<V>, V: Brand> Storable<V> for VPtr<T, V> {
    const HAS_ONE_NICHE: bool = true;

    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("VPtr version 1", |writer| writer.part::<T, V>(format_args!("")));
    }

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.count("VPtr");
        checker.pointer::<T>(place.word(0), 1);
    }
}
