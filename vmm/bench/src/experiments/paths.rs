//! Part of `bench switch`: each path by itself, its median and its tail, next to the host's own
//! calls; the paper's table 2 with more rows. And how many instructions of the guest kernel each
//! executes.

use serde_json::Value;

use super::{Bench, Progress};
use crate::BenchError;
use crate::report::{Axis, Check, Origin, Plot, Report, Series};
use crate::sample::Environment;
use crate::stats::{median_of, ratio};
use vmm::vm::cr3_timing::{self, Cr3Loads};

/// The statistics of a path: their names in the program, and their meaning.
const IN_VM: [(&str, &str); 9] = [
    ("null", "a null call of the guest kernel"),
    ("exit", "a null hypercall: to the VMM and back"),
    ("locks_0", "a switch without locks, with a TLB tag if there are tags"),
    ("untagged", "the same without a tag"),
    ("hypercall", "a switch by hypercall"),
    ("locks_1", "a switch with 1 exclusive lock"),
    ("locks_2", "a switch with 2"),
    ("locks_4", "a switch with 4"),
    ("locks_8", "a switch with 8"),
];
const NATIVE: [(&str, &str); 2] = [
    ("call", "a system call of the host (getppid), natively"),
    ("process", "a switch between two native processes on one processor, by a byte in a pipe"),
];
/// Part of a figure's name, what the program calls it, what it is.
const QUANTILES: [(&str, &str); 3] = [("median", "p50"), ("p99", "p99"), ("p99_9", "p999")];
const LOCKS: [u32; 5] = [0, 1, 2, 4, 8];

/// What tests have counted: `cargo xtask counts`.
const COUNTS: &str = include_str!("../../data/counts.toml");

/// Adds the figures, a plot and a check.
pub(super) fn measure(
    report: &mut Report,
    bench: &Bench<'_>,
    progress: Progress<'_>,
) -> Result<(), BenchError> {
    let count = bench.sized("500", "20000");
    progress("timing single switches");
    let vm = bench.run(Environment::Vm, &["paths", "--count", count])?.answer;
    let native = bench.run(Environment::Native, &["paths-native", "--count", count])?.answer;
    add(report, &vm, &native, count, bench.has_tags);
    cr3_loads(report, bench.sized(1, 20));
    Ok(())
}

fn add(report: &mut Report, vm: &Value, native: &Value, count: &str, has_tags: Option<bool>) {
    let number = |from: &Value, key: &str| from.get(key).and_then(Value::as_f64);
    let of = |from: &Value, path: &str, key: &str| number(from, &format!("{path}_{key}"));
    for (from, paths) in [(vm, &IN_VM[..]), (native, &NATIVE[..])] {
        for (path, what) in paths {
            for (name, key) in QUANTILES {
                let note = format!("{what}; {name} of {count}, each timed by itself");
                report.push(format!("path_{path}_{name}"), of(from, path, key), "cycles", note);
            }
        }
    }
    let tagged = of(vm, "locks_0", "p50").filter(|_| has_tags == Some(true));
    let note = "a switch without locks with a TLB tag; where the host offers its guests no PCID \
                there are none";
    report.push("switch_tagged_cycles", tagged, "cycles", note);
    let untagged = "a switch without locks, without a TLB tag";
    report.push("switch_untagged_cycles", of(vm, "untagged", "p50"), "cycles", untagged);
    let overhead = "two readings of the counter with nothing between them; subtracted above";
    report.push("timestamp_cycles", number(vm, "overhead"), "cycles", overhead);
    instructions(report);
    let curve = |(name, key): (&str, &str), origin| Series {
        name: format!("{name}, exclusive locks"),
        origin,
        points: LOCKS
            .iter()
            .filter_map(|n| Some((f64::from(*n), of(vm, &format!("locks_{n}"), key)?)))
            .collect(),
    };
    let level = |name: &str, from: &Value, path: &str| Series {
        name: name.into(),
        origin: Origin::Alternative,
        points: of(from, path, "p50").map(|y| vec![(0.0, y), (8.0, y)]).unwrap_or_default(),
    };
    report.plots.push(Plot {
        name: "switch_paths".into(),
        title: "A switch, by the number of locks acquired".into(),
        x: Axis { label: "lockable segments in the VAS".into(), is_log: false },
        y: Axis::log("time-stamp cycles"),
        series: vec![
            curve(QUANTILES[0], Origin::Ours),
            curve(QUANTILES[1], Origin::Ours),
            curve(QUANTILES[2], Origin::Ours),
            level("null call of the guest kernel, median", vm, "null"),
            level("VM exit, median", vm, "exit"),
            level("native system call, median", native, "call"),
            level("native process switch, median", native, "process"),
        ],
        note: "Half of going in and coming home. Where ring 0 is native a switch lies between a \
               native system call and a VM exit; where it is interpreted the null call itself is \
               expensive and everything else is counted from there."
            .into(),
    });
    let ordered = IN_VM.iter().all(|(path, _)| {
        let [p50, p99, p999] = QUANTILES.map(|(_, key)| of(vm, path, key));
        p50.is_some() && p50 <= p99 && p99 <= p999
    });
    let exit_over_null = ratio(of(vm, "exit", "p50"), of(vm, "null", "p50")).unwrap_or_default();
    report.checks.push(Check {
        name: "switch_paths".into(),
        rule: "a call of the VMM takes longer than one of the guest kernel, and no \
               quantile is below a smaller one"
            .into(),
        found: format!("{exit_over_null:.2} times as long, quantiles in order: {ordered}"),
        is_kept: ordered && exit_over_null > 1.0,
        needs_quiet: true,
    });
}

