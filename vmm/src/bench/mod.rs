//! Measurements a user can repeat: `spacejmp bench`.
//!
//! Each experiment runs ours and the alternative in one go, alternating, and reports ratios:
//! absolute times belong to a machine, ratios to us. A figure that cannot be had on this host
//! is `null` with the reason beside it, never a stand-in.
//!
//! - [`payload`]: the programs that are timed, carried inside this binary
//! - [`run`]: the foundation: computing, starting, memory, reading files
//! - [`switch`]: switching between address spaces, handing over a lock
//! - [`map`]: attaching and detaching, beside `mmap`

#![forbid(unsafe_code)]

pub mod map;
pub mod payload;
pub mod run;
pub mod sample;
pub mod switch;

use serde::Serialize;
use serde_json::{Map, Value};

/// An experiment could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The programs could not be put where they can be run.
    #[error("cannot unpack the programs to be timed into {dir}")]
    Unpack {
        /// The directory.
        dir: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {what}")]
    Start {
        /// The command.
        what: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{what} ended with {status}: {stderr}")]
    Failed {
        /// The command.
        what: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
    /// A program's answer makes no sense.
    #[error("{what} printed {text:?} where a JSON line was expected")]
    Answer {
        /// The command.
        what: String,
        /// What it printed.
        text: String,
    },
    /// Ours and the alternative did not compute the same thing.
    #[error("{what} differs: {ours} in the VM, {native} natively")]
    Differs {
        /// What was compared.
        what: &'static str,
        /// In the VM.
        ours: String,
        /// Outside.
        native: String,
    },
}

/// One figure of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Name in `--json`, under `results`.
    pub name: &'static str,
    /// The value; `None` when it cannot be had here.
    pub value: Option<f64>,
    /// What it is measured in; empty for a ratio.
    pub unit: &'static str,
    /// What was done, or why there is no value.
    pub note: String,
}

/// The outcome of one experiment.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The figures, in the order of the report.
    pub figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure.
    pub fn push(
        &mut self,
        name: &'static str,
        value: impl Into<Option<f64>>,
        unit: &'static str,
        note: impl Into<String>,
    ) {
        self.figures.push(Figure { name, value: value.into(), unit, note: note.into() });
    }

    /// The value of a figure.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|f| f.name == name)?.value
    }

    /// One object: the figures under `results`, what they mean under `notes`.
    #[must_use]
    pub fn json(&self, bench: &str, quick: bool, host: Value) -> Value {
        let mut results = Map::new();
        let mut notes = Map::new();
        for figure in &self.figures {
            let value = figure.value.map(|v| (v * 10_000.0).round() / 10_000.0);
            results.insert(figure.name.into(), value.into());
            let unit = if figure.unit.is_empty() { "ratio" } else { figure.unit };
            notes.insert(figure.name.into(), format!("{unit}: {}", figure.note).into());
        }
        let mut object = Map::new();
        object.insert("bench".into(), bench.into());
        object.insert("quick".into(), quick.into());
        object.insert("host".into(), host);
        object.insert("results".into(), results.into());
        object.insert("notes".into(), notes.into());
        object.into()
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

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Seconds: for a first look.
    Quick,
    /// Minutes: the sizes the figures are defined for.
    Full,
}

/// The middle of some samples.
#[must_use]
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0)
    } else {
        sorted.get(middle).copied()
    }
}

/// `a / b` where both are there and `b` is not zero.
#[must_use]
pub fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    let b = b.filter(|&b| b != 0.0)?;
    Some(a? / b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_missing_figure_is_null_and_says_why() {
        let mut report = Report::default();
        report.push("x", None, "ms", "no such thing here");
        report.push("y", ratio(Some(1.0), Some(0.0)), "", "");
        let json = report.json("run", true, Value::Null);
        assert!(json["results"]["x"].is_null() && json["results"]["y"].is_null());
        assert!(report.table().contains("not available"));
    }
}
