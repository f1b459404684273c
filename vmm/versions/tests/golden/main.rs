//! Segments as earlier versions of this software have left them, which every later one has to read: each
//! of `files/` with the versions, facts and pages that are in it.
//!
//! They are never written anew. A change of the format adds files: with `SPACEJMP_GOLDEN=FOLDER`, the test
//! of what is written today leaves them there.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::entry::{Member, VasEntry};
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::PAGE_BYTES;
use spacejmp_versions::segment::{Limits, Part, append_together};
use spacejmp_versions::{
    Commit, LargeCommit, PageIndex, RollbackTo, Segment, Sharing, VersionNumber,
};
use text::Golden;

/// Small, so that the files are.
const LIMITS: Limits = Limits { log_bytes: 64 << 10, ahead_bytes: 4096 };
const SEGMENT: u64 = 0x1234_5678_9abc_def0;
const PAGES: u64 = 64;

fn opened(folder: &Path) -> HostFolder {
    HostFolder::open(folder).expect("a folder")
}

fn member((segment, version): (u64, u64)) -> Member {
    Member {
        segment,
        version: VersionNumber(version),
        time_ns: 1_700_000_000_000_000_000 + version,
    }
}

/// A segment that is being made, and what is in each version.
struct Maker {
    folder: tempfile::TempDir,
    segment: Option<Segment<HostFolder>>,
    model: BTreeMap<u64, (VersionFacts, BTreeMap<u64, u8>)>,
    /// Whether its commits are entries of a VAS.
    is_of_vas: bool,
}

impl Maker {
    fn new() -> Maker {
        let folder = tempfile::tempdir().expect("a folder");
        let facts = VersionFacts { size_bytes: 4096, ..VersionFacts::default() };
        let made = Segment::create(opened(folder.path()), SEGMENT, facts.clone(), LIMITS);
        let segment = Some(made.expect("made"));
        let model = BTreeMap::from([(0, (facts, BTreeMap::new()))]);
        Maker { folder, segment, model, is_of_vas: false }
    }

    fn segment(&mut self) -> &mut Segment<HostFolder> {
        self.segment.as_mut().expect("it is open")
    }

    fn facts(&self) -> VersionFacts {
        let number = self.model.len() as u64;
        VersionFacts {
            size_bytes: PAGES * PAGE_BYTES as u64,
            root_address: 0x1000_0000_0000 + number,
            root_fingerprint: [number as u8; 16],
            time_ns: 1_700_000_000_000_000_000 + number,
            pid: 4000 + number as u32,
            note: format!("golden {number}").into_bytes(),
            entry: self.is_of_vas.then(|| VasEntry {
                vas: 0xabc,
                number: 10 + number,
                members: [(SEGMENT, number), (SEGMENT + 2, 9)].map(member).to_vec(),
            }),
        }
    }

    fn newest(&self) -> BTreeMap<u64, u8> {
        self.model.values().next_back().expect("version 0").1.clone()
    }

    fn note(&mut self, version: VersionNumber, facts: VersionFacts, content: BTreeMap<u64, u8>) {
        self.model.insert(version.0, (facts, content));
    }

    fn commit(&mut self, pages: &[(u64, u8)]) {
        let (facts, mut content) = (self.facts(), self.newest());
        content.extend(pages.iter().copied());
        let filled: Vec<_> =
            pages.iter().map(|(page, byte)| (PageIndex(*page), [*byte; PAGE_BYTES])).collect();
        let pages = filled.iter().map(|(page, content)| (*page, content)).collect();
        let commit = Commit { facts: facts.clone(), pages };
        let version = self.segment().append(&commit).expect("appended");
        self.segment().sync().expect("synced");
        self.note(version, facts, content);
    }

    /// A commit together with another segment, which need not be there later: it was decided when
    /// something follows.
    fn commit_together(&mut self, pages: &[(u64, u8)]) {
        let (facts, mut content) = (self.facts(), self.newest());
        content.extend(pages.iter().copied());
        let filled: Vec<_> =
            pages.iter().map(|(page, byte)| (PageIndex(*page), [*byte; PAGE_BYTES])).collect();
        let pages = filled.iter().map(|(page, content)| (*page, content)).collect();
        let (ours, theirs) = (Commit { facts: facts.clone(), pages }, Commit::default());
        let folder = tempfile::tempdir().expect("a folder");
        let facts_there = VersionFacts { size_bytes: 4096, ..VersionFacts::default() };
        let other = Segment::create(opened(folder.path()), SEGMENT + 2, facts_there, LIMITS);
        let mut other = other.expect("made");
        let mut parts = [
            Part { segment: self.segment.as_mut().expect("it is open"), commit: &ours },
            Part { segment: &mut other, commit: &theirs },
        ];
        let versions = append_together(&mut parts).expect("appended");
        self.segment().sync().expect("synced");
        self.note(versions[0], facts, content);
    }

