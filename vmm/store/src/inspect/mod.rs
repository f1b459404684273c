//! Looking at a store without changing anything in it.

pub(crate) mod check;
pub(crate) mod heap;
pub(crate) mod lease_view;
pub(crate) mod listing;
