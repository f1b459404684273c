//! `cargo xtask fuzz`: fuzz targets for a given time, and the record of all runs with the book's page of it.
//!
//! What is run here are the targets' functions on random inputs (`tests::fuzz_random`), which every toolchain can
//! build. With coverage to guide it they are run by hand (`fuzz/README.md`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::workspace::{Workspace, read, succeed};

/// The record, and the page made of it.
const RECORD: &str = "resources/fuzz.json";
const PAGE: &str = "docs/src/fuzzing.md";

const HEAD: &str = "# Fuzzing in numbers

Made by `cargo xtask fuzz --record`, which adds to what was run before, of any revision. A *failure* is an input by which a check
panicked, hung or found what must not be. Each target's input and what is checked is in
`fuzz/README.md` in the sources; what was found by hostile programs instead: [What hostile programs have tried](red-team.md).

All of these inputs are random, **without coverage to guide them**: noise, and changes of a few inputs that are known to lead far. That is what
the toolchain that the project is built with can do; libFuzzer needs options of an unstable one. So this time finds less than as much of
libFuzzer's.

";

/// What to run
#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// Processor time for each target
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Only this target; repeatable
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Where the random choices begin: a run is repeated by its seed. Default: how many inputs the target has had
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Add to the record, and make the book's page of it
    #[arg(long)]
    record: bool,
}

/// What a target was given, in all runs together.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Sum {
    inputs: u64,
    milliseconds: u64,
    failures: u64,
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
}

type Record = BTreeMap<String, Sum>;

fn record_of(text: &str) -> Result<Record> {
    let value: Value = serde_json::from_str(text)?;
    let all = value.as_object().context("the record is no object")?;
    let one = |(name, sum): (&String, &Value)| {
        Ok((name.clone(), Sum::of(sum).with_context(|| format!("{name} has no numbers"))?))
    };
    all.iter().map(one).collect()
}

/// Runs what was asked for, one target after another.
///
/// # Errors
/// An input by which a target fails, once all have run; what keeps one from running.
pub(crate) fn run(workspace: &Workspace, args: &FuzzArgs) -> Result<()> {
    let path = workspace.file(RECORD);
    let mut record = record_of(&read(&path)?)?;
    let names: Vec<&String> = record.keys().collect();
    let unknown = args.target.iter().find(|name| !names.contains(name));
    ensure!(unknown.is_none(), "no fuzz target is called {}", unknown.map_or("", |name| name));
    succeed(&mut workspace.cargo(&[
        "build",
        "--quiet",
        "--package",
        "tests",
        "--bin",
        "fuzz_random",
    ]))?;
    let mut failed = Vec::new();
    for (name, sum) in &mut record {
        if !args.target.is_empty() && !args.target.contains(name) {
            continue;
        }
        let seed = args.seed.unwrap_or(sum.inputs);
        let seconds = args.seconds.to_string();
        let mut driver = Command::new(workspace.debug("fuzz_random"));
        driver.args([name, &seconds, &seed.to_string()]).stderr(Stdio::inherit());
        let output = driver.output().context("cannot start fuzz_random")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<u64> = said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        match (output.status.success(), &numbers[..]) {
            (true, [inputs, nanos]) => {
                sum.inputs += inputs;
                sum.milliseconds += nanos / 1_000_000;
                println!("{name:<18} {inputs:>10} inputs in {:.1} s", *nanos as f64 / 1e9);
            }
            (true, _) => println!("{name:<18} SKIPPED: it needs /dev/kvm"),
            (false, _) => {
                sum.failures += 1;
                failed.push(name.clone());
            }
        }
    }
    if args.record {
        let all = record.iter().map(|(name, sum)| (name.clone(), sum.json()));
        let text = format!("{:#}\n", Value::Object(all.collect()));
        for (file, text) in [(RECORD, text), (PAGE, page(&record))] {
            let path = workspace.file(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("inputs that fail: {}", failed.join(", ")) }
}

fn page(record: &Record) -> String {
    let mut text = HEAD.to_owned();
    text.push_str("| target | inputs | processor time | failures |\n|---|---|---|---|\n");
    let mut all = Sum::default();
    let mut row = |name: &str, sum: &Sum| {
        let minutes = sum.milliseconds as f64 / 60_000.0;
        let (inputs, failures) = (sum.inputs, sum.failures);
        let _ = writeln!(text, "| {name} | {inputs} | {minutes:.1} min | {failures} |");
    };
    for (name, sum) in record {
        row(&format!("`{name}`"), sum);
        all.inputs += sum.inputs;
        all.milliseconds += sum.milliseconds;
        all.failures += sum.failures;
    }
    row("all", &all);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_made_of_the_record() {
        let workspace = Workspace::here();
        let record = record_of(&read(&workspace.file(RECORD)).unwrap()).unwrap();
        let kept = read(&workspace.file(PAGE)).unwrap();
        assert!(
            kept == page(&record),
            "{PAGE} is not what {RECORD} makes: cargo xtask fuzz --record"
        );
    }

    #[test]
    fn the_record_has_every_target_that_can_be_run() {
        let workspace = Workspace::here();
        let record = record_of(&read(&workspace.file(RECORD)).unwrap()).unwrap();
        let files = fs::read_dir(workspace.file("fuzz/fuzz_targets")).unwrap();
        let names =
            files.filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned()));
        let mut names: Vec<String> = names.filter(|name| name != "kv_requests").collect();
        names.sort();
        assert_eq!(record.into_keys().collect::<Vec<_>>(), names);
    }

    #[test]
    fn sums_are_written_as_they_are_read_and_bad_ones_are_refused() {
        let text = r#"{"a": {"inputs": 5, "milliseconds": 90000, "failures": 0}}"#;
        let record = record_of(text).unwrap();
        assert_eq!(Sum::of(&record["a"].json()), Some(record["a"]));
        assert!(page(&record).contains("| `a` | 5 | 1.5 min | 0 |\n| all | 5 | 1.5 min | 0 |"));
        assert!(record_of(r#"{"a": {"inputs": -5}}"#).is_err() && record_of("[]").is_err());
    }
}
