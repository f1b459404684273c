//! Tags, clones and rollback: versions of a segment as segments of their own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use abi::Errno;
use abi::objects::{Lifetime, Right, SegId};
use rustix::fs::FlockOperation;
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::segment::Limits;
use spacejmp_versions::{Commit, PageIndex, Segment, Sharing, VersionNumber};

use crate::objects::durable::fail_sync_of;
use crate::objects::kept::link::Becomes;
use crate::testing::{TestStore, name, segment, store, versioned};
use crate::{
    Busy, Chosen, GcReport, HeldAlone, Lease, LeaseInfo, MemberHeld, Mode, Removed, SegmentSpec,
    StoreError, TagName, VersionChoice, check_store,
};

/// No VM has the segment.
const FREE: HeldAlone = HeldAlone { owner_died: false };

fn tag(text: &str) -> TagName {
    TagName::new(text.as_bytes()).unwrap()
}

fn content(s: &TestStore, sid: SegId) -> Segment<HostFolder> {
    let folder = s.open_segment(sid).unwrap().versions_folder().unwrap();
    Segment::open(HostFolder::from_fd(folder), Limits::default()).unwrap()
}

/// Makes a version whose first page is full of `byte`; returns its number.
fn commit(s: &TestStore, sid: SegId, byte: u8) -> u64 {
    let mut content = content(s, sid);
    let (facts, page) = (content.next_facts(), [byte; 4096]);
    let version = content.append(&Commit { facts, pages: vec![(PageIndex(0), &page)] }).unwrap();
    content.sync().unwrap();
    version.0
}

/// What the first page of the newest version has.
fn byte(s: &TestStore, sid: SegId) -> u8 {
    let mut page = [0; 4096];
    s.newest(&s.open_segment(sid).unwrap()).unwrap().read(0, &mut page).unwrap();
    assert!(page.iter().all(|it| *it == page[0]));
    page[0]
}

fn find(s: &TestStore, text: &str) -> SegId {
    s.find_segment(&name(text)).unwrap()
}

