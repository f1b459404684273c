//! Kept versions: tags, which are versioned segments of their own that nobody writes, and clones,
//! which are ordinary ones.
//!
//! A tag of segment `ledger` is the segment `ledger@TAG`. Its files are hard links of those that the
//! version consists of, so it costs no copy, and the file system counts who uses them. Its header says
//! of which segment it is and which version. A tag of a VAS `books` is the VAS `books@TAG`, which lists
//! a tag of each versioned segment, called `ledger@books@TAG`, to be read: whoever can find and attach a
//! VAS can do so with an old one.
//!
//! A version that has no tag can be attached as `ledger@17` as long as the log has it: it gets a tag of
//! that name, which is in nobody's way and goes when no VM has it any more (`gc`, or after a minute the
//! next such).
//!
//! - `names`: tags and versions as people write them; `find`: what is kept
//! - `content`: opening a segment's versions to change them; `link`: a version as another segment
//! - `pinned`: a version that is read for long
//! - `for_snapshot`: what snapshots of processes keep
//! - `vas`: of all segments of a VAS at one moment; `numbers`: which moments those were; `given_up`: which numbers
//!   stay used; `rollback`; `grow`

pub(crate) mod content;
pub(crate) mod find;
pub(crate) mod for_snapshot;
pub(crate) mod given_up;
pub(crate) mod grow;
pub(crate) mod link;
pub(crate) mod names;
pub(crate) mod numbers;
pub(crate) mod pinned;
pub(crate) mod rollback;
pub(crate) mod vas;
