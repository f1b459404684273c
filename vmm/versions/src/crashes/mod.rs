//! Workloads on the simulated disk, cut after every operation, and what must open then.
//!
//! Demanded of each state: the segment opens; its newest version is one that was appended, and not
//! older than the last that was reported durable; every page, and every fact, of every version that
//! can be read is what it was at its commit. So is every segment that was linked from it, whatever
//! the origin did since. Then it goes on: a commit more, and a second cut within that, and the same
//! demands.
//!
//! - `run`: what programs do with a segment
//! - `several`: two segments that are changed together
//! - `layers`: the same with freezing, links, rollback, large commits and merging
//! - `judge`: the demands

use std::collections::BTreeMap;
use std::io::ErrorKind;

use crate::disk::simulated::{AfterCut, Disk, Done, FaultKind, FolderNumber, Random};
use crate::log::record::VersionFacts;
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};
use crate::segment::{Limits, Segment};

mod judge;
mod layers;
mod run;
mod several;

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
    /// Two VMs that freeze, link, roll back, commit much and merge, and are killed now and then; a
    /// segment that was linked goes on by itself, and another one stays as it is.
    Layers,
    /// Two segments that are changed and rolled back together, and changed one by one, by programs that are killed now and
    /// then; one of them goes on while the other is not looked at.
    Several,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 8] = [
        Workload::Each,
        Workload::Every,
        Workload::Large,
        Workload::Checkpoints,
        Workload::Errors,
        Workload::Turns,
        Workload::Layers,
        Workload::Several,
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
            Workload::Layers => "layers",
            Workload::Several => "several",
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
    /// The segment was linked from another: these versions are in it, and it is durable.
    Linked(History),
    /// The version that is tried next is part of one commit with this version of another segment.
    Together(VersionNumber, FolderNumber, VersionNumber),
}

/// What a version may be, and what was promised.
#[derive(Clone, Default, Debug)]
struct History {
    versions: BTreeMap<VersionNumber, Tokens>,
    promised: VersionNumber,
    /// Versions that belong to one of another segment.
    together: BTreeMap<VersionNumber, (FolderNumber, VersionNumber)>,
    /// Whether some versions between the oldest and the newest may be gone.
    has_gaps: bool,
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
            Event::Linked(history) => *self = history.clone(),
            Event::Together(version, folder, other) => {
                self.together.insert(*version, (*folder, *other));
            }
        }
    }

    fn forget_behind(&mut self, last: VersionNumber) {
        self.versions.retain(|version, _| *version <= last);
        self.together.retain(|version, _| *version <= last);
    }
}

/// What happened to each segment of the disk, by its folder.
type Histories = BTreeMap<FolderNumber, History>;

/// The folder of the segment that all begins with.
const ORIGIN: FolderNumber = FolderNumber(0);

/// Histories that are told to the disk's journal, too.
struct Teller {
    disk: Disk,
    histories: Histories,
    events: Vec<(FolderNumber, Event)>,
}

impl Teller {
    fn new(disk: &Disk, histories: Histories) -> Teller {
        Teller { disk: disk.clone(), histories, events: Vec::new() }
    }

    fn tell(&mut self, folder: FolderNumber, event: Event) {
        advance(&mut self.histories, folder, &event);
        self.disk.mark(self.events.len() as u64);
        self.events.push((folder, event));
    }

    fn history(&self, folder: FolderNumber) -> &History {
        &self.histories[&folder]
    }
}

