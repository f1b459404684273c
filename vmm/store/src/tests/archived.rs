//! Archives of versioned segments: one version, which comes back as a segment of its own.

use std::path::Path;

use abi::objects::{Lifetime, Right, SegId, SegRoot, VasId};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::segment::Limits;
use spacejmp_versions::{Commit, PageIndex, Segment};

use crate::archive::piece::Writer;
use crate::format::header::{Header, KeptVersion};
use crate::format::manifest::Manifest;
use crate::testing::{TestStore, mode, name, segment, store};
use crate::{
    GcReport, HeldAlone, Imported, MemberHeld, Mode, SegmentSpec, Store, StoreError, VasSegment,
    check_store, diff,
};

const SIZE: u64 = 1 << 40;

/// A VAS `v` with a versioned segment `x` of a sparse terabyte, and a few versions.
fn source() -> (TestStore, VasId, SegId) {
    let s = store();
    let spec = SegmentSpec {
        lifetime: Lifetime::Versioned,
        mode: mode(0o640),
        durability: Some(abi::objects::Durability::Each),
        ..SegmentSpec::new(SIZE)
    };
    let sid = s.create_segment(&name("x"), &spec).unwrap();
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    s.attach_segment(vid, sid, Right::Write).unwrap();
    commit(&s, sid, &[(0, 1), (1, 1), (1 << 20, 1)]);
    commit(&s, sid, &[(1, 2), (SIZE / 4096 - 1, 2)]);
    (s, vid, sid)
}

fn commit(s: &TestStore, sid: SegId, pages: &[(u64, u8)]) -> u64 {
    let folder = s.open_segment(sid).unwrap().versions_folder().unwrap();
    let mut content = Segment::open(HostFolder::from_fd(folder), Limits::default()).unwrap();
    let mut facts = content.next_facts();
    facts.root_address = s.open_segment(sid).unwrap().header().base + 64;
    facts.root_fingerprint = [5; 16];
    let filled: Vec<_> = pages.iter().map(|(at, byte)| (PageIndex(*at), [*byte; 4096])).collect();
    let pages = filled.iter().map(|(at, page)| (*at, page)).collect();
    let version = content.append(&Commit { facts, pages }).unwrap();
    content.sync().unwrap();
    version.0
}

fn export(s: &Store, vas: &str, number: Option<u64>) -> Result<Vec<u8>, StoreError> {
    let vas = s.vas(s.find_vas(&name(vas))?)?;
    let views: Result<Vec<_>, _> =
        vas.segments.iter().map(|it| s.view_segment(it.sid, number)).collect();
    let mut archive = Vec::new();
    s.export_vas(vas, &views?, &mut archive, Path::new("a"), &mut |_| {})?;
    Ok(archive)
}

fn import(s: &Store, archive: &[u8], as_name: Option<&str>) -> Result<Imported, StoreError> {
    let as_name = as_name.map(name);
    s.import_vas(&mut &*archive, Path::new("a"), as_name.as_ref(), 0, &mut |_| {})
}

