//! Two segments that are changed together and one by one. Programs are killed at it now and then; the next
//! one may have both, or go on with one of them for long before anybody looks at the other.

use super::layers::any_version;
use super::run::{changes, commit};
use super::{Event, LIMITS, Teller, facts};
use crate::disk::Folder as _;
use crate::disk::simulated::{Disk, FolderNumber, Random, killed_after};
use crate::error::VersionsError;
use crate::log::entry::{Member, VasEntry};
use crate::log::record::VersionFacts;
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};
use crate::segment::{Commit, Part, Segment, Sharing, append_together};

/// The segments, each with the number of its folder.
pub(super) const BOTH: [FolderNumber; 2] = [FolderNumber(1), FolderNumber(2)];

/// A VAS of both: commits of one alone are made through others.
const VAS: u64 = 7;

pub(super) fn create(disk: &Disk) -> Result<(), VersionsError> {
    for folder in BOTH {
        let number = u64::from(folder.0);
        drop(Segment::create(disk.folder(folder), number, facts(0), LIMITS)?);
    }
    Ok(())
}

/// A segment as the programs that live have it.
struct Had {
    /// Of the one that writes.
    writer: Segment<Disk>,
    /// Of one that looks on, and takes over.
    other: Segment<Disk>,
    /// What was made known.
    published: VersionNumber,
}

