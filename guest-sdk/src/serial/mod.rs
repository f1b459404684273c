//! Values of a VAS in and out by `serde`, with a token where `serde` has none.
//!
//! A plain type (`#[derive(Serialize, Deserialize)]`) works as it always does. Types that own
//! memory in a VAS are only read and made with a token; they implement [`SerializeIn`] and
//! [`DeserializeIn`], which plain types have as well, so that collections of both work. A struct of
//! one's own with such fields implements them by hand. Ordered maps are written in the order of their
//! keys and read in any. Arenas are left out: their ids mean nothing without them, and no format would
//! keep them together.
//!
//! ```
//! use spacejmp::serial::{self, DeserializeIn};
//! use spacejmp::{Space, VHashMap, VString, VVec};
//!
//! type Pages = VHashMap<VString<Book>, VVec<u32, Book>, Book>;
//! spacejmp::brand! { Book => Pages }
//!
//! let book = Space::<Book>::in_memory(1 << 20, |_| Ok(VHashMap::new()))?;
//! let text = r#"{"whale":[1,42]}"#;
//! book.write(|v| {
//!     let (root, at) = v.root_mut();
//!     *root = Pages::deserialize_in(at, &mut serde_json::Deserializer::from_str(text))?;
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! })?;
//! let out = book.read(|v| serde_json::to_string(&serial::view(v.root(), v)))??;
//! assert_eq!(out, text);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::marker::PhantomData;

use serde_core::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use crate::alloc::AllocError;
use crate::boxed::VBox;
use crate::brand::Brand;
use crate::collections::btree::BTreeRef;
use crate::collections::{
    MapRef, VBTreeMap, VBinaryHeap, VHashMap, VKey, VString, VVec, VVecDeque,
};
use crate::counted::VRc;
use crate::storable::Storable;
use crate::token::{At, Mode, Write};

/// A length announced in advance is trusted only up to this many bytes: it may come from anywhere.
const BELIEVED_BYTES: usize = 1 << 20;

/// Types that are serialized inside `V`.
pub trait SerializeIn<V: Brand> {
    /// Serializes the value.
    ///
    /// # Errors
    /// The serializer's error.
    fn serialize_in<M: Mode, S: Serializer>(
        &self,
        at: &At<V, M>,
        serializer: S,
    ) -> Result<S::Ok, S::Error>;
}

/// Types that are made inside `V` from serialized data.
pub trait DeserializeIn<'de, V: Brand>: Sized {
    /// Makes a value.
    ///
    /// # Errors
    /// The deserializer's error, and one with the text of [`AllocError`] when there is no room; what
    /// was made is dropped.
    fn deserialize_in<D: Deserializer<'de>>(
        at: &At<V, Write>,
        deserializer: D,
    ) -> Result<Self, D::Error>;
}

impl<V: Brand, T: Serialize + ?Sized> SerializeIn<V> for T {
    fn serialize_in<M: Mode, S: Serializer>(
        &self,
        _at: &At<V, M>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        self.serialize(serializer)
    }
}

impl<'de, V: Brand, T: Deserialize<'de>> DeserializeIn<'de, V> for T {
    fn deserialize_in<D: Deserializer<'de>>(
        _at: &At<V, Write>,
        deserializer: D,
    ) -> Result<T, D::Error> {
        T::deserialize(deserializer)
    }
}

/// `value` as something that can be serialized while the token is borrowed.
pub fn view<'a, T: SerializeIn<V> + ?Sized, V: Brand, M: Mode>(
    value: &'a T,
    at: &'a At<V, M>,
) -> impl Serialize + use<'a, T, V, M> {
    View { value, at }
}

struct View<'a, T: ?Sized, V, M> {
    value: &'a T,
    at: &'a At<V, M>,
}

impl<T: SerializeIn<V> + ?Sized, V: Brand, M: Mode> Serialize for View<'_, T, V, M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize_in(self.at, serializer)
    }
}

/// Makes a `T` in `V`, for deserializers of one's own.
pub fn seed<'a, 'de, T: DeserializeIn<'de, V>, V: Brand>(
    at: &'a At<V, Write>,
) -> impl DeserializeSeed<'de, Value = T> + use<'a, 'de, T, V> {
    Seed { at, _makes: PhantomData }
}

