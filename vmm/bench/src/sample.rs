//! One run of a program, natively or in a VM, and its answer.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::BenchError;
use vmm::report::run::monotonic_ns;

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// As a process of the host.
    Native,
    /// Under `spacejmp run`.
    Vm,
}

/// How programs are run: by which `spacejmp`, and with which grants.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The `spacejmp` binary.
    pub spacejmp: PathBuf,
    /// Directory that programs in a VM may see.
    pub dir: PathBuf,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// From before `fork` to after `wait`.
    pub wall: Duration,
    /// The host's monotonic clock before `fork` and after `wait`.
    pub span_ns: (u64, u64),
    /// The JSON line it printed, or null.
    pub answer: Value,
    /// The statistics of the VM, if requested.
    pub stats: Value,
}

impl Sample {
    /// [`Self::wall`] in milliseconds.
    #[must_use]
    pub fn wall_ms(&self) -> f64 {
        self.wall.as_secs_f64() * 1e3
    }

    /// A number of the answer.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        self.answer.get(key)?.as_f64()
    }

    /// A number of the statistics, keys separated by dots.
    #[must_use]
    pub fn stat(&self, path: &str) -> Option<f64> {
        path.split('.').try_fold(&self.stats, |value, key| value.get(key))?.as_f64()
    }

    /// The sum of the counts in a list of the statistics, such as `exits`.
    #[must_use]
    pub fn counts(&self, list: &str) -> Option<f64> {
        let kinds = self.stats.get(list)?.as_array()?;
        let counts = kinds.iter().filter_map(|kind| kind.get("count")?.as_f64());
        // `sum` makes -0 of none.
        Some(counts.fold(0.0, |sum, count| sum + count))
    }
}

impl Runner {
    /// Runs `program` with `args` and waits for it. With `stats`, a VM's statistics are
    /// collected too, which costs a little at its end.
    ///
    /// # Errors
    /// [`BenchError`] when it cannot be started or fails.
    pub fn run(
        &self,
        place: Environment,
        program: &Path,
        args: &[&str],
        stats: bool,
    ) -> Result<Sample, BenchError> {
        let stats_file = self.dir.join("stats.json");
        let mut command = self.command(place, program, args, stats.then_some(&*stats_file));
        let what = format!("{command:?}");
        let started_ns = monotonic_ns();
        let began = Instant::now();
        let output =
            command.output().map_err(|source| BenchError::Start { what: what.clone(), source })?;
        let wall = began.elapsed();
        let span_ns = (started_ns, monotonic_ns());
        let answer = answer(what, &output)?;
        let stats = match (place, stats) {
            (Environment::Vm, true) => std::fs::read_to_string(&stats_file)
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or(Value::Null),
            _ => Value::Null,
        };
        Ok(Sample { wall, span_ns, answer, stats })
    }

    /// Runs `program` in a VM that logs what `log` says, and returns that as well.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn logged(
        &self,
        program: &Path,
        args: &[&str],
        log: &str,
    ) -> Result<(Value, String), BenchError> {
        let mut command = self.command(Environment::Vm, program, args, None);
        command.env("SPACEJMP_LOG", log);
        let what = format!("{command:?}");
        let output =
            command.output().map_err(|source| BenchError::Start { what: what.clone(), source })?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((answer(what, &output)?, said))
    }

    /// Runs the same program twice at the same time and waits for both; returns what each
    /// printed.
    ///
    /// # Errors
    /// [`BenchError`] when one cannot be started or fails.
    pub fn pair(
        &self,
        place: Environment,
        program: &Path,
        args: &[&str],
    ) -> Result<[Value; 2], BenchError> {
        let mut command = self.command(place, program, args, None);
        let what = format!("{command:?}");
        let failed = |source| BenchError::Start { what: what.clone(), source };
        let mut first = command.spawn().map_err(failed)?;
        let second = match command.spawn() {
            Ok(second) => second,
            Err(error) => {
                // It would wait a minute for the other.
                let _ = first.kill();
                let _ = first.wait();
                return Err(failed(error));
            }
        };
        let (first, second) = (first.wait_with_output(), second.wait_with_output());
        Ok([
            answer(what.clone(), &first.map_err(failed)?)?,
            answer(what.clone(), &second.map_err(failed)?)?,
        ])
    }

    /// Runs a program that is no part of ours natively.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub fn native(&self, program: &Path, args: &[&str]) -> Result<Sample, BenchError> {
        self.run(Environment::Native, program, args, false)
    }

    /// Runs `program`, which makes marks, in a VM, and returns what the VM's process asked the host
    /// for between them, counted by the same program natively.
    ///
    /// # Errors
    /// [`BenchError`] when it fails, or cannot be traced.
    pub fn traced(&self, program: &Path, args: &[&str]) -> Result<Value, BenchError> {
        let inner = self.command(Environment::Vm, program, args, None);
        let words: Vec<_> = std::iter::once(inner.get_program()).chain(inner.get_args()).collect();
        let mut command = self.command(Environment::Native, program, &["store-trace"], None);
        command.args(words);
        let what = format!("{command:?}");
        let output =
            command.output().map_err(|source| BenchError::Start { what: what.clone(), source })?;
        answer(what, &output)
    }

    /// Runs `program` in a VM until it prints a line, and kills it.
    ///
    /// # Errors
    /// [`BenchError`] when it cannot be started, or ends without a line.
    pub fn killed(&self, program: &Path, args: &[&str]) -> Result<(), BenchError> {
        self.held(program, args, || ())
    }

    /// The same, with a look at it in between.
    ///
    /// # Errors
    /// As [`Runner::killed`].
    pub fn held<T>(
        &self,
        program: &Path,
        args: &[&str],
        look: impl FnOnce() -> T,
    ) -> Result<T, BenchError> {
        let mut command = self.command(Environment::Vm, program, args, None);
        let what = format!("{command:?}");
        let failed = |source| BenchError::Start { what: what.clone(), source };
        // It waits for a byte that never comes.
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(failed)?;
        let mut line = String::new();
        if let Some(out) = &mut child.stdout {
            BufReader::new(out).read_line(&mut line).map_err(failed)?;
        }
        let seen = look();
        if !line.is_empty() {
            child.kill().map_err(failed)?;
        }
        let output = child.wait_with_output().map_err(failed)?;
        if line.is_empty() {
            answer(what, &output)?;
        }
        Ok(seen)
    }

    /// The command that runs `program`, with the statistics of a VM in a file at its end if one is named.
    #[must_use]
    pub fn command(
        &self,
        place: Environment,
        program: &Path,
        args: &[&str],
        stats_file: Option<&Path>,
    ) -> Command {
        let mut command = match place {
            Environment::Native => Command::new(program),
            Environment::Vm => {
                let mut command = Command::new(&self.spacejmp);
                command.arg("run").arg("--dir").arg(&self.dir);
                if let Some(file) = stats_file {
                    command.arg("--stats=json").arg("--stats-to").arg(file);
                }
                command.arg(program);
                command
            }
        };
        // A separate store: the content of the user's must not affect the figures.
        command.env("SPACEJMP_STORE", self.dir.join("store"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// The JSON line a program printed, if it succeeded.
fn answer(what: String, output: &Output) -> Result<Value, BenchError> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let tail: String = stderr.lines().rev().take(3).collect::<Vec<_>>().join("; ");
        return Err(BenchError::Failed { what, status: output.status.to_string(), stderr: tail });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim() {
        "" => Ok(Value::Null),
        line => serde_json::from_str(line)
            .map_err(|_| BenchError::Answer { what, text: line.chars().take(200).collect() }),
    }
}
