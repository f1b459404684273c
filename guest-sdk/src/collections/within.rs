//! Iterators that own memory of a VAS: they live as long as a borrow of the token, and stay in its
//! thread.

use std::iter::FusedIterator;
use std::marker::PhantomData;

use crate::token::{At, Write};

/// Values on their way out of a collection. Those that are not taken are dropped with it.
pub(crate) struct Within<'a, I, V> {
    inner: I,
    _at: PhantomData<&'a At<V, Write>>,
}

impl<'a, I, V> Within<'a, I, V> {
    #[inline]
    pub(crate) fn new(inner: I, _at: &'a At<V, Write>) -> Within<'a, I, V> {
        Within { inner, _at: PhantomData }
    }
}

impl<I: Iterator, V> Iterator for Within<'_, I, V> {
    type Item = I::Item;

    #[inline]
    fn next(&mut self) -> Option<I::Item> {
        self.inner.next()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

impl<I: DoubleEndedIterator, V> DoubleEndedIterator for Within<'_, I, V> {
    #[inline]
    fn next_back(&mut self) -> Option<I::Item> {
        self.inner.next_back()
    }
}

impl<I: ExactSizeIterator, V> ExactSizeIterator for Within<'_, I, V> {}
impl<I: FusedIterator, V> FusedIterator for Within<'_, I, V> {}