struct Seed<'a, T, V> {
    at: &'a At<V, Write>,
    _makes: PhantomData<fn() -> T>,
}

impl<'a, T, V> Seed<'a, T, V> {
    fn new(at: &'a At<V, Write>) -> Seed<'a, T, V> {
        Seed { at, _makes: PhantomData }
    }
}

impl<'de, T: DeserializeIn<'de, V>, V: Brand> DeserializeSeed<'de> for Seed<'_, T, V> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize_in(self.at, deserializer)
    }
}

fn trusted<T>(hint: Option<usize>) -> usize {
    hint.unwrap_or(0).min(BELIEVED_BYTES / size_of::<T>().max(1))
}

/// Owners of one value are written as that; a value with several owners comes in as many.
macro_rules! owners {
    ($($owner:ident),*) => {$(
        impl<T: SerializeIn<V> + Storable<V>, V: Brand> SerializeIn<V> for $owner<T, V> {
            fn serialize_in<M: Mode, S: Serializer>(
                &self,
                at: &At<V, M>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                self.get(at).serialize_in(at, serializer)
            }
        }

        impl<'de, T: DeserializeIn<'de, V> + Storable<V>, V: Brand> DeserializeIn<'de, V>
            for $owner<T, V>
        {
            fn deserialize_in<D: Deserializer<'de>>(
                at: &At<V, Write>,
                deserializer: D,
            ) -> Result<Self, D::Error> {
                $owner::new(at, T::deserialize_in(at, deserializer)?).map_err(D::Error::custom)
            }
        }
    )*};
}

owners!(VBox, VRc);

impl<V: Brand> SerializeIn<V> for VBox<str, V> {
    fn serialize_in<M: Mode, S: Serializer>(
        &self,
        at: &At<V, M>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.get(at))
    }
}

impl<'de, V: Brand> DeserializeIn<'de, V> for VBox<str, V> {
    fn deserialize_in<D: Deserializer<'de>>(
        at: &At<V, Write>,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        VString::deserialize_in(at, deserializer)?.into_boxed(at).map_err(D::Error::custom)
    }
}

impl<T: SerializeIn<V> + Storable<V>, V: Brand> SerializeIn<V> for VBox<[T], V> {
    fn serialize_in<M: Mode, S: Serializer>(
        &self,
        at: &At<V, M>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.get(at).iter().map(|value| View { value, at }))
    }
}

impl<'de, T: DeserializeIn<'de, V> + Storable<V>, V: Brand> DeserializeIn<'de, V> for VBox<[T], V> {
    fn deserialize_in<D: Deserializer<'de>>(
        at: &At<V, Write>,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        VVec::deserialize_in(at, deserializer)?.into_boxed(at).map_err(D::Error::custom)
    }
}

impl<T: SerializeIn<V> + VKey<V>, V: Brand> SerializeIn<V> for VBinaryHeap<T, V> {
    fn serialize_in<M: Mode, S: Serializer>(
        &self,
        at: &At<V, M>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        self.values().serialize_in(at, serializer)
    }
}

impl<'de, T: DeserializeIn<'de, V> + VKey<V>, V: Brand> DeserializeIn<'de, V>
    for VBinaryHeap<T, V>
{
    fn deserialize_in<D: Deserializer<'de>>(
        at: &At<V, Write>,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        Ok(VBinaryHeap::from_vec(at, VVec::deserialize_in(at, deserializer)?))
    }
}

impl<V: Brand> SerializeIn<V> for VString<V> {
    fn serialize_in<M: Mode, S: Serializer>(
        &self,
        at: &At<V, M>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.at(at))
    }
}

impl<'de, V: Brand> DeserializeIn<'de, V> for VString<V> {
    fn deserialize_in<D: Deserializer<'de>>(
        at: &At<V, Write>,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Seed::<Self, V>::new(at))
    }
}

impl<'de, V: Brand> Visitor<'de> for Seed<'_, VString<V>, V> {
    type Value = VString<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde_core::de::Error>(self, text: &str) -> Result<VString<V>, E> {
        VString::new(self.at, text).map_err(E::custom)
    }
}

