//! All short sequences of what can be done to a segment, not some of them: which versions can be read
//! then, the rule that what is in use stays, and where each page of a version is found.

use std::collections::BTreeMap;

use super::*;
use crate::disk::simulated::FolderNumber;

/// Pages that are looked at: two that are written, and one that never is.
const PAGES: u64 = 3;
type Content = [u8; PAGES as usize];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Commits new content of these pages.
    Commit(&'static [u64]),
    Freeze,
    /// Whoever reads looks at the newest version.
    Checkpoint(Sharing),
    /// Somebody reads the version before the newest.
    CheckpointBeside(Sharing),
    /// Links the newest version to a segment of its own.
    Tag,
    /// Makes the oldest version that can be read the newest.
    Rollback,
    /// The VM is gone, and another opens what is there.
    Reopen,
}

const STEPS: [Step; 10] = [
    Step::Commit(&[0]),
    Step::Commit(&[1]),
    Step::Commit(&[0, 1]),
    Step::Freeze,
    Step::Checkpoint(Sharing::Alone),
    Step::CheckpointBeside(Sharing::Alone),
    Step::CheckpointBeside(Sharing::Shared),
    Step::Tag,
    Step::Rollback,
    Step::Reopen,
];

struct World {
    disk: Disk,
    segment: Segment<Disk>,
    /// By number.
    versions: Vec<Content>,
    tags: Vec<(Disk, VersionNumber)>,
    /// What was in use at the last checkpoint, and everything newer, can be read.
    kept: VersionNumber,
}

impl World {
    fn new() -> World {
        let disk = Disk::default();
        let segment = Segment::create(disk.clone(), 1, VersionFacts::default(), SMALL);
        let segment = segment.expect("made");
        let kept = segment.appended();
        World { disk, segment, versions: vec![Content::default()], tags: Vec::new(), kept }
    }

    fn take(&mut self, step: Step) {
        let newest = self.segment.appended();
        let before = VersionNumber(newest.0.saturating_sub(1)).max(self.kept);
        match step {
            Step::Commit(pages) => {
                let mut content = self.versions[newest.0 as usize];
                let token = self.versions.len() as u8;
                pages.iter().for_each(|page| content[*page as usize] = token);
                let changes: Vec<_> = pages.iter().map(|page| (*page, token)).collect();
                let version = commit(&mut self.segment, &changes);
                self.versions.push(content);
                assert_eq!(version.0 as usize, self.versions.len() - 1);
            }
            Step::Freeze => self.segment.freeze().expect("frozen"),
            Step::Checkpoint(sharing) => {
                self.segment.checkpoint(newest, sharing).expect("applied");
                self.kept = newest;
            }
            Step::CheckpointBeside(sharing) => {
                self.segment.checkpoint(before, sharing).expect("applied");
                self.kept = before;
            }
            Step::Tag => {
                let number = self.tags.len() as u32 + 1;
                let folder = self.disk.folder(FolderNumber(number));
                let named = |facts: &mut VersionFacts| facts.note = b"tag".to_vec();
                let linked =
                    self.segment.link_version(newest, &folder, u64::from(number), named, SMALL);
                linked.expect("linked");
                self.tags.push((folder, newest));
            }
            Step::Rollback => {
                let mut all = (0..=newest.0).map(VersionNumber);
                let oldest = all.find(|version| self.segment.stack.has(*version));
                let to = oldest.expect("the newest can always be read");
                self.segment.rollback(&RollbackTo::Version(to), |_| {}).expect("rolled back");
                self.versions.push(self.versions[to.0 as usize]);
            }
            Step::Reopen => {
                self.segment.sync().expect("synced");
                self.segment = Segment::open(self.disk.clone(), SMALL).expect("opened");
                // Whoever opens it first reads the newest.
                self.kept = newest;
            }
        }
    }

    fn check(&self, steps: &[Step]) {
        let newest = self.segment.appended();
        assert_eq!(newest.0 as usize, self.versions.len() - 1, "{steps:?}");
        for (number, content) in self.versions.iter().enumerate() {
            let version = VersionNumber(number as u64);
            if !self.segment.has(version) {
                assert!(version < self.kept, "{steps:?}: version {number} is in use, and gone");
                continue;
            }
            let above = self.segment.above_home(PageIndex(0)..PageIndex(PAGES), version);
            let above: BTreeMap<_, _> = above.expect("it can be read").collect();
            for (at, byte) in content.iter().enumerate() {
                let place = PageIndex(at as u64);
                let found = self.segment.read(place, version).expect("read");
                assert_eq!(found, page(*byte), "{steps:?}: page {at} of version {number}");
                // Both ways to look a page up agree.
                let located = self.segment.locate(place, version).expect("located");
                match above.get(&place) {
                    Some(source) => assert_eq!(*source, located, "{steps:?}: page {at}"),
                    None => assert!(matches!(located, Source::Home(_) | Source::Zero)),
                }
            }
        }
        for (folder, version) in &self.tags {
            let tag = Segment::open_shared(folder.clone(), SMALL, None).expect("opened");
            let content = self.versions[version.0 as usize];
            let found = [0, 1, 2].map(|at| first_byte(&tag, at, *version));
            assert_eq!(found, content, "{steps:?}: the tag of {version:?}");
        }
    }
}

/// How many steps: what needs more is left to the random ones of `model`.
const LENGTH: u32 = 4;

#[test]
fn after_every_short_sequence_of_steps_all_that_is_in_use_is_read_as_it_was_committed() {
    for number in 0..STEPS.len().pow(LENGTH) {
        let mut rest = number;
        let mut steps = Vec::new();
        // One commit before, or most sequences would be of nothing.
        let mut world = World::new();
        world.take(Step::Commit(&[0, 1]));
        for _ in 0..LENGTH {
            steps.push(STEPS[rest % STEPS.len()]);
            rest /= STEPS.len();
            world.take(steps[steps.len() - 1]);
            // What is shorter was checked before, as the beginning of another one.
        }
        world.check(&steps);
    }
}
