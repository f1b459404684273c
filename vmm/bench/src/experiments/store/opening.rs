//! Finding a versioned segment again: after its last writer was killed in the middle of a change,
//! with logs that are nearly full; and a map, beside an archive that is checked before it is used.

use std::time::Duration;

use super::{Round, Subjects, peers, push};
use crate::BenchError;
use crate::experiments::Progress;
use crate::report::{Check, Report};
use crate::sample::Environment;

/// Adds the figures.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    after_crash(subjects, progress, report)?;
    beside_archive(subjects, progress, report)?;
    progress("counting what opening asks the host for");
    counts(subjects, report)
}

/// Sizes of a segment by the subject's name.
const SIZES: [(&str, &str); 2] = [("small", "64M"), ("large", "64G")];

fn after_crash(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    // A commit of all 256 pages takes a little more than a MiB; at 64 the log would be applied.
    let (rounds, commits) = bench.sized((1, "4"), (3, "60"));
    let (mut all, mut lasts) = (Vec::new(), Vec::new());
    for number in 1..=rounds {
        bench.remove_store();
        let mut round = Round::default();
        for (whose, bytes) in SIZES {
            progress(&format!("opening {bytes} after a crash, {number} of {rounds}"));
            let fill = ["store-fill", whose, "--bytes", bytes, "--rounds", commits];
            bench.runner.killed(&bench.programs.payload(), &fill)?;
            let answer = bench.run(Environment::Vm, &["store-open", whose])?.answer;
            lasts.push(answer.get("last").map(ToString::to_string).unwrap_or_default());
            peers::merge(&mut round, whose, answer);
        }
        all.push(round);
    }
    let note = format!(
        "from the first call to being inside to write, after SIGKILL inside a visit with {commits} \
         commits of 256 pages in the log; median of {rounds} rounds"
    );
    for (whose, bytes) in SIZES {
        let name = format!("open_after_crash_{}_ms", bytes.to_lowercase());
        let note = format!("a segment of {bytes}iB: {note}");
        push(report, &all, (&name, "ms", &note), None, |round| {
            round.number(whose, "open_ns").map(|ns| ns / 1e6)
        });
    }
    let about = ("open_after_crash_64g_over_64m", "", "the larger over the smaller");
    push(report, &all, about, None, |round| round.over(("large", "open_ns"), ("small", "open_ns")));
    // The first word of the last commit, and not of the one that was killed: see the program.
    let commits: u64 = commits.parse().unwrap_or_default();
    let expected = format!("\"{:016x}\"", commits * 500 + 1);
    report.checks.push(Check {
        name: "last_commit_is_there".into(),
        rule: "after the kill there is what was committed last, and nothing of what was not".into(),
        found: format!("{} where {expected} was committed", lasts.join(" ")),
        is_kept: lasts.iter().all(|last| *last == expected),
        needs_quiet: false,
    });
    Ok(())
}

fn beside_archive(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    let entries = bench.store.entries.unwrap_or(bench.sized(10_000, 1_000_000));
    let (rounds, count) = (bench.sized(1, 5), entries.to_string());
    let batch = bench.store.batch.to_string();
    progress("opening a map, and an archive");
    bench.remove_store();
    let note = format!(
        "opening a hash map of {entries} entries in a versioned space in a new VM and the first \
         lookup, over mapping and checking an archive of `rkyv` natively; median of {rounds} rounds"
    );
    let load = ["store-load", "map", "--hash", "--count", &count, "--batch", &batch];
    if let Err(error) = bench.run(Environment::Vm, &load) {
        report.push("open_over_rkyv_checked", None, "", format!("{note}: {error}"));
        return Ok(());
    }
    let folder = bench.programs.dir().display().to_string();
    bench.run(Environment::Native, &["loads-fill", &folder, "--count", &count])?;
    let [archive, other] = ["map.rkyv", "map.postcard"].map(|name| bench.programs.file(name));
    let path = archive.display().to_string();
    let mut all = Vec::new();
    for _ in 0..rounds {
        let mut round = Round::default();
        let ours = bench.run(Environment::Vm, &["maps-open", "map"])?;
        peers::merge(&mut round, "ours", ours.answer);
        let checked = bench.run(Environment::Native, &["loads-open", &path, "--checked"])?;
        peers::merge(&mut round, "rkyv", checked.answer);
        all.push(round);
    }
    let _ = (std::fs::remove_file(archive), std::fs::remove_file(other));
    push(report, &all, ("open_over_rkyv_checked", "", &note), None, |round| {
        round.over(("ours", "open_ns"), ("rkyv", "open_ns"))
    });
    // What is asked for is about an archive that takes long to check.
    if entries >= MANY {
        let about = ("open_over_rkyv_checked_10m", "", note.as_str());
        push(report, &all, about, None, |round| {
            round.over(("ours", "open_ns"), ("rkyv", "open_ns"))
        });
    }
    let about = ("open_map_us", "us", "the former alone");
    push(report, &all, about, None, |round| round.number("ours", "open_ns").map(|ns| ns / 1e3));
    Ok(())
}

/// Entries of a map from which on it is a large one.
const MANY: u64 = 10_000_000;

/// Many ticks.
const SETTLED: Duration = Duration::from_millis(200);

/// A segment whose last writer has left properly.
fn counts(subjects: &Subjects<'_>, report: &mut Report) -> Result<(), BenchError> {
    let bench = subjects.bench;
    bench.remove_store();
    let fill = ["store-commit", "pages", "--pages", "1", "--rounds", "4"];
    bench.run(Environment::Vm, &fill)?;
    // What was written within a tick of the host's clock is read once more: whether it is, is not to depend on how
    // quickly the next VM starts.
    std::thread::sleep(SETTLED);
    let traced =
        bench.runner.traced(&bench.programs.payload(), &["store-open", "pages", "--marked"]);
    let why = traced.as_ref().err().map_or(String::new(), |e| format!(": cannot be traced: {e}"));
    for (name, key, unit, what) in [
        ("open_exits", "exits_median", "exits", "exits"),
        ("open_host_calls", "calls_median", "calls", "other calls of the host"),
    ] {
        let value = traced.as_ref().ok().and_then(|answer| answer.get(key)?.as_f64());
        let note = format!(
            "{what} from the first call of a program to being inside a versioned segment to write, \
             after a few commits and a proper end{why}"
        );
        report.push(name, value, unit, note);
    }
    Ok(())
}
