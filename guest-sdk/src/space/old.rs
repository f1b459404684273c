//! Old versions whose root object is of an earlier type, read as what they are.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

use super::visit::{Ending, OnOwnerDeath};
use super::{Space, check_home, options};
use crate::brand::{Brand, During};
use crate::error::{Error, Result};
use crate::layout::TypeLayout;
use crate::location::wait::Wait;
use crate::ptr::{VPtr, VSlice};
use crate::storable::Storable;
use crate::token::{At, Read};
use crate::upgrade::RootType;

/// An old version of a space, from [`Space::at_as`]: its root object is of type `T`, which the space's was then.
pub struct OldSpace<V: Brand, T> {
    /// Its root object is a `T::During`, not the brand's: no token with that one is made of it.
    pub(super) space: Space<V>,
    _root: PhantomData<fn() -> T>,
}

/// The token of a visit to an old version whose root object is of another type, an `R`. As an
/// [`In`](crate::In), it is the witness that owners ask for; pointers are followed by its methods.
pub struct InOld<V: Brand, R> {
    at: At<V, Read>,
    root: NonNull<R>,
}

impl<V: Brand, R> InOld<V, R> {
    /// The root object.
    #[must_use]
    pub fn root(&self) -> &R {
        // SAFETY: it is valid as long as there is the token (`OldSpace::read`), and an old version is not written.
        unsafe { self.root.as_ref() }
    }

    /// What a pointer points to.
    #[must_use]
    pub fn follow<T: Storable<V>>(&self, pointer: VPtr<T, V>) -> &T {
        // SAFETY: the brand's lifetime is that of this visit, so the pointer is of this version; the thread is
        // inside as long as the token is borrowed, and an old version is not written.
        unsafe { pointer.get_in_old() }
    }

    /// What a slice of pointers points to.
    #[must_use]
    pub fn follow_slice<T: Storable<V>>(&self, slice: VSlice<T, V>) -> &[T] {
        // SAFETY: as for `follow`.
        unsafe { slice.get_in_old() }
    }
}

impl<V: Brand, R> Deref for InOld<V, R> {
    type Target = At<V, Read>;

    fn deref(&self) -> &At<V, Read> {
        &self.at
    }
}

impl<V: Brand, R> fmt::Debug for InOld<V, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InOld<{}>", V::NAME)
    }
}

impl<V: Brand> Space<V> {
    /// As [`at`](Space::at), for versions from before the root object's type was changed: `T` is the earlier type.
    ///
    /// ```no_run
    /// use spacejmp::{Space, Storable};
    ///
    /// mod v1 {
    ///     #[derive(spacejmp::Storable)]
    ///     pub struct Stock { pub pieces: u32 }
    /// }
    ///
    /// #[derive(Storable)]
    /// #[storable(version = 2, from = v1::Stock)]
    /// struct Stock {
    ///     pieces: u32,
    ///     #[storable(new)]
    ///     ordered: u32,
    /// }
    ///
    /// spacejmp::brand! { Shelf<'v> => Stock }
    ///
    /// let shelf = Space::<Shelf>::open("shelf")?;
    /// let monday = shelf.at_as::<v1::Stock>("monday")?;
    /// println!("{} then", monday.read(|v| v.root().pieces)?);
    /// # Ok::<_, spacejmp::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`at`](Space::at).
    pub fn at_as<T: RootType>(&self, version: &str) -> Result<OldSpace<V, T>>
    where
        for<'v> T::During<'v>: Storable<During<'v, V>>,
    {
        check_home(&self.name)?;
        let old = self.version_at(version)?;
        let record = old.segment.root()?;
        let layout = TypeLayout::of::<T::During<'static>, During<'static, V>>();
        if record.address == 0 {
            return Err(Error::NoRoot { space: old.vas.name().to_owned() });
        }
        if record.fingerprint != layout.fingerprint().0 {
            return Err(options::wrong_root::<V>(&old, &layout)?);
        }
        let (size, align) = (size_of::<T::During<'static>>(), align_of::<T::During<'static>>());
        let root = options::root_pointer(&old, &record, size, align)?;
        Ok(OldSpace { space: options::space_of(old, root, record), _root: PhantomData })
    }
}

impl<V: Brand, T: RootType> OldSpace<V, T>
where
    for<'v> T::During<'v>: Storable<During<'v, V>>,
{
    /// The space's name, with the version.
    #[must_use]
    pub fn name(&self) -> &str {
        self.space.name()
    }

    /// Goes inside to read.
    ///
    /// # Errors
    /// As [`Space::read`].
    pub fn read<R>(
        &self,
        f: impl for<'v> FnOnce(&InOld<During<'v, V>, T::During<'v>>) -> R,
    ) -> Result<R> {
        check_home(self.name())?;
        let inside = |at: At<During<'static, V>, Read>| {
            // The root object is of this type, as `at_as` has seen, and an old version does not change.
            let token = InOld { at, root: self.space.root.cast() };
            (f(&token), Ending::Keep)
        };
        // SAFETY: the thread is at home and has no token. The closure is called for every lifetime, and the
        // brand's handles end with the visit, or `at_as` would have failed.
        unsafe { self.space.enter(Wait::Forever, None, OnOwnerDeath::Refuse, inside) }
    }
}

impl<V: Brand, T> fmt::Debug for OldSpace<V, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Old{:?}", self.space)
    }
}