#[track_caller]
fn is_clean(s: &TestStore) {
    let report = check_store(s.path()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(s.tmp.names().unwrap().is_empty());
    assert_eq!(s.gc().unwrap(), GcReport::default());
}

#[track_caller]
fn is_same(s: &Store, from: (SegId, Option<u64>), t: &Store, to: SegId) {
    let (from, to) = (s.view_segment(from.0, from.1).unwrap(), t.view_segment(to, None).unwrap());
    let found = diff(&from, &to, &mut |_| ()).unwrap();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn its_newest_version_comes_back_in_another_store_as_a_versioned_segment() {
    let (s, vid, sid) = source();
    let archive = export(&s, "v", None).unwrap();
    assert!(archive.len() < 4096, "{} bytes", archive.len());
    let t = store();
    let imported = import(&t, &archive, None).unwrap();
    assert_eq!((imported.vid, &imported.segments), (vid, &vec![(name("x"), sid)]));
    assert_eq!(imported.data_bytes, 4 * 4096);
    is_same(&s, (sid, None), &t, sid);
    let (old, new) = (s.segment(sid).unwrap(), t.segment(sid).unwrap());
    assert_eq!((&old.header, old.mode), (&new.header, new.mode));
    assert_eq!(new.header.lifetime, Lifetime::Versioned);
    assert!(new.stored_bytes < 1 << 20, "{}", new.stored_bytes);
    is_clean(&t);
    // It goes on from there.
    let last = commit(&t, sid, &[(7, 7)]);
    assert_eq!(last, 1);
    let (from, to) = (t.view_segment(sid, Some(0)).unwrap(), t.view_segment(sid, None).unwrap());
    assert_eq!(diff(&from, &to, &mut |_| ()).unwrap().bytes(), 4096);
    is_clean(&t);
}

#[test]
fn an_old_version_and_a_tag_come_back_beside_what_they_are_versions_of() {
    let (s, vid, sid) = source();
    let old = export(&s, "v", Some(1)).unwrap();
    let members = [MemberHeld { sid, held: HeldAlone { owner_died: false } }];
    s.keep_vas(vid, "monday", None, &members).unwrap();
    commit(&s, sid, &[(9, 9)]);
    let tag = export(&s, "v@monday", None).unwrap();
    let t = store();
    let made = import(&t, &tag, None).unwrap();
    assert_eq!((made.name.as_str(), made.segments[0].0.as_str()), ("v", "x"));
    let listed = &t.vas(made.vid).unwrap().segments[0];
    assert_eq!(listed.right, Right::Write, "a tag is read, what comes back is written");
    is_same(&s, (sid, Some(2)), &t, made.segments[0].1);
    assert!(t.segment(made.segments[0].1).unwrap().header.kept.is_none());
    let error = import(&s, &old, None).unwrap_err();
    assert!(matches!(error, StoreError::Exists(_)), "{error}");
    let made = import(&s, &old, Some("before")).unwrap();
    assert_eq!(made.segments[0].0.as_str(), "before.x");
    assert_ne!(made.segments[0].1, sid, "the id was taken");
    is_same(&s, (sid, Some(1)), &s, made.segments[0].1);
    is_clean(&s);
    is_clean(&t);
    let error = export(&s, "v", Some(99)).unwrap_err();
    assert!(matches!(error, StoreError::NoVersion { .. }), "{error}");
}

#[test]
fn a_kept_version_in_an_ordinary_vas_becomes_a_segment_with_a_name_of_its_own() {
    let (s, _, sid) = source();
    let free = HeldAlone { owner_died: false };
    s.keep_version(sid, Some(1), &crate::TagName::new(b"one").unwrap(), free).unwrap();
    let vid = s.create_vas(&name("w"), Mode::PRIVATE).unwrap();
    s.attach_segment(vid, s.find_segment(&name("x@one")).unwrap(), Right::Read).unwrap();
    s.attach_segment(vid, segment(&s, "raw"), Right::Write).unwrap();
    let archive = export(&s, "w", None).unwrap();
    let t = store();
    let made = import(&t, &archive, None).unwrap();
    let names: Vec<_> = made.segments.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x.one", "raw"]);
    let rights: Vec<_> =
        t.vas(made.vid).unwrap().segments.iter().map(|listed| listed.right).collect();
    assert_eq!(rights, [Right::Read, Right::Write]);
    is_same(&s, (sid, Some(1)), &t, made.segments[0].1);
    is_clean(&t);
}

#[test]
fn a_damaged_archive_is_one_error_and_nothing_of_it_stays() {
    let (s, ..) = source();
    let archive = export(&s, "v", None).unwrap();
    let t = store();
    let mut refused = 0;
    for at in 0..archive.len() {
        let mut changed = archive.clone();
        changed[at] ^= 1 << (at % 8);
        match import(&t, &changed, None) {
            Err(error) => {
                refused += 1;
                let told = error.to_string();
                let known = ["damaged", "is not an archive", "newer", "ends in the middle"];
                assert!(known.iter().any(|what| told.contains(what)), "byte {at}: {error}");
            }
            // Bits that zstd ignores.
            Ok(made) => {
                is_same(&s, (made.segments[0].1, None), &t, made.segments[0].1);
                t.delete_vas(made.vid).unwrap();
                t.delete_segment(made.segments[0].1).unwrap();
            }
        }
    }
    assert!(refused > archive.len() * 9 / 10, "{refused} of {}", archive.len());
    for len in 0..archive.len() {
        import(&t, &archive[..len], None).unwrap_err();
    }
    assert!(t.list_segments().unwrap().is_empty() && t.list_vases().unwrap().is_empty());
    let folders = t.versions().unwrap().map(|dir| dir.names().unwrap()).unwrap_or_default();
    assert!(folders.is_empty(), "{folders:?}");
    is_clean(&t);
}

/// An archive of one segment that no export writes.
fn forged(header: &Header, inconsistent: bool, data: &[(u64, &[u8])]) -> Vec<u8> {
    let encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut writer = Writer::new(encoder).unwrap();
    let (sid, name_in) = (header.sid, header.name.clone());
    let segments = vec![VasSegment { sid, right: Right::Write, name: name_in }];
    let (vid, name) = (VasId::new(7).unwrap(), name("forged"));
    writer
        .vas(&Manifest { vid, name, tagged: true, numbers_after: 0, segments }, Mode::PRIVATE)
        .unwrap();
    writer.segment(header, Mode::PRIVATE, inconsistent).unwrap();
    data.iter().for_each(|(at, bytes)| writer.data(*at, bytes).unwrap());
    writer.end(data.iter().map(|(_, bytes)| bytes.len() as u64).sum()).unwrap();
    writer.done(1).unwrap().finish().unwrap()
}

#[test]
fn a_forged_archive_is_refused_by_the_field_that_cannot_be() {
    let (s, _, sid) = source();
    let header = s.segment(sid).unwrap().header;
    let t = store();
    let kept = Header { kept: Some(KeptVersion { of: sid, number: 3 }), ..header.clone() };
    for (archive, what) in [
        (forged(&kept, false, &[]), "kept version"),
        (forged(&header, true, &[]), "it is versioned"),
        (forged(&header, false, &[(SIZE - 1, b"ab")]), "place of content"),
        (forged(&header, false, &[(4096, b"a"), (0, b"b")]), "place of content"),
    ] {
        let error = import(&t, &archive, None).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        is_clean(&t);
    }
    let root = SegRoot { address: header.base + (2 << 20), fingerprint: [1, 1] };
    let outside = Header { size_bytes: 1 << 20, root, ..header.clone() };
    let error = import(&t, &forged(&outside, false, &[]), None).unwrap_err().to_string();
    assert!(error.contains("root"), "{error}");
    is_clean(&t);
    // Not in whole pages: what lies behind it in its page are zeros.
    let made = import(&t, &forged(&header, false, &[(5000, b"here")]), None).unwrap();
    let view = t.view_segment(made.segments[0].1, None).unwrap();
    let page = view.read(1).unwrap();
    assert_eq!(
        (&page[904..908], page.iter().filter(|byte| **byte != 0).count()),
        (&b"here"[..], 4)
    );
    is_clean(&t);
}

#[test]
fn an_import_that_was_killed_can_be_repeated_before_the_garbage_is_collected() {
    let (s, _, sid) = source();
    let archive = export(&s, "v", None).unwrap();
    let t = store();
    let header = s.segment(sid).unwrap().header;
    // Killed when the folder was there and the segment's file was not.
    t.make_versions(&header, Mode::PRIVATE, None, &t.lock_exclusive().unwrap()).unwrap();
    let made = import(&t, &archive, None).unwrap();
    let new = made.segments[0].1;
    assert_ne!(new, sid, "the id may still be in use");
    is_same(&s, (sid, None), &t, new);
    assert_eq!(t.gc().unwrap().parts, 1);
    is_clean(&t);
    is_same(&s, (sid, None), &t, new);
}

#[test]
fn an_archive_of_a_later_version_of_the_software_is_newer_and_not_damaged() {
    let archive = |version: u8| {
        let mut start = *crate::archive::piece::START;
        start[8] = version;
        zstd::encode_all(&start[..], 1).unwrap()
    };
    let t = store();
    let error = import(&t, &archive(2), None).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    let error = import(&t, &archive(1), None).unwrap_err();
    assert!(matches!(error, StoreError::Truncated { .. }), "{error}");
    is_clean(&t);
}

#[test]
fn what_a_live_writer_appends_is_no_part_of_the_archive_that_is_being_written() {
    let (s, vid, sid) = source();
    let view = s.view_segment(sid, None).unwrap();
    assert_eq!(view.number(), Some(2));
    let root =
        SegRoot { address: s.open_segment(sid).unwrap().header().base + 64, fingerprint: [0; 2] };
    assert_eq!(view.segment().header().root.address, root.address);
    commit(&s, sid, &[(0, 77), (50, 77)]);
    let mut archive = Vec::new();
    s.export_vas(s.vas(vid).unwrap(), &[view], &mut archive, Path::new("a"), &mut |_| {}).unwrap();
    let t = store();
    let made = import(&t, &archive, None).unwrap();
    is_same(&s, (sid, Some(2)), &t, made.segments[0].1);
}
