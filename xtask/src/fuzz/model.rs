//! Random sequences of real calls, by several threads of several VMs, against a model: the test `model` of `tests/tests/vas`
//! for so many sequences, and the record of all of them.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::processor_time::of_ended;
use crate::workspace::{Workspace, read, succeed};

const RECORD: &str = "resources/model.json";
const TEST: &str = "model::calls_answer_as_the_model_does_for_many_seeds";
/// Below are the seeds that `cargo test` has.
const FIRST_SEED: u64 = 100;

/// What all runs came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Sequences {
    sequences: u64,
    steps: u64,
    /// Different ones within a run.
    states: u64,
    seconds: u64,
    /// Of the processors, since that is counted: not of the first 300 sequences.
    pub(super) milliseconds: u64,
}

impl Sequences {
    fn of(value: &Value) -> Option<Sequences> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Some(Sequences {
            sequences: number("sequences")?,
            steps: number("steps")?,
            states: number("states")?,
            seconds: number("seconds")?,
            milliseconds: number("milliseconds")?,
        })
    }

    /// What the book says of them.
    pub(super) fn page(self) -> String {
        let Sequences { sequences, steps, states, seconds, milliseconds } = self;
        let minutes = seconds as f64 / 60.0;
        let of_processors = match milliseconds {
            0 => "not counted".to_owned(),
            counted => format!("{:.1} min", counted as f64 / 60_000.0),
        };
        format!(
            "\n## Calls against a model\n\n\
             Two or three VMs of up to three threads each make random calls on the same store: they make, share, attach, enter, grow, copy and delete \
             address spaces and segments, take locks, read and write, are killed and begin again. A model says what each answer has to be, and a \
             checker reads the store at the end (`tests/tests/vas/model`). These are sequences beyond those of `cargo test`, run by \
             `cargo xtask fuzz --model N --record`; a *state* is one of the model that the run had not had before. Processor time was not counted in the \
             first 300 sequences.\n\n\
             | sequences | calls | states | time | processor time | disagreements |\n|---:|---:|---:|---:|---:|---:|\n\
             | {sequences} | {steps} | {states} | {minutes:.0} min | {of_processors} | 0 |\n"
        )
    }
}

pub(super) fn load(workspace: &Workspace) -> Result<Sequences> {
    let value: Value = serde_json::from_str(&read(&workspace.file(RECORD))?)?;
    Sequences::of(&value).with_context(|| format!("{RECORD} has no numbers"))
}

fn store(workspace: &Workspace, all: Sequences) -> Result<()> {
    let Sequences { sequences, steps, states, seconds, milliseconds } = all;
    let value = json!({
        "sequences": sequences, "steps": steps, "states": states,
        "seconds": seconds, "milliseconds": milliseconds,
    });
    let path = workspace.file(RECORD);
    fs::write(&path, format!("{value:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Runs so many sequences that were not run before, and records them if that is asked for.
///
/// # Errors
/// A disagreement, which the test has printed; that the test cannot be run, as without /dev/kvm.
pub(super) fn run(workspace: &Workspace, count: u64, is_recorded: bool) -> Result<()> {
    let mut all = load(workspace)?;
    let from = FIRST_SEED + all.sequences;
    let test = ["test", "--quiet", "--package", "tests", "--test", "vas"];
    // First, so that what a compiler takes does not count.
    succeed(workspace.cargo(&test).arg("--no-run"))?;
    let mut cargo = workspace.cargo(&test);
    cargo.args(["--", "--ignored", "--exact", TEST, "--nocapture"]);
    cargo.env("SPACEJMP_MODEL_SEEDS", format!("{from}..{}", from + count));
    let begun = Instant::now();
    let mut tests = cargo
        .env("SPACEJMP_REQUIRE_KVM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut said = String::new();
    tests.stdout.take().context("it has no output")?.read_to_string(&mut said)?;
    let (status, milliseconds) = of_ended(&mut tests)?;
    ensure!(status.success(), "the model and the system disagree:\n{said}");
    let (sequences, steps, states) = counted(&said).context("the test says no numbers")?;
    all.sequences += sequences;
    all.steps += steps;
    all.states += states;
    all.seconds += begun.elapsed().as_secs();
    all.milliseconds += milliseconds;
    println!("{sequences} sequences, {steps} calls, {states} states");
    if is_recorded { store(workspace, all) } else { Ok(()) }
}

fn counted(said: &str) -> Option<(u64, u64, u64)> {
    let line = said.lines().find_map(|line| line.strip_prefix("model: "))?;
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_numbers_are_read() {
        let said = "running 1 test\nmodel: 30 sequences, 18000 steps, 5021 states\n.\n";
        assert_eq!(counted(said), Some((30, 18000, 5021)));
        assert_eq!(counted("running 1 test\n"), None);
    }
}
