//! `bench start`: from `fork` to the end of an empty program: in its own VM, with the parts of
//! that time, natively, and isolated by other installed tools; and the effect of a store with many
//! objects.
//!
//! Installed tools are found in `PATH` and never required. A tool that returns another exit
//! status than the program's has not run it, and gets no figure.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{Bench, Progress};
use crate::BenchError;
use crate::report::{Axis, Check, Origin, Plot, Report, Series};
use crate::sample::{Environment, Sample};
use crate::stats::{median, median_of, ratio};

/// A tool whose first program has not ended after this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The payload's exit status when it is given nothing to do: proof that it really ran.
const MISUSE: i32 = 2;

/// Another way to isolate a program.
struct Isolation {
    name: &'static str,
    /// What comes before the program.
    arguments: &'static [&'static str],
    what: &'static str,
}

const ISOLATIONS: [Isolation; 3] = [
    Isolation {
        name: "unshare",
        arguments: &["--user", "--map-root-user", "--mount", "--net", "--pid", "--fork"],
        what: "new user, mount, network and process namespaces",
    },
    Isolation {
        name: "bwrap",
        arguments: &["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"],
        what: "all namespaces anew, the host's files read-only",
    },
    Isolation {
        name: "runsc",
        arguments: &["--rootless", "--network=none", "do"],
        what: "gVisor: a kernel in a process",
    },
];

/// Runs the experiment.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let rounds = bench.sized(5, 40);
    let hello = bench.programs.hello();
    progress("looking for other ways to isolate a program");
    let payload = bench.programs.payload();
    let mut ways: Vec<Found> =
        ISOLATIONS.iter().map(|way| Found::new(way, &hello, &payload)).collect();
    progress("starting an empty program");
    let mut starts = Starts::default();
    for _ in 0..rounds {
        // Alternately: a machine that gets slower gets slower for all.
        starts.native.push(bench.runner.run(Environment::Native, &hello, &[], false)?);
        starts.plain.push(bench.runner.run(Environment::Vm, &hello, &[], false)?);
        starts.counted.push(bench.runner.run(Environment::Vm, &hello, &[], true)?);
        ways.iter_mut().for_each(|way| way.sample(&hello));
    }
    starts.ways = ways;
    let mut report = Report::default();
    starts.report(&mut report);
    by_store(bench, progress)?.report(&mut report);
    Ok(report)
}

/// One of [`ISOLATIONS`] on this host.
struct Found {
    way: &'static Isolation,
    /// Where it is, or why it has no figure.
    program: Result<PathBuf, String>,
    ms: Vec<f64>,
}

impl Found {
    fn new(way: &'static Isolation, hello: &Path, payload: &Path) -> Found {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = in_path(way.name, &path)
            .ok_or_else(|| format!("{} is not installed", way.name))
            .and_then(|program| {
                for (started, expected) in [(hello, 0), (payload, MISUSE)] {
                    tried(command(way, &program, started), expected)
                        .map_err(|why| format!("{} did not work here: {why}", way.name))?;
                }
                Ok(program)
            });
        Found { way, program, ms: Vec::new() }
    }

    /// One more sample; after the first failure there is no figure.
    fn sample(&mut self, hello: &Path) {
        let Ok(program) = &self.program else { return };
        let mut command = command(self.way, program, hello);
        let began = Instant::now();
        let status = command.status();
        let spent = began.elapsed();
        match status {
            Ok(status) if status.success() => self.ms.push(spent.as_secs_f64() * 1e3),
            other => self.program = Err(format!("{} failed: {other:?}", self.way.name)),
        }
    }
}

/// Where a program is, in the folders of a `PATH`.
pub(super) fn in_path(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

fn command(way: &Isolation, program: &Path, started: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(way.arguments).arg(started);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs it once and says why its status is not the `expected` one.
fn tried(mut command: Command, expected: i32) -> Result<(), String> {
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let began = Instant::now();
    let ended: Option<ExitStatus> = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            None if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            ended => break ended,
        }
    };
    let Some(status) = ended else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("it had not ended after {} s", PATIENCE.as_secs()));
    };
    match status.code() {
        Some(code) if code == expected => Ok(()),
        _ => Err(format!("{status} instead of the program's status {expected}")),
    }
}

#[derive(Default)]
struct Starts {
    native: Vec<Sample>,
    plain: Vec<Sample>,
    counted: Vec<Sample>,
    ways: Vec<Found>,
}

/// The parts of a start, in their order: statistics of the VM.
const PARTS: [(&str, &str, &str); 5] = [
    ("start_machine_ms", "phases.machine_ns", "opening KVM, making VM, memory and guest kernel"),
    ("start_vcpu_ms", "phases.vcpu_ns", "making the vCPU, finding out the kind of host"),
    ("start_load_ms", "phases.load_ns", "mapping the program, its stack and arguments"),
    ("start_run_ms", "phases.run_ns", "the guest, from its first instruction to its exit call"),
    ("start_end_ms", "phases.end_ns", "until the last thread has left"),
];

