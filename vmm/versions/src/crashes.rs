//! Workloads on the simulated disk, cut after every operation, and what must open then.
//!
//! Demanded of each state: the segment opens; its newest version is one that was appended, and not
//! older than the last that was reported durable; every page, and every fact, of every version that
//! can be read is what it was at its commit. Then it goes on: a commit more, and a second cut within
//! that, and the same demands.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use crate::disk::simulated::{AfterCut, Disk, Done, FaultKind, Files, Random, killed_after};
use crate::error::VersionsError;
use crate::log::record::VersionFacts;
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};
use crate::segment::{Commit, Limits, Segment, Sharing};

/// Pages that workloads write.
const PAGES: u64 = 24;
/// The segment's number, and logs that are full after a few commits.
const SEGMENT: u64 = 0x5e9;
const LIMITS: Limits =
    Limits { log_bytes: 20 * PAGE_BYTES as u64, ahead_bytes: 4 * PAGE_BYTES as u64 };

/// What a program does with a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// Small commits, each durable at once.
    Each,
    /// Small commits, a sync now and then.
    Every,
    /// Commits of many pages, so that logs are full at once.
    Large,
    /// Commits and checkpoints in turns, older versions in use.
    Checkpoints,
    /// Commits, checkpoints, and a disk that fails now and then.
    Errors,
    /// Two VMs that share the segment, and are killed now and then.
    Turns,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 6] = [
        Workload::Each,
        Workload::Every,
        Workload::Large,
        Workload::Checkpoints,
        Workload::Errors,
        Workload::Turns,
    ];

    /// Its name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Each => "each",
            Workload::Every => "every",
            Workload::Large => "large",
            Workload::Checkpoints => "checkpoints",
            Workload::Errors => "errors",
            Workload::Turns => "turns",
        }
    }
}

/// A version's pages: a token each, from which the content follows.
type Tokens = BTreeMap<PageIndex, u64>;

/// What happened to a segment, in the order of the disk's journal.
#[derive(Clone, Debug)]
enum Event {
    /// A commit of this version began. A cut may leave it whole even if it never succeeded.
    Tried(VersionNumber, Tokens),
    /// It was reported durable.
    Promised(VersionNumber),
    /// After a failure the log went on from here: what was tried behind it is gone.
    Renewed(VersionNumber),
}

/// What a version may be, and what was promised.
#[derive(Clone, Default, Debug)]
struct History {
    versions: BTreeMap<VersionNumber, Tokens>,
    promised: VersionNumber,
}

impl History {
    fn new() -> History {
        let versions = BTreeMap::from([(VersionNumber(0), Tokens::new())]);
        History { versions, ..History::default() }
    }

    fn advance(&mut self, event: &Event) {
        match event {
            Event::Tried(version, tokens) => {
                self.versions.insert(*version, tokens.clone());
            }
            Event::Promised(version) => self.promised = *version,
            Event::Renewed(version) => {
                self.forget_behind(*version);
                self.promised = *version;
            }
        }
    }

    fn forget_behind(&mut self, last: VersionNumber) {
        self.versions.retain(|version, _| *version <= last);
    }
}

/// A history that is told to the disk's journal, too.
struct Teller {
    disk: Disk,
    history: History,
    events: Vec<Event>,
}

impl Teller {
    fn tell(&mut self, event: Event) {
        self.history.advance(&event);
        self.disk.mark(self.events.len() as u64);
        self.events.push(event);
    }
}

/// What was checked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Checked {
    /// Points at which the power was cut.
    pub cuts: u64,
    /// States opened.
    pub states: u64,
}

/// A state from which something was lost, or that does not open.
#[derive(thiserror::Error, Debug)]
#[error("{workload:?}, seed {seed}, after {operations} operations: {what}")]
pub struct Lost {
    /// What ran.
    pub workload: Workload,
    /// By which numbers.
    pub seed: u64,
    /// How far.
    pub operations: usize,
    /// What is wrong.
    pub what: String,
}

/// Runs a workload of `steps` steps, cuts the power after each operation and looks at `states` states
/// each.
///
/// # Errors
/// The first state that does not meet the demands.
pub fn check(workload: Workload, seed: u64, steps: u64, states: u64) -> Result<Checked, Lost> {
    check_on(workload, seed, steps, states, &|disk| {
        if workload == Workload::Errors {
            fail_sometimes(disk, seed);
        }
    })
}

/// One operation in twelve fails, half of those after it had its effect.
fn fail_sometimes(disk: &Disk, seed: u64) {
    let mut random = Random(seed ^ 0xe44);
    disk.set_fault(Some(Box::new(move |_, _| match random.below(24) {
        0 => FaultKind::Error(ErrorKind::StorageFull),
        1 => FaultKind::ErrorAfter(ErrorKind::Other),
        _ => FaultKind::None,
    })));
}

