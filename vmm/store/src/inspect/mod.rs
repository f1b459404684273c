//! Looking at a store without changing anything in it.

pub(crate) mod check;
pub(crate) mod heap;
