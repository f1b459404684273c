//! What an experiment returns: figures, curves, and the checks that could have proved it
//! wrong.
//!
//! This file has the data and their JSON and terminal forms. Submodules:
//!
//! - [`document`]: what is stored in files; [`output`], [`markdown`], [`plot`]: the files
//! - [`compare`]: two runs side by side, each perhaps of several ([`aggregate`])
//! - [`paper`]: the paper's numbers

pub mod aggregate;
pub mod compare;
pub mod document;
pub mod markdown;
pub mod output;
pub mod paper;
pub mod plot;
pub mod results;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::document::Outcome;
use self::results::Results;
use super::stats::median;

/// Whose numbers a curve shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Measured in this run, ours.
    Ours,
    /// Measured in this run: the alternative.
    Alternative,
    /// The paper's, on its machines; from `resources/paper`.
    Paper,
}

/// One axis of a plot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// What is on it, with its unit.
    pub label: String,
    /// Whether the axis is logarithmic.
    pub is_log: bool,
}

impl Axis {
    /// A logarithmic axis.
    #[must_use]
    pub fn log(label: &str) -> Axis {
        Axis { label: label.into(), is_log: true }
    }
}

/// One curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// Whose numbers these are.
    pub origin: Origin,
    /// `(x, y)`, by ascending x.
    pub points: Vec<(f64, f64)>,
}

/// One plot: what a figure of the paper shows, measured on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plot {
    /// File name without extension; unique across all experiments.
    pub name: Cow<'static, str>,
    /// Its title, one line.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
    /// What the reader should notice, and what is not available here and why.
    pub note: String,
}

impl Plot {
    /// Whether there is anything to draw.
    #[must_use]
    pub fn has_points(&self) -> bool {
        self.series.iter().any(|series| !series.points.is_empty())
    }
}

/// A rule by which the result would have been wrong, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Short name.
    pub name: Cow<'static, str>,
    /// The rule.
    pub rule: String,
    /// What was found.
    pub found: String,
    /// Whether the rule was kept; a report with a broken rule is not to be used.
    pub is_kept: bool,
    /// Whether small sizes or a busy machine may break it; otherwise only a wrong result can.
    #[serde(default)]
    pub needs_quiet: bool,
}

/// One figure of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Name in `--json`, under `results`.
    pub name: Cow<'static, str>,
    /// The value; `None` when it is not available here.
    pub value: Option<f64>,
    /// Its unit; empty for a ratio.
    pub unit: &'static str,
    /// What was done, or why there is no value.
    pub note: String,
    /// The spread of the samples around it, in percent: by how much another run may differ.
    /// `None` when it is not the median of several samples.
    pub spread_percent: Option<f64>,
}

/// The outcome of one experiment.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The figures, in the order of the report.
    pub figures: Vec<Figure>,
    /// The plots.
    pub plots: Vec<Plot>,
    /// What was checked.
    pub checks: Vec<Check>,
}

impl Report {
    /// Adds a figure.
    pub fn push(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Option<f64>>,
        unit: &'static str,
        note: impl Into<String>,
    ) {
        let (name, value, note) = (name.into(), value.into(), note.into());
        self.figures.push(Figure { name, value, unit, note, spread_percent: None });
    }

    /// Adds the median of samples as a figure, with their spread.
    pub fn push_median(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        samples: &[f64],
        unit: &'static str,
        note: impl Into<String>,
    ) {
        let (name, value, note) = (name.into(), median(samples), note.into());
        let spread_percent = value.and_then(|value| spread_percent(samples, value));
        self.figures.push(Figure { name, value, unit, note, spread_percent });
    }

    /// The value of a figure.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|f| f.name == name)?.value
    }

    /// The stored and printed form: the figures under `results`, their meaning under
    /// `notes`.
    #[must_use]
    pub fn outcome(&self, bench: &str, quick: bool, host: Value) -> Outcome {
        let mut results = Results::default();
        let (mut notes, mut spread_percent) = (BTreeMap::new(), BTreeMap::new());
        for figure in &self.figures {
            results.push(figure.name.to_string(), figure.value.map(rounded));
            let unit = if figure.unit.is_empty() { "ratio" } else { figure.unit };
            notes.insert(figure.name.to_string(), format!("{unit}: {}", figure.note));
            if let Some(percent) = figure.spread_percent {
                spread_percent.insert(figure.name.to_string(), (percent * 100.0).round() / 100.0);
            }
        }
        let (plots, checks) = (self.plots.clone(), self.checks.clone());
        Outcome {
            bench: bench.to_owned(),
            quick,
            host,
            results,
            notes,
            spread_percent,
            plots,
            checks,
        }
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for figure in &self.figures {
            let value = match figure.value {
                Some(v) if v >= 100.0 => format!("{v:.0}"),
                Some(v) => format!("{v:.3}"),
                None => "not available".into(),
            };
            text.push_str(&format!(
                "{:<30} {value:>13} {:<5} {}\n",
                figure.name, figure.unit, figure.note
            ));
        }
        text
    }
}

/// Without insignificant digits: four decimal places, or five digits for a number below 1.
fn rounded(value: f64) -> f64 {
    let places = match value.abs() {
        small if small > 0.0 && small < 1.0 => (4.0 - small.log10().floor()).min(15.0),
        _ => 4.0,
    };
    let by = 10_f64.powf(places);
    (value * by).round() / by
}

/// Half the interquartile range of the samples, in percent of `median`: a single outlier says
/// nothing about the next run.
fn spread_percent(samples: &[f64], median: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quarter = sorted.len() / 4;
    let (low, high) = (sorted.get(quarter)?, sorted.get(sorted.len() - 1 - quarter)?);
    (samples.len() > 1 && median != 0.0).then(|| (high - low) / 2.0 / median.abs() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::ratio;

    #[test]
    fn small_numbers_keep_five_digits_and_large_ones_four_places() {
        assert_eq!(rounded(0.001_367_894), 0.001_367_9);
        assert_eq!(rounded(-0.25), -0.25);
        assert_eq!(rounded(1_234.567_891), 1_234.567_9);
        assert_eq!(rounded(0.0), 0.0);
    }

    #[test]
    fn the_spread_leaves_out_the_odd_sample() {
        assert_eq!(spread_percent(&[100.0], 100.0), None);
        assert_eq!(spread_percent(&[90.0, 110.0], 100.0), Some(10.0));
        let four = spread_percent(&[100.0, 95.0, 105.0, 9000.0, 98.0], 100.0);
        assert!(four.is_some_and(|percent| percent < 6.0), "{four:?}");
    }

    #[test]
    fn a_missing_figure_is_null_and_says_why() {
        let mut report = Report::default();
        report.push("x", None, "ms", "no such thing here");
        report.push("y", ratio(Some(1.0), Some(0.0)), "", "");
        let json = serde_json::to_value(report.outcome("run", true, Value::Null)).expect("data");
        assert!(json["results"]["x"].is_null() && json["results"]["y"].is_null());
        assert!(report.table().contains("not available"));
    }
}
