//! What `cargo xtask check machines` does: runs the suites of the [`table`] on the emulated
//! machines it names. A suite is one boot, so that many tests share it; two machines run side
//! by side.

mod table;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::table::{LEFT_OUT, SUITES};
use crate::e2e::{self, Kit, program_of};
use crate::machine::{self, Addition, Kind, Machine, Memory, Outcome};
use crate::workspace::Workspace;

/// Emulators run at one time; each is one busy thread (QEMU two).
const SIDE_BY_SIDE: usize = 2;

/// Suites are run in two jobs, because the whole suite takes long where everything is
/// emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// With every change.
    Always,
    /// Only when asked for.
    OnRequest,
}

/// One boot of each of some kinds of machine.
struct Suite {
    name: &'static str,
    /// The job it belongs to.
    part: Part,
    kinds: &'static [Kind],
    cpus: u8,
    memory: Memory,
    timeout: Duration,
    work: Work,
}

/// What a machine does.
enum Work {
    /// Runs a command, whose status and output must match exactly.
    Command { words: &'static [&'static str], status: u8, output: &'static [u8] },
    /// Runs tests, each NAME[:FILTER...] as `resources/machines/e2e` has it.
    Tests(&'static [&'static str]),
    /// Runs all test programs that these selections do not name.
    AllTestsBut(&'static [&'static str]),
}

/// Tests that machines of some kinds do not run.
struct LeftOut {
    kinds: &'static [Kind],
    reason: &'static str,
    /// Each a test program, or PROGRAM:TEST.
    what: &'static [&'static str],
}

/// A suite on one kind of machine, ready to boot.
struct Job {
    suite: &'static Suite,
    kind: Kind,
    command: Vec<String>,
    additions: Vec<Addition>,
    /// The tests in [`LEFT_OUT`] that it would otherwise have run, with the reasons.
    left_out: Vec<(&'static str, &'static str)>,
}

