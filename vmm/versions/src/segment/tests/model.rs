//! Several VMs at one segment against a model: two that write in turns, readers that keep old
//! versions, kills, checkpoints beside readers and alone, freezing, rollback and large commits, by
//! random steps.

use std::collections::BTreeMap;

use super::*;
use crate::disk::simulated::{Random, killed_after};

const PAGES: u64 = 24;
const WRITERS: usize = 2;

/// A version's pages that are not zero.
type Content = BTreeMap<PageIndex, u64>;

fn filled(token: u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    for bytes in page.chunks_exact_mut(8) {
        bytes.copy_from_slice(&token.to_le_bytes());
    }
    page
}

fn facts_of(version: VersionNumber) -> VersionFacts {
    VersionFacts { size_bytes: version.0 * 10, ..VersionFacts::default() }
}

/// A VM that reads, and the version it looks at.
struct Reader {
    segment: Segment<Disk>,
    uses: VersionNumber,
}

struct World {
    disk: Disk,
    random: Random,
    writers: Vec<Segment<Disk>>,
    readers: Vec<Reader>,
    /// By number.
    versions: Vec<Content>,
    published: VersionNumber,
}

impl World {
    fn new(seed: u64) -> World {
        let disk = Disk::default();
        let first = Segment::create(disk.clone(), 1, facts_of(VersionNumber(0)), SMALL);
        let mut world = World {
            disk,
            random: Random(seed),
            writers: vec![first.expect("made")],
            readers: Vec::new(),
            versions: vec![Content::new()],
            published: VersionNumber(0),
        };
        for _ in 1..WRITERS {
            world.writers.push(world.newcomer());
        }
        for _ in 0..2 {
            let segment = world.newcomer();
            world.readers.push(Reader { segment, uses: world.published });
        }
        world
    }

    fn newcomer(&self) -> Segment<Disk> {
        let _ = self.disk.take();
        let opened = Segment::open_shared(self.disk.clone(), SMALL, Some(self.published));
        assert!(self.disk.take().1.is_empty(), "opening changed the disk");
        let opened = opened.expect("opened");
        assert_eq!(opened.appended(), self.published);
        opened
    }

    fn appended(&self) -> VersionNumber {
        VersionNumber(self.versions.len() as u64 - 1)
    }

    fn oldest_used(&self) -> VersionNumber {
        self.readers.iter().map(|reader| reader.uses).min().unwrap_or(self.published)
    }

    fn step(&mut self) {
        let writer = self.random.below(WRITERS as u64) as usize;
        let reader = self.random.below(self.readers.len() as u64) as usize;
        match self.random.below(17) {
            0..5 => self.commit(writer),
            12 => self.commit_much(writer),
            13 => self.merge(writer),
            14 => self.freeze(writer),
            15 => self.roll_back(writer),
            16 => {
                let Reader { segment, uses } = &mut self.readers[reader];
                segment.forget_older(*uses);
            }
            5 => self.published = self.appended(),
            6 => self.checkpoint(writer),
            7 => self.kill_and_take_over(writer),
            8 => self.readers[reader].segment = self.newcomer_for(reader),
            9 => {
                self.lock(writer);
                self.writers[writer].sync().expect("synced");
                assert_eq!(self.writers[writer].durable(), self.appended());
            }
            _ => self.look(reader),
        }
        let Reader { segment, uses } = &self.readers[reader];
        self.compare(segment, *uses);
    }

    /// The writer gets the lock, and what the last who had it left.
    fn lock(&mut self, writer: usize) {
        let appended = self.appended();
        self.writers[writer].refresh(appended).expect("refreshed");
        assert_eq!(self.writers[writer].appended(), appended);
    }

    fn changes(&mut self) -> Content {
        let pages = self.random.below(6);
        (0..pages).map(|_| (PageIndex(self.random.below(PAGES)), self.random.any() | 1)).collect()
    }

    fn append(&mut self, writer: usize, changes: &Content) -> Result<VersionNumber> {
        let pages: Vec<_> = changes.iter().map(|(page, token)| (*page, filled(*token))).collect();
        let pages = pages.iter().map(|(page, content)| (*page, content)).collect();
        let facts = facts_of(VersionNumber(self.versions.len() as u64));
        self.writers[writer].append(&Commit { facts, pages })
    }

    fn appears(&mut self, changes: Content) {
        let mut now = self.versions.last().cloned().unwrap_or_default();
        now.extend(changes);
        self.versions.push(now);
    }

    fn commit(&mut self, writer: usize) {
        self.lock(writer);
        let changes = self.changes();
        let version = self.append(writer, &changes).expect("appended");
        self.appears(changes);
        assert_eq!(version, self.appended());
        self.compare(&self.writers[writer], version);
    }

    fn checkpoint(&mut self, writer: usize) {
        self.lock(writer);
        let oldest = self.oldest_used().min(self.published);
        self.writers[writer].checkpoint(oldest, Sharing::Alone).expect("applied");
        self.compare(&self.writers[writer], self.appended());
    }

    /// Of more pages than half a log takes.
    fn commit_much(&mut self, writer: usize) {
        self.lock(writer);
        self.published = self.appended();
        let changes: Content =
            (0..PAGES).map(|page| (PageIndex(page), self.random.any() | 1)).collect();
        let version = self.append(writer, &changes).expect("appended");
        self.appears(changes);
        assert_eq!(self.writers[writer].durable(), version);
    }

