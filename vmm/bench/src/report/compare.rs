//! Two runs side by side: what changed, and whether that is more than noise.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::aggregate::aggregate;
use super::document::{Document, Outcome, Row};
use super::markdown::number;

/// Units of what is counted, not timed: counts have no noise, so every increase is real.
const COUNTED: [&str; 2] = ["instructions", "exits"];

/// One figure in two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The experiment.
    pub bench: String,
    /// The figure.
    pub figure: String,
    /// Its unit.
    pub unit: String,
    /// In the first run.
    pub a: Option<f64>,
    /// In the second.
    pub b: Option<f64>,
    /// The change from the first to the second; `None` where one is missing or the first
    /// is 0.
    pub change_percent: Option<f64>,
    /// The larger of the two spreads, twice: a change below it may be chance. `None` where
    /// nothing is known about it.
    pub noise_percent: Option<f64>,
    /// The assessment.
    pub verdict: Verdict,
}

/// The assessment of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same, or within the noise.
    Same,
    /// More than the noise.
    Changed,
    /// Another value, and the noise is unknown.
    Unsure,
    /// A count of instructions or exits has grown.
    Grown,
    /// Present in only one of the runs.
    OnlyOne,
}

/// All figures of both runs, in the order of the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The figures.
    pub lines: Vec<Difference>,
    /// Why the comparison may not be meaningful: other hosts, small sizes, broken checks.
    pub warnings: Vec<String>,
}

/// Compares the later runs `b` with `a`, one or several each; `None` if either is empty.
#[must_use]
pub fn compare(a: &[Document], b: &[Document]) -> Comparison {
    let (Some(first), Some(second)) = (aggregate(a), aggregate(b)) else {
        return Comparison { lines: Vec::new(), warnings: Vec::new() };
    };
    let mut warnings: Vec<String> = machines(&first, a.iter().chain(b)).into_iter().collect();
    warnings.extend(faults("first", &first).chain(faults("second", &second)));
    Comparison { lines: lines(&first, &second), warnings }
}

fn lines(a: &Document, b: &Document) -> Vec<Difference> {
    let mut lines = Vec::new();
    let find = |document: &'_ Document, bench: &str| -> Option<Outcome> {
        document.experiments.iter().find(|outcome| outcome.bench == bench).cloned()
    };
    for first in &a.experiments {
        let second = find(b, &first.bench);
        let rows: Vec<Row<'_>> = second.iter().flat_map(Outcome::rows).collect();
        for row in first.rows() {
            let other = rows.iter().find(|other| other.name == row.name);
            lines.push(line(&first.bench, Some(&row), other));
        }
        let new = rows.iter().filter(|row| !first.results.contains(row.name));
        lines.extend(new.map(|row| line(&first.bench, None, Some(row))));
    }
    for second in &b.experiments {
        if find(a, &second.bench).is_none() {
            lines.extend(second.rows().map(|row| line(&second.bench, None, Some(&row))));
        }
    }
    lines
}

/// What distinguishes machines and, unlike free memory, does not change from run to run.
fn machine(run: &Document) -> Vec<Option<&Value>> {
    let paths = [
        "/system/kernel",
        "/system/processor",
        "/system/cpus",
        "/system/memory/total_bytes",
        "/guest_cpu",
    ];
    paths.iter().map(|path| run.host.pointer(path)).collect()
}

/// Whether two runs are from different machines. A fact missing from one of them is ignored:
/// files of an earlier spacejmp do not name the processor.
fn differ(a: &Document, b: &Document) -> bool {
    machine(a).iter().zip(machine(b)).any(|(a, b)| a.is_some() && b.is_some() && *a != b)
}

/// Whether any of `runs` is from another machine than `one`.
fn machines<'a>(one: &Document, mut runs: impl Iterator<Item = &'a Document>) -> Option<String> {
    let other = runs.find(|run| run.kind() != one.kind() || differ(run, one))?;
    Some(match (one.kind(), other.kind()) {
        (a, b) if a != b => {
            format!("the kinds of host differ, {a} and {b}: nothing can be compared")
        }
        _ => "the machines differ: only counts and ratios can be compared".to_owned(),
    })
}