impl Starts {
    fn report(&self, report: &mut Report) {
        let wall = |samples: &[Sample]| samples.iter().map(Sample::wall_ms).collect::<Vec<_>>();
        let (ours, native) = (wall(&self.plain), wall(&self.native));
        let whole = median(&ours);
        let note = format!("`spacejmp run` of an empty static program, {} times", ours.len());
        report.push_median("start_ms", &ours, "ms", note);
        report.push_median("start_native_ms", &native, "ms", "the same by fork and exec, natively");
        let note = "`spacejmp run` / fork and exec, of an empty program";
        report.push("start_over_native", ratio(whole, median(&native)), "", note);
        let of = |part: &dyn Fn(&Sample) -> Option<f64>| -> Vec<f64> {
            self.counted.iter().filter_map(part).map(|ns| ns / 1e6).collect()
        };
        let began = |s: &Sample| Some(s.stat("ended_at_ns")? - s.stat("wall_ns")?);
        let exec = of(&|s| Some(began(s)? - s.span_ns.0 as f64));
        let note = "fork and exec, until the VMM begins to set up";
        report.push_median("start_exec_ms", &exec, "ms", note);
        for (name, path, what) in PARTS {
            report.push_median(name, &of(&|s| s.stat(path)), "ms", what);
        }
        let exit = of(&|s| Some(s.span_ns.1 as f64 - s.stat("ended_at_ns")?));
        report.push_median("start_exit_ms", &exit, "ms", "the host frees process and VM");
        let kvm = of(&|s| s.stat("kvm_setup_ns"));
        let note = "the share of KVM's own calls in the parts above";
        report.push_median("start_kvm_ms", &kvm, "ms", note);
        for found in &self.ways {
            let name = found.way.name;
            let (note, samples) = match &found.program {
                Ok(_) => (found.way.what.to_owned(), &found.ms[..]),
                Err(why) => (why.clone(), &[][..]),
            };
            report.push_median(format!("start_{name}_ms"), samples, "ms", note.clone());
            let note = format!("`spacejmp run` / {name}: {note}");
            report.push(format!("start_over_{name}"), ratio(whole, median(samples)), "", note);
        }
        report.checks.push(self.parts_add_up());
    }

    fn parts_add_up(&self) -> Check {
        let share = |s: &Sample| {
            let parts: Option<f64> = PARTS.iter().map(|(_, path, _)| s.stat(path)).sum();
            ratio(parts, s.stat("wall_ns"))
        };
        let found = median_of(&self.counted, share);
        Check {
            name: "start_parts".into(),
            rule: "machine, vcpu, load, run and end are nine tenths or more of the time from the \
                   beginning of the set-up to the end, and no more than all of it: none is missing"
                .into(),
            found: found.map_or("not measured".into(), |share| format!("{:.1} %", 100.0 * share)),
            is_kept: found.is_some_and(|share| (0.9..=1.001).contains(&share)),
            needs_quiet: false,
        }
    }
}

/// Milliseconds of a start by the number of objects in the store.
#[derive(Default)]
struct ByStore {
    empty: Vec<(f64, f64)>,
    find: Vec<(f64, f64)>,
}

fn by_store(bench: &Bench<'_>, progress: Progress<'_>) -> Result<ByStore, BenchError> {
    let (most, rounds) = bench.sized((100, 3), (10_000, 15));
    let hello = bench.programs.hello();
    let mut by_store = ByStore::default();
    for objects in [2_u64, 100, 1000, 10_000].into_iter().filter(|objects| *objects <= most) {
        progress(&format!("starting with a store of {objects} objects"));
        // One of them is the segment that all VASes share.
        let count = (objects - 1).to_string();
        bench.run_fresh(Environment::Vm, &["scale", "memory-vases", "--count", &count])?;
        let (mut empty, mut find) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            empty.push(bench.runner.run(Environment::Vm, &hello, &[], false)?.wall_ms());
            find.push(bench.run(Environment::Vm, &["scale", "find"])?.wall_ms());
        }
        by_store.empty.extend(median(&empty).map(|ms| (objects as f64, ms)));
        by_store.find.extend(median(&find).map(|ms| (objects as f64, ms)));
    }
    bench.remove_store();
    Ok(by_store)
}