#[track_caller]
fn is_clean(s: &TestStore) {
    let report = check_store(s.path()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(fs::read_dir(s.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(s.gc().unwrap(), GcReport::default());
}

#[test]
fn a_tag_stays_what_it_is_whatever_becomes_of_its_segment() {
    let s = store();
    let sid = versioned(&s, "x");
    let first = commit(&s, sid, 1);
    assert_eq!(s.keep_version(sid, None, &tag("one"), FREE).unwrap(), first);
    let second = commit(&s, sid, 2);
    commit(&s, sid, 3);
    assert_eq!(s.keep_version(sid, Some(second), &tag("two"), FREE).unwrap(), second);
    let (one, two) = (find(&s, "x@one"), find(&s, "x@two"));
    let all_is_so = || assert_eq!([byte(&s, one), byte(&s, two), byte(&s, sid)], [1, 2, 3]);
    all_is_so();
    let kept = s.kept_of(sid).unwrap();
    let shown: Vec<_> = kept.iter().map(|it| (it.sid, &*it.tag, it.number)).collect();
    assert_eq!(shown, [(one, "one", first), (two, "two", second)]);
    // A checkpoint overwrites nothing that they have.
    let mut content = content(&s, sid);
    let newest = content.appended();
    content.checkpoint(newest, Sharing::Alone).unwrap();
    drop(content);
    all_is_so();
    let header = s.open_segment(one).unwrap().header().clone();
    assert_eq!(header.base, s.open_segment(sid).unwrap().header().base);
    is_clean(&s);
    s.delete_segment(sid).unwrap();
    assert_eq!([byte(&s, one), byte(&s, two)], [1, 2]);
    is_clean(&s);
    // Another segment of that name has no tags.
    let other = versioned(&s, "x");
    assert_eq!(s.kept_of(other).unwrap(), []);
    s.delete_segment(one).unwrap();
    s.delete_segment(two).unwrap();
    is_clean(&s);
}

#[test]
fn nobody_writes_a_tag() {
    let s = store();
    let sid = versioned(&s, "x");
    commit(&s, sid, 1);
    s.keep_version(sid, None, &tag("one"), FREE).unwrap();
    let one = find(&s, "x@one");
    let mut file = s.open_segment(one).unwrap();
    assert_eq!(file.right(), Right::Read);
    let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    let refusals = [
        s.attach_segment(vid, one, Right::Write).unwrap_err(),
        s.join_versioned(&mut file, &lease, 0, Right::Write, &mut |_, _| Ok(())).unwrap_err(),
        s.keep_version(one, None, &tag("two"), FREE).unwrap_err(),
        s.rollback_segment(one, &VersionChoice::Number(0), FREE).unwrap_err(),
        s.convert_segment(one, abi::objects::Lifetime::Persistent).unwrap_err(),
        s.set_pages(one, abi::objects::PagePolicy::Largest).unwrap_err(),
    ];
    for error in refusals {
        assert_eq!(error.errno(), Errno::EROFS, "{error}");
    }
    s.attach_segment(vid, one, Right::Read).unwrap();
    s.join_versioned(&mut file, &lease, 0, Right::Read, &mut |_, _| Ok(())).unwrap();
    // While a VM has it, it does not go.
    s.detach_segment(vid, one).unwrap();
    let error = s.remove_kept(sid, "one").unwrap_err();
    assert!(matches!(error, StoreError::Busy { why: Busy::Attached(_), .. }), "{error}");
    drop(lease);
    s.remove_kept(sid, "one").unwrap();
    let error = s.remove_kept(sid, "one").unwrap_err();
    assert!(matches!(error, StoreError::NoTag { .. }), "{error}");
    s.gc().unwrap();
    is_clean(&s);
}

#[test]
fn a_tag_that_cannot_be_made_leaves_nothing() {
    let s = store();
    let (sid, raw) = (versioned(&s, "x"), segment(&s, "raw"));
    commit(&s, sid, 1);
    s.keep_version(sid, None, &tag("one"), FREE).unwrap();
    let files = || fs::read_dir(s.path().join("versions")).unwrap().count();
    let error = s.keep_version(sid, None, &tag("one"), FREE).unwrap_err();
    assert!(matches!(error, StoreError::Exists(_)), "{error}");
    let error = s.keep_version(sid, Some(17), &tag("two"), FREE).unwrap_err();
    assert!(matches!(error, StoreError::NoVersion { .. }), "{error}");
    let error = s.keep_version(raw, None, &tag("two"), FREE).unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    assert_eq!(files(), 2);
    is_clean(&s);
}

#[test]
fn a_clone_goes_its_own_way_and_a_copy_too() {
    let s = store();
    let sid = versioned(&s, "x");
    let first = commit(&s, sid, 1);
    commit(&s, sid, 2);
    let old = s.clone_version(sid, Some(first), &name("old"), FREE).unwrap();
    let new = s.clone_version(sid, None, &name("new"), FREE).unwrap();
    let copy = s.copy_version(sid, Some(first), &name("copy")).unwrap();
    assert_eq!([old, new, copy].map(|it| byte(&s, it)), [1, 2, 1]);
    commit(&s, old, 5);
    commit(&s, new, 6);
    commit(&s, copy, 7);
    commit(&s, sid, 8);
    assert_eq!([old, new, copy, sid].map(|it| byte(&s, it)), [5, 6, 7, 8]);
    s.keep_version(old, None, &tag("t"), FREE).unwrap();
    let of_tag = s.clone_version(find(&s, "old@t"), None, &name("again"), FREE).unwrap();
    commit(&s, of_tag, 9);
    assert_eq!([byte(&s, of_tag), byte(&s, find(&s, "old@t"))], [9, 5]);
    s.delete_segment(sid).unwrap();
    assert_eq!([old, new, copy].map(|it| byte(&s, it)), [5, 6, 7]);
    let error = s.copy_version(old, Some(99), &name("none")).unwrap_err();
    assert!(matches!(error, StoreError::NoVersion { .. }), "{error}");
    is_clean(&s);
}

#[test]
fn what_is_copied_without_the_lock_is_not_overwritten_meanwhile() {
    let s = store();
    let sid = versioned(&s, "x");
    commit(&s, sid, 1);
    let checkpoint = |sharing| {
        let mut content = content(&s, sid);
        let newest = content.appended();
        content.checkpoint(newest, sharing).unwrap();
    };
    checkpoint(Sharing::Alone);
    let writer = Lease::create(&s, &LeaseInfo { program: "w".into(), pid: 1 }).unwrap();
    let file = s.open_segment(sid).unwrap();
    let others = || s.others_attached(&file, writer.id()).unwrap();
    let pinned = s.pin_version(sid, None).unwrap();
    commit(&s, sid, 2);
    // As a VM decides that has the segment for writing.
    checkpoint(if others() { Sharing::Shared } else { Sharing::Alone });
    let mut pages = Vec::new();
    let each = |_, bytes: &[u8]| {
        pages.extend_from_slice(bytes);
        Ok::<(), ()>(())
    };
    pinned.content.each_run(pinned.number, 1 << 20, each).unwrap().unwrap();
    assert!(pages == [1; 4096], "it has {:?}", pages.first());
    assert!(others());
    drop(pinned);
    assert!(!others());
    assert_eq!(byte(&s, sid), 2);
}

#[test]
fn a_rollback_makes_an_old_version_the_newest_under_the_next_number() {
    let s = store();
    let sid = versioned(&s, "x");
    let first = commit(&s, sid, 1);
    s.keep_version(sid, None, &tag("one"), FREE).unwrap();
    let last = commit(&s, sid, 2);
    let version = s.rollback_segment(sid, &VersionChoice::Number(first), FREE).unwrap();
    assert_eq!((version, byte(&s, sid)), (last + 1, 1));
    let last = commit(&s, sid, 3);
    // The log does not have it any more; the tag has.
    let mut content = content(&s, sid);
    let newest = content.appended();
    content.checkpoint(newest, Sharing::Alone).unwrap();
    drop(content);
    for (to, made) in [(VersionChoice::Tag("one".into()), 1), (VersionChoice::Number(first), 2)] {
        let version = s.rollback_segment(sid, &to, FREE).unwrap();
        assert_eq!((version, byte(&s, sid)), (last + made, 1), "{to}");
    }
    assert_eq!(s.history(sid).unwrap()[0].program, "spacejmp rollback");
    assert_eq!(commit(&s, sid, 4), last + 3);
    assert_eq!([byte(&s, sid), byte(&s, find(&s, "x@one"))], [4, 1]);
    for to in [VersionChoice::Tag("none".into()), VersionChoice::Number(99)] {
        let error = s.rollback_segment(sid, &to, FREE).unwrap_err();
        let expected = matches!(error, StoreError::NoTag { .. } | StoreError::NoVersion { .. });
        assert!(expected, "{error}");
    }
    assert_eq!(byte(&s, sid), 4);
    is_clean(&s);
}

#[test]
fn the_error_of_a_version_that_is_gone_names_the_nearest_that_is_kept() {
    let s = store();
    let sid = versioned(&s, "x");
    let gone = || {
        let errors = [
            s.rollback_segment(sid, &VersionChoice::Number(4), FREE).unwrap_err(),
            s.keep_version(sid, Some(4), &tag("new"), FREE).unwrap_err(),
            s.clone_version(sid, Some(4), &name("new"), FREE).unwrap_err(),
            s.copy_version(sid, Some(4), &name("new")).unwrap_err(),
        ];
        errors.map(|error| {
            assert_eq!(error.errno(), Errno::ENOENT);
            error.to_string()
        })
    };
    for number in 1..8 {
        assert_eq!(commit(&s, sid, 1), number);
        if [1, 3, 7].contains(&number) {
            s.keep_version(sid, None, &tag(&format!("t{number}")), FREE).unwrap();
        }
    }
    let mut content = content(&s, sid);
    content.checkpoint(VersionNumber(7), Sharing::Alone).unwrap();
    drop(content);
    let text = "segment 'x' has no version 4: the oldest in its log is 7";
    let nearest = ", and the nearest that is kept is 3 ('x@t3')";
    assert_eq!(gone(), [(); 4].map(|()| format!("{text}{nearest}")));
    for number in [1, 3, 7] {
        s.remove_kept(sid, &format!("t{number}")).unwrap();
    }
    assert_eq!(gone(), [(); 4].map(|()| text.to_owned()));
    is_clean(&s);
}

#[test]
fn a_rollback_to_another_root_object_waits_until_nobody_has_the_segment() {
    let s = store();
    let sid = versioned(&s, "x");
    let base = s.open_segment(sid).unwrap().header().base;
    let commit = |root_address, kind: u8| {
        let mut content = content(&s, sid);
        let facts = content.next_facts();
        let facts = VersionFacts { root_address, root_fingerprint: [kind; 16], ..facts };
        let version = content.append(&Commit { facts, pages: Vec::new() }).unwrap();
        content.sync().unwrap();
        version.0
    };
    let first = commit(base + 64, 1);
    s.keep_version(sid, None, &tag("first"), FREE).unwrap();
    let same = commit(base + 64, 1);
    let moved = commit(base + 128, 1);
    commit(base + 64, 2);
    let back_to = |to: &VersionChoice| s.rollback_segment(sid, to, FREE);
    let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
    let attached = |right: Option<Right>| {
        lease.set_segment(0, right.map(|right| (sid, right))).unwrap();
    };
    attached(Some(Right::Read));
    let numbers = [first, same, moved].map(VersionChoice::Number);
    for to in numbers.iter().chain([&VersionChoice::Tag("first".into())]) {
        let error = back_to(to).unwrap_err();
        assert!(matches!(error, StoreError::Busy { why: Busy::OtherRoot(_), .. }), "{error}");
    }
    attached(None);
    back_to(&VersionChoice::Number(first)).unwrap();
    // One with the same root object is no danger to anybody.
    attached(Some(Right::Read));
    back_to(&VersionChoice::Number(same)).unwrap();
    back_to(&VersionChoice::Tag("first".into())).unwrap();
    back_to(&VersionChoice::Number(moved)).unwrap_err();
}

/// A VAS with two versioned segments and a raw one.
fn books(s: &TestStore) -> (abi::VasId, SegId, SegId, Vec<MemberHeld>) {
    let (one, two, raw) = (versioned(s, "one"), versioned(s, "two"), segment(s, "raw"));
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    for sid in [one, two, raw] {
        s.attach_segment(vid, sid, Right::Write).unwrap();
    }
    (vid, one, two, [one, two].map(|sid| MemberHeld { sid, held: FREE }).into())
}

#[test]
fn a_tag_of_a_vas_is_a_vas_that_lists_tags() {
    let s = store();
    let (vid, one, two, held) = books(&s);
    commit(&s, one, 1);
    commit(&s, two, 2);
    let kept = s.keep_vas(vid, "t", None, &held).unwrap().vid;
    commit(&s, one, 3);
    assert_eq!(s.find_vas(&name("v@t")).unwrap(), kept);
    let listed = s.vas(kept).unwrap().segments;
    let shown: Vec<_> = listed.iter().map(|it| (it.name.as_str(), it.right)).collect();
    assert_eq!(shown, [("one@v@t", Right::Read), ("two@v@t", Right::Read)]);
    assert_eq!([byte(&s, listed[0].sid), byte(&s, listed[1].sid)], [1, 2]);
    assert_eq!(s.vas_tags(&name("v")).unwrap(), [("t".to_owned(), kept)]);
    assert_eq!(s.kept_of(one).unwrap()[0].tag, "v@t");
    let error = s.keep_vas(vid, "t", None, &held).unwrap_err();
    assert!(matches!(error, StoreError::Exists(_)), "{error}");
    is_clean(&s);
    // The segments can go back to it.
    s.rollback_segment(one, &VersionChoice::Tag("v@t".into()), FREE).unwrap();
    assert_eq!(byte(&s, one), 1);
    // A clone of it is written to.
    let vas = s.vas(kept).unwrap();
    let segments = s.open_listed(&vas).unwrap();
    let members: Vec<_> = listed.iter().map(|it| MemberHeld { sid: it.sid, held: FREE }).collect();
    let copied = s.copy_vas(&vas, &segments, &name("w"), &members).unwrap();
    let copy = s.vas(copied.vid).unwrap().segments;
    let shown: Vec<_> = copy.iter().map(|it| (it.name.as_str(), it.right)).collect();
    assert_eq!(shown, [("w.one", Right::Write), ("w.two", Right::Write)]);
    commit(&s, copied.segments[0], 7);
    s.remove_kept_vas(kept).unwrap();
    assert!(s.find_segment(&name("one@v@t")).is_err() && s.find_vas(&name("v@t")).is_err());
    assert_eq!([byte(&s, copied.segments[0]), byte(&s, copied.segments[1])], [7, 2]);
    is_clean(&s);
}

#[test]
fn a_copied_vas_links_what_is_versioned_and_copies_what_is_raw() {
    let s = store();
    let (vid, one, two, held) = books(&s);
    commit(&s, one, 1);
    commit(&s, two, 2);
    let vas = s.vas(vid).unwrap();
    let segments = s.open_listed(&vas).unwrap();
    // Of one the lock is not held: that is copied.
    let copied = s.copy_vas(&vas, &segments, &name("w"), &held[..1]).unwrap();
    commit(&s, one, 3);
    assert_eq!([byte(&s, copied.segments[0]), byte(&s, copied.segments[1])], [1, 2]);
    let names: Vec<_> = s.vas(copied.vid).unwrap().segments.into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["w.one", "w.two", "w.raw"].map(name));
    is_clean(&s);
}

#[test]
fn a_vas_without_versions_has_no_tags() {
    let s = store();
    let raw = segment(&s, "raw");
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    s.attach_segment(vid, raw, Right::Write).unwrap();
    let error = s.keep_vas(vid, "t", None, &[]).unwrap_err();
    assert!(matches!(error, StoreError::NoVersions(_)), "{error}");
    is_clean(&s);
}

#[test]
fn what_cannot_be_made_durable_is_not_there_and_can_be_made_again() {
    let s = store();
    let (vid, one, _, held) = books(&s);
    let failed = |error| assert!(matches!(error, StoreError::Io { .. }), "{error}");
    fail_sync_of("segments");
    failed(s.keep_version(one, None, &tag("t"), FREE).unwrap_err());
    fail_sync_of("segments");
    failed(s.create_segment(&name("new"), &SegmentSpec::new(1 << 20)).unwrap_err());
    for folder in ["segments", "vas"] {
        fail_sync_of(folder);
        failed(s.keep_vas(vid, "t", None, &held).unwrap_err());
        assert!(s.find_vas(&name("v@t")).is_err());
    }
    assert_eq!(s.list_segments().unwrap().len(), 3);
    is_clean(&s);
    s.keep_version(one, None, &tag("t"), FREE).unwrap();
    s.keep_vas(vid, "t", None, &held).unwrap();
    is_clean(&s);
}

#[test]
fn a_version_that_is_kept_for_a_while_stays_for_who_has_just_found_it() {
    let s = store();
    let sid = versioned(&s, "x");
    let number = commit(&s, sid, 1);
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    s.attach_segment(vid, sid, Right::Write).unwrap();
    let held = [MemberHeld { sid, held: FREE }];
    let kept = s.keep_vas(vid, "1", Some(&[(sid, number)]), &held).unwrap().vid;
    assert_eq!(s.remove_passing(Duration::from_secs(3600)).unwrap(), Removed::default());
    s.vas(kept).unwrap();
    assert_eq!(byte(&s, find(&s, "x@v@1")), 1);
    // Another VAS cannot have it.
    let error = s.clone_vas(kept, &name("w")).unwrap_err();
    assert!(matches!(error, StoreError::Passing(_)), "{error}");
    // One that a person has called so is an ordinary one, and so is a tag.
    s.keep_vas(vid, "t", None, &held).unwrap();
    s.clone_vas(s.find_vas(&name("v@t")).unwrap(), &name("w")).unwrap();
    assert_eq!(s.gc().unwrap().unfinished, 2);
    assert!(s.find_vas(&name("v@1")).is_err() && s.find_segment(&name("x@v@1")).is_err());
    is_clean(&s);
}

#[test]
fn a_kill_while_a_tag_is_made_leaves_none() {
    let s = store();
    let sid = versioned(&s, "x");
    commit(&s, sid, 1);
    let folders = || -> Vec<PathBuf> {
        let entries = fs::read_dir(s.path().join("versions")).unwrap().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    // In the folder of links, while it is in `tmp/`.
    let folder = s.path().join("tmp/0000000000000099.versions");
    fs::create_dir(&folder).unwrap();
    let root = folders()[0].join("root");
    fs::hard_link(root, folder.join("root")).unwrap();
    assert_eq!(s.gc().unwrap().unfinished, 1);
    assert_eq!(byte(&s, sid), 1);
    // With the folder at its place, and the segment's file in `tmp/`.
    let source = s.open_segment(sid).unwrap();
    {
        let lock = s.lock_exclusive().unwrap();
        let mut content = s.open_content(&source, FREE, &lock).unwrap();
        let kept = Becomes::Kept;
        let made =
            s.link_version(&mut content, &source, 1, &name("x@t"), kept, "segment", &lock).unwrap();
        rustix::fs::flock(&made.main.file, FlockOperation::Unlock).unwrap();
        std::mem::forget(made);
    }
    assert_eq!(folders().len(), 2);
    assert!(check_store(s.path()).unwrap().sound());
    let report = s.gc().unwrap();
    assert_eq!((report.parts, report.unfinished), (1, 1));
    assert!(s.find_segment(&name("x@t")).is_err());
    is_clean(&s);
    // Of a VAS: a segment is there, and the VAS is not.
    let lock = s.lock_exclusive().unwrap();
    let mut content = s.open_content(&source, FREE, &lock).unwrap();
    let kept = Becomes::Kept;
    let made =
        s.link_version(&mut content, &source, 1, &name("x@v@t"), kept, "import", &lock).unwrap();
    s.publish_segment_of_many(&made.main.name, &made.header, &lock).unwrap();
    rustix::fs::flock(&made.main.file, FlockOperation::Unlock).unwrap();
    std::mem::forget(made);
    drop(lock);
    assert!(s.find_segment(&name("x@v@t")).is_ok());
    s.gc().unwrap();
    assert!(s.find_segment(&name("x@v@t")).is_err());
    assert_eq!(byte(&s, sid), 1);
    is_clean(&s);
}

#[test]
fn a_number_is_that_of_the_files_that_the_segment_has_and_not_of_a_tag_of_earlier_ones() {
    let s = store();
    let sid = versioned(&s, "x");
    let first = commit(&s, sid, 1);
    s.keep_version(sid, Some(first), &tag("t"), FREE).unwrap();
    let (old, text) = (find(&s, "x@t"), name(&format!("x@{first}")));
    assert_eq!(s.choose_segment(&text).unwrap(), Chosen::Whole(old));
    for to in [Lifetime::Persistent, Lifetime::Versioned] {
        s.convert_segment(sid, to).unwrap();
    }
    assert_eq!(s.choose_segment(&text).unwrap(), Chosen::Whole(old), "nothing else has it");
    assert_eq!(commit(&s, sid, 2), first);
    assert_eq!(s.choose_segment(&text).unwrap(), Chosen::Number(sid, first));
}

#[test]
fn a_name_with_a_version_means_the_whole_name_first() {
    let s = store();
    let sid = versioned(&s, "x");
    let first = commit(&s, sid, 1);
    commit(&s, sid, 2);
    s.keep_version(sid, Some(first), &tag("t"), FREE).unwrap();
    let kept = find(&s, "x@t");
    let choose = |text: &str| s.choose_segment(&name(text));
    assert_eq!(choose("x").unwrap(), Chosen::Whole(sid));
    assert_eq!(choose("x@t").unwrap(), Chosen::Whole(kept));
    assert_eq!(choose(&format!("x@{first}")).unwrap(), Chosen::Whole(kept), "it has a tag");
    assert_eq!(choose("x@2").unwrap(), Chosen::Number(sid, 2));
    assert!(matches!(choose("x@none"), Err(StoreError::NoTag { .. })));
    assert!(matches!(choose("y@t"), Err(StoreError::NotFound(_))));
    let segments = s.path().join("segments");
    fs::rename(segments.join("x@t"), segments.join("x@2")).unwrap();
    assert_eq!(choose("x@2").unwrap(), Chosen::Whole(kept), "a whole name");
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    let choose = |text: &str| s.choose_vas(&name(text));
    assert_eq!(choose("v").unwrap(), Chosen::Whole(vid));
    assert_eq!(choose("v@3").unwrap(), Chosen::Number(vid, 3));
    assert!(matches!(choose("v@t"), Err(StoreError::NoTag { .. })));
    assert!(matches!(choose("w@t"), Err(StoreError::NotFound(_))));
}

#[test]
fn what_a_snapshot_keeps_goes_with_the_last_one_that_has_it_and_not_while_one_is_made() {
    let s = store();
    let (vid, one, two, held) = books(&s);
    commit(&s, one, 1);
    commit(&s, two, 2);
    let at = [(one, 1), (two, 1)];
    let keep = || s.keep_for_snapshot(vid, &at, &held).unwrap().vid;
    let is_there = |vid| s.vas(vid).is_ok();
    let snapshot = |text: &str, versions: &[abi::VasId]| {
        s.begin_snapshot(&name(text)).unwrap().finish(b"head", versions).unwrap();
    };
    // A maker that was killed, or has failed.
    let forsaken = keep();
    let being_made = s.begin_snapshot(&name("first")).unwrap();
    assert!(!is_there(forsaken), "the next one removes it");
    let kept = keep();
    commit(&s, one, 3);
    assert_eq!(s.gc().unwrap().unfinished, 0);
    assert!(is_there(kept), "while one is made, nothing goes");
    being_made.finish(b"head", &[kept]).unwrap();
    snapshot("second", &[kept]);
    snapshot("third", &[]);
    assert_eq!(byte(&s, s.vas(kept).unwrap().segments[0].sid), 1);
    s.gc().unwrap();
    s.remove_snapshot(&name("first")).unwrap();
    assert!(is_there(kept), "another one has it");
    is_clean(&s);
    s.remove_snapshot(&name("second")).unwrap();
    assert!(!is_there(kept) && s.kept_of(one).unwrap().is_empty());
    // A tag of the user's is not one of these, and stays.
    let tag = s.keep_vas(vid, "snapshot-0123456789abcdef", None, &held).unwrap().vid;
    assert!(s.give_up_for_snapshot(tag).is_ok() && is_there(tag));
    // What a snapshot has that cannot be read may be anything.
    let kept = keep();
    std::fs::write(s.path().join("snapshots/third/versions"), "no number\n").unwrap();
    s.gc().unwrap();
    assert!(is_there(kept));
    s.remove_snapshot(&name("third")).unwrap();
    assert!(!is_there(kept) && is_there(tag));
}
