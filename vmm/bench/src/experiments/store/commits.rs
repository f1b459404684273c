//! Durable commits of 1 and 64 pages of a versioned segment, beside the least that they can cost on
//! this disk and beside the peers; and what a VMM asks the host for meanwhile.

use serde_json::Value;

use super::{Round, Subjects, peers, push};
use crate::BenchError;
use crate::experiments::Progress;
use crate::report::{Check, Report};
use crate::sample::Environment;
use crate::stats::median;

const PAGE_BYTES: f64 = 4096.0;

/// Adds the figures.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    for pages in [1_u32, 64] {
        times(subjects, progress, report, pages)?;
    }
    sizes(subjects, progress, report)?;
    progress("counting what commits ask the host for");
    counts(subjects, report)
}

/// What a VM is to log, and the key of what it says then.
const LOG: &str = "warn,vmm::vas::versioned::commit=debug";
const INSIDE: &str = "commit_inside_p50_ns";

/// The nanoseconds of commits of so many pages in a VM's log.
fn commits_in(log: &str, pages: u32) -> Vec<f64> {
    let words = format!("committed {pages} pages in ");
    let ends = log.lines().filter_map(|line| line.split_once(&words));
    ends.filter_map(|(_, rest)| rest.split(' ').next()?.parse().ok()).collect()
}

fn times(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
    pages: u32,
) -> Result<(), BenchError> {
    let Subjects { bench, peers, disk } = subjects;
    let (rounds, count) = bench.sized((1, "20"), (5, "100"));
    let (n, folder) = (pages.to_string(), bench.programs.dir().display().to_string());
    let mut all = Vec::new();
    bench.remove_store();
    peers.clear();
    for number in 1..=rounds {
        progress(&format!("commits of {pages} pages, {number} of {rounds}"));
        let seed = number.to_string();
        let mut round = Round::default();
        let floor = ["store-floor", &folder, "--pages", &n, "--rounds", count];
        peers::merge(&mut round, "floor", bench.run(Environment::Native, &floor)?.answer);
        let compared = [&floor[..], &["--compared"]].concat();
        peers::merge(&mut round, "compared", bench.run(Environment::Native, &compared)?.answer);
        let ours = ["store-commit", "pages", "--pages", &n, "--rounds", count, "--seed", &seed];
        let (answer, said) = bench.runner.logged(&bench.programs.payload(), &ours, LOG)?;
        peers::merge(&mut round, "ours", answer);
        let inside = median(&commits_in(&said, pages));
        peers::merge(&mut round, "ours", serde_json::json!({ INSIDE: inside }));
        let options = ["--pages", &n, "--count", count, "--seed", &seed];
        peers.each(&mut round, "commit", &options)?;
        all.push(round);
    }
    peers.clear();
    let no_disk = disk.why_not();
    let all = if no_disk.is_some() { Vec::new() } else { all };
    let how = format!(
        "medians of {count} commits of {pages} of 256 pages, 4000 bytes of each changed, in {rounds} \
         rounds"
    );
    let mut add =
        |name: &str, unit, note: &str, missing, figure: &dyn Fn(&Round) -> Option<f64>| {
            let (name, note) = (name.replace('N', &n), format!("{note}; {how}"));
            push(report, &all, (&name, unit, &note), no_disk.or(missing), figure);
        };
    let (p50, transaction) = ("commit_p50_ns", "transaction_p50_ns");
    add(
        "commit_N_over_floor",
        "",
        "a commit, from its entry in the VMM to its end as the VMM has timed it, over an append of as \
         many pages and one to zeros and one fdatasync",
        None,
        &|round| round.over(("ours", INSIDE), ("floor", p50)),
    );
    add(
        "commit_N_over_compared",
        "",
        "the same over a native program that compares all pages with what they were, copies those that \
         differ, appends them as the floor does, and syncs once",
        None,
        &|round| round.over(("ours", INSIDE), ("compared", p50)),
    );
    add(
        "commit_N_over_best",
        "",
        "a transaction from before entering until it is durable, all exits included, over that of \
         the quickest of LMDB, redb and SQLite",
        peers.why_not(),
        &|round| Some(round.number("ours", transaction)? / round.best_peer(p50)?),
    );
    let us = |whose: &'static str, key: &'static str| {
        move |round: &Round| round.number(whose, key).map(|ns| ns / 1e3)
    };
    add("commit_N_us", "us", "ours, exits included", None, &us("ours", transaction));
    add("commit_N_inside_us", "us", "ours, from its entry to its end", None, &us("ours", INSIDE));
    add("commit_N_call_us", "us", "ours, the call alone, one exit", None, &us("ours", p50));
    add("floor_N_us", "us", "the append and the sync", None, &us("floor", p50));
    add("compared_N_us", "us", "the same with comparing and copying", None, &us("compared", p50));
    for (peer, name) in peers::ALL.iter().zip(["LMDB", "redb", "SQLite"]) {
        add(&format!("commit_N_{peer}_us"), "us", name, peers.why_not(), &us(peer, p50));
    }
    Ok(())
}

