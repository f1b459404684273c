//! Files and folders that people copied, moved and left about.

use std::fs;
use std::os::unix::fs::FileExt;

use abi::Errno;
use abi::objects::Right;

use crate::testing::{name, segment, store};
use crate::{Mode, SegmentSpec, StoreError};

#[test]
fn a_copy_in_the_same_store_becomes_a_segment_of_its_own() {
    let s = store();
    let sid = segment(&s, "x");
    let path = |text: &str| s.path().join("segments").join(text);
    let file = fs::File::options().write(true).open(path("x")).unwrap();
    file.write_all_at(&[7; 8], 4096).unwrap();
    file.write_all_at(b"content", 2 << 20).unwrap();
    fs::copy(path("x"), path("copy")).unwrap();
    assert_eq!(s.open_segment(sid).unwrap().name(), &name("x"), "the id means the original");
    let copy = s.find_segment(&name("copy")).unwrap();
    assert_ne!(copy, sid);
    let record = s.segment(copy).unwrap();
    assert_eq!(
        (record.header.name, record.header.base),
        (name("copy"), s.segment(sid).unwrap().header.base)
    );
    let bytes = fs::read(path("copy")).unwrap();
    assert_eq!(&bytes[2 << 20..][..7], b"content");
    assert_eq!(bytes[4096..8192], [0; 4096], "its lock is free");
    assert_eq!(s.find_segment(&name("copy")).unwrap(), copy, "once and for all");
    assert_eq!(s.find_segment(&name("x")).unwrap(), sid);
    s.delete_segment(copy).unwrap();
    assert!(s.open_segment(sid).is_ok());
}

#[test]
fn a_file_brought_to_another_store_is_the_same_segment_there() {
    let (s, t) = (store(), store());
    let sid = segment(&s, "x");
    fs::copy(s.path().join("segments/x"), t.path().join("segments/x")).unwrap();
    assert_eq!(t.find_segment(&name("x")).unwrap(), sid);
    assert_eq!(t.segment(sid).unwrap().header, s.segment(sid).unwrap().header);
    fs::copy(s.path().join("segments/x"), t.path().join("segments/y")).unwrap();
    assert_ne!(t.find_segment(&name("y")).unwrap(), sid);
}

#[test]
fn a_renamed_file_keeps_its_id() {
    let s = store();
    let sid = segment(&s, "x");
    fs::rename(s.path().join("segments/x"), s.path().join("segments/y")).unwrap();
    assert_eq!(s.find_segment(&name("y")).unwrap(), sid);
    assert_eq!(s.segment(sid).unwrap().header.name, name("y"));
    assert_eq!(s.find_segment(&name("x")).unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn files_that_appear_by_hand_are_found_by_id_at_once() {
    let (s, t) = (store(), store());
    let known = segment(&s, "known");
    s.open_segment(known).unwrap();
    for i in 0..20 {
        let text = format!("x{i}");
        let sid = segment(&t, &text);
        fs::copy(t.path().join("segments").join(&text), s.path().join("segments").join(&text))
            .unwrap();
        assert!(s.open_segment(sid).is_ok(), "{text}");
    }
}

#[test]
fn a_copied_vas_becomes_a_vas_of_its_own() {
    let s = store();
    let (vid, sid) = (s.create_vas(&name("v"), Mode::PRIVATE).unwrap(), segment(&s, "x"));
    s.attach_segment(vid, sid, Right::Read).unwrap();
    fs::create_dir(s.path().join("vas/copy")).unwrap();
    fs::copy(s.path().join("vas/v/manifest"), s.path().join("vas/copy/manifest")).unwrap();
    let copy = s.find_vas(&name("copy")).unwrap();
    assert_ne!(copy, vid);
    assert_eq!(s.vas(copy).unwrap().segments, s.vas(vid).unwrap().segments);
    assert_eq!(s.find_vas(&name("copy")).unwrap(), copy);
    assert_eq!(s.vas(vid).unwrap().name, name("v"));
    fs::rename(s.path().join("vas/v"), s.path().join("vas/moved")).unwrap();
    assert_eq!(s.find_vas(&name("moved")).unwrap(), vid);
    assert_eq!(s.vas(vid).unwrap().name, name("moved"));
}

#[test]
fn a_large_segment_of_which_only_the_first_file_was_copied_says_so() {
    let (s, t) = (store(), store());
    let sid = s.create_segment(&name("x"), &SegmentSpec::new(9 << 40)).unwrap();
    let sparse = fs::File::create(t.path().join("segments/x")).unwrap();
    let mut header = [0; 512];
    fs::File::open(s.path().join("segments/x")).unwrap().read_exact_at(&mut header, 0).unwrap();
    sparse.write_all_at(&header, 0).unwrap();
    sparse.set_len((8 << 40) + (2 << 20)).unwrap();
    let file = t.open_segment(sid).unwrap();
    assert!(file.part(0).is_ok());
    let error = file.part(1).unwrap_err();
    assert!(matches!(error, StoreError::PartMissing { index: 1, .. }), "{error}");
    assert_eq!(error.errno(), Errno::ENODATA);
}

#[test]
fn odd_names_live_as_files_and_in_manifests() {
    let s = store();
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    let long = "\u{e9}".repeat(127);
    let odd = [
        "-rf",
        ".hidden",
        "a b",
        " ",
        "line\nbreak",
        "tab\t",
        "%41",
        "...",
        "*",
        "manifest",
        &long,
    ];
    for text in odd {
        let sid = segment(&s, text);
        s.create_vas(&name(text), Mode::PRIVATE).unwrap();
        s.attach_segment(vid, sid, Right::Read).unwrap();
        assert_eq!(s.find_segment(&name(text)).unwrap(), sid);
    }
    let listed: Vec<_> = s.vas(vid).unwrap().segments.into_iter().map(|s| s.name).collect();
    assert_eq!(listed, odd.map(name));
    assert!(s.list_segments().unwrap().iter().all(|e| e.record.is_ok()));
    assert_eq!(s.list_segments().unwrap().len(), odd.len());
}