    /// A commit as a layer of its own.
    fn commit_much(&mut self, pages: &[(u64, u8)]) {
        let (facts, mut content) = (self.facts(), self.newest());
        content.extend(pages.iter().copied());
        let segment = self.segment();
        let mut large = LargeCommit::begin(segment).expect("begun");
        for (page, byte) in pages {
            large.write(PageIndex(*page), &[*byte; PAGE_BYTES]).expect("written");
        }
        let version = large.finish(segment, facts.clone()).expect("committed");
        self.note(version, facts, content);
    }

    fn checkpoint(&mut self, sharing: Sharing) {
        let newest = self.segment().appended();
        self.segment().checkpoint(newest, sharing).expect("a checkpoint");
    }

    fn rollback(&mut self, to: u64) {
        let (mut facts, content) = (self.facts(), self.model[&to].1.clone());
        let said = facts.clone();
        let to = RollbackTo::Version(VersionNumber(to));
        let rolled = self.segment().rollback(&to, |facts| *facts = said.clone());
        facts.clone_from(&said);
        self.note(rolled.expect("rolled back"), facts, content);
    }

    /// As its files are now, those of a tag if one is given.
    fn golden(mut self, folder: Option<&Path>) -> Golden {
        self.segment = None;
        let folder = folder.unwrap_or(self.folder.path());
        let mut golden = Golden::default();
        golden.take_files(folder);
        let segment = Segment::open_shared(opened(folder).read_only(), LIMITS, None);
        let segment = segment.expect("it opens");
        for (version, (facts, content)) in &self.model {
            if segment.has(VersionNumber(*version)) {
                golden.versions.insert(*version, facts.clone());
                golden.pages.extend(content.iter().map(|(page, byte)| ((*version, *page), *byte)));
            } else {
                golden.gone.push(*version);
            }
        }
        golden
    }
}

/// What each is about, as this version of the software writes it.
fn today() -> BTreeMap<&'static str, Golden> {
    let mut all = BTreeMap::new();
    let begun = || {
        let mut maker = Maker::new();
        maker.commit(&[(0, 1), (3, 1)]);
        maker.commit(&[(3, 2), (63, 2)]);
        maker
    };
    all.insert("log", begun().golden(None));

    // The last record was not written whole.
    let mut maker = begun();
    maker.commit(&[(0, 3), (5, 3)]);
    let mut torn = maker.golden(None);
    let log = torn.files.iter_mut().find(|(name, _)| name.starts_with("log.")).expect("a log").1;
    let end = log.iter().rposition(|byte| *byte != 0).expect("content");
    log[end - 100..=end].fill(0);
    torn.versions.remove(&3);
    torn.pages.retain(|(version, _), _| *version != 3);
    torn.gone.push(3);
    all.insert("torn", torn);

    // Several logs, and a layer above the home file.
    let mut maker = begun();
    maker.segment().freeze().expect("frozen");
    maker.commit(&[(4, 3)]);
    maker.checkpoint(Sharing::Shared);
    maker.commit(&[(0, 4)]);
    maker.commit_much(&[(7, 5), (8, 5), (9, 5)]);
    maker.commit(&[(9, 6)]);
    all.insert("layers", maker.golden(None));

    // Written over in place.
    let mut maker = begun();
    maker.checkpoint(Sharing::Alone);
    maker.commit(&[(1, 3)]);
    all.insert("checkpointed", maker.golden(None));

    let mut maker = begun();
    maker.rollback(1);
    maker.commit(&[(2, 4)]);
    all.insert("rolled-back", maker.golden(None));

    // Part of a commit of several segments; then without its record, which leaves a file whose name says it.
    let mut maker = begun();
    maker.commit_together(&[(1, 3), (2, 3)]);
    maker.commit(&[(1, 4)]);
    all.insert("together", maker.golden(None));
    let mut maker = begun();
    maker.commit_together(&[(1, 3), (2, 3)]);
    maker.commit(&[(1, 4)]);
    maker.checkpoint(Sharing::Alone);
    maker.commit(&[(1, 5)]);
    let golden = maker.golden(None);
    assert!(golden.files.keys().any(|name| name.starts_with("joint.")));
    all.insert("together-checkpointed", golden);

    // Entries of a VAS, in records and in the header behind a layer; the last is one of several segments.
    let mut maker = begun();
    maker.is_of_vas = true;
    maker.commit(&[(1, 3)]);
    maker.commit_much(&[(7, 4), (8, 4)]);
    maker.commit_together(&[(2, 5)]);
    maker.is_of_vas = false;
    maker.commit(&[(1, 6)]);
    all.insert("vas", maker.golden(None));

    // A tag of version 1, which has the files of another segment.
    let mut maker = begun();
    let tag = tempfile::tempdir().expect("a folder");
    let (version, into) = (VersionNumber(1), opened(tag.path()));
    let linked = maker.segment().link_version(version, &into, SEGMENT + 1, |_| (), LIMITS);
    linked.expect("linked");
    all.insert("tag", maker.golden(Some(tag.path())));
    all
}

