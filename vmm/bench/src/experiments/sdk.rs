//! `bench sdk`: what the guest SDK costs compared with what a program does at home.
//!
//! - the heap of a VAS against glibc's `malloc`, in one process, alternately
//! - a hash map in a VAS against the same crate's at home, likewise; an ordered map against
//!   the standard library's
//! - finding a large map and a small one again in a new VM, against maps in files of other
//!   formats

use super::{Bench, Progress};
use crate::report::{Check, Report};
use crate::sample::{Environment, Sample};
use crate::stats::{median_of, ratio};
use crate::{BenchError, Size};

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let mut report = Report::default();
    heap(bench, progress, &mut report)?;
    maps(bench, progress, &mut report)?;
    trees(bench, progress, &mut report)?;
    opening(bench, progress, &mut report)?;
    Ok(report)
}

fn heap(bench: &Bench<'_>, progress: Progress<'_>, report: &mut Report) -> Result<(), BenchError> {
    let (runs, steps) = bench.sized((1, "200000"), (3, "2000000"));
    let args = ["heap", "--count", steps, "--rounds", "5"];
    let samples = in_vms(bench, runs, &args, "allocating and freeing", progress)?;
    let over = |sample: &Sample, a: &str, b: &str| ratio(sample.number(a), sample.number(b));
    let how = "best of five rounds each, in one process, alternately; median of the VMs";
    for (name, mix, what) in [
        ("heap_over_malloc", "mixed", "16 B to 4 KiB, 10,000 blocks alive, freed at random"),
        ("heap_small_over_malloc", "small", "the same, 16 to 256 bytes"),
        ("heap_rows_over_malloc", "rows", "16 B to 4 KiB, freed in the order of allocation"),
    ] {
        let [ours, malloc] = ["ours", "malloc"].map(|whose| format!("{mix}_{whose}_ns"));
        let value = median_of(&samples, |sample| over(sample, &ours, &malloc));
        report.push(name, value, "", format!("{what}; {how}"));
    }
    let per_object = |key: &str| {
        median_of(&samples, |sample| over(sample, key, "objects")).map(|bytes| bytes / 32.0)
    };
    let (ours, malloc) = (per_object("object_bytes_ours"), per_object("object_bytes_malloc"));
    let what = "memory for a million objects of 32 bytes, tables included, over their total size";
    report.push("heap_overhead_32", ours, "", what);
    let what = "the same for malloc, by the addresses it returns";
    report.push("malloc_overhead_32", malloc, "", what);
    let found = |value: Option<f64>| value.map_or("nothing".to_owned(), |v| format!("{v:.4}"));
    report.checks.push(Check {
        name: "objects_are_there".into(),
        rule: "a million objects of 32 bytes cannot take less than their own size".into(),
        found: format!("{} times it, malloc {}", found(ours), found(malloc)),
        is_kept: [ours, malloc].into_iter().all(|value| value.is_some_and(|v| v >= 1.0)),
        needs_quiet: false,
    });
    Ok(())
}

/// One VM after another, each with its own store: their segments must not conflict.
fn in_vms(
    bench: &Bench<'_>,
    runs: usize,
    args: &[&str],
    what: &str,
    progress: Progress<'_>,
) -> Result<Vec<Sample>, BenchError> {
    let one = |run| {
        progress(&format!("{what}, {run} of {runs}"));
        bench.run_fresh(Environment::Vm, args)
    };
    (1..=runs).map(one).collect()
}

/// Our time over the other's, each the sum of some parts.
fn over(sample: &Sample, parts: &[&str]) -> Option<f64> {
    let sum = |place: &str| {
        let of = |part: &&str| sample.number(&format!("{part}_{place}_ns"));
        parts.iter().map(of).sum::<Option<f64>>()
    };
    ratio(sum("ours"), sum("home"))
}

fn maps(bench: &Bench<'_>, progress: Progress<'_>, report: &mut Report) -> Result<(), BenchError> {
    let (runs, entries) = bench.sized((1, 1_000_000), (3, 10_000_000));
    let mut fill = |flags: &[&str], runs: usize| {
        let count = entries.to_string();
        let args = [&["maps", "--count", &count, "--rounds", "3"], flags].concat();
        in_vms(bench, runs, &args, "filling hash maps", progress)
    };
    let persistent = fill(&[], runs)?;
    let volatile = fill(&["--volatile"], 1)?;
    let how = "both maps in one VM, alternately";
    let best = "best of three rounds each after a first one; median of the VMs";
    for (name, parts, what) in [
        ("vhashmap_over_hashbrown", &["insert", "get"][..], "inserting and looking up"),
        ("vhashmap_insert_over_hashbrown", &["insert"][..], "inserting, from an empty map,"),
        ("vhashmap_get_over_hashbrown", &["get"][..], "looking up, in random order,"),
    ] {
        let value = median_of(&persistent, |sample| over(sample, parts));
        let what = format!("{what} {entries} entries of 16 bytes in a file of the store");
        report.push(name, value, "", format!("{what}, over the same at home: {how}; {best}"));
    }
    let value = median_of(&volatile, |sample| over(sample, &["insert", "get"]));
    let what = "the same in a volatile segment, which is memory only: one VM";
    report.push("vhashmap_volatile_over_hashbrown", value, "", what);
    let value = median_of(&persistent, |sample| over(sample, &["fresh"]));
    let what = "inserting in the first round only, in memory not touched before: the \
                host's page cache and new blocks of its disk, over pages without a file";
    report.push("vhashmap_fresh_over_hashbrown", value, "", what);
    Ok(())
}

