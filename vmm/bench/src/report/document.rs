//! The results of one run of `spacejmp bench` as stored in a file, for reports, plots and
//! comparisons made later, perhaps elsewhere.
//!
//! The format is the JSON that `--json` prints. For one experiment it is that experiment's
//! object; for several `{"version": 1, "host": ..., "experiments": [objects]}`. Both are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::results::Results;
use super::{Check, Plot};

/// Version of the format.
pub const VERSION: u32 = 1;

/// The outcome of an experiment, read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which experiment.
    pub bench: String,
    /// Whether sizes were small, so that the figures are not useful.
    pub quick: bool,
    /// The host, unless it is given for all experiments together.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub host: Value,
    /// The figures: a number, or null if there is none on this host.
    pub results: Results,
    /// The description of each: its unit, a colon, and the rest.
    pub notes: BTreeMap<String, String>,
    /// The spread of the samples.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spread_percent: BTreeMap<String, f64>,
    /// The curves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plots: Vec<Plot>,
    /// The checks that could have shown it to be wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// One figure of an outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value, if there is one.
    pub value: Option<f64>,
    /// Its unit; `ratio` for none.
    pub unit: &'a str,
    /// What it is, or why it is missing.
    pub note: &'a str,
    /// The spread of the samples, in percent.
    pub spread_percent: Option<f64>,
}

impl Outcome {
    /// The figures, in their order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.results.iter().map(|(name, value)| {
            let note = self.notes.get(name).map_or("", String::as_str);
            let (unit, note) = note.split_once(": ").unwrap_or(("", note));
            let spread_percent = self.spread_percent.get(name).copied();
            Row { name, value, unit, note, spread_percent }
        })
    }

    /// Whether every check passed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.checks.iter().all(|check| check.is_kept)
    }
}

/// All results of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`].
    pub version: u32,
    /// What `spacejmp doctor --json` says.
    pub host: Value,
    /// In the order in which they ran.
    pub experiments: Vec<Outcome>,
    /// Experiments that could not be run, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, String>,
}

/// A file with figures cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{} is not what `spacejmp bench --json` or `--out` writes", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Another version wrote it.
    #[error("{} has version {found}; this spacejmp reads version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// It comes from another machine.
    #[error("{} is of another host: {found}, not {expected}", path.display())]
    OtherHost {
        /// The file.
        path: PathBuf,
        /// The kind of its host and the processor.
        found: String,
        /// Those of the first file.
        expected: String,
    },
}

/// The fields that distinguish the two forms, and the versions.
#[derive(Deserialize)]
struct Shape {
    version: Option<u64>,
    experiments: Option<IgnoredAny>,
}