fn advance(histories: &mut Histories, folder: FolderNumber, event: &Event) {
    histories.entry(folder).or_default().advance(event);
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
    if workload == Workload::Several {
        several::create(&disk).map_err(|error| lost(0, format!("cannot be made: {error}")))?;
    }
    let (files, _) = disk.take();
    let disk = Disk::with_files(files.clone());
    let segment = Segment::open(disk.clone(), LIMITS);
    let segment = segment.map_err(|error| lost(0, format!("cannot be opened: {error}")))?;
    prepare(&disk);
    let mut history = History::new();
    history.has_gaps = [Workload::Layers, Workload::Several].contains(&workload);
    let mut histories = Histories::from([(ORIGIN, history.clone())]);
    if workload == Workload::Several {
        histories.extend(several::BOTH.map(|folder| (folder, history.clone())));
    }
    let mut teller = Teller::new(&disk, histories.clone());
    run::run(workload, segment, steps, &mut random, &mut teller)
        .map_err(|what| lost(0, format!("the workload fails: {what}")))?;
    disk.set_fault(None);
    let (_, journal) = disk.take();
    let mut after = AfterCut::with_files(&files);
    let mut checked = Checked::default();
    for (operations, done) in journal.iter().enumerate() {
        after.advance(done);
        if let Done::Mark(event) = done {
            let (folder, event) = &teller.events[*event as usize];
            advance(&mut histories, *folder, event);
            continue;
        }
        checked.cuts += 1;
        for _ in 0..states {
            checked.states += 1;
            judge::judge(after.leave(&mut random), histories.clone(), &mut random)
                .map_err(|what| lost(operations + 1, what))?;
        }
    }
    Ok(checked)
}

fn facts(version: u64) -> VersionFacts {
    VersionFacts { size_bytes: version * 4096, time_ns: version, pid: 7, ..VersionFacts::default() }
}

/// A page that differs in every sector from every other token's; or, of one in eight, zeros, which a
/// checkpoint treats apart.
fn content(token: u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    if token % 16 == 1 {
        return page;
    }
    let mut random = Random(token);
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&random.any().to_le_bytes());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cut_leaves_one_part_of_a_commit_of_two_segments() {
        for seed in 100..102 {
            let checked =
                check(Workload::Several, seed, 40, 4).unwrap_or_else(|lost| panic!("{lost}"));
            assert!(checked.states > 1000, "{checked:?}");
        }
    }

    #[test]
    fn no_cut_of_any_workload_loses_what_was_durable_or_shows_half_a_commit() {
        // The last has a test of its own.
        for workload in Workload::ALL.into_iter().filter(|it| *it != Workload::Several) {
            let checked = check(workload, 0, 40, 4).unwrap_or_else(|lost| panic!("{lost}"));
            assert!(checked.states > 200, "{workload:?}: {checked:?}");
        }
    }

    /// The demands find a defect: each of these disks lies about one kind of operation.
    #[test]
    fn a_disk_that_drops_a_kind_of_sync_is_found_out() {
        type Lies = fn(&Done, &str) -> bool;
        use Workload::{Checkpoints, Large};
        let lies: [(&str, Workload, Lies); 6] = [
            ("log", Checkpoints, |done, name| is_sync(done) && name.starts_with("log.")),
            ("home", Checkpoints, |done, name| is_sync(done) && name == "home"),
            ("root", Checkpoints, |done, name| is_sync(done) && name == "root"),
            ("folder", Checkpoints, |done, _| matches!(done, Done::SyncFolder(_))),
            ("layer", Large, |done, name| {
                is_sync(done) && name.starts_with("layer") && !is_map(name)
            }),
            ("map", Large, |done, name| is_sync(done) && is_map(name)),
        ];
        for (what, workload, lies) in lies {
            let sabotage = |disk: &Disk| {
                disk.set_fault(Some(Box::new(move |done, name| {
                    if lies(done, name) { FaultKind::Dropped } else { FaultKind::None }
                })));
            };
            let is_found = |seed| check_on(workload, seed, 40, 8, &sabotage).is_err();
            assert!((0..8).any(is_found), "no state shows that {what} was not synced");
        }
    }

    fn is_sync(done: &Done) -> bool {
        matches!(done, Done::Sync(_))
    }

    fn is_map(name: &str) -> bool {
        name.ends_with(".map")
    }
}
