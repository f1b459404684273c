//! Replaces `stored` where the program is built without the SDK: there is no address space.

use std::io;

use crate::Result;
use crate::index::Index;

/// There is none.
pub(crate) enum Kept {}

/// How long an address space would live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    Persistent,
    Versioned,
    Volatile,
}

impl Kept {
    pub(crate) fn open(_: &str) -> Result<Kept> {
        Err("this wordindex was built without `--vas`".into())
    }

    pub(crate) fn open_or_create(name: &str, _: Lifetime) -> Result<Kept> {
        Kept::open(name)
    }

    pub(crate) fn replace(&self, _: &Index) -> Result<()> {
        match *self {}
    }

    pub(crate) fn answer(&self, _: &[u8], _: &mut impl io::Write) -> Result<bool> {
        match *self {}
    }
}