impl Document {
    /// Reads a file, or the `results.json` of a folder that `--out` made.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn read(path: &Path) -> Result<Document, DocumentError> {
        let path = if path.is_dir() { path.join("results.json") } else { path.to_owned() };
        match std::fs::read_to_string(&path) {
            Ok(text) => Document::parse(&text, &path),
            Err(source) => Err(DocumentError::Read { path, source }),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Document, DocumentError> {
        let format = |source| DocumentError::Format { path: path.to_owned(), source };
        let shape: Shape = serde_json::from_str(text).map_err(format)?;
        if let Some(found) = shape.version
            && found != u64::from(VERSION)
        {
            return Err(DocumentError::Version { path: path.to_owned(), found });
        }
        if shape.experiments.is_some() {
            return serde_json::from_str(text).map_err(format);
        }
        let mut one: Outcome = serde_json::from_str(text).map_err(format)?;
        let host = std::mem::take(&mut one.host);
        Ok(Document { version: VERSION, host, experiments: vec![one], failed: BTreeMap::new() })
    }

    /// The kind of host, as in `doctor --json`: `ept`, `npt`, `shadow`, `software`; `unknown` if
    /// it could not be determined or is none of these.
    #[must_use]
    pub fn kind(&self) -> &str {
        let kind = self.host.pointer("/translation/kind").and_then(Value::as_str);
        let is_word = |kind: &&str| kind.bytes().all(|byte| byte.is_ascii_lowercase());
        kind.filter(|kind| !kind.is_empty()).filter(is_word).unwrap_or("unknown")
    }

    /// Takes in the experiments of another run on the same machine, in the place of those of the same
    /// names, or at the end.
    ///
    /// # Errors
    /// [`DocumentError::OtherHost`], which names `path`.
    pub fn add(&mut self, more: Document, path: &Path) -> Result<(), DocumentError> {
        let (found, expected) = (more.machine(), self.machine());
        if found != expected {
            return Err(DocumentError::OtherHost { path: path.to_owned(), found, expected });
        }
        for outcome in more.experiments {
            self.failed.remove(&outcome.bench);
            match self.experiments.iter_mut().find(|one| one.bench == outcome.bench) {
                Some(one) => *one = outcome,
                None => self.experiments.push(outcome),
            }
        }
        Ok(())
    }

    /// The kind of host, and its processor.
    fn machine(&self) -> String {
        let model = self.host.pointer("/system/processor/model").and_then(Value::as_str);
        format!("{}, {}", self.kind(), model.unwrap_or("unknown processor"))
    }

    /// Checks that failed: experiment and check.
    pub fn broken(&self) -> impl Iterator<Item = (&str, &Check)> {
        self.experiments.iter().flat_map(|outcome| {
            let broken = outcome.checks.iter().filter(|check| !check.is_kept);
            broken.map(|check| (outcome.bench.as_str(), check))
        })
    }

    /// Whether sizes were too small for useful figures.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.experiments.iter().any(|outcome| outcome.quick)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Axis, Origin, Report, Series};
    use super::*;

    /// A small report, as an experiment returns it.
    pub(crate) fn report() -> Report {
        let mut report = Report::default();
        report.push_median("b_us", &[2.0, 3.0, 4.0], "us", "b, with | and \"quotes\"");
        report.push("a_over_b", None, "", "not here: no PCID");
        report.push("x_exits", 34.0, "exits", "exits");
        let points = vec![(16.0, 5.0), (64.0, 80.0)];
        report.plots.push(Plot {
            name: "curve".into(),
            title: "A <title>".into(),
            x: Axis { label: "pages".into(), is_log: true },
            y: Axis { label: "cycles".into(), is_log: true },
            series: vec![Series { name: "ours & theirs".into(), origin: Origin::Ours, points }],
            note: "note".into(),
        });
        report.checks.push(Check {
            name: "c".into(),
            needs_quiet: false,
            rule: "r".into(),
            found: "f".into(),
            is_kept: true,
        });
        report
    }

    /// A run of the experiment `start` with the result `report`, on an unknown host.
    pub(crate) fn run(report: &Report) -> Document {
        Document {
            version: VERSION,
            host: Value::Null,
            experiments: vec![report.outcome("start", false, Value::Null)],
            failed: BTreeMap::new(),
        }
    }

    #[test]
    fn what_one_experiment_prints_is_read_back_with_everything() {
        let text =
            serde_json::to_string(&report().outcome("tlb", true, Value::from("h"))).expect("data");
        let document = Document::parse(&text, Path::new("x")).expect("it is our own");
        assert_eq!((document.host.as_str(), document.is_quick()), (Some("h"), true));
        let [outcome] = &document.experiments[..] else { panic!("{document:?}") };
        let rows: Vec<_> = outcome.rows().collect();
        assert_eq!((rows[0].name, rows[0].value, rows[0].unit), ("b_us", Some(3.0), "us"));
        assert!(rows[0].spread_percent.is_some() && rows[2].spread_percent.is_none());
        assert_eq!((rows[1].value, rows[1].note), (None, "not here: no PCID"));
        assert_eq!(
            (outcome.plots.clone(), outcome.checks.clone()),
            (report().plots, report().checks)
        );
        let again = serde_json::to_string(&document).expect("data");
        assert_eq!(Document::parse(&again, Path::new("x")).expect("its own"), document);
    }

    #[test]
    fn experiments_of_another_run_on_the_same_machine_replace_or_follow() {
        let mut all = run(&report());
        all.failed.insert("store".to_owned(), "no disk".to_owned());
        let mut more = Report::default();
        more.push("b_us", 9.0, "us", "b");
        let mut newer = run(&more);
        newer.experiments.push(more.outcome("store", false, Value::Null));
        all.add(newer, Path::new("x")).expect("the same machine");
        let names: Vec<_> = all.experiments.iter().map(|one| one.bench.as_str()).collect();
        assert_eq!((names, all.failed.len()), (vec!["start", "store"], 0));
        assert_eq!(all.experiments[0].results.value("b_us"), Some(9.0));
        let mut other = run(&more);
        other.host = serde_json::json!({ "translation": { "kind": "ept" } });
        let error = all.add(other, Path::new("other.json")).expect_err("another").to_string();
        assert!(error.contains("other.json") && error.contains("ept"), "{error}");
    }

    #[test]
    fn other_files_and_versions_are_refused_with_their_name() {
        for (text, says) in
            [("{}", "not what"), ("[", "not what"), (r#"{"version":2}"#, "version 2")]
        {
            let error = Document::parse(text, Path::new("some.json")).expect_err(text).to_string();
            assert!(error.contains("some.json") && error.contains(says), "{error}");
        }
        let missing = Document::read(Path::new("/no/such/file")).expect_err("there is none");
        assert!(missing.to_string().contains("/no/such/file"));
    }
}