pub(super) fn run(steps: u64, random: &mut Random, teller: &mut Teller) -> Result<(), String> {
    let mut had = [None, None];
    let failed = |error: VersionsError| error.to_string();
    for _ in 0..steps {
        let chosen: &[usize] = match random.below(4) {
            0 => &[0],
            1 => &[1],
            _ => &[0, 1],
        };
        for &index in chosen {
            attach(&mut had, index, teller).map_err(failed)?;
        }
        let is_killed = random.below(4) == 0;
        if is_killed {
            let bytes = random.below(4 * PAGE_BYTES as u64) as usize;
            teller.disk.set_fault(Some(killed_after(random.below(16), bytes)));
        }
        let result = match chosen {
            [index] => alone(&mut had, *index, random, teller),
            _ => together(&mut had, random, teller),
        };
        teller.disk.set_fault(None);
        if !is_killed {
            result.map_err(failed)?;
            look(&had, teller)?;
        }
        let is_telling = |one: &Had| one.published < one.writer.appended();
        if is_killed || had.iter().flatten().any(is_telling) {
            for index in 0..BOTH.len() {
                end(&mut had, index, chosen.contains(&index), random, teller).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Opens a segment that nobody has.
fn attach(
    had: &mut [Option<Had>; 2],
    index: usize,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    if had[index].is_none() {
        let disk = teller.disk.folder(BOTH[index]);
        let writer = Segment::open(disk.clone(), LIMITS)?;
        let published = writer.appended();
        teller.tell(BOTH[index], Event::Renewed(published));
        let other = Segment::open_shared(disk, LIMITS, Some(published))?;
        had[index] = Some(Had { writer, other, published });
    }
    Ok(())
}

/// The program that writes was killed: the other one takes over, or is killed as well. The one that
/// was killed may have told of its version or not.
fn end(
    had: &mut [Option<Had>; 2],
    index: usize,
    had_lock: bool,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let Some(mut one) = had[index].take() else { return Ok(()) };
    if random.below(2) == 0 {
        return Ok(());
    }
    if had_lock {
        one.other.take_over(one.published)?;
        teller.tell(BOTH[index], Event::Renewed(one.other.appended()));
    } else {
        one.other.refresh(one.published)?;
    }
    let (published, disk) = (one.other.appended(), teller.disk.folder(BOTH[index]));
    let other = Segment::open_shared(disk, LIMITS, Some(published))?;
    had[index] = Some(Had { writer: one.other, other, published });
    Ok(())
}

/// What a program does that has the lock of one segment.
fn alone(
    had: &mut [Option<Had>; 2],
    index: usize,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let Some(Had { writer, published, .. }) = &mut had[index] else { return Ok(()) };
    let folder = BOTH[index];
    match random.below(6) {
        0 | 1 => {
            commit(writer, folder, random.below(4), random, teller)?;
            if random.below(2) == 0 {
                teller.tell(folder, Event::Promised(writer.sync()?));
            }
            *published = writer.appended();
        }
        2 => {
            // More than half a log.
            commit(writer, folder, 20, random, teller)?;
            teller.tell(folder, Event::Promised(writer.durable()));
            *published = writer.appended();
        }
        3 => writer.freeze()?,
        4 => writer.checkpoint(writer.appended(), Sharing::Alone)?,
        _ => writer.checkpoint(writer.appended(), Sharing::Shared)?,
    }
    Ok(())
}

/// What it takes for one of them to have the content of an older version again.
fn going_back(
    segment: &Segment<Disk>,
    folder: FolderNumber,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(VersionNumber, Vec<(PageIndex, Page)>), VersionsError> {
    let to = any_version(segment, random);
    let pages = match segment.changes_to(segment, to, BOTH.len()) {
        Err(VersionsError::TooLargeTogether { .. }) => {
            return Ok(changes(segment, folder, random.below(4), random, teller));
        }
        pages => pages?,
    };
    let version = VersionNumber(segment.appended().0 + 1);
    let content = teller.history(folder).versions[&to].clone();
    teller.tell(folder, Event::Tried(version, content));
    Ok((version, pages))
}

/// What a commit of both is for the VAS that has them.
fn entry(segments: [&Segment<Disk>; 2]) -> VasEntry {
    let last = segments.iter().map(|one| one.last_number(VAS).max(one.appended().0)).max();
    let members = segments.iter().zip(BOTH).map(|(one, folder)| {
        let version = VersionNumber(one.appended().0 + 1);
        Member { segment: folder.0.into(), version, time_ns: facts(version.0).time_ns }
    });
    VasEntry { vas: VAS, number: last.unwrap_or(0) + 1, members: members.collect() }
}

/// A commit of both, up to the moment when the program has told of both versions, or of one.
fn together(
    had: &mut [Option<Had>; 2],
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let [Some(a), Some(b)] = had else { return Ok(()) };
    let versions = [&a.writer, &b.writer].map(|one| VersionNumber(one.appended().0 + 1));
    for (index, other) in [(0, 1), (1, 0)] {
        let event = Event::Together(versions[index], BOTH[other], versions[other]);
        teller.tell(BOTH[index], event);
    }
    let entry = entry([&a.writer, &b.writer]);
    let mut commits = Vec::new();
    let goes_back = random.below(4) == 0;
    for (one, folder) in [&a.writer, &b.writer].into_iter().zip(BOTH) {
        commits.push(match goes_back {
            true => going_back(one, folder, random, teller)?,
            false => changes(one, folder, random.below(4), random, teller),
        });
    }
    let commits: Vec<_> = commits
        .iter()
        .map(|(version, pages)| Commit {
            facts: VersionFacts { entry: Some(entry.clone()), ..facts(version.0) },
            pages: pages.iter().map(|(page, content)| (*page, content)).collect(),
        })
        .collect();
    append_together(&mut [
        Part { segment: &mut a.writer, commit: &commits[0] },
        Part { segment: &mut b.writer, commit: &commits[1] },
    ])?;
    let has_failed = random.below(6) == 0;
    if !has_failed || random.below(2) == 0 {
        a.writer.sync()?;
    }
    if has_failed {
        // The other sync, so neither counts.
        for (one, folder) in [a, b].into_iter().zip(BOTH) {
            one.writer.take_back(one.published)?;
            teller.tell(folder, Event::Renewed(one.published));
        }
        return Ok(());
    }
    b.writer.sync()?;
    for folder in BOTH {
        let index = usize::from(folder != BOTH[0]);
        teller.tell(folder, Event::Promised(versions[index]));
    }
    a.published = versions[0];
    // It may be killed between the one and the other.
    if random.below(4) != 0 {
        b.published = versions[1];
        if random.below(4) == 0 {
            a.writer.settle()?;
        }
    }
    Ok(())
}

/// A program that only reads both sees both parts of a commit, or none.
fn look(had: &[Option<Had>; 2], teller: &Teller) -> Result<(), String> {
    let [Some(a), Some(b)] = had else { return Ok(()) };
    let mut seen = [a.published, b.published];
    let open = |index: usize, version| {
        let disk = teller.disk.folder(BOTH[index]);
        Segment::open_shared(disk, LIMITS, Some(version)).map_err(|error| error.to_string())
    };
    let mut segments = [open(0, seen[0])?, open(1, seen[1])?];
    for (index, other) in [(0, 1), (1, 0)] {
        let partner = segments[index].partner(BOTH[other].0.into(), seen[index]);
        if let Some(part) = partner.filter(|part| part.version > seen[other]) {
            if !segments[other].take_in_part(part).map_err(|error| error.to_string())? {
                return Err(format!("{part:?} is not there"));
            }
            seen[other] = part.version;
        }
    }
    for (index, other) in [(0, 1), (1, 0)] {
        let together = &teller.history(BOTH[index]).together;
        let last = together.range(..=seen[index]).next_back();
        if let Some((version, (_, theirs))) = last.filter(|(_, (_, it))| *it > seen[other]) {
            return Err(format!("a reader sees {version} without {theirs}: {seen:?}"));
        }
    }
    // Its files say what belongs to what, too: nothing but its name tells whose a memo is.
    let names = teller.disk.folder(BOTH[0]).names().unwrap_or_default();
    let memos = names.iter().filter(|name| name.starts_with("joint."));
    if memos.count() > 2 { Err(format!("memos are never removed: {names:?}")) } else { Ok(()) }
}
