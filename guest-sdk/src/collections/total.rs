//! Floating-point numbers as keys.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use crate::brand::Brand;
use crate::check::{Checker, Place};
use crate::layout::LayoutWriter;
use crate::storable::Storable;

/// A floating-point number by its total order, which makes it a key: `-NaN`, -∞, ..., -0.0, 0.0, ..., ∞, `NaN`, each equal to
/// itself only.
///
/// ```
/// use spacejmp::{Space, Total, VBTreeMap};
///
/// spacejmp::brand! { Levels => VBTreeMap<Total<f64>, u32, Levels> }
///
/// let space = Space::<Levels>::in_memory(1 << 20, |_| Ok(VBTreeMap::new()))?;
/// space.write(|v| {
///     let (root, at) = v.root_mut();
///     for (level, count) in [(2.5, 1), (-1.0, 2), (f64::NAN, 3)] {
///         root.at_mut(at).insert(Total(level), count)?;
///     }
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// let above = space.read(|v| v.root().at(v).range(Total(0.0)..).map(|(_, count)| *count).sum::<u32>())?;
/// assert_eq!(above, 4);
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub struct Total<F>(pub F);

macro_rules! floats {
    ($($float:ty),*) => {$(
        impl PartialEq for Total<$float> {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }

        impl Eq for Total<$float> {}

        impl PartialOrd for Total<$float> {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for Total<$float> {
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.total_cmp(&other.0)
            }
        }

        /// Two numbers are equal by their total order if their bits are.
        impl Hash for Total<$float> {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.to_bits().hash(state);
            }
        }
    )*};
}

floats!(f32, f64);

// SAFETY: its number is.
unsafe impl<V: Brand, F: Storable<V>> Storable<V> for Total<F> {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("Total", |writer| writer.part::<F, V>(format_args!("")));
    }

    const ANY_BITS: bool = F::ANY_BITS;

    fn check_stored(place: Place, checker: &mut Checker<'_, V>) {
        checker.part::<F>(place, 0);
    }
}
