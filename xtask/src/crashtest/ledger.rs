//! The programs `ledger` and `vas_several` of `tests/guests` in virtual machines, on a store: the content of one
//! segment, or of two that are changed together, follows from how many changes were made, and the number of each change that was
//! committed is printed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::check::TOGETHER;
use crate::workspace::{TARGET, Workspace, succeed};

/// Nothing takes longer, on a busy machine.
const LIMIT_SECONDS: &str = "300";

/// The programs.
pub(super) struct Ledger {
    spacejmp: PathBuf,
    program: PathBuf,
    acts: &'static Acts,
}

/// What a program is told.
struct Acts {
    program: &'static str,
    create: &'static [&'static str],
    work: &'static str,
    look: &'static str,
    watch: &'static str,
}

const ONE_SEGMENT: Acts =
    Acts { program: "ledger", create: &["new"], work: "work", look: "check", watch: "watch" };
/// Durable when it is acknowledged, whatever the segments say.
const TWO_SEGMENTS: Acts = Acts {
    program: "vas_several",
    create: &["make"],
    work: "count",
    look: "counted",
    watch: "watch-counted",
};

/// A VM that makes changes.
pub(super) struct Working {
    pub(super) child: Child,
    first: u64,
    told: Arc<Mutex<Vec<u64>>>,
    reader: Option<JoinHandle<()>>,
}

impl Ledger {
    /// The VAS.
    pub(super) const NAME: &str = "ledger";

    pub(super) fn build(workspace: &Workspace) -> Result<Ledger> {
        let build = ["build", "--quiet", "--bin", "spacejmp"];
        succeed(workspace.cargo(&build).args(TOGETHER))?;
        Ledger::of(workspace, &ONE_SEGMENT)
    }

    /// The same of two segments, each change of which is of both.
    pub(super) fn of_two_segments(workspace: &Workspace) -> Result<Ledger> {
        Ledger::of(workspace, &TWO_SEGMENTS)
    }

    fn of(workspace: &Workspace, acts: &'static Acts) -> Result<Ledger> {
        let build = ["build", "--quiet", "--bin", acts.program];
        succeed(workspace.cargo(&build).args(TOGETHER))?;
        let folder = workspace.target().join(TARGET).join("debug");
        let [spacejmp, program] = ["spacejmp", acts.program].map(|name| folder.join(name));
        Ok(Ledger { spacejmp, program, acts })
    }

    /// The command to run the program on a store.
    pub(super) fn command(&self, store: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.spacejmp);
        self.in_vm(&mut command, store).arg(Self::NAME).args(args);
        command
    }

    fn in_vm<'a>(&self, command: &'a mut Command, store: &Path) -> &'a mut Command {
        command.args(["run", "--timeout", LIMIT_SECONDS, "--store"]).arg(store).arg(&self.program)
    }

    /// The command `spacejmp vas` on a store.
    pub(super) fn vas(&self, store: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.spacejmp);
        command.arg("vas").args(args).arg("--store").arg(store);
        command
    }

    /// How many changes the newest version of a ledger has, all of them whole.
    pub(super) fn look(&self, store: &Path, name: &str) -> Result<u64> {
        let mut command = Command::new(&self.spacejmp);
        let output = self.in_vm(&mut command, store).args([name, self.acts.look]).output()?;
        Ok(whole(&output, "looking at what is left")?.trim().parse()?)
    }

    /// Makes an empty ledger in a new store.
    pub(super) fn create(&self, store: &Path) -> Result<()> {
        whole(&self.command(store, self.acts.create).output()?, "making a ledger").map(drop)
    }

    /// Starts a VM that makes changes until it is killed, or the store is gone; `first` were made before.
    pub(super) fn work(&self, store: &Path, first: u64) -> Result<Working> {
        let mut command = self.command(store, &[self.acts.work]);
        command.stderr(Stdio::null());
        Working::start(command, first)
    }

    /// Starts one that says why if it ends by itself.
    pub(super) fn work_until_killed(&self, store: &Path, first: u64) -> Result<Working> {
        Working::start(self.command(store, &[self.acts.work]), first)
    }

    /// The command that looks at every version until it is killed.
    pub(super) fn watch(&self, store: &Path) -> Command {
        self.command(store, &[self.acts.watch])
    }

    /// Looks at what is left: at least what was acknowledged, at most one change more, nothing else.
    /// Returns how many changes there are.
    pub(super) fn check(&self, store: &Path, acknowledged: u64) -> Result<u64> {
        let changes = self.look(store, Self::NAME)?;
        ensure!(
            changes >= acknowledged,
            "LOST: {acknowledged} changes were committed, and {changes} are left"
        );
        ensure!(
            changes <= acknowledged + 1,
            "{acknowledged} changes were committed, and {changes} are there"
        );
        Ok(changes)
    }

    /// `spacejmp store check` finds nothing wrong.
    pub(super) fn check_store(&self, store: &Path) -> Result<()> {
        let mut check = Command::new(&self.spacejmp);
        check.args(["store", "check", "--store"]).arg(store);
        whole(&check.output()?, "checking the store").map(drop)
    }
}

impl Working {
    /// Starts a command that prints the number of each change when it is committed.
    pub(super) fn start(mut command: Command, first: u64) -> Result<Working> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let to = Arc::clone(&told);
        let read = move || {
            let numbers = lines.map_while(Result::ok).filter_map(|line| line.parse().ok());
            numbers.for_each(|number| lock(&to).push(number));
        };
        Ok(Working { child, first, told, reader: Some(thread::spawn(read)) })
    }

    /// The changes that it said were committed, so far.
    pub(super) fn told(&self) -> MutexGuard<'_, Vec<u64>> {
        lock(&self.told)
    }

    /// The last change that it said was committed.
    pub(super) fn acknowledged(&self) -> u64 {
        self.told().last().copied().unwrap_or(self.first)
    }

    /// Kills it, unless it has ended; returns the last change that it said was committed.
    pub(super) fn kill(mut self) -> Result<u64> {
        self.stop()?;
        Ok(self.acknowledged())
    }

    /// Kills it; returns all changes that it said were committed.
    pub(super) fn kill_alive(mut self) -> Result<Vec<u64>> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "a writer has ended without a kill: {ended:?}");
        self.stop()?;
        Ok(std::mem::take(&mut self.told()))
    }

    fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let read = self.reader.take().map_or(Ok(()), JoinHandle::join);
        ensure!(read.is_ok(), "its output could not be read");
        Ok(())
    }
}

fn lock(told: &Mutex<Vec<u64>>) -> MutexGuard<'_, Vec<u64>> {
    told.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// A folder in memory, where the host has that: to a kill it makes no difference where files lie, and no disk is waited for.
pub(super) fn in_memory() -> Result<TempDir> {
    Ok(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?)
}

/// What a command printed; an error with all it said if it failed.
pub(super) fn whole(output: &Output, doing: &str) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{doing}: {}\n{said}{complaint}", output.status);
    Ok(said)
}

/// Numbers that look random, the same for the same seed (xorshift64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
