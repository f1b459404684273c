//! The targets under libFuzzer, guided by coverage.
//!
//! Built by cargo alone, with what `cargo fuzz` would tell it, but for AddressSanitizer: that needs an unstable compiler, coverage does
//! not. So an access outside of what `unsafe` code owns is found only if it has an effect; the job `asan` of `.ci/run` runs the tests of that code
//! under it.

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::corpus;
use super::record::Sum;
use crate::processor_time::of_ended;
use crate::workspace::{TARGET, Workspace, succeed};

/// What makes a target libFuzzer's: its counters at each edge, and the operands of comparisons.
const FLAGS: &str = "--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer hangs. Generous: machines are shared.
const HANG_SECONDS: u32 = 120;

/// What one run of a target came to.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) sum: Sum,
    pub(super) edges: u64,
    /// Inputs in its corpus now.
    pub(super) kept: u64,
}

/// A target's program, once it is built, and where its inputs are.
pub(super) struct Guided<'a> {
    workspace: &'a Workspace,
    folder: PathBuf,
}

impl<'a> Guided<'a> {
    /// Builds all targets.
    ///
    /// # Errors
    /// That they cannot be built: a C++ compiler is needed for libFuzzer.
    pub(super) fn build(workspace: &'a Workspace) -> Result<Self> {
        let folder = workspace.target().join("fuzz");
        let manifest = workspace.file("fuzz/Cargo.toml");
        let mut cargo = workspace.cargo(&["build", "--release", "--bins"]);
        cargo.arg("--manifest-path").arg(manifest).env("CARGO_TARGET_DIR", &folder);
        succeed(cargo.args(["--target", TARGET]).env("RUSTFLAGS", FLAGS))
            .context("fuzz targets need a C++ compiler for libFuzzer")?;
        // What `calls` runs: it would be built within its first input's time.
        succeed(&mut workspace.cargo(&["build", "--quiet", "--package", "guests"]))?;
        let programs = folder.join("programs");
        fs::create_dir_all(programs.join("rust"))?;
        fs::copy(workspace.debug("fuzz_calls"), programs.join("rust/fuzz_calls"))
            .context("cannot copy what `calls` runs")?;
        Ok(Guided { workspace, folder })
    }

    /// Runs a target for some seconds, and keeps the fewest inputs that lead to all code it has come to.
    ///
    /// # Errors
    /// That it cannot be run. An input that fails is a failure of the sum.
    pub(super) fn run(&self, target: &str, seconds: u64) -> Result<Ran> {
        let corpus = self.place("corpus", target)?;
        let kept = corpus::file(self.workspace, target);
        corpus::unpack(&kept, &corpus)?;
        let artifacts = self.workspace.file(&format!("fuzz/artifacts/{target}"));
        fs::create_dir_all(&artifacts)?;
        let log = self.folder.join(format!("{target}.log"));
        let mut fuzzer = self.fuzzer(target, &log, &artifacts)?;
        fuzzer.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1").arg(&corpus);
        let (status, milliseconds) = of_ended(&mut fuzzer.spawn().context("cannot start it")?)?;
        let said = fs::read_to_string(&log).with_context(|| format!("no {}", log.display()))?;
        let mut sum = Sum { inputs: inputs(&said), milliseconds, failures: 0 };
        if !status.success() {
            let stopped = status.signal().is_some_and(|signal| [2, 15].contains(&signal));
            ensure!(!stopped, "it was stopped");
            sum.failures = 1;
            eprintln!("{target} fails: {}, what it said is in {}", status, log.display());
            eprintln!("the input is in {}", artifacts.display());
        }
        // Also after a failure: what was found by then is not lost.
        let fewest = self.place("fewest", target)?;
        let log = self.folder.join(format!("{target}.merge.log"));
        let mut merge = self.fuzzer(target, &log, &artifacts)?;
        merge.arg("-merge=1").arg(&fewest).arg(&corpus);
        let (status, _) = of_ended(&mut merge.spawn().context("cannot start it")?)?;
        ensure!(status.success(), "merging ended by {status}: {}", log.display());
        Ok(Ran { sum, edges: edges(&said), kept: corpus::pack(&fewest, &kept)? })
    }

    /// An empty folder.
    fn place(&self, of: &str, target: &str) -> Result<PathBuf> {
        let place = self.folder.join(of).join(target);
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        Ok(place)
    }

    /// A target's program, which writes inputs that fail to `artifacts`.
    fn fuzzer(&self, target: &str, log: &Path, artifacts: &Path) -> Result<Command> {
        let mut command = Command::new(self.folder.join(TARGET).join("release").join(target));
        let log = OpenOptions::new().create(true).write(true).truncate(true).open(log)?;
        // What the checked code prints is not of interest, and there is much of it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.args([format!("-timeout={HANG_SECONDS}"), "-rss_limit_mb=4096".to_owned()]);
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        // As `tests::guests::PREBUILT`.
        command.env("SPACEJMP_GUESTS", self.folder.join("programs"));
        Ok(command)
    }
}

/// How many inputs libFuzzer says that it has run; where it ended by a failure, those before its last line.
fn inputs(said: &str) -> u64 {
    let last = |line: &str| {
        let total = line.strip_prefix("stat::number_of_executed_units:");
        total.map(str::trim).or(line.strip_prefix('#')?.split_whitespace().next())?.parse().ok()
    };
    let total = said
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok());
    total.or_else(|| said.lines().rev().find_map(last)).unwrap_or(0)
}

/// How many edges it has come to, by its last line.
fn edges(said: &str) -> u64 {
    let of = |line: &str| line.split_once("cov: ")?.1.split_whitespace().next()?.parse().ok();
    said.lines().rev().find_map(of).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_read_also_after_a_failure() {
        let ended = "#2\tINITED cov: 25 ft: 25 corp: 1/1b exec/s: 0 rss: 27Mb\n\
            #512\tDONE   cov: 190 ft: 400 corp: 9/1b lim: 4 exec/s: 9 rss: 28Mb\n\
            Done 513 runs in 21 second(s)\nstat::number_of_executed_units: 513\n";
        assert_eq!((inputs(ended), edges(ended)), (513, 190));
        let failed = "#2\tINITED cov: 25 ft: 25 corp: 1/1b exec/s: 0 rss: 27Mb\n\
            #64\tNEW    cov: 26 ft: 26 corp: 2/3b lim: 4 exec/s: 0 rss: 27Mb L: 2/2 MS: 1\n\
            thread '<unnamed>' panicked\n==1== ERROR: libFuzzer: deadly signal\n";
        assert_eq!((inputs(failed), edges(failed)), (64, 26));
        assert_eq!((inputs(""), edges("")), (0, 0));
    }
}