/// Runs all suites of `part`; prints which machine ran what, and what it left out.
///
/// # Errors
/// When any result differs from the table, after everything else has been run.
pub(crate) fn run_all(workspace: &Workspace, part: Part) -> Result<()> {
    machine::build_spacejmp(workspace)?;
    let kit = Kit::build(workspace).context("cannot build the tests")?;
    let mut jobs = Vec::new();
    for suite in SUITES.iter().filter(|suite| suite.part == part) {
        for &kind in suite.kinds {
            jobs.push(suite.prepare(workspace, &kit, kind)?);
        }
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (text, passed) = job.run(workspace);
                    // Printed in one piece: another machine may print at the same time.
                    print!("{text}");
                    if !passed {
                        let label = format!("{} on {}", job.suite.name, job.kind);
                        failed.lock().unwrap_or_else(|poison| poison.into_inner()).push(label);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(|poison| poison.into_inner());
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The lines of `output` that report what was run: those that begin with "@ ".
fn summary(output: &[u8]) -> String {
    let output = String::from_utf8_lossy(output);
    let lines = output.lines().filter_map(|line| line.strip_prefix("@ "));
    lines.map(|line| format!("  {line}\n")).collect()
}

/// All of `programs` that `named` do not select from and that are not left out as a whole.
fn rest<'a>(programs: impl Iterator<Item = &'a str>, named: &[&str]) -> Vec<String> {
    let named: BTreeSet<&str> = named.iter().map(|selection| program_of(selection)).collect();
    let whole = |program: &str| LEFT_OUT.iter().any(|left| left.what.contains(&program));
    let rest = programs.filter(|program| !named.contains(program) && !whole(program));
    rest.map(str::to_owned).collect()
}

/// The part of [`LEFT_OUT`] that concerns a machine of `kind` that runs `selections`;
/// `others` tells whether it is the one that runs all programs not named elsewhere.
fn left_out(kind: Kind, selections: &[String], others: bool) -> Vec<(&'static str, &'static str)> {
    let selected =
        |program: &str| selections.iter().any(|selection| program_of(selection) == program);
    let concerns = |what: &str| {
        let whole = !what.contains(':');
        if whole { others } else { selected(program_of(what)) }
    };
    let of_kind = LEFT_OUT.iter().filter(|left| left.kinds.contains(&kind));
    let each = of_kind.flat_map(|left| left.what.iter().map(|what| (*what, left.reason)));
    each.filter(|(what, _)| concerns(what)).collect()
}

impl Suite {
    fn prepare(&'static self, workspace: &Workspace, kit: &Kit, kind: Kind) -> Result<Job> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let (selections, others): (Vec<String>, bool) = match self.work {
            Work::Command { words, .. } => {
                let (command, additions, left_out) = (owned(words), Vec::new(), Vec::new());
                return Ok(Job { suite: self, kind, command, additions, left_out });
            }
            Work::Tests(selections) => (owned(selections), false),
            Work::AllTestsBut(named) => (rest(kit.programs(), named), true),
        };
        let left_out = left_out(kind, &selections, others);
        let skips: Vec<&str> =
            left_out.iter().map(|(what, _)| *what).filter(|what| what.contains(':')).collect();
        let additions = kit.additions(workspace, &selections)?;
        let command = e2e::command(&selections, &skips);
        Ok(Job { suite: self, kind, command, additions, left_out })
    }

    fn judge(&self, outcome: &Outcome, output: &[u8]) -> Result<()> {
        let Outcome::Exited { status, .. } = *outcome else { bail!("{outcome}") };
        let expected = if let Work::Command { status, .. } = self.work { status } else { 0 };
        ensure!(status == expected, "status {status}, should be {expected}");
        if let Work::Command { output: expected, .. } = self.work {
            ensure!(output == expected, "the output is not what it should be");
        }
        Ok(())
    }
}

impl Job {
    /// Boots the machine. Returns the report, and whether everything passed.
    fn run(&self, workspace: &Workspace) -> (String, bool) {
        let (suite, kind) = (self.suite, self.kind);
        let machine = Machine {
            kind,
            cpus: suite.cpus,
            memory: suite.memory,
            timeout: suite.timeout,
            additions: [&[machine::spacejmp(workspace)], &self.additions[..]].concat(),
            append: String::new(),
            verbose: false,
        };
        let mut output = Vec::new();
        let result = machine
            .run(workspace, &self.command, &mut output)
            .and_then(|outcome| suite.judge(&outcome, &output).map(|()| outcome));
        let (name, mut summary) = (suite.name, summary(&output));
        for (what, reason) in &self.left_out {
            summary.push_str(&format!("  left out: {what}: {reason}\n"));
        }
        match result {
            Ok(outcome) => (format!("{name} on {kind}: passed ({outcome})\n{summary}"), true),
            Err(error) => {
                let output = String::from_utf8_lossy(&output);
                let said = format!("-- {name} on {kind} printed:\n{output}");
                (format!("{said}\n{name} on {kind}: FAILED: {error:#}\n{summary}"), false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_the_marked_lines() {
        assert_eq!(summary(b"running\n@ stop: ok\nx @ y\n@ cli: ok\n"), "  stop: ok\n  cli: ok\n");
    }

    #[test]
    fn a_command_passes_only_with_its_status_and_output_in_time() {
        let is_command = |suite: &&Suite| matches!(suite.work, Work::Command { .. });
        let suite = SUITES.iter().find(is_command).expect("the table has a command");
        let Work::Command { status, output, .. } = suite.work else { unreachable!("found so") };
        let exited =
            |status| Outcome::Exited { status, booted: Duration::ZERO, ended: Duration::ZERO };
        assert!(suite.judge(&exited(status), output).is_ok());
        assert!(suite.judge(&exited(status ^ 1), output).is_err());
        assert!(suite.judge(&exited(status), &output[1..]).is_err());
        let late = Outcome::TimedOut { after: Duration::ZERO, started: true };
        assert!(suite.judge(&late, output).is_err());
    }

    #[test]
    fn a_program_nobody_names_is_run_with_the_rest() {
        let programs = ["vas", "new", "c_header"];
        assert_eq!(rest(programs.into_iter(), &["vas:persistence::"]), ["new"]);
    }

    #[test]
    fn every_machine_runs_tests_with_every_change_and_somewhere_all_of_them() {
        for &kind in machine::KINDS {
            let suites = || SUITES.iter().filter(|suite| suite.kinds.contains(&kind));
            let tests = |suite: &&Suite| !matches!(suite.work, Work::Command { .. });
            assert!(suites().filter(tests).any(|suite| suite.part == Part::Always), "{kind}");
            // One machine runs everything that the others do not name, and they do run
            // what they name.
            let is_run = |wanted: &str| {
                suites()
                    .any(|suite| matches!(suite.work, Work::Tests(all) if all.contains(&wanted)))
            };
            let is_whole = |suite: &Suite| {
                let Work::AllTestsBut(others) = suite.work else { return false };
                others.iter().all(|other| is_run(other))
            };
            assert!(suites().any(is_whole), "{kind}");
        }
    }

    #[test]
    fn what_is_left_out_concerns_the_machine_that_would_have_run_it() {
        let ring3 = ["ring3".to_owned()];
        let what = |kind, others| -> Vec<&str> {
            left_out(kind, &ring3, others).into_iter().map(|(what, _)| what).collect()
        };
        assert!(what(Kind::Intel, false).is_empty());
        assert!(what(Kind::Intel, true).contains(&"c_header"));
        assert!(what(Kind::Amd, false).contains(&"ring3:exceptions::icebp_is_a_debug_trap"));
    }
}
