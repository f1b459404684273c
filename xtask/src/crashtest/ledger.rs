//! The program `ledger` of `tests/guests` in virtual machines, on a store: its content follows from how
//! many changes it made, and it prints the number of each change that was committed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};

use crate::workspace::{TARGET, Workspace, succeed};

/// Nothing takes longer, on a busy machine.
const LIMIT_SECONDS: &str = "300";

/// The programs.
pub(super) struct Ledger {
    spacejmp: PathBuf,
    program: PathBuf,
}

/// A VM that makes changes.
pub(super) struct Working {
    pub(super) child: Child,
    acknowledged: Arc<AtomicU64>,
    reader: Option<JoinHandle<()>>,
}

impl Ledger {
    /// The VAS.
    pub(super) const NAME: &str = "ledger";

    pub(super) fn build(workspace: &Workspace) -> Result<Ledger> {
        succeed(&mut workspace.cargo(&["build", "--quiet", "--package", "vmm"]))?;
        let build = ["build", "--quiet", "--package", "guests", "--bin", "ledger"];
        succeed(&mut workspace.cargo(&build))?;
        let folder = workspace.target().join(TARGET).join("debug");
        Ok(Ledger { spacejmp: folder.join("spacejmp"), program: folder.join("ledger") })
    }

    /// The command to run `ledger` on a store.
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
        let output = self.in_vm(&mut command, store).args([name, "check"]).output()?;
        Ok(whole(&output, "looking at what is left")?.trim().parse()?)
    }

    /// Makes an empty ledger in a new store.
    pub(super) fn create(&self, store: &Path) -> Result<()> {
        whole(&self.command(store, &["new"]).output()?, "making a ledger").map(drop)
    }

    /// Starts a VM that makes changes until it is killed; `first` were made before.
    pub(super) fn work(&self, store: &Path, first: u64) -> Result<Working> {
        Working::start(self.command(store, &["work"]), first)
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
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let acknowledged = Arc::new(AtomicU64::new(first));
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let to = Arc::clone(&acknowledged);
        let read = move || {
            let numbers = lines.map_while(Result::ok).filter_map(|line| line.parse().ok());
            numbers.for_each(|number| to.store(number, Ordering::SeqCst));
        };
        Ok(Working { child, acknowledged, reader: Some(thread::spawn(read)) })
    }

    /// The last change that it said was committed.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Kills it, unless it has ended; returns the last change that it said was committed.
    pub(super) fn kill(mut self) -> Result<u64> {
        self.stop()?;
        Ok(self.acknowledged())
    }

    fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let read = self.reader.take().map_or(Ok(()), JoinHandle::join);
        ensure!(read.is_ok(), "its output could not be read");
        Ok(())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.stop();
    }
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
