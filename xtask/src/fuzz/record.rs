//! What the fuzz targets were given in all runs together, and the book's page of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::model::{self, Sequences};
use crate::workspace::{Workspace, read};

/// The record, and the page made of it.
const RECORD: &str = "resources/fuzz.json";
const PAGE: &str = "docs/src/fuzzing.md";

const HEAD: &str = "# Fuzzing in numbers

Made by `cargo xtask fuzz --record`, which adds to what was run before, of any revision. A *failure* is an input by which a check
panicked, hung or found what must not be. Each target's input and what is checked is in
`fuzz/README.md` in the sources; what was found by hostile programs instead: [What hostile programs have tried](red-team.md).

*Guided* inputs are libFuzzer's: it changes those that have led to new code, for which each branch and comparison of ours is
instrumented. *Kept* are the inputs that together lead to all code it has come to; they are in the sources (`fuzz/corpora`), the next run begins with
them, and `cargo test` gives them to the targets, too. *Edges* are the branches that they lead to. *Random* inputs are noise, and changes of a few
that are known to lead far: nothing guides them.

";

/// What a target was given in one way.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    pub(super) inputs: u64,
    pub(super) milliseconds: u64,
    pub(super) failures: u64,
}

impl Sum {
    fn of(value: &Value) -> Option<Sum> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Some(Sum {
            inputs: number("inputs")?,
            milliseconds: number("milliseconds")?,
            failures: number("failures")?,
        })
    }

    fn json(self) -> Value {
        let Sum { inputs, milliseconds, failures } = self;
        json!({ "inputs": inputs, "milliseconds": milliseconds, "failures": failures })
    }

    pub(super) fn add(&mut self, other: Sum) {
        self.inputs += other.inputs;
        self.milliseconds += other.milliseconds;
        self.failures += other.failures;
    }
}

/// What is known of a target.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub(super) random: Sum,
    pub(super) guided: Sum,
    /// Inputs in its corpus, and the edges that they lead to.
    pub(super) kept: u64,
    pub(super) edges: u64,
}

impl Known {
    fn of(value: &Value) -> Option<Known> {
        Some(Known {
            random: Sum::of(value.get("random")?)?,
            guided: Sum::of(value.get("guided")?)?,
            kept: value.get("kept")?.as_u64()?,
            edges: value.get("edges")?.as_u64()?,
        })
    }

    fn json(self) -> Value {
        let (random, guided) = (self.random.json(), self.guided.json());
        json!({ "random": random, "guided": guided, "kept": self.kept, "edges": self.edges })
    }
}

/// All of it, by the targets' names.
pub(super) type Record = BTreeMap<String, Known>;

fn record_of(text: &str) -> Result<Record> {
    let value: Value = serde_json::from_str(text)?;
    let all = value.as_object().context("the record is no object")?;
    let one = |(name, known): (&String, &Value)| {
        Ok((name.clone(), Known::of(known).with_context(|| format!("{name} has no numbers"))?))
    };
    all.iter().map(one).collect()
}

pub(super) fn load(workspace: &Workspace) -> Result<Record> {
    record_of(&read(&workspace.file(RECORD))?)
}

/// Writes the record and the page.
pub(super) fn store(workspace: &Workspace, record: &Record) -> Result<()> {
    let all = record.iter().map(|(name, known)| (name.clone(), known.json()));
    let text = format!("{:#}\n", Value::Object(all.collect()));
    let page = page(record, model::load(workspace)?);
    for (file, text) in [(RECORD, text), (PAGE, page)] {
        let path = workspace.file(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn page(record: &Record, sequences: Sequences) -> String {
    let mut text = HEAD.to_owned();
    text.push_str(
        "| target | guided | kept | edges | random | processor time | failures |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut all = Known::default();
    let mut row = |name: &str, known: &Known| {
        let (guided, random) = (known.guided, known.random);
        let minutes = (guided.milliseconds + random.milliseconds) as f64 / 60_000.0;
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {minutes:.1} min | {} |",
            guided.inputs,
            known.kept,
            known.edges,
            random.inputs,
            guided.failures + random.failures,
        );
    };
    for (name, known) in record {
        row(&format!("`{name}`"), known);
        all.random.add(known.random);
        all.guided.add(known.guided);
        all.kept += known.kept;
        all.edges += known.edges;
    }
    row("all", &all);
    let of_model = sequences.milliseconds;
    let hours = (all.guided.milliseconds + all.random.milliseconds + of_model) as f64 / 3_600_000.0;
    let _ = writeln!(text, "\nWith the calls below: {hours:.2} processor-hours.");
    text.push_str(&sequences.page());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_made_of_the_record() {
        let workspace = Workspace::here();
        let kept = read(&workspace.file(PAGE)).unwrap();
        assert!(
            kept == page(&load(&workspace).unwrap(), model::load(&workspace).unwrap()),
            "{PAGE} is not what {RECORD} makes: cargo xtask fuzz --record"
        );
    }

    #[test]
    fn the_record_has_every_target() {
        let workspace = Workspace::here();
        let files = fs::read_dir(workspace.file("fuzz/fuzz_targets")).unwrap();
        let names =
            files.filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned()));
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert_eq!(load(&workspace).unwrap().into_keys().collect::<Vec<_>>(), names);
    }

    #[test]
    fn sums_are_written_as_they_are_read_and_bad_ones_are_refused() {
        let text = r#"{"a": {"edges": 3, "kept": 2,
            "guided": {"inputs": 7, "milliseconds": 30000, "failures": 1},
            "random": {"inputs": 5, "milliseconds": 60000, "failures": 0}}}"#;
        let record = record_of(text).unwrap();
        assert_eq!(Known::of(&record["a"].json()), Some(record["a"]));
        let page = page(&record, Sequences::default());
        assert!(page.contains("| `a` | 7 | 2 | 3 | 5 | 1.5 min | 1 |\n| all | 7 | 2"), "{page}");
        assert!(record_of(r#"{"a": {"kept": -5}}"#).is_err() && record_of("[]").is_err());
    }
}
