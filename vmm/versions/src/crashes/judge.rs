//! What is demanded of a state that a cut left.

use super::run::commit;
use super::{Event, Histories, History, LIMITS, ORIGIN, PAGES, Teller, advance, content, facts};
use crate::disk::simulated::{AfterCut, Disk, Done, Files, FolderNumber, Random};
use crate::log::record::VersionFacts;
use crate::page::{PAGE_BYTES, PageIndex, VersionNumber};
use crate::segment::Segment;

/// Opens a state and looks at all of it; then one of its segments goes on, is cut again and all are
/// looked at once more.
pub(super) fn judge(
    left: Files,
    mut histories: Histories,
    random: &mut Random,
) -> Result<(), String> {
    let disk = Disk::with_files(left.clone());
    let mut segments = look_at_all(&disk, &histories, random)?;
    let before = histories.clone();
    // What was behind it is gone for good; what was found is durable.
    let settle = |(folder, segment): &(FolderNumber, Segment<Disk>)| {
        if let Some(history) = histories.get_mut(folder) {
            history.forget_behind(segment.appended());
            history.promised = segment.appended();
        }
    };
    segments.iter().for_each(settle);
    let chosen = random.below(segments.len() as u64) as usize;
    let (folder, segment) = &mut segments[chosen];
    let mut teller = Teller::new(&disk, histories.clone());
    let goes_on = |error| format!("goes on: {error}");
    commit(segment, *folder, 1 + random.below(3), random, &mut teller).map_err(goes_on)?;
    teller.tell(*folder, Event::Promised(segment.sync().map_err(goes_on)?));
    let (_, journal) = disk.take();
    let mut after = AfterCut::with_files(&left);
    // Opening made durable what it found, but not before its last sync.
    let opened = journal.iter().position(|done| matches!(done, Done::Mark(_))).unwrap_or(0);
    let end = random.below(journal.len() as u64 + 1) as usize;
    if end < opened {
        histories = before;
    }
    for done in &journal[..end] {
        after.advance(done);
        if let Done::Mark(event) = done {
            let (folder, event) = &teller.events[*event as usize];
            advance(&mut histories, *folder, event);
        }
    }
    let again = Disk::with_files(after.leave(random));
    look_at_all(&again, &histories, random).map_err(|what| format!("cut again: {what}")).map(drop)
}

/// Opens every segment that there must be, in any order.
fn look_at_all(
    disk: &Disk,
    histories: &Histories,
    random: &mut Random,
) -> Result<Vec<(FolderNumber, Segment<Disk>)>, String> {
    let mut segments = Vec::new();
    let mut order: Vec<_> = histories.iter().collect();
    if random.below(2) == 0 {
        order.reverse();
    }
    for (folder, history) in order {
        let named = |what| if *folder == ORIGIN { what } else { format!("in {folder:?}: {what}") };
        let segment = Segment::open(disk.folder(*folder), LIMITS);
        let segment = segment.map_err(|error| named(format!("{error}")))?;
        look(&segment, history).map_err(named)?;
        segments.push((*folder, segment));
    }
    look_at_pairs(&segments, histories)?;
    look_at_entries(&segments)?;
    Ok(segments)
}

/// What belongs together is there together.
fn look_at_pairs(
    segments: &[(FolderNumber, Segment<Disk>)],
    histories: &Histories,
) -> Result<(), String> {
    let found = |folder| segments.iter().find(|(other, _)| *other == folder);
    for (folder, segment) in segments {
        let here = segment.appended();
        for (version, (other, theirs)) in histories[folder].together.range(..=here) {
            let there = found(*other).map_or(VersionNumber(0), |(_, segment)| segment.appended());
            if there < *theirs {
                return Err(format!(
                    "{folder:?} has version {version}, and {other:?} has {there} instead of {theirs}"
                ));
            }
        }
    }
    Ok(())
}

/// Each segment that an entry of a VAS names has its version, as part of the same entry; and numbers rise.
fn look_at_entries(segments: &[(FolderNumber, Segment<Disk>)]) -> Result<(), String> {
    for (folder, segment) in segments {
        let mut last = 0;
        for (version, said, _) in segment.history() {
            let Some(entry) = &said.entry else { continue };
            if entry.number <= last || segment.last_number(entry.vas) < entry.number {
                return Err(format!("{folder:?}: {entry:?} follows number {last}"));
            }
            last = entry.number;
            for member in &entry.members {
                let there = segments.iter().find(|(it, _)| u64::from(it.0) == member.segment);
                let Some((_, there)) = there else { continue };
                let has_another =
                    there.facts(member.version).is_some_and(|it| it.entry.as_ref() != Some(entry));
                if there.appended() < member.version || has_another {
                    return Err(format!("{folder:?}, version {version}: {entry:?} is not whole"));
                }
            }
        }
    }
    Ok(())
}

fn look(segment: &Segment<Disk>, history: &History) -> Result<(), String> {
    let (found, promised) = (segment.appended(), history.promised);
    if found < promised {
        return Err(format!("version {promised} was reported durable, and {found} is the newest"));
    }
    for version in (segment.oldest().0..=found.0).map(VersionNumber) {
        if segment.has(version) || version == found || !history.has_gaps {
            look_at(segment, version, history)?;
        }
    }
    Ok(())
}

/// One version.
pub(super) fn look_at(
    segment: &Segment<Disk>,
    version: VersionNumber,
    history: &History,
) -> Result<(), String> {
    let was = history.versions.get(&version).ok_or(format!("version {version} never was"))?;
    let said = segment.facts(version).map(|said| VersionFacts { entry: None, ..said.clone() });
    if said != Some(facts(version.0)) {
        return Err(format!("version {version}: {:?}", segment.facts(version)));
    }
    for page in (0..PAGES).map(PageIndex) {
        let expected = was.get(&page).map_or([0; PAGE_BYTES], |token| content(*token));
        let read = segment.read(page, version).map_err(|error| format!("{error}"))?;
        if read != expected {
            return Err(format!("version {version}: page {} is not what it was", page.0));
        }
    }
    Ok(())
}
