//! What the commands `spacejmp` and `spacejmp-bench` have in common, so that they speak alike: how
//! a failure is told, the log, colours; and the command line of `spacejmp bench`, which the first
//! knows for its help and completions and the second carries out.
//!
//! No other command's arguments: those are in `bin/spacejmp`.

pub mod bench;
pub mod errors;
pub mod log;
pub mod style;
pub mod subjects;