    /// A checkpoint that asks for nobody's pins. Newcomers see the newest version.
    fn merge(&mut self, writer: usize) {
        self.lock(writer);
        self.published = self.appended();
        self.writers[writer].checkpoint(self.published, Sharing::Shared).expect("merged");
        self.compare(&self.writers[writer], self.published);
    }

    fn freeze(&mut self, writer: usize) {
        self.lock(writer);
        self.published = self.appended();
        self.writers[writer].freeze().expect("frozen");
        self.compare(&self.writers[writer], self.appended());
    }

    fn roll_back(&mut self, writer: usize) {
        self.lock(writer);
        let segment = &mut self.writers[writer];
        let all: Vec<_> = segment.history().map(|(version, ..)| version).collect();
        let all: Vec<_> = all.into_iter().filter(|version| segment.stack.has(*version)).collect();
        let to = all[self.random.below(all.len() as u64) as usize];
        let next = VersionNumber(self.versions.len() as u64);
        let done = segment.rollback(&RollbackTo::Version(to), |facts| *facts = facts_of(next));
        match done {
            Ok(version) => {
                self.versions.push(self.versions[to.0 as usize].clone());
                assert_eq!(version, self.appended());
                self.published = version;
            }
            Err(error) => assert!(matches!(error, VersionsError::TooDeep), "{error}"),
        }
        self.compare(&self.writers[writer], self.appended());
    }

    /// A writer is killed at a random operation of a commit or a checkpoint, and the other takes over.
    fn kill_and_take_over(&mut self, writer: usize) {
        self.lock(writer);
        let (changes, oldest) = (self.changes(), self.oldest_used().min(self.published));
        let killed = killed_after(self.random.below(20), self.random.below(30_000) as usize);
        self.disk.set_fault(Some(killed));
        let done = match self.random.below(3) {
            0 => self.writers[writer].checkpoint(oldest, Sharing::Alone).map(|()| None),
            _ => self.append(writer, &changes).map(Some),
        };
        self.disk.set_fault(None);
        let appended = self.appended();
        let other = (writer + 1) % WRITERS;
        let newest = self.writers[other].take_over(appended).expect("taken over");
        if newest > appended {
            self.appears(changes);
        }
        assert_eq!(newest, self.appended(), "what was whole counts");
        if let Ok(Some(version)) = done {
            assert_eq!(version, newest, "a commit that succeeded is lost");
        }
        assert_eq!(self.writers[other].durable(), newest);
        self.compare(&self.writers[other], newest);
        self.writers[writer] = self.newcomer();
    }

    fn newcomer_for(&mut self, reader: usize) -> Segment<Disk> {
        self.readers[reader].uses = self.published;
        self.newcomer()
    }

    /// A reader goes to the newest version that it may see.
    fn look(&mut self, reader: usize) {
        let (published, versions) = (self.published, &self.versions);
        let Reader { segment, uses } = &mut self.readers[reader];
        segment.refresh(published).expect("refreshed");
        assert_eq!(segment.appended(), published);
        let of = |version: VersionNumber| &versions[version.0 as usize];
        if let Some(changed) = segment.changed_between(*uses, published) {
            let differ = |page: &PageIndex| of(*uses).get(page) != of(published).get(page);
            let differ = (0..PAGES).map(PageIndex).filter(differ);
            assert!(differ.into_iter().all(|page| changed.contains(&page)), "{changed:?}");
        }
        *uses = published;
    }

    fn compare(&self, segment: &Segment<Disk>, version: VersionNumber) {
        let was = &self.versions[version.0 as usize];
        assert!(segment.oldest() <= version, "{} is gone", version);
        let (appended, all) = (segment.appended(), PageIndex(0)..PageIndex(PAGES));
        assert_eq!(segment.facts(appended), Some(&facts_of(appended)));
        let above: Vec<_> = segment.above_home(all.clone(), version).expect("there").collect();
        assert!(above.is_sorted_by(|one, other| one.0 < other.0));
        let sources = segment.sources(all, version).expect("there");
        let together = segment.read_all(&sources).expect("read");
        let home_bytes = segment.home_bytes(version).expect("there");
        for page in (0..PAGES).map(PageIndex) {
            let expected = was.get(&page).map_or([0; PAGE_BYTES], |token| filled(*token));
            let placed = above.iter().find(|placed| placed.0 == page).map(|placed| placed.1);
            let offset = page.0 * PAGE_BYTES as u64;
            let source = placed.unwrap_or(match offset < home_bytes {
                true => Source::Home(offset),
                false => Source::Zero,
            });
            assert_eq!(source, segment.locate(page, version).expect("there"));
            assert_eq!(source, sources[page.0 as usize]);
            assert!(segment.read_from(source).expect("read") == expected);
            assert!(together[page.0 as usize] == expected);
            let read = segment.read(page, version).expect("read");
            assert!(read == expected, "version {version}: page {} is not what it was", page.0);
        }
    }
}

#[test]
fn vms_in_turns_see_each_published_version_whole_whoever_dies() {
    for seed in 0..24 {
        let mut world = World::new(seed);
        for _ in 0..250 {
            world.step();
        }
        assert!(world.appended() > VersionNumber(50));
    }
}
