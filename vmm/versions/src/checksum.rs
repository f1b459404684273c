//! Checksums against torn and lost writes. Not against an attacker: whoever may write the files may
//! write any content. 64 bits, because a crash test of a million states must not meet a collision.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The checksum of a page, or of a header and through it of everything before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Checksum(pub u64);

impl Checksum {
    /// Of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(xxh3_64(bytes))
    }

    /// Of some bytes that follow what has this checksum.
    #[must_use]
    pub fn then(self, bytes: &[u8]) -> Checksum {
        Checksum(xxh3_64_with_seed(bytes, self.0))
    }
}
