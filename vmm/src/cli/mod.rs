//! What the commands `spacejmp` and `spacejmp-bench` have in common, for consistent output: how a
//! failure is reported, the log, colours; and the command line of `spacejmp bench`, which the first
//! needs for its help and completions and the second carries out.
//!
//! The arguments of other commands are in `bin/spacejmp`.

pub mod bench;
pub mod errors;
pub mod json_lines;
pub mod log;
pub mod style;
pub mod subjects;
