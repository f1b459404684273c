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

/// Why there is nothing to measure.
const NO_KV: &str = "there is no kv beside spacejmp-bench: cargo build --release -p kv";

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let mut report = Report::default();
    let Some(programs) = Programs::find(bench) else {
        // What the paper's figure 10 is about stands for all.
        for (name, what) in [("kv_get_over_redis", "GETs"), ("kv_set_over_redis", "SETs")] {
            report.push(name, None, "", format!("{what} a second, over those of Redis: {NO_KV}"));
        }
        return Ok(report);
    };
    mixes::measure(&programs, progress, &mut report)?;
    beside::measure(&programs, progress, &mut report)?;
    loading::measure(&programs, progress, &mut report)?;
    bench.remove_store();
    Ok(report)
}
