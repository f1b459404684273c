//! `bench scale`: what a switch costs as the number of something grows, and how much memory
//! each takes.
//!
//! The guest kernel's own work does not grow: tests count its instructions
//! (`vmm/tests/kernel_image`). What may grow is what the processor and the host do: caches,
//! and on hosts without two levels of translation KVM's shadow of each root table.

use serde_json::Value;

use super::{Bench, Progress};
use crate::BenchError;
use crate::report::{Axis, Check, Origin, Plot, Report, Series};
use crate::sample::Environment;
use crate::stats::ratio;

/// Runs the experiment.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let (vases, segments) = bench.sized((100, 10), (10_000, 100));
    let run = |kind: &str, count: u64| {
        bench.run_counted(Environment::Vm, &["scale", kind, "--count", &count.to_string()])
    };
    let mut measured = Measured { vases, segments, ..Measured::default() };
    progress(&format!("attaching up to {vases} address spaces"));
    measured.by_vases = run("vases", vases)?.answer;
    progress(&format!("attaching up to {segments} segments"));
    measured.by_segments = run("segments", segments)?.answer;
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    for threads in std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n <= processors)
    {
        progress(&format!("switching on {threads} processors"));
        let cycles = run("threads", threads)?.number("switch");
        measured.by_threads.extend(cycles.map(|cycles| (threads as f64, cycles)));
    }
    for kind in ["memory-vases", "memory-segments"] {
        progress("looking at memory");
        let many = if kind == "memory-vases" { vases.min(1000) } else { segments };
        let (few, many_of) = (run(kind, 1)?, run(kind, many)?);
        let each = |path: &str| {
            let both = few.stat(path).zip(many_of.stat(path));
            both.map(|(few, many_of)| (many_of - few) / (many - 1) as f64)
        };
        measured.memory.push((kind, many, each("rss_peak_bytes"), each("memory_touched_bytes")));
    }
    Ok(measured.report())
}

#[derive(Default)]
struct Measured {
    vases: u64,
    segments: u64,
    by_vases: Value,
    by_segments: Value,
    by_threads: Vec<(f64, f64)>,
    /// Which, how many, all memory of the VMM, memory of the guest.
    memory: Vec<(&'static str, u64, Option<f64>, Option<f64>)>,
}

fn steps(most: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(1), |n| Some(n * 10)).take_while(move |n| *n <= most)
}

impl Measured {
    fn points(from: &Value, prefix: &str, most: u64) -> Vec<(f64, f64)> {
        let point = |n: u64| Some((n as f64, from.get(format!("{prefix}{n}"))?.as_f64()?));
        steps(most).filter_map(point).collect()
    }

    fn report(&self) -> Report {
        let mut report = Report::default();
        let same = Self::points(&self.by_vases, "same_", self.vases);
        let any = Self::points(&self.by_vases, "any_", self.vases);
        let segments = Self::points(&self.by_segments, "s", self.segments);
        let over =
            |points: &[(f64, f64)]| ratio(points.last().map(|p| p.1), points.first().map(|p| p.1));
        let (vases, count) = (self.vases, self.segments);
        for (name, points, note) in [
            (
                "scale_vases_same_over_1",
                &same,
                format!("a switch always to the same VAS, {vases} attached / 1 attached"),
            ),
            (
                "scale_vases_any_over_1",
                &any,
                format!(
                    "a switch to any of {vases} VASes at random / with 1 attached: where the host \
                     shadows page tables, it keeps those of few root tables at hand"
                ),
            ),
            (
                "scale_segments_over_1",
                &segments,
                format!("a switch to a VAS with {count} segments without locks / with 1"),
            ),
            (
                "scale_processors_over_1",
                &self.by_threads,
                "a switch while every processor switches / one alone: the slowest one".into(),
            ),
        ] {
            report.push(name, over(points), "", note);
        }
        for &(kind, many, all, guest) in &self.memory {
            let [name, tables, what] = match kind {
                "memory-vases" => ["vas_bytes", "vas_guest_bytes", "VAS, attached, its instance"],
                _ => ["segment_bytes", "segment_guest_bytes", "segment in an attached VAS"],
            };
            let note = format!("one more {what}, of {many}");
            report.push(name, all, "B", format!("{note}: all resident memory of the VMM"));
            report.push(tables, guest, "B", format!("{note}: guest memory in that"));
        }
        self.plot(&mut report, [same.clone(), any, segments]);
        let flat = over(&same);
        report.checks.push(Check {
            name: "scale_same".into(),
            rule: "a switch to the same VAS takes no more than twice as long with all attached as \
                   with one: nothing on the path looks through instances"
                .into(),
            found: flat.map_or("not measured".into(), |ratio| format!("{ratio:.2} times")),
            is_kept: flat.is_some_and(|ratio| ratio < 2.0),
            needs_quiet: true,
        });
        report
    }

    fn plot(&self, report: &mut Report, [same, any, segments]: [Vec<(f64, f64)>; 3]) {
        let curve = |name: &str, points| Series { name: name.into(), origin: Origin::Ours, points };
        report.plots.push(Plot {
            name: "scale_switch".into(),
            title: "A switch as the number of something grows".into(),
            x: Axis::log("how many"),
            y: Axis::log("time-stamp cycles"),
            series: vec![
                curve("attached VASes, always the same one", same),
                curve("attached VASes, any of them", any),
                curve("segments without locks in the VAS", segments),
                curve("processors that switch at the same time", self.by_threads.clone()),
            ],
            note: "The guest kernel runs the same instructions at every point. What grows is what \
                   the processor's caches and, without EPT or NPT, KVM's shadow tables do not \
                   hold any more."
                .into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_compare_the_most_with_one() {
        let measured = Measured {
            vases: 100,
            segments: 10,
            by_vases: serde_json::json!({"same_1": 10, "same_10": 10, "same_100": 11, "any_1": 10,
                                         "any_10": 12, "any_100": 40}),
            by_segments: serde_json::json!({"s1": 10, "s10": 10}),
            by_threads: vec![(1.0, 10.0), (2.0, 15.0)],
            memory: vec![("memory-vases", 100, Some(5000.0), None)],
        };
        let report = measured.report();
        assert_eq!(report.value("scale_vases_same_over_1"), Some(1.1));
        assert_eq!(report.value("scale_vases_any_over_1"), Some(4.0));
        assert_eq!(report.value("scale_segments_over_1"), Some(1.0));
        assert_eq!(report.value("scale_processors_over_1"), Some(1.5));
        assert_eq!(report.value("vas_bytes"), Some(5000.0));
        assert!(report.checks[0].is_kept);
        assert_eq!(report.plots[0].series[1].points.len(), 3);
    }

    #[test]
    fn what_was_not_measured_is_not_kept() {
        assert!(!Measured::default().report().checks[0].is_kept);
    }
}
