//! Walks through a `VLinearMap`, bucket by bucket.

use std::fmt;
use std::iter::FusedIterator;

use super::{Node, VLinearMap};
use crate::brand::Brand;
use crate::collections::VKey;
use crate::storable::Storable;
use crate::token::{At, Mode};

/// The entries of a [`VLinearMap`], in no order.
pub struct Iter<'a, K, T, V: Brand, M> {
    map: &'a VLinearMap<K, T, V>,
    at: &'a At<V, M>,
    /// The next bucket.
    bucket: usize,
    node: Option<&'a Node<K, T, V>>,
}

impl<'a, K, T, V: Brand, M> Iter<'a, K, T, V, M> {
    pub(super) fn new(map: &'a VLinearMap<K, T, V>, at: &'a At<V, M>) -> Self {
        Iter { map, at, bucket: 0, node: None }
    }
}

impl<'a, K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> Iterator for Iter<'a, K, T, V, M> {
    type Item = (&'a K::Borrowed, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        while self.node.is_none() && self.bucket < self.map.buckets {
            self.node = self.map.bucket(self.at, self.bucket);
            self.bucket += 1;
        }
        let node = self.node?;
        self.node = node.next.as_ref().map(|next| next.get(self.at));
        Some((node.key.borrowed(self.at), &node.value))
    }
}

impl<K: VKey<V>, T: Storable<V>, V: Brand, M: Mode> FusedIterator for Iter<'_, K, T, V, M> {}

impl<K, T, V: Brand, M> Clone for Iter<'_, K, T, V, M> {
    fn clone(&self) -> Self {
        Iter { map: self.map, at: self.at, bucket: self.bucket, node: self.node }
    }
}

impl<K: VKey<V>, T: Storable<V> + fmt::Debug, V: Brand, M: Mode> fmt::Debug for Iter<'_, K, T, V, M>
where
    K::Borrowed: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
