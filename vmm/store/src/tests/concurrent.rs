//! Many operations at the same time, by many threads.

use std::collections::BTreeSet;
use std::time::Instant;

use abi::Errno;
use abi::objects::Right;

use crate::format::header::Header;
use crate::testing::{name, segment, store};
use crate::{DATA_OFFSET, Mode, SegmentSpec, Store, StoreError};

/// One thread's part: makes, finds, lists and deletes; all threads share some names.
fn work(store: &Store, thread: usize) {
    for round in 0..6 {
        let own = name(&format!("own-{thread}-{round}"));
        let sid = store.create_segment(&own, &SegmentSpec::new(4096)).unwrap();
        let vid = store.create_vas(&own, Mode::PRIVATE).unwrap();
        store.attach_segment(vid, sid, Right::Write).unwrap();
        let shared = name(&format!("shared-{round}"));
        match store.create_segment(&shared, &SegmentSpec::new(4096)) {
            Ok(sid) => store.delete_segment(sid).unwrap(),
            Err(error) => assert_eq!(error.errno(), Errno::EEXIST, "{error}"),
        }
        for entry in store.list_segments().unwrap() {
            entry.record.unwrap();
        }
        for entry in store.list_vases().unwrap() {
            for segment in entry.record.unwrap().segments {
                match store.open_segment(segment.sid) {
                    Ok(file) => assert_eq!(file.header().sid, segment.sid),
                    Err(error) => assert!(matches!(error, StoreError::NotFound(_)), "{error}"),
                }
            }
        }
        assert_eq!(store.find_segment(&own).unwrap(), sid);
        assert_eq!(store.vas(vid).unwrap().segments[0].sid, sid);
        if round % 2 == 0 {
            store.detach_segment(vid, sid).unwrap();
            store.delete_segment(sid).unwrap();
            store.delete_vas(vid).unwrap();
        }
    }
}

#[test]
fn eight_threads_create_delete_and_list_without_seeing_anything_half_made() {
    let s = store();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (shared, path) = (&s.store, s.path());
            scope.spawn(move || match thread % 2 {
                0 => work(shared, thread),
                _ => work(&Store::open(path).unwrap(), thread),
            });
        }
    });
    let segments = s.list_segments().unwrap();
    assert_eq!((segments.len(), s.list_vases().unwrap().len()), (24, 24));
    let bases: BTreeSet<u64> =
        segments.iter().map(|e| e.record.as_ref().unwrap().header.base).collect();
    assert_eq!(bases.len(), 24, "default bases are all different");
    assert!(s.tmp.names().unwrap().is_empty());
}

#[test]
fn a_store_made_by_eight_at_once_is_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/store");
    let ids: BTreeSet<u64> = std::thread::scope(|scope| {
        let open = || scope.spawn(|| Store::open_or_create(&path).unwrap().id());
        let threads: Vec<_> = (0..8).map(|_| open()).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1);
}

/// Puts copies of a segment's file there as a user's own tool would, without a sync for each.
fn fill(s: &Store, count: u64) {
    let sid = segment(s, "template");
    let header = s.open_segment(sid).unwrap().header().clone();
    for i in 0..count {
        let name = name(&format!("segment-{i}"));
        let sid = abi::objects::SegId::new(i + 1).unwrap();
        let header =
            Header { sid, base: header.base + (i << 30), name: name.clone(), ..header.clone() };
        let path = s.path().join("segments").join(name.as_str());
        let file = std::fs::File::create(&path).unwrap();
        crate::format::header::write_header(&file, &path, &header).unwrap();
        file.set_len(DATA_OFFSET + header.size_bytes).unwrap();
    }
}

#[test]
fn a_thousand_vases_and_ten_thousand_segments_are_listed_whole() {
    let s = store();
    fill(&s, 10_000);
    let vid = s.create_vas(&name("0"), Mode::PRIVATE).unwrap();
    for i in 0..100 {
        s.attach_segment(vid, abi::objects::SegId::new(i * 50 + 1).unwrap(), Right::Read).unwrap();
    }
    let text = std::fs::read(s.path().join("vas/0/manifest")).unwrap();
    let manifest = crate::format::manifest::Manifest::decode(&text, s.path()).unwrap();
    for i in 1..1000 {
        let name = name(&i.to_string());
        let folder = s.path().join("vas").join(name.as_str());
        let vid = abi::objects::VasId::new(i).unwrap();
        let manifest = crate::format::manifest::Manifest { vid, name, ..manifest.clone() };
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("manifest"), manifest.encode()).unwrap();
    }
    let start = Instant::now();
    let (vases, segments) = (s.list_vases().unwrap(), s.list_segments().unwrap());
    let took = start.elapsed();
    println!("list of 1000 VASes and 10001 segments: {took:?}");
    assert_eq!((vases.len(), segments.len()), (1000, 10_001));
    assert!(vases.iter().all(|e| e.record.as_ref().is_ok_and(|r| r.segments.len() == 100)));
    assert!(segments.iter().all(|e| e.record.is_ok()));
    let start = Instant::now();
    let sid = segment(&s, "one more");
    s.open_segment(sid).unwrap();
    s.vas(abi::objects::VasId::new(999).unwrap()).unwrap();
    println!("create, open by id, look up a VAS among them: {:?}", start.elapsed());
}
