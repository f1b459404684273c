//! What `cargo xtask check machines` runs on which emulated machine: a table. A suite is one
//! boot, so that many tests share it. Two machines run side by side.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::e2e;
use crate::machine::{self, Addition, Kind, Machine, Memory, Outcome};
use crate::workspace::Workspace;

/// Emulators run at one time; each is one busy thread.
const SIDE_BY_SIDE: usize = 2;

const ALL_KINDS: &[Kind] = &[Kind::Intel, Kind::IntelNopcid, Kind::IntelShadow, Kind::Amd];

/// Suites are run in two jobs, because the whole takes long where everything is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Every time.
    Selection,
    /// The whole end-to-end suite, on request.
    Whole,
}

/// What QEMU without acceleration does not do for native programs either (tried): it has no
/// ICEBP, no alignment checks, no unmasked SSE exceptions, raises #GP for #SS, and pushes a
/// wrong error code for `INT n` (in a VM a wrong RIP).
const QEMU_LACKS: &[(Kind, &str)] = &[
    (Kind::Amd, "exceptions::icebp"),
    (Kind::Amd, "exceptions::unaligned_accesses"),
    (Kind::Amd, "exceptions::sse_exceptions"),
    (Kind::Amd, "exceptions::a_stack_address_that_is_not_canonical"),
    (Kind::Amd, "exceptions::software_interrupts"),
    (Kind::Amd, "a_stack_pointer_that_is_not_canonical"),
];

/// One command that has to behave as said on each of some kinds of machine.
struct Suite {
    name: &'static str,
    /// The job it belongs to.
    part: Part,
    kinds: &'static [Kind],
    /// Tests that one kind of machine leaves out, by parts of their names; the reasons are
    /// with the tables.
    skips: &'static [(Kind, &'static str)],
    cpus: u8,
    memory: Memory,
    timeout: Duration,
    /// What the machine needs besides `spacejmp`; may build it. Called once.
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
        part: Part::Selection,
        kinds: ALL_KINDS,
        skips: &[],
        cpus: 2,
        memory: Memory::DEFAULT,
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
    // Entry, exceptions, signals with their frames, threads, calls of our own, files; address
    // spaces, switches with and without locks, and what the next VM finds.
    Suite {
        name: "programs",
        part: Part::Selection,
        kinds: ALL_KINDS,
        skips: &[],
        cpus: 2,
        // The test programs and the store lie in it.
        memory: Memory::LARGE,
        timeout: Duration::from_secs(600),
        additions: e2e::additions,
        command: &[
            "sh",
            "-c",
            r#"cd /work/guests; run() { echo "@ $*"; spacejmp run --timeout 300 "$@"; }
               spacejmp doctor >/dev/null || exit 10
               run payload/hello || exit 11
               run c/segv_jump-fixed || exit 12
               run c/sigreturn-pie || exit 13
               run rust/nullcall || exit 14
               run rust/threads64 || exit 15
               mkdir /tmp/d && run --dir /tmp/d rust/file_calls /tmp/d || exit 16
               run rust/hostile null-write; test $? = 139 || exit 17
               vas() { name=$1; shift; run --store /tmp/store rust/vas_$name "$@"; }
               vas basic || exit 18
               vas threads 2 || exit 19
               vas persist write list 100 || exit 20
               vas persist read list || exit 21
               vas counter count 2 200 || exit 22
               vas locks 2 100 || exit 23
               exit 0"#,
        ],
        status: 0,
        output: None,
    },
    // Two CPUs, or no translation could be stale on another one.
    Suite {
        name: "e2e",
        part: Part::Whole,
        kinds: ALL_KINDS,
        skips: QEMU_LACKS,
        cpus: 2,
        memory: Memory::LARGE,
        timeout: Duration::from_secs(900),
        additions: e2e::additions,
        command: &[
            "env",
            "SPACEJMP_TEST_SLOWDOWN=20",
            "SPACEJMP_TEST_FEWER=20",
            "sh",
            e2e::SCRIPT,
            "ring3",
            "programs",
            "stop",
            "supervise",
            "leak",
            "space_model",
            "elf",
            "cli",
            "shootdown",
        ],
        status: 0,
        output: None,
    },
];

fn nothing(_: &Workspace) -> Result<Vec<Addition>> {
    Ok(Vec::new())
}

/// Runs all suites on all their machines; says which machine ran what.
///
/// # Errors
/// When anything did not go as the table says, after all the rest has been run.
pub(crate) fn run_all(workspace: &Workspace, part: Part) -> Result<()> {
    machine::build_spacejmp(workspace)?;
    let mut runs = Vec::new();
    for suite in SUITES.iter().filter(|suite| suite.part == part) {
        let additions = (suite.additions)(workspace)
            .with_context(|| format!("cannot build what {} needs", suite.name))?;
        runs.extend(suite.kinds.iter().map(|&kind| (suite, kind, additions.clone())));
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some((suite, kind, additions)) =
                    runs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let label = format!("{} on {kind}", suite.name);
                    let (text, passed) = suite.run(workspace, *kind, additions);
                    // In one piece: another machine may have something to say, too.
                    print!("{text}");
                    if !passed {
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

/// The lines of `output` that tell what was run: those that begin with "@ ".
fn summary(output: &[u8]) -> String {
    let output = String::from_utf8_lossy(output);
    let lines = output.lines().filter_map(|line| line.strip_prefix("@ "));
    lines.map(|line| format!("  {line}\n")).collect()
}

impl Suite {
    /// Runs the suite on one kind of machine. Returns what there is to say, and whether all
    /// went as the table says.
    fn run(&self, workspace: &Workspace, kind: Kind, additions: &[Addition]) -> (String, bool) {
        let machine = Machine {
            kind,
            cpus: self.cpus,
            memory: self.memory,
            timeout: self.timeout,
            additions: [&[machine::spacejmp(workspace)], additions].concat(),
            append: String::new(),
            verbose: false,
        };
        let command = self.command(kind);
        let mut output = Vec::new();
        let result = machine
            .run(workspace, &command, &mut output)
            .and_then(|outcome| self.judge(&outcome, &output).map(|()| outcome));
        let (name, summary) = (self.name, summary(&output));
        match result {
            Ok(outcome) => (format!("{name} on {kind}: passed ({outcome})\n{summary}"), true),
            Err(error) => {
                let output = String::from_utf8_lossy(&output);
                let said = format!("-- {name} on {kind} printed:\n{output}");
                (format!("{said}\n{name} on {kind}: FAILED: {error:#}\n{summary}"), false)
            }
        }
    }

    /// The command; what is to be skipped is in its environment.
    fn command(&self, kind: Kind) -> Vec<String> {
        let skips: Vec<_> =
            self.skips.iter().filter(|(on, _)| *on == kind).map(|(_, test)| *test).collect();
        let mut command: Vec<String> = self.command.iter().map(|&word| word.to_owned()).collect();
        if !skips.is_empty() {
            let skips = format!("E2E_SKIP={}", skips.join(" "));
            command.splice(0..0, ["env".to_owned(), skips]);
        }
        command
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
    fn the_summary_is_the_marked_lines() {
        assert_eq!(summary(b"running\n@ stop: ok\nx @ y\n@ cli: ok\n"), "  stop: ok\n  cli: ok\n");
    }

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
