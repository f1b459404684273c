//! Structs and enums, as `#[derive(Storable)]` describes them: once, for the layout and for the check.

use super::checker::Checker;
use super::place::Place;
use crate::brand::Brand;
use crate::layout::{Parts, VariantOffsets};
use crate::storable::Storable;

/// Looks at each part of a value as it is described.
struct PartsOf<'c, 'a, V: Brand> {
    checker: &'c mut Checker<'a, V>,
    place: Place,
    /// The tag's bytes and what is in them; of a struct, none.
    tag: Option<(usize, u128)>,
    is_one: bool,
}

impl<V: Brand> Checker<'_, V> {
    /// Looks at the parts of a struct or enum that derives [`Storable`].
    #[doc(hidden)]
    pub fn parts_of<T: Storable<V>>(&mut self, place: Place) {
        let mut parts = PartsOf { checker: self, place, tag: None, is_one: false };
        T::parts(&mut parts);
        if let (Some((_, found)), false) = (parts.tag, parts.is_one) {
            self.no_value(short(std::any::type_name::<T>()), found);
        }
    }
}

/// A type's name without its module.
fn short(name: &'static str) -> &'static str {
    let end = name.find('<').unwrap_or(name.len());
    let start = name[..end].rfind("::").map_or(0, |colons| colons + 2);
    &name[start..end]
}

impl<V: Brand> Parts<V> for PartsOf<'_, '_, V> {
    fn tag<S>(&mut self, bytes: Option<usize>) {
        match bytes {
            Some(bytes) => self.tag = Some((bytes, self.place.number(0, bytes))),
            // Nothing says how many bytes of it have the number.
            None => {
                self.checker.unknown::<S>();
                self.is_one = true;
            }
        }
    }

    fn field_of<S, T: Storable<V>>(
        &mut self,
        name: &'static str,
        offset: usize,
        _way: fn(&S) -> &T,
    ) {
        self.checker.field::<T>(self.place, name, offset);
    }

    fn field_of_variant<S, T: Storable<V>>(
        &mut self,
        name: &'static str,
        offsets: &mut VariantOffsets,
        _way: fn(&S) -> Option<&T>,
    ) {
        self.checker.field::<T>(self.place, name, offsets.next::<T>());
    }

    fn variant(&mut self, name: &'static str, number: i128, inner: impl FnOnce(&mut Self)) {
        let Some((bytes, found)) = self.tag else { return };
        let bits = 8 * bytes.min(16) as u32;
        let mask = 1_u128.checked_shl(bits).map_or(u128::MAX, |above| above - 1);
        if found == number as u128 & mask && !self.is_one {
            self.is_one = true;
            self.checker.enter(name);
            inner(self);
            self.checker.leave();
        }
    }
}
