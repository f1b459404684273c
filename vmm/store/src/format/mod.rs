//! The bytes on disk: header, manifest, lease and the text they are written in; names; and every
//! error. Nothing here opens a file or knows about stores.

pub(crate) mod counted;
pub(crate) mod counters;
pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod extent;
pub(crate) mod header;
pub(crate) mod lease;
pub(crate) mod manifest;
pub(crate) mod name;
pub(crate) mod record;
mod remedy;
pub(crate) mod text;
