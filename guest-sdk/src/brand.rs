//! Brands: one Rust type for each VAS, so that pointers into two of them are different types.
//!
//! A brand is never made; it only stands in types such as `VBox<T, Genome>`. What ties it to a
//! VAS is a table of this process: the first space that is opened with a brand takes it, and it
//! stays taken until the process ends. It cannot be given back, because pointers into the
//! first VAS may still be anywhere.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::storable::Storable;

/// The type that stands for one VAS, and says what its root object is.
///
/// [`brand!`](crate::brand!) declares one. By hand it pays for families of VASes of one shape:
///
/// ```
/// use spacejmp::Brand;
///
/// struct Window<const N: usize>;
///
/// impl<const N: usize> Brand for Window<N> {
///     type Root = [u64; 4];
///     const NAME: &'static str = "Window";
/// }
/// ```
pub trait Brand: Sized + 'static {
    /// What lies at the VAS's first address to read: everything else is reached from it.
    type Root: Storable<Self>;
    /// What messages call the brand.
    const NAME: &'static str;
}

/// Declares brands: `brand! { pub Genome => Graph }` is a type `Genome` for a VAS whose root
/// object is a `Graph`. The type has no values.
///
/// ```
/// spacejmp::brand! {
///     /// Everything this program remembers.
///     pub Counters => [u64; 8]
/// }
/// ```
#[macro_export]
macro_rules! brand {
    ($($(#[$attribute:meta])* $visibility:vis $name:ident => $root:ty),+ $(,)?) => {
        $(
            $(#[$attribute])*
            $visibility enum $name {}

            impl $crate::Brand for $name {
                type Root = $root;
                const NAME: &'static str = stringify!($name);
            }
        )+
    };
}

/// Which VAS a brand stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The VAS's id, or one with the highest bit set for a space over plain memory.
    pub(crate) vid: u64,
    /// The VAS's name.
    pub(crate) name: String,
}

static BOUND: Mutex<BTreeMap<TypeId, Bound>> = Mutex::new(BTreeMap::new());

/// Ties `V` to a VAS for the rest of the process's life; nothing happens if it is tied to it
/// already. Gives the VAS that has it if that is another one.
pub(crate) fn bind<V: Brand>(bound: Bound) -> Result<(), Bound> {
    let mut table = BOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = table.entry(TypeId::of::<V>()).or_insert_with(|| bound.clone());
    if taken.vid == bound.vid { Ok(()) } else { Err(taken.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    brand! { First => u8, Second => u8 }

    fn vas(vid: u64) -> Bound {
        Bound { vid, name: format!("vas-{vid}") }
    }

    #[test]
    fn a_brand_stays_with_the_first_vas_it_was_used_for() {
        assert_eq!(bind::<First>(vas(1)), Ok(()));
        assert_eq!(bind::<First>(vas(1)), Ok(()));
        assert_eq!(bind::<First>(vas(2)), Err(vas(1)));
        assert_eq!(bind::<Second>(vas(2)), Ok(()));
    }
}
