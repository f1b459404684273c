//! Root objects that are only known by their layout, and what an earlier version of a type was. How one is made
//! from the other is said in [`upgrade`](crate::upgrade).

use std::ptr::NonNull;

use crate::alloc_error::AllocError;
use crate::brand::Brand;
use crate::layout::{Fingerprint, TypeLayout};
use crate::storable::Storable;
use crate::token::{At, Write};

/// A root object that lies in `V`, of a type that is only known by its layout.
#[doc(hidden)]
#[derive(Debug)]
pub struct StoredRoot<'a, V: Brand> {
    layout: Fingerprint,
    value: NonNull<()>,
    at: &'a At<V, Write>,
}

impl<'a, V: Brand> StoredRoot<'a, V> {
    /// # Safety
    /// `value` points to a valid value of a type with this layout, in `V`. If it is
    /// [taken](StoredRoot::take), nothing uses it there any more.
    pub(crate) unsafe fn new(
        layout: Fingerprint,
        value: NonNull<()>,
        at: &'a At<V, Write>,
    ) -> StoredRoot<'a, V> {
        StoredRoot { layout, value, at }
    }

    /// The witness.
    #[must_use]
    pub fn at(&self) -> &'a At<V, Write> {
        self.at
    }

    /// Takes it out, as a `T` or as what a `T` was once; `None` if it is neither.
    #[must_use]
    pub fn take<T: Storable<V>>(self) -> Option<Result<T, AllocError>> {
        if TypeLayout::of::<T, V>().fingerprint() != self.layout {
            return T::from_earlier(self);
        }
        // SAFETY: it is valid, and of this layout, as `new` was promised; it is used once, since this consumes
        // `self`.
        Some(Ok(unsafe { self.value.cast::<T>().read() }))
    }
}

/// What a stored root object is, if a program knows it as an earlier version of its own.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierForm {
    /// Its layout.
    pub layout: TypeLayout,
    /// Its size in bytes.
    pub size: usize,
    /// Its alignment.
    pub align: usize,
}

impl EarlierForm {
    /// `T`, or what it was once, if that has this layout.
    #[must_use]
    pub fn find<T: Storable<V>, V: Brand>(wanted: Fingerprint) -> Option<EarlierForm> {
        let layout = TypeLayout::of::<T, V>();
        if layout.fingerprint() != wanted {
            return T::earlier(wanted);
        }
        Some(EarlierForm { layout, size: size_of::<T>(), align: align_of::<T>() })
    }
}