/// Values one after another, with how one is appended.
macro_rules! sequences {
    ($($sequence:ident, $push:ident;)*) => {$(
        impl<T: SerializeIn<V> + Storable<V>, V: Brand> SerializeIn<V> for $sequence<T, V> {
            fn serialize_in<M: Mode, S: Serializer>(
                &self,
                at: &At<V, M>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.at(at).iter().map(|value| View { value, at }))
            }
        }

        impl<'de, T: DeserializeIn<'de, V> + Storable<V>, V: Brand> DeserializeIn<'de, V> for $sequence<T, V> {
            fn deserialize_in<D: Deserializer<'de>>(
                at: &At<V, Write>,
                deserializer: D,
            ) -> Result<Self, D::Error> {
                deserializer.deserialize_seq(Seed::<Self, V>::new(at))
            }
        }

        impl<'de, T: DeserializeIn<'de, V> + Storable<V>, V: Brand> Visitor<'de>
            for Seed<'_, $sequence<T, V>, V>
        {
            type Value = $sequence<T, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<$sequence<T, V>, A::Error> {
                let count = trusted::<T>(values.size_hint());
                let mut made = $sequence::with_capacity(self.at, count).map_err(A::Error::custom)?;
                while let Some(value) = values.next_element_seed(Seed::new(self.at))? {
                    made.at_mut(self.at).$push(value).map_err(A::Error::custom)?;
                }
                Ok(made)
            }
        }
    )*};
}

sequences! {
    VVec, push;
    VVecDeque, push_back;
}

/// Both kinds of maps, with how an empty one is made for a number of entries.
macro_rules! maps {
    ($($map:ident, $view:ident, $make:expr;)*) => {$(
        impl<K, T, V: Brand, M: Mode> Serialize for $view<'_, K, T, V, M>
        where
            K: VKey<V> + SerializeIn<V>,
            T: Storable<V> + SerializeIn<V>,
        {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let at = self.at;
                let view = |(key, value)| (View { value: key, at }, View { value, at });
                serializer.collect_map(self.stored().map(view))
            }
        }

        impl<K, T, V: Brand> SerializeIn<V> for $map<K, T, V>
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

        impl<'de, K, T, V: Brand> DeserializeIn<'de, V> for $map<K, T, V>
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

        impl<'de, K, T, V: Brand> Visitor<'de> for Seed<'_, $map<K, T, V>, V>
        where
            K: VKey<V> + DeserializeIn<'de, V>,
            T: Storable<V> + DeserializeIn<'de, V>,
        {
            type Value = $map<K, T, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let at = self.at;
                let count = trusted::<(K, T)>(entries.size_hint());
                let mut map = $make(at, count).map_err(A::Error::custom)?;
                let mut view = map.at_mut(at);
                while let Some((key, value)) =
                    entries.next_entry_seed(Seed::new(at), Seed::new(at))?
                {
                    view.insert(key, value).map_err(A::Error::custom)?;
                }
                Ok(map)
            }
        }
    )*};
}

