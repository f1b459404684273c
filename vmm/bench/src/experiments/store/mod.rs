//! `bench store`: versioned spaces beside the databases that a program would use instead.
//!
//! - `commits`: what a durable commit costs, beside the least that it can cost on the disk; what the
//!   host is asked for meanwhile
//! - `copies`: tags, clones, rollbacks
//! - `numbers`: loading, reading and changing maps of numbers
//! - `opening`: finding a segment again, after a crash, too
//! - `sharing`: what copies and old versions have in common, in memory; reading through many of them
//! - `raw`: versioned spaces beside raw ones
//! - `lasting`: space on the disk beside a visit to read that lasts
//! - `peers`: LMDB, redb and SQLite, in a program that is built separately
//!
//! Ours and the others alternate; a figure is the median of the rounds, a ratio that of the ratios of
//! each round. Nothing here is part of `bench all`: it writes for minutes to the disk of `--dir`, and
//! the peers are not there unless somebody has built them.

mod commits;
mod copies;
mod entering;
mod lasting;
mod numbers;
mod opening;
pub(super) mod peers;
mod raw;
mod sharing;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use vmm::cli::bench::StorePart;

use self::peers::Peers;
use super::{Bench, Progress};
use crate::BenchError;
use crate::report::Report;

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let peers = Peers::find(bench)?;
    let disk = Disk::of(bench.programs.dir());
    let mut report = Report::default();
    let subjects = Subjects { bench, peers: &peers, disk: &disk };
    let only = &bench.store.only;
    for (_, measure) in PARTS.iter().filter(|(part, _)| only.is_empty() || only.contains(part)) {
        measure(&subjects, progress, &mut report)?;
    }
    Ok(report)
}

type Measure = fn(&Subjects<'_>, Progress<'_>, &mut Report) -> Result<(), BenchError>;

/// What `--only` chooses from, in the order of the report.
const PARTS: [(StorePart, Measure); 8] = [
    (StorePart::Commits, commits::measure),
    (StorePart::Entering, entering::measure),
    (StorePart::Maps, numbers::measure),
    (StorePart::Raw, raw::measure),
    (StorePart::Raw, lasting::measure),
    (StorePart::Opening, opening::measure),
    (StorePart::Copies, copies::measure),
    (StorePart::Sharing, sharing::measure),
];

/// Who is measured, and where.
struct Subjects<'a> {
    bench: &'a Bench<'a>,
    peers: &'a Peers<'a>,
    disk: &'a Disk,
}

/// Whether what is synced lies on a disk.
pub(super) enum Disk {
    /// As far as can be seen.
    Real,
    /// In memory: a sync does nothing there, and no figure with one means anything.
    Memory(String),
}

impl Disk {
    pub(super) fn of(folder: &Path) -> Disk {
        const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
        match rustix::fs::statfs(folder) {
            Ok(about) if IN_MEMORY.contains(&(about.f_type as u64)) => Disk::Memory(format!(
                "{} is in memory, where nothing is durable: name a folder on a disk, --dir DIR",
                folder.display()
            )),
            _ => Disk::Real,
        }
    }

    pub(super) fn why_not(&self) -> Option<&str> {
        match self {
            Disk::Real => None,
            Disk::Memory(why) => Some(why),
        }
    }
}

/// What everybody answered in one round, by name: `ours`, `floor`, `lmdb`, ...
#[derive(Default)]
struct Round(BTreeMap<&'static str, Value>);

impl Round {
    /// A number of somebody's answer.
    fn number(&self, whose: &str, key: &str) -> Option<f64> {
        self.0.get(whose)?.get(key)?.as_f64()
    }

    /// One over another.
    fn over(&self, above: (&str, &str), below: (&str, &str)) -> Option<f64> {
        let below = self.number(below.0, below.1).filter(|&number| number != 0.0)?;
        Some(self.number(above.0, above.1)? / below)
    }

    /// The least of the peers.
    fn best_peer(&self, key: &str) -> Option<f64> {
        peers::ALL.iter().filter_map(|peer| self.number(peer, key)).min_by(f64::total_cmp)
    }
}

/// Adds the median over the rounds, or that there is none and why.
fn push(
    report: &mut Report,
    rounds: &[Round],
    (name, unit, note): (&str, &'static str, &str),
    missing: Option<&str>,
    figure: impl Fn(&Round) -> Option<f64>,
) {
    let samples: Vec<f64> = rounds.iter().filter_map(figure).collect();
    match missing.filter(|_| samples.is_empty()) {
        Some(why) => report.push(name.to_owned(), None, unit, format!("{note}: {why}")),
        None => report.push_median(name.to_owned(), &samples, unit, note),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ours: f64, peers: &[(&'static str, f64)]) -> Round {
        let all = [("ours", ours)].into_iter().chain(peers.iter().copied());
        Round(all.map(|(name, ns)| (name, serde_json::json!({ "put_p50_ns": ns }))).collect())
    }

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_rounds_and_has_their_spread() {
        let rounds =
            [round(10.0, &[("lmdb", 20.0)]), round(10.0, &[("lmdb", 40.0), ("redb", 30.0)])];
        let key = "put_p50_ns";
        assert_eq!(rounds[1].best_peer(key), Some(30.0));
        let mut report = Report::default();
        let about = ("x", "", "x");
        push(&mut report, &rounds, about, None, |r| r.over(("lmdb", key), ("ours", key)));
        assert_eq!(report.value("x"), Some(3.0));
        assert!(report.figures[0].spread_percent.is_some());
    }

    #[test]
    fn without_peers_a_ratio_is_missing_and_says_how_to_build_them() {
        let (rounds, mut report) = ([round(10.0, &[])], Report::default());
        let (about, why) = (("x", "", "ours over the best"), "build them: cargo xtask peers");
        push(&mut report, &rounds, about, Some(why), |r| r.best_peer("put_p50_ns"));
        let figure = &report.figures[0];
        assert_eq!(figure.value, None);
        assert!(figure.note.contains("over the best: build them: cargo xtask peers"));
    }

    #[test]
    fn a_folder_in_memory_is_recognised() {
        assert!(Disk::of(Path::new("/dev/shm")).why_not().is_some_and(|why| why.contains("--dir")));
        assert_eq!(Disk::of(Path::new("/proc")).why_not(), None);
    }
}
