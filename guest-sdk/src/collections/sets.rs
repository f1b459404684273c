//! What a set that is a map without values has whichever map it is: [`VHashSet`](super::VHashSet) and
//! [`VBTreeSet`](super::VBTreeSet) have the rest.

/// The changes and the traits of the set `$set` of the map `$map`, whose views are `$view` and `$view_mut`, each with the map's in
/// its field `map`.
macro_rules! set_of_map {
    ($set:ident, $map:ident, $view:ident, $view_mut:ident, $layout:literal) => {
        impl<K: VKey<V>, V: Brand> $view_mut<'_, K, V> {
            /// To read for a while.
            #[must_use]
            pub fn as_ref(&self) -> $view<'_, K, V, Write> {
                $view { map: self.map.as_ref() }
            }

            /// How many keys it has.
            #[must_use]
            pub fn len(&self) -> usize {
                self.map.len()
            }

            /// Whether it has none.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.map.is_empty()
            }

            /// Whether it has the key.
            #[must_use]
            pub fn contains(&self, key: &K::Borrowed) -> bool {
                self.map.contains_key(key)
            }

            /// Adds a key; whether it is new. One that is there stays.
            ///
            /// # Errors
            /// [`AllocError`] when there is no room; the set is unchanged.
            pub fn insert(&mut self, key: K) -> Result<bool, AllocError> {
                self.map.insert(key, ()).map(|before| before.is_none())
            }

            /// Adds keys.
            ///
            /// # Errors
            /// [`AllocError`] when there is no room; those before it stay.
            pub fn extend(&mut self, keys: impl IntoIterator<Item = K>) -> Result<(), AllocError> {
                self.map.extend(keys.into_iter().map(|key| (key, ())))
            }

            /// Removes a key; whether it was there.
            pub fn remove(&mut self, key: &K::Borrowed) -> bool {
                self.map.remove(key).is_some()
            }

            /// Takes a key out.
            pub fn take(&mut self, key: &K::Borrowed) -> Option<K> {
                self.map.remove_entry(key).map(|(key, ())| key)
            }

            /// Removes the keys for which `keep` returns false.
            pub fn retain(&mut self, mut keep: impl FnMut(&K::Borrowed) -> bool) {
                self.map.retain(|key, ()| keep(key));
            }

            /// Removes all.
            pub fn clear(&mut self) {
                self.map.clear();
            }
        }

        impl<K, V: Brand, M> Clone for $view<'_, K, V, M> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<K, V: Brand, M> Copy for $view<'_, K, V, M> {}

        impl<K, V: Brand> Default for $set<K, V> {
            fn default() -> $set<K, V> {
                $set::new()
            }
        }

        impl<K, V: Brand> std::fmt::Debug for $set<K, V> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}<{}>(len {})", stringify!($set), V::NAME, self.len())
            }
        }

        impl<K: VKey<V>, V: Brand, M: Mode> std::fmt::Debug for $view<'_, K, V, M>
        where
            K::Borrowed: std::fmt::Debug,
        {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_set().entries(self.iter()).finish()
            }
        }

        impl<K: VKey<V>, V: Brand> std::fmt::Debug for $view_mut<'_, K, V>
        where
            K::Borrowed: std::fmt::Debug,
        {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.as_ref().fmt(f)
            }
        }

        // SAFETY: its map is.
        unsafe impl<K: VKey<V>, V: Brand> crate::storable::Storable<V> for $set<K, V> {
            fn layout(writer: &mut crate::layout::LayoutWriter) {
                writer.describe::<Self>($layout, |writer| {
                    writer.part::<$map<K, (), V>, V>(format_args!(""));
                });
            }

            fn check_stored(
                place: crate::check::Place,
                checker: &mut crate::check::Checker<'_, V>,
            ) {
                checker.part::<$map<K, (), V>>(place, std::mem::offset_of!(Self, map));
            }
        }
    };
}

pub(super) use set_of_map;
