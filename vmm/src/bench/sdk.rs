//! `bench sdk`: what the guest SDK costs beside what a program does at home.
//!
//! - the heap of a VAS beside glibc's `malloc`, in one process, taking turns
//! - a hash map in a VAS beside the same crate's at home, likewise; and finding a large one and a
//!   small one again in a new VM

use super::payload::Unpacked;
use super::sample::{Place, Runner, Sample};
use super::{BenchError, Check, Report, Size, median, ratio};

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(
    runner: &Runner,
    programs: &Unpacked,
    size: Size,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, BenchError> {
    let mut report = Report::default();
    heap(runner, programs, size, progress, &mut report)?;
    maps(runner, programs, size, progress, &mut report)?;
    opening(runner, programs, size, progress, &mut report)?;
    Ok(report)
}

fn heap(
    runner: &Runner,
    programs: &Unpacked,
    size: Size,
    progress: &mut dyn FnMut(&str),
    report: &mut Report,
) -> Result<(), BenchError> {
    let (runs, steps) = if size == Size::Quick { (1, "200000") } else { (3, "2000000") };
    let program = programs.path("payload");
    let mut samples = Vec::new();
    for run in 1..=runs {
        progress(&format!("allocating and freeing, {run} of {runs}"));
        // Segments of one run must not meet those of the next.
        let _ = std::fs::remove_dir_all(runner.dir.join("store"));
        let args = ["heap", "--count", steps, "--rounds", "5"];
        samples.push(runner.run(Place::Vm, &program, &args, false)?);
    }
    let over = |sample: &Sample, a: &str, b: &str| ratio(sample.number(a), sample.number(b));
    let middle = |a: &str, b: &str| {
        median(&samples.iter().filter_map(|sample| over(sample, a, b)).collect::<Vec<_>>())
    };
    let how = "best of five rounds each, in one process, taking turns; median of the VMs";
    for (name, mix, what) in [
        ("heap_over_malloc", "mixed", "16 B to 4 KiB, 10,000 blocks alive, freed at random"),
        ("heap_small_over_malloc", "small", "the same, 16 to 256 bytes"),
        ("heap_rows_over_malloc", "rows", "16 B to 4 KiB, freed in the order of allocation"),
    ] {
        let value = middle(&format!("{mix}_ours_ns"), &format!("{mix}_malloc_ns"));
        report.push(name, value, "", format!("{what}; {how}"));
    }
    let per_object = |key: &str| {
        let of = |sample: &Sample| ratio(sample.number(key), sample.number("objects"));
        median(&samples.iter().filter_map(of).collect::<Vec<_>>()).map(|bytes| bytes / 32.0)
    };
    let (ours, malloc) = (per_object("object_bytes_ours"), per_object("object_bytes_malloc"));
    report.push(
        "heap_overhead_32",
        ours,
        "",
        "memory of a million objects of 32 bytes, tables included, over their own",
    );
    report.push("malloc_overhead_32", malloc, "", "the same of malloc, by the addresses it gives");
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

fn middle(samples: &[Sample], value: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    median(&samples.iter().filter_map(value).collect::<Vec<_>>())
}

fn maps(
    runner: &Runner,
    programs: &Unpacked,
    size: Size,
    progress: &mut dyn FnMut(&str),
    report: &mut Report,
) -> Result<(), BenchError> {
    let (runs, entries) = if size == Size::Quick { (1, 1_000_000) } else { (3, 10_000_000) };
    let program = programs.path("payload");
    let mut samples = Vec::new();
    for run in 1..=runs {
        progress(&format!("filling hash maps, {run} of {runs}"));
        let _ = std::fs::remove_dir_all(runner.dir.join("store"));
        let args = ["maps", "--count", &entries.to_string(), "--rounds", "3"];
        samples.push(runner.run(Place::Vm, &program, &args, false)?);
    }
    let over = |sample: &Sample, parts: &[&str]| {
        let sum = |place: &str| {
            parts
                .iter()
                .map(|part| sample.number(&format!("{part}_{place}_ns")))
                .sum::<Option<f64>>()
        };
        ratio(sum("ours"), sum("home"))
    };
    for (name, parts, what) in [
        ("vhashmap_over_hashbrown", &["insert", "get"][..], "inserting and looking up"),
        ("vhashmap_insert_over_hashbrown", &["insert"][..], "inserting, from an empty map"),
        ("vhashmap_get_over_hashbrown", &["get"][..], "looking up what is there, in random order"),
    ] {
        let value = middle(&samples, |sample| over(sample, parts));
        let note = format!(
            "{what} {entries} entries of 16 bytes, both maps in one VM, taking turns: best of three \
             rounds each; median of the VMs"
        );
        report.push(name, value, "", note);
    }
    Ok(())
}

fn opening(
    runner: &Runner,
    programs: &Unpacked,
    size: Size,
    progress: &mut dyn FnMut(&str),
    report: &mut Report,
) -> Result<(), BenchError> {
    let (runs, large) = if size == Size::Quick { (3, 1_000_000) } else { (11, 10_000_000) };
    let program = programs.path("payload");
    progress("filling hash maps to be opened");
    let _ = std::fs::remove_dir_all(runner.dir.join("store"));
    for (name, count) in [("small", 1000), ("large", large)] {
        let args = ["maps-fill", name, "--count", &count.to_string()];
        runner.run(Place::Vm, &program, &args, false)?;
    }
    let (mut smalls, mut larges) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        progress(&format!("opening hash maps, {run} of {runs}"));
        smalls.push(runner.run(Place::Vm, &program, &["maps-open", "small"], false)?);
        larges.push(runner.run(Place::Vm, &program, &["maps-open", "large"], false)?);
    }
    let open = |samples: &[Sample]| middle(samples, |sample| sample.number("open_ns"));
    let note = format!(
        "opening a map of {large} entries in a new VM and the first lookup, over the same with 1000; \
         medians of {runs} VMs each"
    );
    report.push("open_10m_over_open_1k", ratio(open(&larges), open(&smalls)), "", note);
    let micros = |samples: &[Sample]| open(samples).map(|ns| ns / 1000.0);
    report.push("open_1k_us", micros(&smalls), "us", "the smaller of these two");
    report.push("open_10m_us", micros(&larges), "us", "the larger of these two");
    Ok(())
}