/// The same pages written in segments of very different size.
fn sizes(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    let (rounds, count) = bench.sized((1, "20"), (3, "100"));
    bench.remove_store();
    let mut all = Vec::new();
    for number in 1..=rounds {
        let mut round = Round::default();
        for (whose, bytes) in [("small", "64M"), ("large", "64G")] {
            progress(&format!("commits into a segment of {bytes}, {number} of {rounds}"));
            let args =
                ["store-commit", whose, "--bytes", bytes, "--pages", "64", "--rounds", count];
            peers::merge(&mut round, whose, bench.run(Environment::Vm, &args)?.answer);
        }
        all.push(round);
    }
    let (key, no_disk) = ("transaction_p50_ns", subjects.disk.why_not());
    let all = if no_disk.is_some() { Vec::new() } else { all };
    let note = "a transaction of 64 of 256 pages, spread over a sparse segment of 64 GiB, over the \
                same in one of 64 MiB";
    push(report, &all, ("commit_64g_over_64m", "", note), no_disk, |round| {
        round.over(("large", key), ("small", key))
    });
    Ok(())
}

/// What was asked for between two marks.
fn counts(subjects: &Subjects<'_>, report: &mut Report) -> Result<(), BenchError> {
    let bench = subjects.bench;
    bench.remove_store();
    let traced = |pages: u32| {
        let pages = pages.to_string();
        let rounds = bench.sized("16", "300");
        let args = ["store-commit", "traced", "--marked", "--pages", &pages, "--rounds", rounds];
        bench.runner.traced(&bench.programs.payload(), &args)
    };
    let (one, eight, many) = (traced(1), traced(8), traced(64));
    let number = |of: &Result<Value, BenchError>, key: &str| {
        of.as_ref().ok().and_then(|answer| answer.get(key)?.as_f64())
    };
    let why = |of: &Result<Value, BenchError>| {
        of.as_ref().err().map_or(String::new(), |error| format!(": cannot be traced: {error}"))
    };
    for (name, of, key, unit, note) in [
        (
            "small_txn_exits",
            &one,
            "exits_median",
            "exits",
            "exits of a VM that was the last writer",
        ),
        ("small_txn_host_calls", &one, "calls_median", "calls", "other calls of the host"),
    ] {
        let note =
            format!("{note}, in a transaction that changes one page that it has written before");
        report.push(name, number(of, key), unit, note + &why(of));
    }
    let note = "times that the host is asked to wait for the disk in a transaction of 64 pages";
    let syncs = number(&many, "syncs_sum").zip(number(&many, "spans")).map(|(all, n)| all / n);
    report.push("commit_fsyncs", syncs, "syncs", format!("{note}, the mean of all{}", why(&many)));
    let note = "the most in one of them, when the log's next part is prepared";
    report.push("commit_fsyncs_most", number(&many, "syncs_most"), "syncs", note);
    for (name, of, pages, which) in [
        ("commit_8_bytes_over_ideal", &eight, 8.0, "median"),
        ("commit_bytes_over_ideal", &many, 64.0, "median"),
        ("commit_bytes_with_zeros_over_ideal", &many, 64.0, "mean"),
    ] {
        let ideal = (pages + 2.0) * PAGE_BYTES;
        let bytes = match which {
            "mean" => number(of, "written_bytes_sum").zip(number(of, "spans")).map(|(b, n)| b / n),
            _ => number(of, "written_bytes_median"),
        };
        let note = format!(
            "bytes that the process writes to the device (write_bytes of /proc/PID/io) in a \
             transaction of {pages} pages, over {pages} pages and two; {which} of all: those that \
             write zeros ahead count in the mean only{}",
            why(of)
        );
        report.push(name, bytes.map(|bytes| bytes / ideal), "", note);
    }
    if let (Ok(one), Ok(many)) = (&one, &many) {
        let least = |of: &Value| of.get("syncs_least").and_then(Value::as_f64).unwrap_or(0.0);
        report.checks.push(Check {
            name: "commits_are_durable".into(),
            rule: "no commit returns without a sync".into(),
            found: format!("at least {} for 1 page, {} for 64", least(one), least(many)),
            is_kept: least(one) >= 1.0 && least(many) >= 1.0,
            needs_quiet: false,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_commits_of_as_many_pages() {
        let log = "spacejmp: debug: committed 1 pages in 250 ns\n\
                   spacejmp: debug: committed 64 pages in 9000 ns\n\
                   spacejmp: warning: committed 64 pages in a hurry\n\
                   spacejmp: debug: committed 1 pages in 350 ns";
        assert_eq!(commits_in(log, 1), [250.0, 350.0]);
        assert_eq!(commits_in(log, 64), [9000.0]);
        assert!(commits_in(log, 4).is_empty());
    }
}
