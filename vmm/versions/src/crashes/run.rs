//! What programs do with a segment on a disk.

use std::collections::BTreeMap;

use super::{Event, LIMITS, ORIGIN, PAGES, Teller, Workload, content, facts, layers, several};
use crate::disk::simulated::{Disk, FolderNumber, Random, killed_after};
use crate::error::VersionsError;
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};
use crate::segment::{Commit, Segment, Sharing};

/// Does the steps; tells the journal what was reported durable.
pub(super) fn run(
    workload: Workload,
    mut segment: Segment<Disk>,
    steps: u64,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), String> {
    let failed = |error: VersionsError| error.to_string();
    match workload {
        Workload::Turns => return take_turns(segment, steps, random, teller).map_err(failed),
        Workload::Layers => return layers::run(segment, steps, random, teller),
        Workload::Several => return several::run(steps, random, teller),
        _ => {}
    }
    for step in 0..steps {
        let pages = if workload == Workload::Large { 4 + random.below(8) } else { random.below(4) };
        let result = commit(&mut segment, ORIGIN, pages, random, teller).and_then(|()| {
            if workload != Workload::Every || step % 4 == 3 {
                let durable = segment.sync()?;
                teller.tell(ORIGIN, Event::Promised(durable));
            }
            match workload {
                Workload::Checkpoints | Workload::Errors => checkpoint(&mut segment, random),
                _ => Ok(()),
            }
        });
        match result {
            Ok(()) => {}
            Err(_) if workload == Workload::Errors => recover(&mut segment, teller),
            Err(error) => return Err(failed(error)),
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
        teller.tell(ORIGIN, Event::Renewed(vms[1].durable()));
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
    commit(segment, ORIGIN, pages, random, teller)?;
    if random.below(2) == 0 {
        let durable = segment.sync()?;
        teller.tell(ORIGIN, Event::Promised(durable));
    }
    checkpoint(segment, random)
}

/// What a program does after an error: it tries to go on until it can, in turns keeping what it can
/// and giving up what was not durable.
fn recover(segment: &mut Segment<Disk>, teller: &mut Teller) {
    for attempt in 0.. {
        let kept = if attempt % 2 == 0 { segment.appended() } else { segment.durable() };
        if let Ok(durable) = segment.renew(kept) {
            teller.tell(ORIGIN, Event::Renewed(durable));
            return;
        }
    }
}

/// A commit of so many random pages.
pub(super) fn commit(
    segment: &mut Segment<Disk>,
    folder: FolderNumber,
    pages: u64,
    random: &mut Random,
    teller: &mut Teller,
) -> Result<(), VersionsError> {
    let (version, contents) = changes(segment, folder, pages, random, teller);
    let pages = contents.iter().map(|(page, content)| (*page, content)).collect();
    segment.append(&Commit { facts: facts(version.0), pages })?;
    Ok(())
}

/// The number of the next version, and random pages of it; it is told that it is tried.
pub(super) fn changes(
    segment: &Segment<Disk>,
    folder: FolderNumber,
    pages: u64,
    random: &mut Random,
    teller: &mut Teller,
) -> (VersionNumber, Vec<(PageIndex, Page)>) {
    let before = segment.appended();
    let version = VersionNumber(before.0 + 1);
    let changes: BTreeMap<_, _> =
        (0..pages).map(|_| (PageIndex(random.below(PAGES)), random.any() | 1)).collect();
    let contents = changes.iter().map(|(page, token)| (*page, content(*token))).collect();
    let mut now = teller.history(folder).versions.get(&before).cloned().unwrap_or_default();
    now.extend(changes);
    teller.tell(folder, Event::Tried(version, now));
    (version, contents)
}
