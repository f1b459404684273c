//! One VAS with its segments as one compressed file, to keep or to carry elsewhere.
//!
//! ```text
//! zstd( "SJMPVAS\n" version
//!       VAS                       the manifest
//!       SEGMENT DATA* END         for each segment, in the manifest's order
//!       ...
//!       DONE )
//! ```
//!
//! Pieces carry their number and a checksum, so that a lost, doubled or changed one is found.
//! Only what is not zero is in the file; zeros are holes when it is read. Both directions
//! stream: memory does not depend on sizes. `piece` is the format, `export` writes it,
//! `import` reads it. `docs/src/store-commands.md` describes it.

mod export;
mod import;
mod outcome;
pub(crate) mod piece;

pub use import::survey_archive;
pub use outcome::{Exported, Imported, Progress, Survey};
pub(crate) use piece::read_any;