/// [`check`] on a disk that `prepare` may have made worse.
fn check_on(
    workload: Workload,
    seed: u64,
    steps: u64,
    states: u64,
    prepare: &dyn Fn(&Disk),
) -> Result<Checked, Lost> {
    let mut random = Random(seed);
    let lost = |operations, what| Lost { workload, seed, operations, what };
    let disk = Disk::default();
    let created = Segment::create(disk.clone(), SEGMENT, facts(0), LIMITS);
    created.map_err(|error| lost(0, format!("cannot be made: {error}")))?;
    let (files, _) = disk.take();
    let disk = Disk::with_files(files.clone());
    let segment = Segment::open(disk.clone(), LIMITS);
    let segment = segment.map_err(|error| lost(0, format!("cannot be opened: {error}")))?;
    prepare(&disk);
    let mut teller = Teller { disk: disk.clone(), history: History::new(), events: Vec::new() };
    run(workload, segment, steps, &mut random, &mut teller)
        .map_err(|error| lost(0, format!("the workload fails: {error}")))?;
    disk.set_fault(None);
    let (_, journal) = disk.take();
    let mut after = AfterCut::with_files(&files);
    let mut history = History::new();
    let mut checked = Checked::default();
    for (operations, done) in journal.iter().enumerate() {
        after.advance(done);
        if let Done::Mark(event) = done {
            history.advance(&teller.events[*event as usize]);
            continue;
        }
        checked.cuts += 1;
        for _ in 0..states {
            checked.states += 1;
            judge(after.leave(&mut random), history.clone(), &mut random)
                .map_err(|what| lost(operations + 1, what))?;
        }
    }
    Ok(checked)
}

