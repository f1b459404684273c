//! A folder with a store, and the programs that run on it, each in a virtual machine of its own: this
//! command, started as a user starts it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::program::{NAME, Step};

/// Nothing here takes longer, on the slowest machine.
const LIMIT_SECONDS: &str = "120";

/// Errors of the tour itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    #[error("cannot {doing}")]
    Host { doing: &'static str, source: io::Error },
    #[error("`{command}` ended with {status}: {complaint}")]
    Ended { command: String, status: ExitStatus, complaint: String },
    #[error("`{command}` said {said:?}, which makes no sense")]
    Said { command: String, said: String },
    #[error("the sum of all accounts was {expected}, and is {found}")]
    Sum { expected: u64, found: u64 },
}

pub(super) fn host(doing: &'static str) -> impl Fn(io::Error) -> DemoError {
    move |source| DemoError::Host { doing, source }
}

/// A folder of its own, removed when dropped.
#[derive(Debug)]
pub(super) struct Stage {
    folder: PathBuf,
    command: PathBuf,
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    command: String,
}

/// What a program said at its end.
#[derive(Debug)]
pub(super) struct Said {
    /// How long it took, without the start of its virtual machine.
    pub(super) time: Duration,
    pub(super) words: String,
}

impl Stage {
    pub(super) fn set() -> Result<Stage, DemoError> {
        let folder = std::env::temp_dir().join(format!("spacejmp-demo-{}", std::process::id()));
        // Not `create_dir_all`: an existing directory belongs to another user and must not be used.
        let command = std::env::current_exe().map_err(host("find this command"))?;
        fs::create_dir(&folder).map_err(host("make a folder for the demo"))?;
        Ok(Stage { folder, command })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs `spacejmp` itself, on the demo's store, and returns what it prints.
    pub(super) fn spacejmp(&self, args: &[&str]) -> Result<String, DemoError> {
        self.start(args, &[])?.end()
    }

    /// Runs a program in a virtual machine to its end.
    pub(super) fn run(&self, step: Step) -> Result<Said, DemoError> {
        self.begin(step)?.said()
    }

    /// Starts a program in a virtual machine.
    pub(super) fn begin(&self, step: Step) -> Result<Running, DemoError> {
        let program = self.command.to_string_lossy();
        let args =
            ["run", "--timeout", LIMIT_SECONDS, "--vas", NAME, &program, "demo", "--program"];
        self.start(&args, &step.words())
    }

    fn start(&self, args: &[&str], more: &[String]) -> Result<Running, DemoError> {
        let mut command = Command::new(&self.command);
        command.args(args).args(more).env("SPACEJMP_STORE", self.folder.join("store"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(host("start a virtual machine"))?;
        let words = args.iter().map(ToString::to_string).chain(more.iter().cloned());
        Ok(Running { child, command: words.collect::<Vec<_>>().join(" ") })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Running {
    /// Kills it with SIGKILL.
    pub(super) fn kill(mut self) -> Result<(), DemoError> {
        // One that has ended by itself has failed: its programs go on until they are killed.
        if self.child.try_wait().map_err(host("wait for a program"))?.is_some() {
            return self.end().map(drop);
        }
        self.child.kill().map_err(host("kill a program"))?;
        self.child.wait().map_err(host("wait for a program")).map(drop)
    }

    /// Waits for its end.
    pub(super) fn said(self) -> Result<Said, DemoError> {
        let command = self.command.clone();
        let said = self.end()?;
        let parsed = said.trim().split_once(' ').and_then(|(micros, words)| {
            let time = Duration::from_micros(micros.parse().ok()?);
            Some(Said { time, words: words.to_owned() })
        });
        parsed.ok_or(DemoError::Said { command, said })
    }

    fn end(mut self) -> Result<String, DemoError> {
        let read = |pipe: &mut dyn Read| {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).map_err(host("read what a program prints"))?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        // Neither is ever so long that the other would have to be read meanwhile.
        let said =
            self.child.stdout.take().map_or(Ok(String::new()), |mut pipe| read(&mut pipe))?;
        let complaint = self.child.stderr.take();
        let complaint = complaint.map_or(Ok(String::new()), |mut pipe| read(&mut pipe))?;
        let status = self.child.wait().map_err(host("wait for a program"))?;
        if status.success() {
            return Ok(said);
        }
        let command = std::mem::take(&mut self.command);
        Err(DemoError::Ended { command, status, complaint: complaint.trim().to_owned() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
