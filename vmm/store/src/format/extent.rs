//! Where content lies in the files of a segment.
//!
//! ```text
//! persistent   segments/NAME     0 header | 4096 lock page | 2 MiB content, up to 8 TiB
//!              parts/SID.1       content from 8 TiB on, up to 8 TiB; then SID.2 ...
//! volatile     segments/NAME     0 header | 4096 lock page
//!              /dev/shm/spacejmp-STOREID-SID.0   content, up to 8 TiB; then .1 ...
//! versioned    segments/NAME     0 header | 4096 lock page | 8192 page of version words
//!              versions/SID/     content: the files of `spacejmp_versions`
//! ```
//!
//! Content begins at 2 MiB so that the host can map it with large pages; 8 TiB is well below
//! the largest file of common file systems (ext4: 16 TiB), and the same everywhere, so that
//! files can be copied between them.

use abi::addr::{PAGE_SIZE, PAGE_SIZE_2M};
use abi::objects::Lifetime;

/// Where the page of lock words lies in a segment file.
pub const LOCK_PAGE_OFFSET: u64 = PAGE_SIZE;

/// Where the page with the version words lies in the file of a versioned segment.
pub(crate) const WORDS_OFFSET: u64 = LOCK_PAGE_OFFSET + PAGE_SIZE;

/// Where content begins in a persistent segment's own file.
pub const DATA_OFFSET: u64 = PAGE_SIZE_2M;

/// Maximum content of one file.
pub const PART_BYTES: u64 = 8 << 40;

/// The first part that is not in the segment's own file. A versioned segment has no parts.
pub(crate) fn first_part(lifetime: Lifetime) -> u64 {
    match lifetime {
        Lifetime::Persistent => 1,
        Lifetime::Volatile | Lifetime::Versioned => 0,
    }
}

/// Bytes of one part of a segment of this size.
pub(crate) fn part_len(size_bytes: u64, index: u64) -> u64 {
    size_bytes.saturating_sub(index.saturating_mul(PART_BYTES)).min(PART_BYTES)
}
