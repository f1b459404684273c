//! `uuid`: a `Uuid` may be stored, and is a key.

use uuid::Uuid;

use crate::alloc::AllocError;
use crate::brand::Brand;
use crate::check::{Checker, Place};
use crate::clone_in::CloneIn;
use crate::collections::VKey;
use crate::layout::LayoutWriter;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

// SAFETY: it is sixteen bytes, transparently, as its documentation promises under "ABI".
unsafe impl<V: Brand> Storable<V> for Uuid {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Uuid>("Uuid", |_| {});
    }

    /// Any bytes are one.
    fn check_stored(_place: Place, _checker: &mut Checker<'_, V>) {}
}

impl<V: Brand> CloneIn<V> for Uuid {
    fn clone_in(&self, _at: &At<V, Write>) -> Result<Uuid, AllocError> {
        Ok(*self)
    }
}

impl<V: Brand> VKey<V> for Uuid {
    type Borrowed = Uuid;

    fn borrowed<'a, M: Mode>(&'a self, _at: &'a At<V, M>) -> &'a Uuid {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::TypeLayout;
    use crate::{Error, Space, VHashMap, brand};

    brand! { Parts<'v> => VHashMap<Uuid, u32, Parts<'v>> }

    #[test]
    fn it_is_a_key_and_its_layout_is_sixteen_bytes() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let space = Space::<Parts<'_>>::in_memory(1 << 20, |_| Ok(VHashMap::new())).unwrap();
        space
            .write(|v| {
                let (parts, at) = v.root_mut();
                parts.at_mut(at).insert(id.clone_in(at)?, 7)?;
                Ok::<_, Error>(())
            })
            .unwrap();
        assert_eq!(space.read(|v| v.root().at(v).get(&id).copied()), Ok(Some(7)));
        let layout = TypeLayout::of::<Uuid, Parts<'_>>();
        assert_eq!(layout.text(), "Uuid (16 bytes, align 1)\n");
    }
}
