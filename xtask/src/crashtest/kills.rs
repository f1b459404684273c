//! SIGKILL: at random moments, while another VM looks at every version; and before every single call
//! to the host that changes a file, of a VM that makes changes and of the commands that make, take and
//! convert versions.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};

use super::Done;
use super::ledger::{Ledger, Random, Working, in_memory, whole};

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
    let mut watching = Watching::start(ledger, &store)?;
    let (mut random, mut changes) = (Random::new(seed), 0);
    for kill in 1..=kills {
        let working = ledger.work(&store, changes)?;
        thread::sleep(Duration::from_millis(random.below(WITHIN_MS)));
        changes = ledger.check(&store, working.kill()?)?;
        watching.goes_on()?;
        if kill % STORE_CHECKS == 0 {
            ledger.check_store(&store)?;
        }
    }
    Ok(Done::Checked(vec![("kills", kills), ("changes", changes)]))
}

/// A VM that looks at every version, until it is dropped.
pub(super) struct Watching {
    command: Command,
    vm: Killed,
}

impl Watching {
    pub(super) fn start(ledger: &Ledger, store: &Path) -> Result<Watching> {
        let mut command = ledger.watch(store);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let vm = Killed(command.spawn()?);
        Ok(Watching { command, vm })
    }

    /// Until the time is up, which begins at its start, it ends only if something is wrong; then another takes its place.
    pub(super) fn goes_on(&mut self) -> Result<()> {
        if self.vm.0.try_wait()?.is_some() {
            let ended = std::mem::replace(&mut self.vm, Killed(self.command.spawn()?));
            let output = ended.into_output()?;
            if output.status.code() != Some(124) {
                whole(&output, "looking at every version")?;
            }
        }
        Ok(())
    }
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
const CALLS: &str = "pwrite64,pwritev,pwritev2,write,fdatasync,fsync,sync_file_range,ftruncate,fallocate,\
                     openat,openat2,linkat,unlinkat,renameat,renameat2,mkdirat,fchmod,fchmodat,msync,flock,fcntl";
/// Changes of a run that recovers, commits, and ends a log: removals, and a text of many pages, among them.
const CHANGES: u64 = 12;
/// So many make logs that the last to leave brings to a layer.
const MANY: u64 = 400;

/// Where a program or a command begins that is killed before each of its calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A few changes.
    Few,
    /// Logs that are brought to the home file when the program ends.
    Many,
    /// The same, and a tag that has the home file, too: they are merged into a layer.
    Tagged,
}

/// Makes such a store; returns how many changes it has, and how many the tag.
fn prepare(ledger: &Ledger, store: &Path, before: Before) -> Result<(u64, u64)> {
    ledger.create(store)?;
    let few =
        whole(&ledger.command(store, &["work", &CHANGES.to_string()]).output()?, "beginning")?;
    let few = few.lines().count() as u64;
    if before != Before::Many {
        whole(&ledger.vas(store, &["tag", Ledger::NAME, "kept"]).output()?, "making a tag")?;
    }
    if before == Before::Few {
        let more = ledger.command(store, &["work", &CHANGES.to_string()]).output()?;
        return Ok((few + whole(&more, "going on")?.lines().count() as u64, few));
    }
    let mut working = ledger.work(store, few)?;
    while working.acknowledged() < few + MANY {
        ensure!(working.child.try_wait()?.is_none(), "it has ended without a kill");
        thread::sleep(Duration::from_millis(5));
    }
    // One that ends by itself leaves no long logs.
    Ok((ledger.check(store, working.kill()?)?, few))
}

/// A call by its name, and the how manieth of that name it is in its thread: so strace counts.
type Call = (String, u64);

/// Traces a command: notes its calls that change files, or has it killed before one of them.
struct Tracer<'a> {
    notes: &'a Path,
    kill_before: Option<&'a Call>,
}

impl Tracer<'_> {
    fn of(&self, command: &Command) -> Command {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qqq", "-e", &format!("trace={CALLS}"), "-o"]).arg(self.notes);
        if let Some((name, number)) = self.kill_before {
            strace.args(["-e", &format!("inject={name}:signal=SIGKILL:when={number}")]);
        }
        strace.arg(command.get_program()).args(command.get_args()).stderr(Stdio::null());
        strace
    }
}

/// The calls that strace has noted. Of threads that make the same ones, the first that comes so far is killed.
fn noted(notes: &str) -> Vec<Call> {
    let mut counts = BTreeMap::<(&str, &str), u64>::new();
    // One that another thread interrupts has a second line, which begins with `<...`.
    let calls = notes.lines().filter_map(|line| {
        let (thread, call) = line.split_once(' ')?;
        let name = call.trim_start().split_once('(')?.0;
        CALLS.split(',').any(|known| known == name).then_some((name, thread))
    });
    calls.for_each(|call| *counts.entry(call).or_default() += 1);
    let mut most = BTreeMap::<&str, u64>::new();
    for ((name, _), count) in counts {
        let so_far = most.entry(name).or_default();
        *so_far = count.max(*so_far);
    }
    let all = most.into_iter();
    all.flat_map(|(name, count)| (1..=count).map(move |number| (name.to_owned(), number))).collect()
}

/// What was killed before its calls.
#[derive(Default)]
struct Kills {
    kills: u64,
    calls: u64,
}

