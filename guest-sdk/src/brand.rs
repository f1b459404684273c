//! Brands: one Rust type for each VAS, so that pointers into two of them are different types.
//!
//! A brand is never constructed; it only occurs in types such as `VBox<T, Genome>`. A brand with a
//! lifetime is a type of its own in each visit, of whichever space: any number of spaces may have it, and old
//! versions of them ([`Space::at`](crate::Space::at)). Destructors know nothing of lifetimes, and tell by the address
//! whose memory they would free (`may_free` in `alloc`).
//!
//! What ties a brand without a lifetime to a VAS, and to the data segment it has, is a table of this process: the
//! first space that is opened with it takes it, and it stays taken until the process ends. It cannot be released,
//! because pointers into the first VAS may still be anywhere. Making a space only claims it, until
//! there is a root object: an `init` that fails and leaves nothing behind has made no pointers that
//! outlive it.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::storable::Storable;
use crate::type_id;

pub use crate::handles::{During, EndWithVisit, Handles, Kept, OfOneVisit, RootDuring};

/// The type that stands for one VAS, or in each visit for the one that is visited, and says what its root object is.
///
/// [`brand!`](crate::brand!) declares one. An implementation by hand pays for families of VASes of
/// the same form whose handles are kept between visits; those with a lifetime need none, since they are of any number
/// of spaces at once:
///
/// ```
/// use spacejmp::Brand;
///
/// struct Window<const N: usize>;
///
/// impl<const N: usize> Brand for Window<N> {
///     type Root = [u64; 4];
///     const NAME: &'static str = "Window";
///     type Handles = spacejmp::brand::Kept<Self>;
/// }
/// ```
pub trait Brand: Sized {
    /// The type of the root object: everything else is reached from it.
    type Root: Storable<Self>;
    /// The brand's name in messages.
    const NAME: &'static str;
    /// How long handles live. A brand without a lifetime has [`Kept<Self>`](Kept).
    type Handles: Handles;
}

