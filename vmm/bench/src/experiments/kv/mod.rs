//! `bench kv`: the key-value store of `examples/kv`, the paper's figure 10.
//!
//! - `sides`: clients that enter the store, `kv serve`, Redis, LMDB
//! - `mixes`: GETs and SETs by clients, sizes and batches
//! - `beside`: reading while somebody writes; what a request costs in exits; durable changes
//! - `loading`: the first answer after a start, and memory for each key

mod beside;
mod loading;
mod mixes;
mod sides;

use self::sides::Programs;
use super::{Bench, Progress};
use crate::BenchError;
use crate::report::Report;

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let programs = Programs::find(bench)?;
    let mut report = Report::default();
    mixes::measure(&programs, progress, &mut report)?;
    beside::measure(&programs, progress, &mut report)?;
    loading::measure(&programs, progress, &mut report)?;
    bench.remove_store();
    Ok(report)
}