impl ByStore {
    fn report(self, report: &mut Report) {
        let over =
            |points: &[(f64, f64)]| ratio(points.last().map(|p| p.1), points.first().map(|p| p.1));
        let most = self.find.last().map_or(0.0, |point| point.0);
        let empty = over(&self.empty);
        let note =
            format!("a start with a store of {most} objects / of 2: a program without VASes");
        report.push("start_store_empty_over_2", empty, "", note);
        let note = "the same for a program that finds one VAS by name, so the store is opened";
        report.push("start_store_find_over_2", over(&self.find), "", note);
        let last = self.find.last().map(|point| point.1);
        report.push("start_store_find_ms", last, "ms", format!("with {most} objects"));
        report.checks.push(Check {
            name: "start_store_unopened".into(),
            rule: "a program that uses no VAS takes at most 1.5 times as long to start with the \
                   largest store as with the smallest: it is not opened"
                .into(),
            found: empty.map_or("not measured".into(), |ratio| format!("{ratio:.2} times")),
            is_kept: empty.is_some_and(|ratio| ratio <= 1.5),
            needs_quiet: true,
        });
        let curve = |name: &str, points| Series { name: name.into(), origin: Origin::Ours, points };
        report.plots.push(Plot {
            name: "start_store".into(),
            title: "Starting and ending a program with a store".into(),
            x: Axis::log("objects in the store"),
            y: Axis::log("milliseconds"),
            series: vec![
                curve("an empty program", self.empty),
                curve("a program that finds one VAS", self.find),
            ],
            note: "The store is opened by the first call that needs it, so an empty program does \
                   not pay for it."
                .into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample(ms: u64, run_ns: u64) -> Sample {
        let stats = json!({
            "ended_at_ns": 9_000_000, "wall_ns": 7_000_000, "kvm_setup_ns": 1_000_000,
            "phases": { "machine_ns": 1_000_000, "vcpu_ns": 1_000_000, "load_ns": 1_000_000,
                        "run_ns": run_ns, "end_ns": 1_000_000 },
        });
        let wall = Duration::from_millis(ms);
        Sample { wall, span_ns: (1_000_000, 10_000_000), answer: json!(null), stats }
    }

    fn found(index: usize, program: Result<PathBuf, String>, ms: Vec<f64>) -> Found {
        Found { way: &ISOLATIONS[index], program, ms }
    }

    #[test]
    fn parts_and_ratios_are_of_the_right_samples() {
        let starts = Starts {
            native: vec![sample(2, 0)],
            plain: vec![sample(8, 0)],
            counted: vec![sample(9, 3_000_000)],
            ways: vec![
                found(0, Ok("/x".into()), vec![4.0]),
                found(1, Err("bwrap is not installed".into()), vec![4.0]),
            ],
        };
        let mut report = Report::default();
        starts.report(&mut report);
        for (name, value) in [
            ("start_ms", Some(8.0)),
            ("start_over_native", Some(4.0)),
            ("start_exec_ms", Some(1.0)),
            ("start_run_ms", Some(3.0)),
            ("start_exit_ms", Some(1.0)),
            ("start_over_unshare", Some(2.0)),
            ("start_bwrap_ms", None),
            ("start_over_bwrap", None),
        ] {
            assert_eq!(report.value(name), value, "{name}");
        }
        let bwrap = report.figures.iter().find(|f| f.name == "start_bwrap_ms").expect("pushed");
        assert_eq!(bwrap.note, "bwrap is not installed");
        assert!(report.checks[0].is_kept, "{:?}", report.checks);
    }

    #[test]
    fn a_part_that_is_missing_breaks_the_check() {
        for run_ns in [0, 30_000_000] {
            let starts = Starts { counted: vec![sample(9, run_ns)], ..Starts::default() };
            assert!(!starts.parts_add_up().is_kept, "{run_ns}");
        }
        assert!(!Starts::default().parts_add_up().is_kept);
    }

    #[test]
    fn a_start_that_grows_with_an_unused_store_breaks_the_check() {
        let by_store = |last| ByStore {
            empty: vec![(2.0, 10.0), (100.0, last)],
            find: vec![(2.0, 10.0), (100.0, 20.0)],
        };
        for (last, is_kept) in [(11.0, true), (16.0, false)] {
            let mut report = Report::default();
            by_store(last).report(&mut report);
            assert_eq!(report.value("start_store_find_over_2"), Some(2.0));
            assert_eq!(report.checks[0].is_kept, is_kept);
        }
    }

    #[test]
    fn who_gives_another_status_or_cannot_be_started_has_no_figure() {
        assert_eq!(tried(Command::new("/bin/true"), 0), Ok(()));
        assert!(tried(Command::new("/bin/true"), 2).expect_err("it gives 0").contains("status 2"));
        assert!(tried(Command::new("/no/such/program"), 0).is_err());
        assert_eq!(in_path("no-such-program", OsStr::new("/bin:/usr/bin")), None);
    }
}