/// That the files in `folder` are read as what the golden says.
#[track_caller]
fn is_what_it_says(name: &str, golden: &Golden, segment: &Segment<HostFolder>) {
    for (number, facts) in &golden.versions {
        let version = VersionNumber(*number);
        assert!(segment.has(version), "{name}: version {number} does not open");
        assert_eq!(segment.facts(version), Some(facts), "{name}: version {number}");
        for page in 0..PAGES {
            let byte = golden.pages.get(&(*number, page)).copied().unwrap_or(0);
            let read = segment.read(PageIndex(page), version).expect("it can be read");
            assert!(read == [byte; PAGE_BYTES], "{name}: page {page} of version {number}");
        }
    }
    for number in &golden.gone {
        assert!(!segment.has(VersionNumber(*number)), "{name}: version {number} opens");
    }
}

/// Reads it as a program does that only reads, then as one that writes, which goes on with it.
#[track_caller]
fn check(name: &str, golden: &Golden) {
    let folder = tempfile::tempdir().expect("a folder");
    golden.write_files(folder.path());
    let newest = *golden.versions.keys().next_back().expect("a version");
    let read = || Segment::open_shared(opened(folder.path()).read_only(), LIMITS, None);
    let segment = read().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(segment.appended().0, newest, "{name}");
    is_what_it_says(name, golden, &segment);
    drop(segment);
    let segment = Segment::open(opened(folder.path()), LIMITS);
    let mut segment = segment.unwrap_or_else(|error| panic!("{name}: {error}"));
    is_what_it_says(name, golden, &segment);
    let page = [0xee; PAGE_BYTES];
    let facts = segment.next_facts();
    let appended = segment.append(&Commit { facts, pages: vec![(PageIndex(40), &page)] });
    assert_eq!(appended.expect("appended").0, newest + 1, "{name}");
    segment.sync().expect("synced");
    drop(segment);
    let mut more = golden.clone();
    more.gone.retain(|gone| *gone != newest + 1);
    let segment = read().unwrap_or_else(|error| panic!("{name}, gone on with: {error}"));
    is_what_it_says(name, &more, &segment);
    let read = segment.read(PageIndex(40), VersionNumber(newest + 1)).expect("it can be read");
    assert!(read == page, "{name}");
}

fn kept() -> Vec<(String, Golden)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/files");
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("text");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (name, Golden::decode(&text))
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn segments_of_earlier_versions_of_the_software_are_read_as_what_they_were() {
    let kept = kept();
    for (name, golden) in &kept {
        check(name, golden);
    }
    // Of each kind, and of the first format of the root record.
    let names: Vec<_> = kept.iter().map(|(name, _)| name.split('.').next().unwrap_or("")).collect();
    for kind in today().keys() {
        assert!(names.contains(kind), "{kind} of {names:?}");
    }
    let magic: Vec<_> = kept.iter().map(|(_, golden)| &golden.files["root"][..8]).collect();
    assert!(magic.contains(&&b"SJMPROT\n"[..]) && magic.contains(&&b"SJMPRT2\n"[..]));
}

#[test]
fn what_is_written_today_is_read_from_its_text_as_what_it_was() {
    for (name, golden) in today() {
        let text = golden.encode();
        assert_eq!(Golden::decode(&text), golden, "{name}");
        check(name, &golden);
        if let Some(folder) = std::env::var_os("SPACEJMP_GOLDEN") {
            fs::write(Path::new(&folder).join(format!("{name}.txt")), text).expect("written");
        }
    }
}

#[test]
fn a_golden_file_that_says_something_else_is_noticed() {
    let kept = kept();
    let (_, golden) = kept.iter().find(|(_, golden)| !golden.pages.is_empty()).expect("one");
    let fails = |change: fn(&mut Golden)| {
        let mut other = golden.clone();
        change(&mut other);
        std::panic::catch_unwind(|| check("changed", &other)).is_err()
    };
    assert!(!fails(|_| ()));
    assert!(fails(|golden| *golden.pages.values_mut().next_back().expect("a page") ^= 1));
    assert!(fails(|golden| golden.versions.values_mut().next_back().expect("one").pid += 1));
    assert!(fails(|golden| golden.gone.extend(golden.versions.keys().next_back())));
    assert!(fails(|golden| golden.files.get_mut("root").expect("a root record").fill(0)));
}