fn trees(bench: &Bench<'_>, progress: Progress<'_>, report: &mut Report) -> Result<(), BenchError> {
    let runs = bench.sized(1, 2);
    let mut fill = |entries: u32, rounds: u32, runs: usize| {
        let (count, rounds) = (entries.to_string(), rounds.to_string());
        let args = ["trees", "--count", &count, "--rounds", &rounds];
        let what = format!("filling ordered maps of {entries} entries");
        in_vms(bench, runs, &args, &what, progress)
    };
    let samples = fill(1_000_000, 2, runs)?;
    let how = "over the standard library's map at home, both in one VM, alternately; random keys";
    for (name, parts, what) in [
        (
            "vbtree_over_std",
            &["insert", "get", "walk"][..],
            "inserting, looking up and walking through",
        ),
        ("vbtree_insert_over_std", &["insert"][..], "inserting, from an empty map,"),
        ("vbtree_get_over_std", &["get"][..], "looking up, in random order,"),
        ("vbtree_walk_over_std", &["walk"][..], "walking through"),
    ] {
        let note = format!(
            "{what} a million entries of 16 bytes, {how}; best of two rounds each after a first one"
        );
        report.push(name, median_of(&samples, |sample| over(sample, parts)), "", note);
    }
    let large = if bench.size == Size::Quick { None } else { Some(fill(10_000_000, 0, 1)?) };
    let value =
        large.and_then(|samples| median_of(&samples, |s| over(s, &["insert", "get", "walk"])));
    let what = "all three with 10 million entries, once, in fresh memory; not with --quick";
    report.push("vbtree_10m_over_std", value, "", what);
    Ok(())
}

fn opening(
    bench: &Bench<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let (runs, large) = bench.sized((3, 1_000_000), (11, 10_000_000));
    progress("filling hash maps to be opened");
    bench.remove_store();
    for (name, count) in [("small", 1000), ("large", large)] {
        let args = ["maps-fill", name, "--count", &count.to_string()];
        bench.run(Environment::Vm, &args)?;
    }
    let (mut smalls, mut larges) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        progress(&format!("opening hash maps, {run} of {runs}"));
        smalls.push(bench.run(Environment::Vm, &["maps-open", "small"])?);
        larges.push(bench.run(Environment::Vm, &["maps-open", "large"])?);
    }
    let open = |samples: &[Sample]| median_of(samples, |sample| sample.number("open_ns"));
    let others = other_formats(bench, large, progress)?;
    let note = format!(
        "opening a map of {large} entries in a new VM and the first lookup, over the same with 1000; \
         medians of {runs} VMs each"
    );
    report.push("open_10m_over_open_1k", ratio(open(&larges), open(&smalls)), "", note);
    let micros = |samples: &[Sample]| open(samples).map(|ns| ns / 1000.0);
    report.push("open_1k_us", micros(&smalls), "us", "the smaller of these two");
    report.push("open_10m_us", micros(&larges), "us", "the larger of these two");
    for Other { figure, what, samples } in others {
        let note = format!(
            "{what}, and the first lookup, over opening ours of as many entries in a new VM; both \
             from the host's page cache; a process of the host, median of three"
        );
        report.push(figure, ratio(open(&samples), open(&larges)), "", note);
    }
    Ok(())
}

/// Another way to find a map again.
struct Other {
    figure: &'static str,
    what: &'static str,
    samples: Vec<Sample>,
}

/// The same map in files: how it is found there, and what that took.
fn other_formats(
    bench: &Bench<'_>,
    entries: u32,
    progress: Progress<'_>,
) -> Result<[Other; 3], BenchError> {
    progress("writing the same map in other formats");
    let folder = bench.programs.dir().display().to_string();
    let count = entries.to_string();
    let args = ["loads-fill", &folder, "--count", &count];
    bench.run(Environment::Native, &args)?;
    let [postcard, rkyv] =
        ["map.postcard", "map.rkyv"].map(|name| bench.programs.file(name).display().to_string());
    let mut three = |args: &[&str]| {
        progress(&format!("finding it there: {}", args.join(" ")));
        (0..3).map(|_| bench.run(Environment::Native, args)).collect::<Result<Vec<_>, _>>()
    };
    let others = [
        Other {
            figure: "load_postcard_over_open_10m",
            what: "loading it through `serde` from a format like `bincode`'s (`postcard`)",
            samples: three(&["loads-open", &postcard])?,
        },
        Other {
            figure: "open_rkyv_checked_over_open_10m",
            what: "mapping an archive of `rkyv` and checking it",
            samples: three(&["loads-open", &rkyv, "--checked"])?,
        },
        Other {
            figure: "open_rkyv_over_open_10m",
            what: "mapping an archive of `rkyv` without checking it",
            samples: three(&["loads-open", &rkyv])?,
        },
    ];
    // They are large, and only this experiment needs them.
    let _ = (std::fs::remove_file(postcard), std::fs::remove_file(rkyv));
    Ok(others)
}