impl Kills {
    /// Does something to copies of a store, killed before each of its calls, or before so many of them, evenly spread.
    /// First it comes to its end: that says which there are.
    fn add(
        &mut self,
        fresh: &Path,
        most: u64,
        mut once: impl FnMut(&Tracer<'_>, &Path) -> Result<ExitStatus>,
    ) -> Result<()> {
        let (store, notes) = (fresh.with_extension("copy"), fresh.with_extension("calls"));
        let mut on_copy = |kill_before| -> Result<ExitStatus> {
            let copied = Command::new("cp").arg("-a").args([fresh, &store]).output()?;
            whole(&copied, "copying a store")?;
            let status = once(&Tracer { notes: &notes, kill_before }, &store)?;
            fs::remove_dir_all(&store)?;
            Ok(status)
        };
        let status = on_copy(None)?;
        ensure!(status.success(), "it does not come to its end without a kill: {status}");
        let calls = noted(&fs::read_to_string(&notes).context("strace has noted nothing")?);
        ensure!(!calls.is_empty(), "it has made no call that changes a file");
        self.calls += calls.len() as u64;
        for call in calls.iter().step_by((calls.len() as u64).div_ceil(most) as usize) {
            self.kills += u64::from(!on_copy(Some(call))?.success());
        }
        Ok(())
    }

    fn done(self) -> Done {
        Done::Checked(vec![("kills", self.kills), ("calls", self.calls)])
    }
}

fn no_strace() -> Option<Done> {
    let error = Command::new("strace").arg("-V").output().err()?;
    Some(Done::Skipped(format!("strace cannot be run (Debian: strace): {error}")))
}

/// Lets a VM make changes, and has it killed before its calls that change files, or `most` of them: while it recovers,
/// commits, and brings logs to the home file or merges them.
///
/// # Errors
/// The first loss.
pub(super) fn before_calls(ledger: &Ledger, most: u64) -> Result<Done> {
    if let Some(skipped) = no_strace() {
        return Ok(skipped);
    }
    let mut kills = Kills::default();
    for (before, changes) in [(Before::Few, CHANGES), (Before::Many, 1), (Before::Tagged, 1)] {
        let folder = in_memory()?;
        let fresh = folder.path().join("fresh");
        let (first, _) = prepare(ledger, &fresh, before)?;
        kills.add(&fresh, most, |tracer, store| {
            let work = ledger.command(store, &["work", &changes.to_string()]);
            let mut working = Working::start(tracer.of(&work), first)?;
            let status = working.child.wait().context("wait for strace")?;
            let made = ledger.check(store, working.kill()?)?;
            ledger.check_store(store)?;
            ensure!(!status.success() || made > first, "it came to its end without a change");
            Ok(status)
        })?;
    }
    Ok(kills.done())
}

/// Commands, and whether the newest version is the tag's afterwards.
const COMMANDS: [(&[&str], bool); 4] = [
    (&["tag", Ledger::NAME, "another"], false),
    (&["clone", Ledger::NAME, "copy"], false),
    (&["untag", Ledger::NAME, "kept"], false),
    (&["rollback", Ledger::NAME, "kept"], true),
];

/// Has the commands killed before such calls that freeze, link, remove and roll back. What was newest is
/// whole then, or what the command makes, and can be copied and tagged.
///
/// # Errors
/// The first loss.
pub(super) fn before_calls_of_commands(ledger: &Ledger, most: u64) -> Result<Done> {
    if let Some(skipped) = no_strace() {
        return Ok(skipped);
    }
    let folder = in_memory()?;
    let fresh = folder.path().join("fresh");
    let (newest, kept) = prepare(ledger, &fresh, Before::Few)?;
    let mut kills = Kills::default();
    for (command, goes_back) in COMMANDS {
        kills.add(&fresh, most, |tracer, store| {
            let what = command.join(" ");
            let status = tracer.of(&ledger.vas(store, command)).output()?.status;
            let left = ledger.look(store, Ledger::NAME)?;
            let is_right = match (goes_back, status.success()) {
                (true, true) => left == kept,
                (true, false) => [kept, newest].contains(&left),
                (false, _) => left == newest,
            };
            ensure!(is_right, "LOST: {left} changes are left of {newest} after `{what}`");
            ledger.check_store(store)?;
            let copied = ledger.vas(store, &["clone", Ledger::NAME, "afterwards"]).output()?;
            whole(&copied, &format!("cloning after `{what}`"))?;
            ensure!(ledger.look(store, "afterwards")? == left, "a copy after `{what}` is another");
            let tagged = ledger.vas(store, &["tag", Ledger::NAME, "afterwards"]).output()?;
            whole(&tagged, &format!("making a tag after `{what}`"))?;
            ledger.check_store(store)?;
            Ok(status)
        })?;
    }
    Ok(kills.done())
}

#[cfg(test)]
mod tests {
    use super::noted;

    #[test]
    fn calls_are_counted_by_name_in_the_thread_that_makes_most_of_them() {
        let notes = "7  openat(22, \"lock\", O_RDONLY) = 26\n8  flock(26, LOCK_SH <unfinished ...>\n\
                     7  flock(26, LOCK_EX) = 0\n8  <... flock resumed>) = 0\n7  flock(26, LOCK_UN) = 0\n\
                     7  getdents64(27, 0x55, 16384) = 0\n7  +++ exited with 0 +++\n";
        let expected = [("flock", 1), ("flock", 2), ("openat", 1)];
        assert_eq!(noted(notes), expected.map(|(name, number)| (name.to_owned(), number)));
    }
}