/// Why one of the two may not be meaningful, by the name of its column.
fn faults(column: &str, document: &Document) -> impl Iterator<Item = String> {
    let quick = document.is_quick().then(|| format!("{column}: small sizes (--quick)"));
    let failed = document.failed.iter();
    let failed = failed.map(move |(bench, why)| format!("{column}: no figures of {bench}: {why}"));
    let broken = document.broken();
    let broken = broken.map(move |(bench, check)| {
        format!("{column}: a check of {bench} was broken: {}", check.name)
    });
    quick.into_iter().chain(failed).chain(broken)
}

fn line(bench: &str, a: Option<&Row<'_>>, b: Option<&Row<'_>>) -> Difference {
    let row = b.or(a);
    let text = |of: fn(&Row<'_>) -> String| row.map(of).unwrap_or_default();
    let unit = text(|row| row.unit.to_owned());
    let (first, second) = (a.and_then(|row| row.value), b.and_then(|row| row.value));
    let both = first.zip(second);
    let change_percent = both.filter(|(a, _)| *a != 0.0).map(|(a, b)| (b - a) / a.abs() * 100.0);
    let spread = |row: Option<&Row<'_>>| row.and_then(|row| row.spread_percent);
    let noise_percent = spread(a).into_iter().chain(spread(b)).reduce(f64::max).map(|p| 2.0 * p);
    let verdict = match both {
        None if first.is_none() && second.is_none() => Verdict::Same,
        None => Verdict::OnlyOne,
        Some((a, b)) if COUNTED.contains(&unit.as_str()) && b > a => Verdict::Grown,
        Some((a, b)) if a == b => Verdict::Same,
        // A count has no noise.
        Some(_) if COUNTED.contains(&unit.as_str()) => Verdict::Changed,
        Some(_) => match (change_percent, noise_percent) {
            (Some(change), Some(noise)) if change.abs() <= noise => Verdict::Same,
            (_, Some(_)) => Verdict::Changed,
            (_, None) => Verdict::Unsure,
        },
    };
    Difference {
        bench: bench.to_owned(),
        figure: text(|row| row.name.to_owned()),
        unit,
        a: first,
        b: second,
        change_percent,
        noise_percent,
        verdict,
    }
}

impl Comparison {
    /// Only what is counted: instructions and exits, which small sizes do not change.
    #[must_use]
    pub fn counts(mut self) -> Comparison {
        self.lines.retain(|line| COUNTED.contains(&line.unit.as_str()));
        self
    }

    /// Counts that have grown.
    pub fn grown(&self) -> impl Iterator<Item = &Difference> {
        self.lines.iter().filter(|line| line.verdict == Verdict::Grown)
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            let _ = writeln!(text, "note: {warning}");
        }
        let _ = writeln!(
            text,
            "{:<8} {:<34} {:>12} {:>12} {:>9} {:>8}",
            "", "figure", "first", "second", "change", "noise"
        );
        for line in &self.lines {
            let value = |value: Option<f64>| value.map_or("-".to_owned(), number);
            let change =
                line.change_percent.map_or("-".to_owned(), |percent| format!("{percent:+.1} %"));
            let noise = line.noise_percent.map_or("-".to_owned(), |p| format!("{p:.1} %"));
            let mark = match line.verdict {
                Verdict::Same => "",
                Verdict::Changed => "changed",
                Verdict::Unsure => "?",
                Verdict::Grown => "GROWN",
                Verdict::OnlyOne => "only one",
            };
            let _ = writeln!(
                text,
                "{:<8} {:<34} {:>12} {:>12} {change:>9} {noise:>8} {mark}",
                line.bench,
                line.figure,
                value(line.a),
                value(line.b)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::Report;
    use super::super::document::tests as document;
    use super::*;

    fn run(samples: &[f64], exits: f64) -> Document {
        let mut report = Report::default();
        report.push_median("t_us", samples, "us", "");
        report.push("start_exits", exits, "exits", "");
        report.push("never", None, "", "no PCID");
        document::run(&report)
    }

    fn verdicts(a: &Document, b: &Document) -> Vec<Verdict> {
        let (a, b) = (std::slice::from_ref(a), std::slice::from_ref(b));
        compare(a, b).lines.iter().map(|line| line.verdict).collect()
    }

    #[test]
    fn a_change_within_the_spread_is_none_and_one_more_exit_is_growth() {
        use Verdict::{Changed, Grown, Same};
        let a = run(&[95.0, 100.0, 105.0], 34.0);
        assert_eq!(verdicts(&a, &a), [Same, Same, Same]);
        assert_eq!(verdicts(&a, &run(&[104.0, 106.0, 107.0], 33.0)), [Same, Changed, Same]);
        let worse = run(&[195.0, 200.0, 205.0], 35.0);
        assert_eq!(verdicts(&a, &worse), [Changed, Grown, Same]);
        let compared = compare(&[a], &[worse]);
        assert_eq!(compared.grown().count(), 1);
        assert_eq!(compared.lines[0].change_percent, Some(100.0));
        assert!(compared.table().contains("GROWN"));
        let counts = compared.counts();
        assert_eq!((counts.lines.len(), counts.grown().count()), (1, 1));
    }

    #[test]
    fn of_a_ratio_only_several_runs_tell_a_change_from_noise() {
        let run = |value: f64| {
            let mut report = Report::default();
            report.push("x_over_y", value, "", "");
            document::run(&report)
        };
        let runs = |values: [f64; 3]| values.map(run);
        let verdict = |a: &[Document], b: &[Document]| compare(a, b).lines[0].verdict;
        assert_eq!(verdict(&[run(1.0)], &[run(1.1)]), Verdict::Unsure);
        let (old, new) = (runs([1.0, 1.1, 0.9]), runs([1.1, 1.0, 1.2]));
        assert_eq!(verdict(&old, &new), Verdict::Same);
        assert_eq!(verdict(&old, &runs([2.0, 2.1, 2.2])), Verdict::Changed);
        assert!(compare(&[], &old).lines.is_empty());
    }

    #[test]
    fn what_only_one_run_has_is_shown_and_other_hosts_are_warned_of() {
        let a = run(&[1.0], 1.0);
        let mut b = a.clone();
        b.experiments[0].results.remove("start_exits");
        let host = |kind: &str, kernel: &str, free: u64| {
            serde_json::json!({
                "translation": { "kind": kind },
                "system": { "kernel": kernel, "memory": { "available_bytes": free } },
            })
        };
        let warns = |a: &Document, b: &Document, what: &str| {
            let compared = compare(&[a.clone(), a.clone()], std::slice::from_ref(b));
            compared.warnings.iter().any(|warning| warning.contains(what))
        };
        let mut a = a;
        a.host = host("ept", "6.1", 1);
        b.host = host("ept", "6.1", 2);
        assert!(!warns(&a, &b, ""), "free memory is no property of a machine");
        b.host = host("ept", "6.2", 1);
        assert!(warns(&a, &b, "machines differ"));
        b.host = host("npt", "6.1", 1);
        assert!(warns(&a, &b, "ept and npt"));
        let compared = compare(std::slice::from_ref(&a), std::slice::from_ref(&b));
        assert_eq!(compared.lines[1].verdict, Verdict::OnlyOne);
        b.failed.insert("gups".into(), "no space".into());
        assert!(warns(&a, &b, "second: no figures of gups: no space"));
        b.experiments[0].bench = "other".into();
        assert_eq!(compare(&[a], &[b]).lines.len(), 5);
    }
}