/// A load of CR3 by itself, in a VM that does nothing else; and a check that it takes time
/// at all.
fn cr3_loads(report: &mut Report, goes: u32) {
    let mut over_empty = None;
    for (name, tagged, what) in [
        ("cr3_load_cycles", false, "a load of CR3 alone, which flushes"),
        ("cr3_load_tagged_cycles", true, "the same with a TLB tag, nothing flushed"),
    ] {
        let middle = |samples: &[u64]| median_of(samples, |&cycles| Some(cycles as f64));
        let (value, note) = match Cr3Loads::measure(tagged, goes) {
            Ok(Some(cr3)) => {
                let (loaded, empty) = (middle(&cr3.loaded), middle(&cr3.empty));
                if !tagged {
                    over_empty = ratio(loaded, empty);
                }
                let each = loaded.zip(empty).map(|(a, b)| (a - b) / f64::from(cr3_timing::LOADS));
                let note = format!(
                    "{what}, by our own code in ring 0 of a separate VM; two roots alternately, \
                     median of {} times {} loads, two readings of the counter subtracted",
                    cr3.loaded.len(),
                    cr3_timing::LOADS,
                );
                (each, note)
            }
            Ok(None) => (None, format!("{what}: this host offers its guests no PCID")),
            Err(error) => (None, format!("{what}: not available: {error}")),
        };
        report.push(name, value, "cycles", note);
    }
    let found = over_empty.map_or("nothing".to_owned(), |ratio| format!("{ratio:.1} times"));
    report.checks.push(Check {
        name: "cr3_loads".into(),
        rule: format!("{} loads of CR3 take longer than none", cr3_timing::LOADS),
        found,
        is_kept: over_empty.is_some_and(|ratio| ratio > 1.0),
        needs_quiet: false,
    });
}

/// The counts on record.
fn instructions(report: &mut Report) {
    for (name, section, key) in [
        ("null_instructions", "syscall", "null call"),
        ("switch_instructions", "syscall", "switch, no locks"),
        ("switch_tagged_instructions", "syscall", "tagged switch, no locks"),
        ("switch_lock_1_instructions", "syscall", "switch, 1 exclusive, taken"),
        ("switch_lock_2_instructions", "syscall", "switch, 2 exclusive, taken"),
        ("switch_lock_4_instructions", "syscall", "switch, 4 exclusive, taken"),
        ("null_trap_instructions", "trap", "null call"),
        ("switch_trap_instructions", "trap", "switch, no locks"),
        ("switch_lock_1_trap_instructions", "trap", "switch, 1 exclusive, taken"),
    ] {
        let way = match section {
            "trap" => "where ring 0 is interpreted",
            _ => "where SYSCALL enters ring 0",
        };
        let note = format!(
            "instructions of the guest kernel: {key}, {way}; not counted in this run: on record \
             from single steps, which are the same on every machine"
        );
        report.push(name, recorded(section, key), "instructions", note);
    }
}

/// A count of `[instructions.SECTION]`; the file is part of the source and has one count
/// per line.
pub(super) fn recorded(section: &str, key: &str) -> Option<f64> {
    let head = format!("[instructions.{section}]");
    let lines = COUNTS.lines().skip_while(|line| **line != head).skip(1);
    let mut lines = lines.take_while(|line| !line.starts_with('['));
    lines.find_map(|line| line.strip_prefix(&format!("\"{key}\" = "))?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_on_record() {
        assert!(recorded("syscall", "null call").is_some_and(|count| count > 1.0));
        assert_ne!(recorded("syscall", "switch, no locks"), None);
        assert_eq!(recorded("syscall", "no such path"), None);
        assert_eq!(recorded("no such section", "null call"), None);
        let mut report = Report::default();
        instructions(&mut report);
        assert!(report.figures.iter().all(|figure| figure.value.is_some()), "{report:?}");
    }

    #[test]
    fn a_tail_shorter_than_the_middle_breaks_the_check() {
        let mut vm = serde_json::Map::new();
        for (path, _) in IN_VM {
            for (cycles, (_, key)) in QUANTILES.iter().enumerate() {
                vm.insert(format!("{path}_{key}"), (100 + cycles).into());
            }
        }
        vm.insert("exit_p50".into(), 101.into());
        let kept = |vm: &serde_json::Map<String, Value>| {
            let mut report = Report::default();
            add(&mut report, &vm.clone().into(), &Value::Null, "1", Some(false));
            assert_eq!(report.value("switch_tagged_cycles"), None);
            assert_eq!(report.value("path_null_p99"), Some(101.0));
            report.checks[0].is_kept
        };
        assert!(kept(&vm));
        vm.insert("locks_4_p999".into(), 1.into());
        assert!(!kept(&vm));
    }
}
