//! That there is no room in a space.

use crate::brand::Brand;

/// A space has no room for `bytes` more bytes, and could not grow.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for {bytes} byte{} in address space `{brand}`", if *bytes == 1 { "" } else { "s" })]
pub struct AllocError {
    /// What was asked for.
    pub bytes: usize,
    /// The brand of the space.
    pub brand: &'static str,
}

impl AllocError {
    /// The error of a request for `bytes` in `V`.
    #[must_use]
    pub fn new<V: Brand>(bytes: usize) -> AllocError {
        AllocError { bytes, brand: V::NAME }
    }
}
