//! What `cargo xtask check machines` runs on which emulated machine: a table. A suite is one
//! boot, so that many tests share it.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::machine::{self, Addition, Kind, Machine, Memory, Outcome};
use crate::workspace::Workspace;

const ALL_KINDS: &[Kind] = &[Kind::Intel, Kind::IntelNopcid, Kind::IntelShadow, Kind::Amd];

/// One command that has to behave as said on each of some kinds of machine.
struct Suite {
    name: &'static str,
    kinds: &'static [Kind],
    cpus: u8,
    timeout: Duration,
    /// What the machine needs besides `spacejmp`; may build it.
    additions: fn(&Workspace) -> Result<Vec<Addition>>,
    command: &'static [&'static str],
    status: u8,
    /// What it prints, to the byte; `None` when the status says it all.
    output: Option<&'static [u8]>,
}

const SUITES: &[Suite] = &[
    // Everything else relies on this: a machine has KVM and its CPUs, tells what a command
    // prints byte for byte, and how it ends.
    Suite {
        name: "machine",
        kinds: ALL_KINDS,
        cpus: 2,
        timeout: Duration::from_secs(180),
        additions: nothing,
        command: &[
            "sh",
            "-c",
            r#"test -c /dev/kvm && test -x /bin/spacejmp && nproc || exit 1
               printf 'error\n' >&2; printf 'odd \000\377\r\003\n\nend'; exit 7"#,
        ],
        status: 7,
        output: Some(b"2\nerror\nodd \0\xff\r\x03\n\nend"),
    },
];

fn nothing(_: &Workspace) -> Result<Vec<Addition>> {
    Ok(Vec::new())
}

/// Runs all suites on all their machines; says which machine ran what.
///
/// # Errors
/// When anything did not go as the table says, after all the rest has been run.
pub(crate) fn run_all(workspace: &Workspace) -> Result<()> {
    machine::build_spacejmp(workspace)?;
    let mut failed = Vec::new();
    for suite in SUITES {
        for &kind in suite.kinds {
            let label = format!("{} on {kind}", suite.name);
            match suite.run(workspace, kind) {
                Ok(outcome) => println!("{label}: passed ({outcome})"),
                Err(error) => {
                    println!("{label}: FAILED: {error:#}");
                    failed.push(label);
                }
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

impl Suite {
    fn run(&self, workspace: &Workspace, kind: Kind) -> Result<Outcome> {
        let mut additions = vec![machine::spacejmp(workspace)];
        additions.extend((self.additions)(workspace)?);
        let machine = Machine {
            kind,
            cpus: self.cpus,
            memory: Memory::DEFAULT,
            timeout: self.timeout,
            additions,
            append: String::new(),
            verbose: false,
        };
        let command: Vec<String> = self.command.iter().map(|&word| word.to_owned()).collect();
        let mut output = Vec::new();
        let result = machine
            .run(workspace, &command, &mut output)
            .and_then(|outcome| self.judge(&outcome, &output).map(|()| outcome));
        if result.is_err() {
            println!("-- {} on {kind} printed:\n{}", self.name, String::from_utf8_lossy(&output));
        }
        result
    }

    fn judge(&self, outcome: &Outcome, output: &[u8]) -> Result<()> {
        let Outcome::Exited { status, .. } = *outcome else { bail!("{outcome}") };
        ensure!(status == self.status, "status {status}, should be {}", self.status);
        let same = self.output.is_none_or(|expected| expected == output);
        ensure!(same, "the output is not what it should be");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_passes_only_with_its_status_and_output_in_time() {
        let suite = &SUITES[0];
        let expected = suite.output.expect("the first suite has an output");
        let exited =
            |status| Outcome::Exited { status, booted: Duration::ZERO, ended: Duration::ZERO };
        assert!(suite.judge(&exited(7), expected).is_ok());
        assert!(suite.judge(&exited(0), expected).is_err());
        assert!(suite.judge(&exited(7), b"2\n").is_err());
        let late = Outcome::TimedOut { after: Duration::ZERO, started: true };
        assert!(suite.judge(&late, expected).is_err());
    }
}
