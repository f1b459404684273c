//! Which type a type is, whatever its lifetimes are: brands that end with a visit have one each time.

use std::any::TypeId;
use std::marker::PhantomData;

trait Any {
    fn id(&self) -> TypeId
    where
        Self: 'static;
}

impl<T: ?Sized> Any for PhantomData<T> {
    fn id(&self) -> TypeId
    where
        Self: 'static,
    {
        TypeId::of::<T>()
    }
}

/// The id of `T`, with `'static` in place of each of its lifetimes.
#[inline]
pub(crate) fn of<T: ?Sized>() -> TypeId {
    let it: PhantomData<T> = PhantomData;
    let it: &dyn Any = &it;
    // SAFETY: only the lifetimes that the trait object's type ends with differ, and the one method reads
    // nothing: it gives a constant of the type, which is made after lifetimes are erased.
    let it = unsafe { std::mem::transmute::<&dyn Any, &(dyn Any + 'static)>(it) };
    it.id()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Of<'a>(PhantomData<&'a u8>);

    fn of_this<'a>(_: &'a u8) -> TypeId {
        of::<Of<'a>>()
    }

    #[test]
    fn lifetimes_make_no_difference_and_types_do() {
        let _ = Of(PhantomData);
        let local = 1;
        assert_eq!(of_this(&local), of::<Of<'static>>());
        assert_eq!(of::<u8>(), TypeId::of::<u8>());
        assert_ne!(of::<u8>(), of::<i8>());
        // Higher-ranked lifetimes are part of a type.
        assert_ne!(of::<for<'a> fn(&'a u8)>(), of::<fn(&'static u8)>());
    }
}
