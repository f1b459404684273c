//! `bench switch`: what it costs to switch from one address space to another.
//!
//! Everything but the handover is timed by one program in one VM, alternately, by the
//! processor's time-stamp counter; figures in cycles depend on the machine, ratios on us.

use super::{Bench, Progress, no_tags, paths};
use crate::BenchError;
use crate::report::Report;
use crate::sample::{Environment, Sample};
use crate::stats::{median, ratio};

/// Figures of a VAS by the number of its lockable segments, and the program's name for
/// each.
const LOCKS: [(&str, &str, u64); 5] = [
    ("switch_cycles", "locks_0", 0),
    ("switch_lock_1_cycles", "locks_1", 1),
    ("switch_lock_2_cycles", "locks_2", 2),
    ("switch_lock_4_cycles", "locks_4", 4),
    ("switch_lock_8_cycles", "locks_8", 8),
];

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let mut report = Report::default();
    let (runs, rounds) = bench.sized((1, "20"), (5, "200"));
    let mut samples = Vec::new();
    for run in 1..=runs {
        progress(&format!("switching, {run} of {runs}"));
        samples.push(bench.run(Environment::Vm, &["switch", "--count", rounds])?);
    }
    let note = format!("median of {runs} VM(s), in each of {rounds} batches of 32");
    switches(&mut report, &samples, &note, bench.has_tags);
    paths::measure(&mut report, bench, progress)?;
    progress("handing over a lock");
    handover(&mut report, bench)?;
    Ok(report)
}

fn switches(report: &mut Report, samples: &[Sample], note: &str, has_tags: Option<bool>) {
    let all = |key: &str| -> Vec<f64> {
        samples.iter().filter_map(|sample| sample.number(key)).collect()
    };
    let cycles = |key: &str| median(&all(key));
    // Ratios are taken within a VM: machines drift.
    let over = |key: &str, other: &str| {
        let ratios = samples.iter().filter_map(|s| ratio(s.number(key), s.number(other)));
        ratios.collect::<Vec<_>>()
    };
    let half = "in and out averaged as one switch each";
    let null = format!("a switch without locks / a null call of the guest kernel; {half}; {note}");
    let lock = format!("the same with one uncontended exclusive lock; {half}");
    let hyper = "the same without locks, requested by hypercall, which the VMM serves";
    let reader =
        "one exclusive lock that readers used 32 write visits ago / one that no reader has used";
    let turns =
        "visits to read and to write alternately, averaged as one switch / one exclusive lock";
    for (name, key, other, note) in [
        ("switch_over_null", "locks_0", "null", &*null),
        ("switch_lock_over_null", "locks_1", "null", &*lock),
        ("switch_hyper_over_null", "hypercall", "null", hyper),
        ("switch_after_reader_over_lock", "after_a_reader", "locks_1", reader),
        ("switch_turns_over_lock", "turns", "locks_1", turns),
    ] {
        report.push_median(name, &over(key, other), "", note);
    }
    let no_tags = no_tags(has_tags);
    let tagged = median(&over("locks_0", "untagged")).filter(|_| no_tags.is_none());
    let note = no_tags.unwrap_or("an instance with a TLB tag / without: each flushes");
    report.push("switch_tagged_over_untagged", tagged, "", note);
    let what = "a null call of the guest kernel";
    report.push_median("null_cycles", &all("null"), "cycles", what);
    report.push_median("hyper_null_cycles", &all("hyper_null"), "cycles", "a null hypercall");
    for (name, key, locks) in LOCKS {
        let what = format!("a switch, {locks} exclusive lock(s); {half}");
        report.push_median(name, &all(key), "cycles", what);
    }
    let each = cycles("locks_8").zip(cycles("locks_1")).map(|(eight, one)| (eight - one) / 7.0);
    let what = "the cost of acquiring or releasing one more lock: (8 locks - 1 lock) / 7";
    report.push("switch_lock_each_cycles", each, "cycles", what);
    let direct = "a switch directly from one VAS into another, no locks";
    report.push_median("switch_direct_cycles", &all("direct"), "cycles", direct);
    let what = "a switch by hypercall";
    report.push_median("switch_hyper_cycles", &all("hypercall"), "cycles", what);
}

fn handover(report: &mut Report, bench: &Bench<'_>) -> Result<(), BenchError> {
    let (rounds, count) = bench.sized((1, "20"), (5, "200"));
    let (runner, program) = (bench.runner, bench.programs.payload());
    let turn = bench.programs.file("turn");
    let (mut vm, mut native, mut seen) = (Vec::new(), Vec::new(), 0.0);
    for round in 0..rounds {
        let name = format!("handover-{round}");
        let args = ["handover", &name, "--count", count];
        for answer in runner.pair(Environment::Vm, &program, &args)? {
            vm.extend(answer["ns_per_handover"].as_f64());
            seen += answer["handovers"].as_f64().unwrap_or(0.0);
        }
        // A new one each time: the parties count themselves in it.
        std::fs::write(&turn, [0; 4096])
            .map_err(|source| BenchError::Folder { dir: turn.display().to_string(), source })?;
        let path = turn.to_string_lossy();
        let args = ["handover-futex", &path, "--count", count];
        let answers = runner.pair(Environment::Native, &program, &args)?;
        native.extend(answers.iter().filter_map(|answer| answer["ns_per_handover"].as_f64()));
    }
    let (vm, native) = (median(&vm), median(&native));
    let note = "from releasing a lock to being inside with it: a thread of another VM that slept \
                for it / a native process that slept in a futex";
    report.push("handover_vm_over_native", ratio(vm, native), "", note);
    let note = format!("median of {seen} handovers of a lock between two VMs");
    report.push("handover_vm_us", vm.map(|ns| ns / 1e3), "us", note);
    report.push("handover_native_us", native.map(|ns| ns / 1e3), "us", "between two processes");
    Ok(())
}
