//! What versions cost beside a raw persistent space, which has none: loading, reading, and space on
//! the disk after many small changes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Round, Subjects, peers, push};
use crate::BenchError;
use crate::experiments::Progress;
use crate::report::Report;
use crate::sample::{Environment, Sample};

/// A kind of space: name, and what the program is told.
const KINDS: [(&str, &[&str]); 2] = [("versioned", &[]), ("raw", &["--persistent"])];
/// Updates in a transaction: few enough for a commit.
const BATCH: &str = "10000";

/// Adds the figures.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    let entries = bench.store.entries.unwrap_or(bench.sized(10_000, 1_000_000));
    let rounds = bench.sized(1, 3);
    let mut all = Vec::new();
    for number in 1..=rounds {
        progress(&format!("versioned and raw, {number} of {rounds}"));
        match one_round(subjects, entries, number == rounds) {
            Ok(round) => all.push(round),
            // Such as a map that one commit cannot have.
            Err(error) => {
                add(subjects, report, &[], entries, rounds, Some(&error.to_string()));
                return Ok(());
            }
        }
    }
    add(subjects, report, &all, entries, rounds, None);
    Ok(())
}

fn one_round(
    subjects: &Subjects<'_>,
    entries: u64,
    with_updates: bool,
) -> Result<Round, BenchError> {
    let bench = subjects.bench;
    let (count, batch) = (entries.to_string(), bench.store.batch.to_string());
    let mut round = Round::default();
    for (whose, kind) in KINDS {
        bench.remove_store();
        let run = |args: &[&str]| {
            let args = [args, &["--count", &count], kind].concat();
            bench.runner.run(Environment::Vm, &bench.programs.payload(), &args, true)
        };
        let loaded = run(&["store-load", "map", "--batch", &batch])?;
        let peak = serde_json::json!({ "peak_bytes": loaded.stat("rss_peak_bytes") });
        peers::merge(&mut round, whose, loaded.answer);
        peers::merge(&mut round, whose, peak);
        let read: Sample = run(&["store-read", "map"])?;
        peers::merge(&mut round, whose, read.answer);
        if with_updates {
            run(&["store-update", "map", "--rounds", &count, "--batch", BATCH])?;
            let disk =
                serde_json::json!({ "disk_bytes": on_disk(&bench.runner.dir.join("store")) });
            peers::merge(&mut round, whose, disk);
        }
    }
    Ok(round)
}

/// Bytes that the files of a folder have on the disk, each once however many names it has.
fn on_disk(folder: &Path) -> u64 {
    let mut seen = Files::new();
    add_files(folder, &mut seen);
    seen.values().sum()
}

/// Bytes of files on the disk, by what the files are, not by their names.
pub(super) type Files = BTreeMap<(u64, u64), u64>;

/// Adds those in a folder.
pub(super) fn add_files(folder: &Path, seen: &mut Files) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(about) = entry.path().symlink_metadata() else { continue };
        if about.is_dir() {
            add_files(&entry.path(), seen);
        } else {
            seen.insert((about.dev(), about.ino()), about.blocks() * 512);
        }
    }
}

fn add(
    subjects: &Subjects<'_>,
    report: &mut Report,
    all: &[Round],
    entries: u64,
    rounds: u32,
    problem: Option<&str>,
) {
    let no_disk = subjects.disk.why_not();
    let durable: &[Round] = if no_disk.is_some() { &[] } else { all };
    let how = format!("an ordered map of {entries} entries, median of {rounds} rounds");
    let over =
        |key: &'static str| move |round: &Round| round.over(("versioned", key), ("raw", key));
    let note = format!(
        "time to load into a versioned space until it is durable, over a raw one and \
                        its sync: {how}"
    );
    let about = ("load_time_over_raw", "", &*note);
    push(report, durable, about, no_disk.or(problem), over("load_ns"));
    for (name, key, what) in [
        ("get_time_over_raw", "get_ns", "point reads in random order"),
        ("scan_time_over_raw", "scan_ns", "reading in order"),
    ] {
        let note = format!("{what}, in a new VM, in a versioned space over a raw one: {how}");
        push(report, all, (name, "", &note), problem, over(key));
    }
    let note = format!("most memory of the VMM, guest memory included, while it loads: {how}");
    push(report, all, ("load_peak_mib", "MiB", &note), problem, |round| {
        round.number("versioned", "peak_bytes").map(|bytes| bytes / f64::from(1 << 20))
    });
    let note = format!(
        "space of the store's files on the disk, over that of a raw one, after {entries} updates of \
         random entries, {BATCH} in a transaction, and the VM's end: {how}; once"
    );
    push(report, all, ("space_over_data", "", &note), problem, over("disk_bytes"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_takes_its_space_once_and_holes_take_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("below/file");
        std::fs::create_dir(dir.path().join("below")).expect("a folder");
        std::fs::write(&file, vec![1; 1 << 20]).expect("a file");
        std::fs::File::open(&file).and_then(|file| file.sync_all()).expect("it is written");
        let one = on_disk(dir.path());
        assert!((1 << 20..2 << 20).contains(&one), "{one}");
        std::fs::hard_link(&file, dir.path().join("other")).expect("a second name");
        let sparse = std::fs::File::create(dir.path().join("sparse")).expect("a file");
        sparse.set_len(1 << 30).expect("a hole");
        assert_eq!(on_disk(dir.path()), one);
    }
}
