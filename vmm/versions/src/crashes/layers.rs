//! Two VMs in turns at a segment, with everything that puts a generation on top or takes some away, commits
//! that are written out while they are made among it;
//! and two segments that were linked from it: one goes on by itself, the other stays as it is.
//!
//! After each step, what the VMs have open is compared with the model: the newest version, and another
//! one that can be read.

use super::judge::look_at;
use super::run::{changes, commit};
use super::{Event, History, LIMITS, ORIGIN, PAGES, Teller, content, facts};
use crate::disk::simulated::{Disk, FolderNumber, Random, killed_after};
use crate::error::VersionsError;
use crate::page::{PAGE_BYTES, PageIndex, VersionNumber};
use crate::segment::{LargeCommit, RollbackTo, Segment, Sharing};

/// The segment that goes on by itself, and the one that stays.
const CLONE: FolderNumber = FolderNumber(1);
const TAG: FolderNumber = FolderNumber(2);

pub(super) fn run(
    first: Segment<Disk>,
    steps: u64,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), String> {
    let disk = teller.disk.clone();
    let failed = |error: VersionsError| error.to_string();
    let join = |up_to| Segment::open_shared(disk.clone(), LIMITS, Some(up_to)).map_err(failed);
    let mut vms = [join(first.appended())?, first];
    for _ in 0..steps {
        vms.rotate_left(random.below(2) as usize);
        let appended = vms[0].appended().max(vms[1].appended());
        vms[0].refresh(appended).map_err(failed)?;
        let is_killed = random.below(4) == 0;
        if is_killed {
            let bytes = random.below(4 * PAGE_BYTES as u64) as usize;
            disk.set_fault(Some(killed_after(random.below(30), bytes)));
        }
        let result = turn(&mut vms[0], random, teller);
        disk.set_fault(None);
        if is_killed {
            vms[0] = match random.below(2) {
                0 => {
                    vms[1].take_over(appended).map_err(failed)?;
                    Segment::open_shared(disk.clone(), LIMITS, None).map_err(failed)?
                }
                _ => Segment::open(disk.clone(), LIMITS).map_err(failed)?,
            };
            let newest = vms[0].appended();
            teller.tell(ORIGIN, Event::Renewed(newest));
            vms[1] = join(newest)?;
        } else {
            result.map_err(failed)?;
        }
        compare(&vms[0], ORIGIN, random, teller)?;
        if random.below(2) == 0 {
            let newest = vms[0].appended();
            vms[1].refresh(newest).map_err(failed)?;
            compare(&vms[1], ORIGIN, random, teller)?;
        }
        for folder in [CLONE, TAG] {
            go_on(folder, random, teller)?;
        }
    }
    Ok(())
}

/// What a VM does while it has the lock.
fn turn(
    segment: &mut Segment<Disk>,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    match random.below(18) {
        0..4 => {
            commit(segment, ORIGIN, random.below(4), random, teller)?;
            if random.below(2) == 0 {
                let durable = segment.sync()?;
                teller.tell(ORIGIN, Event::Promised(durable));
            }
        }
        // More than half a log.
        4..6 => {
            commit(segment, ORIGIN, 20, random, teller)?;
            teller.tell(ORIGIN, Event::Promised(segment.durable()));
        }
        6 => segment.freeze()?,
        7 => {
            let to = any_version(segment, random);
            roll_back(segment, to, &RollbackTo::Version(to), teller)?;
        }
        8 => {
            if let Some(tag) = teller.histories.get(&TAG) {
                let (to, folder) = (tag.promised, teller.disk.folder(TAG));
                roll_back(segment, to, &RollbackTo::Tag(&folder), teller)?;
            }
        }
        9 => segment.checkpoint(segment.appended(), Sharing::Shared)?,
        10 | 11 => {
            let oldest = segment.appended().0.saturating_sub(random.below(6));
            segment.checkpoint(VersionNumber(oldest), Sharing::Alone)?;
        }
        12 => link(segment, CLONE, random, teller)?,
        13..17 => spill(segment, random, teller)?,
        _ => link(segment, TAG, random, teller)?,
    }
    Ok(())
}

/// Some version that can be read.
pub(super) fn any_version(segment: &Segment<Disk>, random: &mut Random) -> VersionNumber {
    let all: Vec<_> = segment.history().map(|(version, ..)| version).collect();
    let all: Vec<_> = all.into_iter().filter(|version| segment.has(*version)).collect();
    all[random.below(all.len() as u64) as usize]
}

