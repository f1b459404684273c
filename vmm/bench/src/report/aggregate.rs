//! Combines several runs of the same revision into one, for comparisons: the median of each
//! figure, and its spread over the runs, which is the noise of a ratio that a single run cannot
//! show.
//!
//! The result is for comparing only: it has no curves, and the notes of the first run.

use super::document::{Document, Outcome};
use super::spread_percent;
use crate::stats::median;

/// The median of `runs`; `None` for no runs. A problem of one run is a problem of the
/// result.
#[must_use]
pub fn aggregate(runs: &[Document]) -> Option<Document> {
    let mut all = runs.first()?.clone();
    for run in &runs[1..] {
        for outcome in &run.experiments {
            match all.experiments.iter_mut().find(|known| known.bench == outcome.bench) {
                Some(known) => join(known, outcome),
                None => all.experiments.push(outcome.clone()),
            }
        }
        all.failed.extend(run.failed.clone());
    }
    for outcome in &mut all.experiments {
        outcome.plots.clear();
        let of_all: Vec<&Outcome> = runs
            .iter()
            .flat_map(|run| &run.experiments)
            .filter(|other| other.bench == outcome.bench)
            .collect();
        for (name, value) in outcome.results.iter_mut() {
            let values: Vec<f64> =
                of_all.iter().filter_map(|other| other.results.value(name)).collect();
            let middle = median(&values);
            *value = middle;
            // For a single value, only the spread within its run is known.
            if let Some(percent) = middle.and_then(|middle| spread_percent(&values, middle)) {
                outcome.spread_percent.insert(name.to_owned(), percent);
            }
        }
    }
    Some(all)
}

/// What `other` has and `known` does not; figures are counted later.
fn join(known: &mut Outcome, other: &Outcome) {
    known.quick |= other.quick;
    for (name, value) in other.results.iter() {
        if !known.results.contains(name) {
            known.results.push(name.to_owned(), value);
        }
    }
    for (name, note) in &other.notes {
        known.notes.entry(name.clone()).or_insert_with(|| note.clone());
    }
    for check in &other.checks {
        match known.checks.iter_mut().find(|of_known| of_known.name == check.name) {
            Some(of_known) if of_known.is_kept => *of_known = check.clone(),
            Some(_) => {}
            None => known.checks.push(check.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::tests as document;
    use super::super::{Check, Report};
    use super::*;

    fn run(ratio: impl Into<Option<f64>>, is_kept: bool) -> Document {
        let mut report = Report::default();
        report.push("ratio", ratio, "", "n");
        report.push("exits", 34.0, "exits", "n");
        report.push_median("ms", &[1.0, 3.0], "ms", "n");
        report.checks.push(Check {
            name: "sums".into(),
            rule: String::new(),
            found: String::new(),
            is_kept,
            needs_quiet: false,
        });
        document::run(&report)
    }

    fn rows(document: &Document) -> Vec<(Option<f64>, Option<f64>)> {
        document.experiments[0].rows().map(|row| (row.value, row.spread_percent)).collect()
    }

    #[test]
    fn figures_are_the_median_of_the_runs_and_noise_is_what_is_between_them() {
        let all = aggregate(&[run(1.0, true), run(1.2, true), run(0.8, true)]).expect("three runs");
        let [ratio, exits, ms] = rows(&all)[..] else { panic!("{all:?}") };
        assert_eq!(ratio.0, Some(1.0));
        assert!(ratio.1.is_some_and(|percent| (percent - 20.0).abs() < 1e-6), "{ratio:?}");
        assert_eq!(exits, (Some(34.0), Some(0.0)));
        assert_eq!(ms, (Some(2.0), Some(0.0)), "not that of the samples of one run");
    }

    #[test]
    fn one_run_stays_what_it_is_and_a_missing_value_is_not_counted() {
        let one = run(1.0, true);
        assert_eq!(aggregate(std::slice::from_ref(&one)), Some(one.clone()));
        assert_eq!(aggregate(&[]), None);
        let some = aggregate(&[run(None, true), run(3.0, true)]).expect("two runs");
        assert_eq!(rows(&some)[0], (Some(3.0), None));
    }

    #[test]
    fn a_check_that_one_run_broke_is_broken() {
        for runs in [[true, false, true], [false, true, true]] {
            let all = aggregate(&runs.map(|is_kept| run(1.0, is_kept))).expect("three runs");
            assert_eq!(all.broken().count(), 1);
        }
        let mut other = run(1.0, true);
        other.experiments[0].bench = "other".into();
        other.failed.insert("gups".into(), "no space".into());
        let all = aggregate(&[run(1.0, true), other]).expect("two runs");
        assert_eq!((all.experiments.len(), all.failed.len()), (2, 1));
    }
}
