//! Ordered maps, which are written in the order of their keys and read in any. Arenas are left out:
//! their ids mean nothing without them, and no format would keep them together.

use std::fmt;

use serde_core::de::{Error as _, MapAccess, Visitor};
use serde_core::{Deserializer, Serialize, Serializer};

use super::{DeserializeIn, Seed, SerializeIn, View};
use crate::brand::Brand;
use crate::collections::btree::BTreeRef;
use crate::collections::{VBTreeMap, VKey};
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

impl<K, T, V: Brand, M: Mode> Serialize for BTreeRef<'_, K, T, V, M>
where
    K: VKey<V> + SerializeIn<V>,
    T: Storable<V> + SerializeIn<V>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = self.token();
        let entries = self.stored();
        serializer
            .collect_map(entries.map(|(key, value)| (View { value: key, at }, View { value, at })))
    }
}

impl<K, T, V: Brand> SerializeIn<V> for VBTreeMap<K, T, V>
where
    K: VKey<V> + SerializeIn<V>,
    T: Storable<V> + SerializeIn<V>,
{
    fn serialize_in<M: Mode, S: Serializer>(
        &self,
        at: &At<V, M>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        self.at(at).serialize(serializer)
    }
}

impl<'de, K, T, V: Brand> DeserializeIn<'de, V> for VBTreeMap<K, T, V>
where
    K: VKey<V> + DeserializeIn<'de, V>,
    T: Storable<V> + DeserializeIn<'de, V>,
{
    fn deserialize_in<D: Deserializer<'de>>(
        at: &At<V, Write>,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Seed::<Self, V>::new(at))
    }
}

impl<'de, K, T, V: Brand> Visitor<'de> for Seed<'_, VBTreeMap<K, T, V>, V>
where
    K: VKey<V> + DeserializeIn<'de, V>,
    T: Storable<V> + DeserializeIn<'de, V>,
{
    type Value = VBTreeMap<K, T, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = VBTreeMap::new();
        let mut view = map.at_mut(self.at);
        while let Some((key, value)) =
            entries.next_entry_seed(Seed::new(self.at), Seed::new(self.at))?
        {
            view.insert(key, value).map_err(A::Error::custom)?;
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Space, VString, VVec, brand};

    type Chapters = VBTreeMap<VString<Book>, VVec<u32, Book>, Book>;
    brand! { Book => Chapters }

    #[test]
    fn an_ordered_map_comes_in_in_any_order_and_goes_out_in_its_own() {
        let space = Space::<Book>::in_memory(1 << 16, |_| Ok(VBTreeMap::new())).unwrap();
        let text = r#"{"loomings":[1],"epilogue":[],"chart":[44,45]}"#;
        space
            .enter_mut(|v| {
                let (root, at) = v.root_mut();
                let mut data = serde_json::Deserializer::from_str(text);
                *root = Chapters::deserialize_in(at, &mut data).unwrap();
                let mut data = serde_json::Deserializer::from_str("[1]");
                assert!(Chapters::deserialize_in(at, &mut data).is_err());
            })
            .unwrap();
        let out = space.enter(|v| serde_json::to_string(&v.root().at(v)).unwrap()).unwrap();
        assert_eq!(out, r#"{"chart":[44,45],"epilogue":[],"loomings":[1]}"#);
    }
}