/// Declares brands: `brand! { pub Genome<'v> => Graph<'v> }` is a type `Genome<'v>` for a VAS whose root
/// object is a `Graph<'v>`. The type has no values. It can have doc comments, but no other attributes.
///
/// The lifetime is that of a visit. Stored types that have owners or pointers in them have it, too, and hand
/// it on: what is found or made in a visit has its lifetime, and is not kept longer. Versioned
/// spaces need that, since an abort takes back what pointers point to. As many spaces as one likes may be open
/// with it at once: a space for each month, or for each customer.
///
/// ```
/// use spacejmp::{Space, Storable, VBox};
///
/// #[derive(Storable)]
/// #[storable(vas = Journal<'v>)]
/// struct Entry<'v> {
///     day: u32,
///     before: Option<VBox<Entry<'v>, Journal<'v>>>,
/// }
///
/// spacejmp::brand! {
///     /// Everything this program remembers.
///     pub(crate) Journal<'v> => Option<VBox<Entry<'v>, Journal<'v>>>
/// }
///
/// let space = Space::<Journal>::in_memory(1 << 20, |_| Ok(None))?;
/// # Ok::<_, spacejmp::Error>(())
/// ```
///
/// A brand without a lifetime, `brand! { pub Genome => Graph }`, is one type in all visits: owners and
/// pointers may be kept in local variables between them. It stands for one space in a process, for good. Versioned
/// spaces refuse it.
///
/// ```
/// spacejmp::brand! { pub Counters => [u64; 8] }
/// ```
#[macro_export]
macro_rules! brand {
    () => {};
    // No other attributes: `cfg` and macros could take away the type that the `unsafe impl` below is about, and
    // leave the name to one of the caller's.
    (
        $(#[doc = $doc:expr])* $visibility:vis $name:ident => $root:ty
        $(, $($rest:tt)*)?
    ) => {
        $(#[doc = $doc])*
        $visibility enum $name {}

        impl $crate::Brand for $name {
            type Root = $root;
            const NAME: &'static str = stringify!($name);
            type Handles = $crate::brand::Kept<Self>;
        }

        $($crate::brand! { $($rest)* })?
    };
    (
        $(#[doc = $doc:expr])* $visibility:vis $name:ident<$visit:lifetime> => $root:ty
        $(, $($rest:tt)*)?
    ) => {
        $(#[doc = $doc])*
        $visibility struct $name<$visit>(
            ::core::marker::PhantomData<fn(&$visit ()) -> &$visit ()>,
            ::core::convert::Infallible,
        );

        impl<$visit> $crate::Brand for $name<$visit> {
            type Root = $root;
            const NAME: &'static str = stringify!($name);
            type Handles = $crate::brand::EndWithVisit<$name<'static>>;
        }

        // SAFETY: the lifetime is the parameter of the struct above, which no attribute has
        // changed, and occurs as argument and result of a function.
        unsafe impl $crate::brand::OfOneVisit for $name<'static> {
            type Root<$visit> = $root;
            type During<$visit> = $name<$visit>;
        }

        $($crate::brand! { $($rest)* })?
    };
    (
        $(#[$attribute:meta])* $visibility:vis $name:ident $(<$visit:lifetime>)? => $root:ty
        $(, $($rest:tt)*)?
    ) => {
        ::core::compile_error! {
            concat!("the brand `", stringify!($name), "` can have doc comments, but no other attributes")
        }
    };
}

/// What ties a type to `T` and to nothing else: neither a subtype of `T` nor a supertype will do.
/// Two brands of a family can be subtypes of each other (`for<'a> fn(&'a u8)` and `fn(&'static u8)`
/// as its parameter) and still stand for different VASes.
pub(crate) type Invariant<T> = PhantomData<fn(T) -> T>;

/// Which VAS a brand stands for, and which segment of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The VAS's id, or one with the highest bit set for a space over plain memory.
    pub(crate) vid: u64,
    /// The data segment's id: a VAS can be given another one, at the same address. 0 for plain
    /// memory.
    pub(crate) sid: u64,
    /// The VAS's name.
    pub(crate) name: String,
}

/// Why a brand cannot be used for a VAS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// It stands for this one.
    Taken(Bound),
    /// It stands for this VAS, which had another data segment then.
    Replaced,
    /// Pointers with it may exist into memory that is not kept for them.
    Spent,
}

/// How firmly a brand is tied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tie {
    /// As long as there are claims: no pointer with the brand exists.
    Tentative,
    /// For good.
    Kept,
    /// For good, and to nothing that can be opened.
    Spent,
}

#[derive(Debug)]
struct Entry {
    bound: Bound,
    tie: Tie,
    claims: usize,
}

static TABLE: Mutex<BTreeMap<TypeId, Entry>> = Mutex::new(BTreeMap::new());

fn table() -> MutexGuard<'static, BTreeMap<TypeId, Entry>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A brand tied to a VAS for as long as this lives, or for good once it is kept.
#[derive(Debug)]
pub(crate) struct Claim {
    /// `None`: it need not be tied.
    brand: Option<TypeId>,
}

/// Ties `V` to a VAS, unless its handles end with the visit: then it is another type in each visit, of whichever
/// space.
///
/// # Errors
/// It is tied to something else.
pub(crate) fn claim<V: Brand>(bound: Bound) -> Result<Claim, Conflict> {
    if !V::Handles::ARE_KEPT {
        return Ok(Claim { brand: None });
    }
    let mut table = table();
    let brand = type_id::of::<V>();
    let fresh = || Entry { bound: bound.clone(), tie: Tie::Tentative, claims: 0 };
    let entry = table.entry(brand).or_insert_with(fresh);
    match (&entry.bound, entry.tie) {
        (_, Tie::Spent) => return Err(Conflict::Spent),
        (of, _) if of.vid != bound.vid => return Err(Conflict::Taken(of.clone())),
        (of, _) if of.sid != bound.sid => return Err(Conflict::Replaced),
        _ => {}
    }
    entry.claims += 1;
    Ok(Claim { brand: Some(brand) })
}

impl Claim {
    /// From now on pointers with the brand may be anywhere: it stays tied for good.
    pub(crate) fn keep(self) {
        self.tie(Tie::Kept);
    }

    /// Pointers with the brand may be anywhere, and what they point to is given up.
    pub(crate) fn spend(&self) {
        self.tie(Tie::Spent);
    }

    /// Whether another claim was spent meanwhile.
    pub(crate) fn is_spent(&self) -> bool {
        let brand = self.brand.as_ref();
        brand.is_some_and(|it| table().get(it).is_some_and(|entry| entry.tie == Tie::Spent))
    }

    fn tie(&self, tie: Tie) {
        if let Some(brand) = &self.brand
            && let Some(entry) = table().get_mut(brand)
            && entry.tie != Tie::Spent
        {
            entry.tie = tie;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(brand) = &self.brand else { return };
        let mut table = table();
        if let Some(entry) = table.get_mut(brand) {
            entry.claims -= 1;
            if entry.claims == 0 && entry.tie == Tie::Tentative {
                table.remove(brand);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    brand! { First => u8, Second => u8, Third => u8, Fourth => u8 }

    fn vas(vid: u64, sid: u64) -> Bound {
        Bound { vid, sid, name: format!("vas-{vid}") }
    }

    fn conflict<V: Brand>(bound: Bound) -> Option<Conflict> {
        claim::<V>(bound).err()
    }

    #[test]
    fn a_brand_stays_with_the_first_vas_it_was_kept_for() {
        claim::<First>(vas(1, 5)).unwrap().keep();
        assert_eq!(conflict::<First>(vas(1, 5)), None);
        assert_eq!(conflict::<First>(vas(2, 5)), Some(Conflict::Taken(vas(1, 5))));
        assert_eq!(conflict::<Second>(vas(2, 5)), None);
    }

    #[test]
    fn a_brand_does_not_move_to_a_segment_that_takes_the_place_of_another() {
        claim::<Third>(vas(1, 5)).unwrap().keep();
        assert_eq!(conflict::<Third>(vas(1, 6)), Some(Conflict::Replaced));
    }

    #[test]
    fn a_claim_that_is_not_kept_leaves_the_brand_free_and_a_spent_one_does_not() {
        let (one, another) = (claim::<Fourth>(vas(1, 5)).unwrap(), claim::<Fourth>(vas(1, 5)));
        drop(one);
        assert_eq!(conflict::<Fourth>(vas(2, 5)), Some(Conflict::Taken(vas(1, 5))));
        drop(another);
        let claimed = claim::<Fourth>(vas(2, 5)).unwrap();
        claimed.spend();
        assert!(claimed.is_spent());
        claimed.keep();
        assert_eq!(conflict::<Fourth>(vas(2, 5)), Some(Conflict::Spent));
        assert_eq!(conflict::<Fourth>(vas(3, 5)), Some(Conflict::Spent));
    }
}