/// Does the steps; tells the journal what was reported durable.
fn run(
    workload: Workload,
    mut segment: Segment<Disk>,
    steps: u64,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    if workload == Workload::Turns {
        return take_turns(segment, steps, random, teller);
    }
    for step in 0..steps {
        let pages = if workload == Workload::Large { 4 + random.below(8) } else { random.below(4) };
        let result = commit(&mut segment, pages, random, teller).and_then(|()| {
            if workload != Workload::Every || step % 4 == 3 {
                let durable = segment.sync()?;
                teller.tell(Event::Promised(durable));
            }
            match workload {
                Workload::Checkpoints | Workload::Errors => checkpoint(&mut segment, random),
                _ => Ok(()),
            }
        });
        match result {
            Ok(()) => {}
            Err(_) if workload == Workload::Errors => recover(&mut segment, teller),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One time in three; older versions may be in use.
fn checkpoint(segment: &mut Segment<Disk>, random: &mut Random) -> Result<(), VersionsError> {
    if random.below(3) != 0 {
        return Ok(());
    }
    let oldest = segment.appended().0.saturating_sub(random.below(6));
    segment.checkpoint(VersionNumber(oldest), Sharing::Alone)
}

/// Two VMs: each takes in what the other appended before it goes on. One time in three it is killed at
/// it, and the other takes over; or both are, and a third opens what they left in the page cache.
fn take_turns(
    first: Segment<Disk>,
    steps: u64,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let disk = teller.disk.clone();
    let join = |up_to| Segment::open_shared(disk.clone(), LIMITS, Some(up_to));
    let mut vms = [join(first.appended())?, first];
    for _ in 0..steps {
        // The one in front has the lock.
        vms.rotate_left(random.below(2) as usize);
        let appended = vms[0].appended().max(vms[1].appended());
        vms[0].refresh(appended)?;
        let is_killed = random.below(3) == 0;
        if is_killed {
            let bytes = random.below(4 * PAGE_BYTES as u64) as usize;
            disk.set_fault(Some(killed_after(random.below(20), bytes)));
        }
        let result = turn(&mut vms[0], random, teller);
        if !is_killed {
            result?;
            continue;
        }
        disk.set_fault(None);
        if random.below(2) == 0 {
            vms[1].take_over(appended)?;
        } else {
            vms[1] = Segment::open(disk.clone(), LIMITS)?;
        }
        teller.tell(Event::Renewed(vms[1].durable()));
        vms[0] = join(vms[1].appended())?;
    }
    Ok(())
}

/// What a VM does while it has the lock.
fn turn(
    segment: &mut Segment<Disk>,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let pages = random.below(4);
    commit(segment, pages, random, teller)?;
    if random.below(2) == 0 {
        let durable = segment.sync()?;
        teller.tell(Event::Promised(durable));
    }
    checkpoint(segment, random)
}

/// What a program does after an error: it tries to go on until it can, in turns keeping what it can
/// and giving up what was not durable.
fn recover(segment: &mut Segment<Disk>, teller: &mut Teller) {
    for attempt in 0.. {
        let kept = if attempt % 2 == 0 { segment.appended() } else { segment.durable() };
        if let Ok(durable) = segment.renew(kept) {
            teller.tell(Event::Renewed(durable));
            return;
        }
    }
}

fn commit(
    segment: &mut Segment<Disk>,
    pages: u64,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let before = segment.appended();
    let version = VersionNumber(before.0 + 1);
    let changes: BTreeMap<_, _> =
        (0..pages).map(|_| (PageIndex(random.below(PAGES)), random.any() | 1)).collect();
    let contents: Vec<_> = changes.iter().map(|(page, token)| (*page, content(*token))).collect();
    let pages = contents.iter().map(|(page, content)| (*page, content)).collect();
    let mut now = teller.history.versions.get(&before).cloned().unwrap_or_default();
    now.extend(changes);
    teller.tell(Event::Tried(version, now));
    segment.append(&Commit { facts: facts(version.0), pages })?;
    Ok(())
}

fn facts(version: u64) -> VersionFacts {
    VersionFacts { size_bytes: version * 4096, time_ns: version, pid: 7, ..VersionFacts::default() }
}

/// A page that differs in every sector from every other token's.
fn content(token: u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    let mut random = Random(token);
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&random.any().to_le_bytes());
    }
    page
}

/// Opens a state and looks at all of it; then goes on, is cut again and looks once more.
fn judge(left: Files, mut history: History, random: &mut Random) -> Result<(), String> {
    let disk = Disk::with_files(left.clone());
    let mut segment = look(&disk, &history)?;
    // What was behind it is gone for good.
    history.forget_behind(segment.appended());
    let before = std::mem::replace(&mut history.promised, segment.appended());
    let mut teller = Teller { disk: disk.clone(), history: history.clone(), events: Vec::new() };
    let goes_on = |error| format!("goes on: {error}");
    commit(&mut segment, 1 + random.below(3), random, &mut teller).map_err(goes_on)?;
    teller.tell(Event::Promised(segment.sync().map_err(goes_on)?));
    let (_, journal) = disk.take();
    let mut after = AfterCut::with_files(&left);
    // Opening made durable what it found, but not before its last sync.
    let opened = journal.iter().position(|done| matches!(done, Done::Mark(_))).unwrap_or(0);
    let end = random.below(journal.len() as u64 + 1) as usize;
    if end < opened {
        history.promised = before;
    }
    for done in &journal[..end] {
        after.advance(done);
        if let Done::Mark(event) = done {
            history.advance(&teller.events[*event as usize]);
        }
    }
    let again = Disk::with_files(after.leave(random));
    look(&again, &history).map_err(|what| format!("cut again: {what}")).map(drop)
}

fn look(disk: &Disk, history: &History) -> Result<Segment<Disk>, String> {
    let segment = Segment::open(disk.clone(), LIMITS).map_err(|error| format!("{error}"))?;
    let (found, promised) = (segment.appended(), history.promised);
    if found < promised {
        return Err(format!("version {promised} was reported durable, and {found} is the newest"));
    }
    for version in (segment.oldest().0..=found.0).map(VersionNumber) {
        let was = history.versions.get(&version).ok_or(format!("version {version} never was"))?;
        if segment.facts(version) != Some(&facts(version.0)) {
            return Err(format!("version {version}: {:?}", segment.facts(version)));
        }
        for page in (0..PAGES).map(PageIndex) {
            let expected = was.get(&page).map_or([0; PAGE_BYTES], |token| content(*token));
            let read = segment.read(page, version).map_err(|error| format!("{error}"))?;
            if read != expected {
                return Err(format!("version {version}: page {} is not what it was", page.0));
            }
        }
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cut_of_any_workload_loses_what_was_durable_or_shows_half_a_commit() {
        for workload in Workload::ALL {
            for seed in 0..2 {
                let checked = check(workload, seed, 40, 4).unwrap_or_else(|lost| panic!("{lost}"));
                assert!(checked.states > 200, "{workload:?}: {checked:?}");
            }
        }
    }

    /// The demands find a defect: each of these disks lies about one kind of operation.
    #[test]
    fn a_disk_that_drops_a_kind_of_sync_is_found_out() {
        type Lies = fn(&Done, &str) -> bool;
        let lies: [(&str, Lies); 4] = [
            ("log", |done, name| matches!(done, Done::Sync(_)) && name.starts_with("log.")),
            ("home", |done, name| matches!(done, Done::Sync(_)) && name == "home"),
            ("root", |done, name| matches!(done, Done::Sync(_)) && name == "root"),
            ("folder", |done, _| matches!(done, Done::SyncFolder(_))),
        ];
        for (what, lies) in lies {
            let sabotage = |disk: &Disk| {
                disk.set_fault(Some(Box::new(move |done, name| {
                    if lies(done, name) { FaultKind::Dropped } else { FaultKind::None }
                })));
            };
            let is_found = |seed| check_on(Workload::Checkpoints, seed, 40, 8, &sabotage).is_err();
            assert!((0..8).any(is_found), "no state shows that {what} was not synced");
        }
    }
}