/// A commit that is larger than memory: pages go to its layer before it is known what they will have in
/// the end, or whether it will be thrown away; some of them several times, and they are read again meanwhile.
fn spill(
    segment: &mut Segment<Disk>,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let mut large = LargeCommit::begin(segment)?;
    for _ in 0..random.below(10) {
        let (page, has) = (PageIndex(random.below(PAGES)), content(random.any() | 1));
        large.write(page, &has)?;
        large.flush()?;
        assert!(large.has(page) && large.read(page)? == has, "page {} is not there", page.0);
    }
    if random.below(3) == 0 {
        large.abort(segment);
        return Ok(());
    }
    // Whatever was written out is part of it, with what it has in the end.
    let (version, contents) = changes(segment, ORIGIN, 8, random, teller);
    let before: Vec<PageIndex> = large.pages().collect();
    let mut now = teller.history(ORIGIN).versions[&version].clone();
    for page in before {
        if !contents.iter().any(|(other, _)| *other == page) {
            let token = random.any() | 1;
            large.write(page, &content(token))?;
            now.insert(page, token);
        }
    }
    teller.tell(ORIGIN, Event::Tried(version, now));
    for (page, content) in &contents {
        large.write(*page, content)?;
        if random.below(3) == 0 {
            large.flush()?;
        }
    }
    match large.finish(segment, facts(version.0)) {
        // A merge makes place for the next.
        Err(VersionsError::TooDeep) => large.abort(segment),
        finished => teller.tell(ORIGIN, Event::Promised(finished?)),
    }
    Ok(())
}

fn roll_back(
    segment: &mut Segment<Disk>,
    to: VersionNumber,
    rollback: &RollbackTo<'_, Disk>,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let version = VersionNumber(segment.appended().0 + 1);
    let source = if let RollbackTo::Tag(_) = rollback { TAG } else { ORIGIN };
    let content = teller.history(source).versions[&to].clone();
    teller.tell(ORIGIN, Event::Tried(version, content));
    match segment.rollback(rollback, |said| *said = facts(version.0)) {
        Ok(_) => teller.tell(ORIGIN, Event::Promised(version)),
        // A merge makes place for the next.
        Err(VersionsError::TooDeep) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Links a version into a folder, unless it has been done.
fn link(
    segment: &mut Segment<Disk>,
    folder: FolderNumber,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    if teller.histories.contains_key(&folder) {
        return Ok(());
    }
    let (version, into) = (any_version(segment, random), teller.disk.folder(folder));
    // What a kill has left of the last attempt.
    for name in crate::disk::Folder::names(&into).unwrap_or_default() {
        let _ = crate::disk::Folder::remove(&into, &name);
    }
    match segment.link_version(version, &into, u64::from(folder.0), |_| (), LIMITS) {
        Err(VersionsError::TooDeep) => return Ok(()),
        done => done?,
    }
    let mut history = teller.history(ORIGIN).clone();
    history.forget_behind(version);
    history.promised = version;
    teller.tell(folder, Event::Linked(history));
    Ok(())
}

/// What a linked segment does meanwhile: the clone commits and makes checkpoints, the tag is read.
fn go_on(folder: FolderNumber, random: &mut Random, teller: &mut Teller) -> Result<(), String> {
    if !teller.histories.contains_key(&folder) || random.below(3) != 0 {
        return Ok(());
    }
    let failed = |error: VersionsError| format!("in {folder:?}: {error}");
    let disk = teller.disk.folder(folder);
    if folder == TAG {
        let tag = Segment::open_shared(disk, LIMITS, None).map_err(failed)?;
        return compare(&tag, folder, random, teller);
    }
    let mut clone = Segment::open(disk, LIMITS).map_err(failed)?;
    commit(&mut clone, folder, random.below(4), random, teller).map_err(failed)?;
    teller.tell(folder, Event::Promised(clone.sync().map_err(failed)?));
    let sharing = if random.below(2) == 0 { Sharing::Alone } else { Sharing::Shared };
    if random.below(2) == 0 {
        clone.checkpoint(clone.appended(), sharing).map_err(failed)?;
    }
    compare(&clone, folder, random, teller)
}

fn compare(
    segment: &Segment<Disk>,
    folder: FolderNumber,
    random: &mut Random,
    teller: &Teller,
) -> Result<(), String> {
    let history: &History = teller.history(folder);
    for version in [segment.appended(), any_version(segment, random)] {
        look_at(segment, version, history).map_err(|what| format!("in {folder:?}: {what}"))?;
    }
    Ok(())
}
