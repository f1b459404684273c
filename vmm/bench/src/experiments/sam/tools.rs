//! `genome` in a VM and natively, and samtools: runs that are timed.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::BenchError;
use crate::experiments::Bench;
use crate::sample::Runner;

/// Why there is nothing to measure.
pub(super) const NO_GENOME: &str =
    "there is no genome beside spacejmp-bench: cargo build --release -p genome";
/// How often is looked how much memory a program has.
const LOOK: Duration = Duration::from_millis(5);
const THREADS: &str = "2";
/// As a commit of much does.
const WRITTEN_AT_ONCE: usize = 2 << 20;

/// How long something took.
pub(super) struct Seconds {
    /// From `fork` to the end.
    pub(super) whole: f64,
    /// From `main` to the end, as the program says.
    pub(super) inside: f64,
}

/// Our program.
pub(super) struct Genome<'a> {
    runner: &'a Runner,
    program: PathBuf,
}

impl<'a> Genome<'a> {
    pub(super) fn find(bench: &Bench<'a>) -> Option<Genome<'a>> {
        Some(Genome { runner: bench.runner, program: bench.programs.beside("genome") })
    }

    pub(super) fn is_there(&self) -> bool {
        self.program.is_file()
    }

    fn file(&self, format: &str) -> PathBuf {
        self.runner.dir.join("reads").with_extension(format)
    }

    /// Writes the file that all work on.
    pub(super) fn generate(&self, reads: u64) -> Result<(), BenchError> {
        let path = self.file("sam");
        let failed = |source| BenchError::Folder { dir: path.display().to_string(), source };
        let file = std::fs::File::create(&path).map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.arg("generate").arg(reads.to_string());
        run_into(&mut command, file.into()).map(drop)
    }

    fn in_vm(&self, args: &[&str]) -> Result<(Seconds, Output), BenchError> {
        let mut command = Command::new(&self.runner.spacejmp);
        command.env("SPACEJMP_STORE", self.store()).arg("run").arg("--dir").arg(&self.runner.dir);
        command.arg(&self.program).args(args).arg("--time");
        let (whole, output) = timed(&mut command)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let mut inside = said
            .lines()
            .filter_map(|line| line.split_once(": ")?.1.strip_suffix(" s")?.parse::<f64>().ok());
        let inside = inside.next_back().ok_or_else(|| BenchError::Answer {
            what: format!("{command:?}"),
            text: said.chars().take(200).collect(),
        })?;
        Ok((Seconds { whole, inside }, output))
    }

    pub(super) fn load(&self, format: &str) -> Result<Seconds, BenchError> {
        let file = self.file(format).display().to_string();
        Ok(self.in_vm(&["load", &file, "--threads", THREADS])?.0)
    }

    /// And what it says.
    pub(super) fn flagstat(&self) -> Result<(Seconds, String), BenchError> {
        let (seconds, output) = self.in_vm(&["flagstat"])?;
        Ok((seconds, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    pub(super) fn sort(&self, by: &str) -> Result<Seconds, BenchError> {
        Ok(self.in_vm(&["sort", "--by", by])?.0)
    }

    pub(super) fn index(&self) -> Result<Seconds, BenchError> {
        Ok(self.in_vm(&["index"])?.0)
    }

    pub(super) fn tag(&self, tag: &str) -> Result<(), BenchError> {
        self.vas(&["tag", "genome", tag])
    }

    pub(super) fn rollback(&self, tag: &str) -> Result<(), BenchError> {
        self.vas(&["rollback", "genome", tag])
    }

    fn vas(&self, args: &[&str]) -> Result<(), BenchError> {
        let mut command = Command::new(&self.runner.spacejmp);
        command.env("SPACEJMP_STORE", self.store()).arg("vas").args(args);
        run(&mut command).map(drop)
    }

    fn store(&self) -> PathBuf {
        self.runner.dir.join("store")
    }

    /// What the store takes on the disk.
    pub(super) fn bytes(&self) -> Option<u64> {
        on_disk(&self.store()).ok()
    }

    /// How long it takes to write so many bytes to the disk that the store is on, without anything else: no load
    /// takes less, and samtools, which counts, writes none.
    pub(super) fn write_alone(&self, bytes: u64) -> Result<f64, BenchError> {
        let path = self.runner.dir.join("written");
        let write = || {
            let mut file = std::fs::File::create(&path)?;
            let piece = vec![0x5a; WRITTEN_AT_ONCE];
            let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
            while left > 0 {
                let now = left.min(piece.len());
                file.write_all(&piece[..now])?;
                left -= now;
            }
            file.sync_data()
        };
        let began = Instant::now();
        let written = write();
        let seconds = began.elapsed().as_secs_f64();
        // It was only to be timed.
        let _ = std::fs::remove_file(&path);
        let dir = path.display().to_string();
        written.map(|()| seconds).map_err(|source| BenchError::Folder { dir, source })
    }

    /// Seconds of each operation, in the memory of one process.
    pub(super) fn natively(&self) -> Result<Vec<(String, f64)>, BenchError> {
        let mut command = Command::new(&self.program);
        command.arg("measure").arg(self.file("sam")).args(["--threads", THREADS]);
        let output = run(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let seconds = serde_json::from_str::<Value>(&text).ok().and_then(|answer| {
            let all = answer.as_object()?.iter();
            all.map(|(name, seconds)| Some((name.clone(), seconds.as_f64()?))).collect()
        });
        seconds.ok_or_else(|| BenchError::Answer {
            what: format!("{command:?}"),
            text: text.chars().take(200).collect(),
        })
    }
}

fn on_disk(path: &Path) -> std::io::Result<u64> {
    let about = std::fs::symlink_metadata(path)?;
    if !about.is_dir() {
        return Ok(about.blocks() * 512);
    }
    std::fs::read_dir(path)?.map(|entry| on_disk(&entry?.path())).sum()
}

/// The distribution's program.
pub(super) struct Samtools<'a> {
    runner: &'a Runner,
    program: PathBuf,
}

impl<'a> Samtools<'a> {
    /// Looks for it; else says why there are no figures of it.
    pub(super) fn find(bench: &Bench<'a>) -> Result<Samtools<'a>, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|dir| dir.join("samtools"));
        let program = found.into_iter().find(|program| program.is_file());
        let program =
            program.ok_or("samtools is not installed (Debian: apt-get install samtools)")?;
        Ok(Samtools { runner: bench.runner, program })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.runner.dir).args(args);
        command
    }

    fn seconds(&self, args: &[&str]) -> Result<f64, BenchError> {
        Ok(timed(&mut self.command(args))?.0)
    }

    /// Writes the same reads as BAM, and in the order that an index needs.
    pub(super) fn prepare(&self) -> Result<(), BenchError> {
        self.seconds(&["view", "--no-PG", "-b", "-o", "reads.bam", "reads.sam"])?;
        self.seconds(&["sort", "--no-PG", "-o", "placed.bam", "reads.bam"]).map(drop)
    }

    pub(super) fn flagstat(&self, format: &str) -> Result<(f64, String), BenchError> {
        let (seconds, output) =
            timed(&mut self.command(&["flagstat", &format!("reads.{format}")]))?;
        Ok((seconds, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    pub(super) fn count(&self, format: &str) -> Result<f64, BenchError> {
        self.seconds(&["view", "-c", "-@", "1", &format!("reads.{format}")])
    }

    /// And the most memory that it was seen to have.
    pub(super) fn sort(
        &self,
        format: &str,
        is_by_name: bool,
    ) -> Result<(f64, Option<u64>), BenchError> {
        let (from, to) = (format!("reads.{format}"), format!("sorted.{format}"));
        let mut args = vec!["sort", "--no-PG", "-m", "4G", "-o", &to, &from];
        if is_by_name {
            args.insert(1, "-n");
        }
        let mut command = self.command(&args);
        let what = format!("{command:?}");
        let failed = |source| BenchError::Start { what: what.clone(), source };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let mut peak = None;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            peak = peak.max(memory(child.id()));
            std::thread::sleep(LOOK);
        };
        let seconds = began.elapsed().as_secs_f64();
        match status.success() {
            true => Ok((seconds, peak)),
            false => {
                Err(BenchError::Failed { what, status: status.to_string(), stderr: String::new() })
            }
        }
    }

    pub(super) fn index(&self) -> Result<f64, BenchError> {
        self.seconds(&["index", "placed.bam"])
    }
}

/// The most memory that a process has had so far.
fn memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn timed(command: &mut Command) -> Result<(f64, Output), BenchError> {
    let began = Instant::now();
    let output = run(command)?;
    Ok((began.elapsed().as_secs_f64(), output))
}

/// Runs it to its end, and collects what it says.
fn run(command: &mut Command) -> Result<Output, BenchError> {
    run_into(command, Stdio::piped())
}

fn run_into(command: &mut Command, out: Stdio) -> Result<Output, BenchError> {
    let what = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .map_err(|source| BenchError::Start { what: what.clone(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<_> = stderr.lines().rev().take(3).collect();
    Err(BenchError::Failed { what, status: output.status.to_string(), stderr: tail.join("; ") })
}