maps! {
    VHashMap, MapRef, VHashMap::with_capacity;
    VBTreeMap, BTreeRef, |_, _| Ok::<_, AllocError>(VBTreeMap::new());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Space, brand};

    #[derive(Debug, PartialEq, Clone, Copy, crate::Storable)]
    struct Plain(u32);

    impl Serialize for Plain {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u32(self.0)
        }
    }

    type All = VHashMap<VString<Everything>, VVec<VBox<Plain, Everything>, Everything>, Everything>;
    brand! { Everything => (All, VHashMap<u8, VString<Everything>, Everything>) }

    fn read<'de, T: DeserializeIn<'de, Everything>>(
        at: &At<Everything, Write>,
        text: &'de str,
    ) -> Result<T, serde_json::Error> {
        T::deserialize_in(at, &mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn collections_of_collections_go_out_and_come_in() {
        let space = Space::<Everything>::in_memory(1 << 14, |_| Ok(Default::default())).unwrap();
        space
            .write(|v| {
                let (root, at) = v.root_mut();
                let one = VBox::new(at, Plain(7)).unwrap();
                let list = VVec::collect(at, [one]).unwrap();
                root.0.at_mut(at).insert(VString::new(at, "x").unwrap(), list).unwrap();
                root.1 = read(at, r#"{"1":"\u00e9","2":""}"#).unwrap();
                assert_eq!((root.1.at(at)[&1].at(at), root.1.at(at)[&2].at(at)), ("\u{e9}", ""));
                let numbers: VVec<u64, Everything> = read(at, "[3,4]").unwrap();
                assert_eq!(numbers.at(at), [3, 4]);
                assert!(read::<VVec<u64, Everything>>(at, "{}").is_err());
                assert!(read::<VHashMap<u8, u8, Everything>>(at, r#"{"1":2,"a":3}"#).is_err());
                Ok::<_, Error>(())
            })
            .unwrap();
        let out = space.read(|v| serde_json::to_string(&v.root().0.at(v)).unwrap()).unwrap();
        assert_eq!(out, r#"{"x":[7]}"#);
    }

    #[test]
    fn queues_boxes_and_shared_owners_go_out_as_what_is_in_them_and_come_in() {
        brand! { Queued => () }
        type Parts = (
            VVecDeque<VRc<VString<Queued>, Queued>, Queued>,
            VBox<[VBox<str, Queued>], Queued>,
            VBinaryHeap<u8, Queued>,
        );
        let space = Space::<Queued>::in_memory(1 << 14, |_| Ok(())).unwrap();
        let seen = space.write(|v| {
            let at = v.root_mut().1;
            let mut data = ["[\"a\",\"b\"]", "[\"\",\"c\"]", "[1,5,2]"]
                .map(serde_json::Deserializer::from_str);
            let [one, two, three] = &mut data;
            let mut parts: Parts = (
                DeserializeIn::deserialize_in(at, one).expect("texts"),
                DeserializeIn::deserialize_in(at, two).expect("texts"),
                DeserializeIn::deserialize_in(at, three).expect("numbers"),
            );
            parts.0.at_mut(at).push_front(VRc::new(at, VString::empty())?)?;
            let out = [
                serde_json::to_string(&view(&parts.0, at)),
                serde_json::to_string(&view(&parts.1, at)),
                serde_json::to_string(&view(&parts.2, at)),
            ];
            Ok::<_, Error>(out.map(|text| text.expect("plain text")))
        });
        let expected = ["[\"\",\"a\",\"b\"]", "[\"\",\"c\"]", "[5,1,2]"];
        assert_eq!(seen, Ok(expected.map(str::to_owned)));
        assert_eq!(space.blocks(), 1);
    }

    #[test]
    fn what_finds_no_room_is_an_error_and_is_freed() {
        brand! { Tight => () }
        let space = Space::<Tight>::in_memory(4096, |_| Ok(())).unwrap();
        let text = format!("{:?}", vec!["a text of some length"; 1000]);
        let before = space.blocks();
        let error = space
            .write(|v| {
                let mut data = serde_json::Deserializer::from_str(&text);
                let read = VVec::<VString<Tight>, Tight>::deserialize_in(v, &mut data);
                Ok::<_, Error>(read.unwrap_err())
            })
            .unwrap();
        assert!(error.to_string().contains("no room"), "{error}");
        assert_eq!(space.blocks(), before);
    }

    type Chapters = VBTreeMap<VString<Book>, VVec<u32, Book>, Book>;
    brand! { Book => Chapters }

    #[test]
    fn an_ordered_map_comes_in_in_any_order_and_goes_out_in_its_own() {
        let space = Space::<Book>::in_memory(1 << 16, |_| Ok(VBTreeMap::new())).unwrap();
        let text = r#"{"loomings":[1],"epilogue":[],"chart":[44,45]}"#;
        space
            .write(|v| {
                let (root, at) = v.root_mut();
                let mut data = serde_json::Deserializer::from_str(text);
                *root = Chapters::deserialize_in(at, &mut data).unwrap();
                let mut data = serde_json::Deserializer::from_str("[1]");
                assert!(Chapters::deserialize_in(at, &mut data).is_err());
                Ok::<_, Error>(())
            })
            .unwrap();
        let out = space.read(|v| serde_json::to_string(&v.root().at(v)).unwrap()).unwrap();
        assert_eq!(out, r#"{"chart":[44,45],"epilogue":[],"loomings":[1]}"#);
    }
}
