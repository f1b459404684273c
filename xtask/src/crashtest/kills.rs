//! SIGKILL: at random moments, while another VM looks at every version; and before every single call
//! to the host that changes a file.

use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};

use super::Done;
use super::ledger::{Ledger, Random, Working, whole};

/// Milliseconds until a kill, at most. A VM starts in a tenth of that.
const WITHIN_MS: u64 = 500;
/// Checks of the store, which read all of it, come after so many kills.
const STORE_CHECKS: u64 = 10;

/// Kills a writing VM `kills` times, at random moments.
///
/// # Errors
/// The first loss.
pub(super) fn at_random(ledger: &Ledger, kills: u64, seed: u64) -> Result<Done> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("store");
    ledger.create(&store)?;
    let mut watch = ledger.command(&store, &["watch"]);
    watch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut watching = Killed(watch.spawn()?);
    let (mut random, mut changes) = (Random::new(seed), 0);
    for kill in 1..=kills {
        let working = ledger.work(&store, changes)?;
        thread::sleep(Duration::from_millis(random.below(WITHIN_MS)));
        changes = ledger.check(&store, working.kill()?)?;
        if watching.0.try_wait()?.is_some() {
            // Until the time is up, which begins at its start, it ends only if something is wrong.
            let output = std::mem::replace(&mut watching, Killed(watch.spawn()?));
            let output = output.into_output()?;
            if output.status.code() != Some(124) {
                whole(&output, "looking at every version")?;
            }
        }
        if kill % STORE_CHECKS == 0 {
            ledger.check_store(&store)?;
        }
    }
    Ok(Done::Checked(vec![("kills", kills), ("changes", changes)]))
}

/// A process that is killed when dropped.
struct Killed(std::process::Child);

impl Killed {
    fn into_output(mut self) -> Result<std::process::Output> {
        let mut stderr = Vec::new();
        if let Some(mut pipe) = self.0.stderr.take() {
            std::io::Read::read_to_end(&mut pipe, &mut stderr)?;
        }
        let status = self.0.wait()?;
        Ok(std::process::Output { status, stdout: Vec::new(), stderr })
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls of the host by which files and folders change, or become durable.
const CALLS: &str = "pwrite64,pwritev,write,fdatasync,fsync,sync_file_range,ftruncate,fallocate,\
                     openat,linkat,unlinkat,renameat,renameat2,mkdirat,fchmod,fchmodat,msync,flock,fcntl";
/// Changes of one such run: some logs, removals, and a text of many pages.
const CHANGES: &str = "12";

/// Lets a VM make a few changes, and has it killed before its first such call, its second, and so on,
/// until it comes to its end.
///
/// # Errors
/// The first loss.
pub(super) fn before_calls(ledger: &Ledger, most: u64) -> Result<Done> {
    if let Err(error) = Command::new("strace").arg("-V").output() {
        return Ok(Done::Skipped(format!("strace cannot be run (Debian: strace): {error}")));
    }
    let folder = tempfile::tempdir()?;
    let (fresh, store) = (folder.path().join("fresh"), folder.path().join("store"));
    ledger.create(&fresh)?;
    // Something for the writer to recover, and for it to end a log with.
    let mut begin = ledger.command(&fresh, &["work", CHANGES]);
    let first: u64 = whole(&begin.output()?, "beginning")?.lines().count() as u64;
    let mut kills = 0;
    for call in 1..=most {
        let copied = Command::new("cp").arg("-a").args([&fresh, &store]).output()?;
        whole(&copied, "copying a store")?;
        let traced = ledger.command(&store, &["work", CHANGES]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={CALLS}"), "-e"]);
        strace.arg(format!("inject={CALLS}:signal=SIGKILL:when={call}"));
        strace.arg(traced.get_program()).args(traced.get_args());
        let mut working = Working::start(strace, first)?;
        let status = working.child.wait().context("wait for strace")?;
        let changes = ledger.check(&store, working.kill()?)?;
        ledger.check_store(&store)?;
        fs::remove_dir_all(&store)?;
        if status.success() {
            ensure!(changes > first, "it came to its end, and has made no changes");
            return Ok(Done::Checked(vec![("calls", kills)]));
        }
        kills += 1;
    }
    if kills < most {
        bail!("it was not killed {most} times, and did not come to its end");
    }
    Ok(Done::Checked(vec![("calls, not all", kills)]))
}
