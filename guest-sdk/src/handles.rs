//! How long handles live: owners and pointers, which are a brand's in their type.
//!
//! A brand without a lifetime is one type in all visits, so its handles may be kept anywhere between
//! them. That is sound as long as what they point to is not taken back, which raw segments never do.
//! A versioned segment does: an abort, a commit that fails, a rollback by another program leave owners
//! of what never was. So a versioned space takes a brand with a lifetime, which is a type of its
//! own in each visit: closures are called for every lifetime, hence no handle fits into anything that was
//! there before or is there afterwards. The compiler checks it; there is nothing to check at run time.
//!
//! An epoch in each handle was the alternative: stored pointers would be twice as large, and each use
//! of one would have to look.

use crate::brand::Brand;

mod sealed {
    pub trait Sealed {}
}

/// How long the handles of a brand live: [`Kept`] or [`EndWithVisit`].
pub trait Handles: sealed::Sealed + 'static {
    /// The root object in a visit that lasts `'v`: the brand's, but by a way on which the compiler also finds
    /// it for all lifetimes at once, as the result of a closure.
    type Root<'v>;
    /// The brand in a visit that lasts `'v`.
    type During<'v>: Brand<Root = Self::Root<'v>> + 'v;
    /// Whether they may be kept between visits.
    const ARE_KEPT: bool;
}

/// Handles may be kept between visits: the brand is the same type in each. For raw segments, and memory.
#[derive(Debug)]
pub struct Kept<V>(std::marker::PhantomData<fn(V)>, std::convert::Infallible);

impl<V> sealed::Sealed for Kept<V> {}

impl<V: Brand + 'static> Handles for Kept<V> {
    type Root<'v> = V::Root;
    type During<'v> = V;
    const ARE_KEPT: bool = true;
}

/// Handles end with the visit that they were found or made in. For versioned segments, and all others.
#[derive(Debug)]
pub struct EndWithVisit<V>(std::marker::PhantomData<fn(V)>, std::convert::Infallible);

impl<V> sealed::Sealed for EndWithVisit<V> {}

impl<V: OfOneVisit + 'static> Handles for EndWithVisit<V> {
    type Root<'v> = V::Root<'v>;
    type During<'v> = V::During<'v>;
    const ARE_KEPT: bool = false;
}

/// A brand with a lifetime, as [`brand!`](crate::brand!) declares it.
///
/// # Safety
/// `During` has the lifetime as a parameter, in which it is invariant.
pub unsafe trait OfOneVisit {
    /// The root object in a visit that lasts `'v`.
    type Root<'v>;
    /// The brand in a visit that lasts `'v`.
    type During<'v>: Brand<Root = Self::Root<'v>> + 'v;
}

/// The brand `V` in a visit that lasts `'v`: in signatures of functions that visit any space. Where
/// the brand is known, it is written `Name<'v>`, or `Name` if its handles are kept.
pub type During<'v, V> = <<V as Brand>::Handles as Handles>::During<'v>;

/// The root object of `V` in such a visit.
pub type RootDuring<'v, V> = <<V as Brand>::Handles as Handles>::Root<'v>;
