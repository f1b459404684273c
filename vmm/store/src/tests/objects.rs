//! The life cycle of VASes and segments, and every error on the way.

use std::os::unix::fs::FileExt;

use abi::Errno;
use abi::addr::{PAGE_SIZE_1G, PAGE_SIZE_2M};
use abi::layout::{VAS_END, VAS_START};
use abi::objects::{Lifetime, PagePolicy, Right, SegId, SegRoot, VasId};

use crate::testing::{mode, name, segment, store};
use crate::{
    Access, Busy, DATA_OFFSET, Mode, PART_BYTES, SegmentSpec, SegmentState, Store, StoreError,
};

#[test]
fn a_segment_is_found_again_by_another_opener_with_all_it_was_given() {
    let s = store();
    let spec = SegmentSpec {
        base: Some(VAS_START.raw() + PAGE_SIZE_2M),
        size_bytes: 5000,
        reserve_bytes: 3 << 20,
        mode: mode(0o640),
        lifetime: Lifetime::Persistent,
        durability: None,
        pages: PagePolicy::Small4K,
        lockable: false,
    };
    let sid = s.create_segment(&name("a b\n"), &spec).unwrap();
    let other = Store::open(s.path()).unwrap();
    assert_eq!(other.id(), s.id());
    assert_eq!(other.find_segment(&name("a b\n")).unwrap(), sid);
    let record = other.segment(sid).unwrap();
    let h = &record.header;
    assert_eq!((h.sid, h.base, h.size_bytes), (sid, VAS_START.raw() + PAGE_SIZE_2M, 8192));
    assert_eq!((h.reserve_bytes, h.pages, h.lockable), (4 << 20, PagePolicy::Small4K, false));
    assert_eq!((record.mode, record.access), (mode(0o640), Access::Write));
    assert_eq!((h.state, h.used, record.dirty()), (SegmentState::Clean, false, false));
    assert!(record.stored_bytes < 64 << 10, "sparse: {}", record.stored_bytes);
}

#[test]
fn content_lies_where_the_segment_says_and_reads_as_zeros_at_first() {
    let s = store();
    let sid = segment(&s, "x");
    let file = s.open_segment(sid).unwrap();
    assert_eq!(file.right(), Right::Write);
    let part = file.part(0).unwrap();
    assert_eq!((part.offset(), part.len_bytes()), (DATA_OFFSET, 1 << 20));
    let here = file.locate(4096).unwrap();
    assert_eq!((here.part, here.file_offset), (0, DATA_OFFSET + 4096));
    assert_eq!(here.left_bytes, (1 << 20) - 4096);
    assert_eq!(file.locate(1 << 20), None);
    assert_eq!(file.part(1).unwrap_err().errno(), Errno::EINVAL);
    let raw = std::fs::File::from(part.fd().try_clone_to_owned().unwrap());
    let mut bytes = [1; 4096];
    raw.read_exact_at(&mut bytes, part.offset() + (1 << 20) - 4096).unwrap();
    assert_eq!(bytes, [0; 4096]);
    assert_eq!(file.lock_page().1, 4096);
}

#[test]
fn default_bases_are_the_lowest_that_no_segment_uses() {
    let s = store();
    let base = |text: &str, spec: SegmentSpec| {
        let sid = s.create_segment(&name(text), &spec).unwrap();
        s.segment(sid).unwrap().header.base
    };
    let (start, gib) = (VAS_START.raw(), PAGE_SIZE_1G);
    assert_eq!(base("a", SegmentSpec::new(1)), start);
    assert_eq!(base("b", SegmentSpec::new(1)), start + gib);
    let at = SegmentSpec { base: Some(start + 2 * gib + PAGE_SIZE_2M), ..SegmentSpec::new(1) };
    base("explicit", at);
    assert_eq!(base("overlapping", at), start + 2 * gib + PAGE_SIZE_2M, "overlap is allowed");
    assert_eq!(base("c", SegmentSpec::new(2 * gib)), start + 3 * gib);
    s.delete_segment(s.find_segment(&name("a")).unwrap()).unwrap();
    assert_eq!(base("d", SegmentSpec::new(gib)), start, "freed");
    let huge = SegmentSpec { reserve_bytes: 512 * gib, ..SegmentSpec::new(1) };
    assert_eq!(base("e", huge), start + 512 * gib);
    let all = SegmentSpec { reserve_bytes: VAS_END.raw() - start, ..SegmentSpec::new(1) };
    let error = s.create_segment(&name("all"), &all).unwrap_err();
    assert_eq!(error.errno(), Errno::EINVAL, "the region is no multiple of 2 MiB: {error}");
    let most = SegmentSpec { reserve_bytes: 111 << 40, ..SegmentSpec::new(1) };
    assert_eq!(s.create_segment(&name("all"), &most).unwrap_err().errno(), Errno::ENOMEM);
    assert!(s.find_segment(&name("all")).is_err(), "nothing is left of what failed");
}

#[test]
fn impossible_segments_are_refused_and_leave_nothing() {
    let s = store();
    let new = SegmentSpec::new;
    let at = |base| SegmentSpec { base: Some(base), ..new(4096) };
    let table = [
        new(0),
        new(u64::MAX),
        new(128 << 40),
        SegmentSpec { reserve_bytes: 2 << 20, ..new((2 << 20) + 1) },
        SegmentSpec { reserve_bytes: u64::MAX, ..new(8192) },
        at(VAS_START.raw() - PAGE_SIZE_2M),
        at(VAS_START.raw() + 4096),
        at(VAS_END.raw() & !(PAGE_SIZE_2M - 1)),
        at(!(PAGE_SIZE_2M - 1)),
    ];
    for spec in table {
        let error = s.create_segment(&name("x"), &spec).unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL, "{spec:?}: {error}");
    }
    assert!(s.list_segments().unwrap().is_empty());
    assert!(s.tmp.names().unwrap().is_empty());
}

#[test]
fn names_are_taken_once_each_kind_for_itself() {
    let s = store();
    segment(&s, "x");
    s.create_vas(&name("x"), Mode::PRIVATE).unwrap();
    let again = s.create_segment(&name("x"), &SegmentSpec::new(1)).unwrap_err();
    assert!(matches!(again, StoreError::Exists(_)) && again.errno() == Errno::EEXIST);
    assert_eq!(s.create_vas(&name("x"), Mode::PRIVATE).unwrap_err().errno(), Errno::EEXIST);
    let vid = s.find_vas(&name("x")).unwrap();
    assert_eq!(s.clone_vas(vid, &name("x")).unwrap_err().errno(), Errno::EEXIST);
    assert!(s.tmp.names().unwrap().is_empty());
}

#[test]
fn what_is_not_there_is_enoent_by_name_and_by_id() {
    let s = store();
    let (vid, sid) = (VasId::new(5).unwrap(), SegId::new(5).unwrap());
    let errors = [
        s.find_vas(&name("x")).unwrap_err(),
        s.find_segment(&name("x")).unwrap_err(),
        s.vas(vid).unwrap_err(),
        s.segment(sid).unwrap_err(),
        s.open_segment(sid).unwrap_err(),
        s.delete_vas(vid).unwrap_err(),
        s.delete_segment(sid).unwrap_err(),
        s.grow_segment(sid, 1).unwrap_err(),
        s.clone_vas(vid, &name("y")).unwrap_err(),
        s.set_vas_mode(vid, Mode::PRIVATE).unwrap_err(),
        s.set_vas_tagged(vid, true).unwrap_err(),
        s.set_segment_mode(sid, Mode::PRIVATE).unwrap_err(),
        s.set_lockable(sid, true).unwrap_err(),
        s.set_pages(sid, PagePolicy::Largest).unwrap_err(),
        s.root_get(sid).unwrap_err(),
        s.root_set(sid, SegRoot::default()).unwrap_err(),
        s.attach_segment(vid, sid, Right::Read).unwrap_err(),
        s.detach_segment(vid, sid).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.errno(), Errno::ENOENT, "{error}");
    }
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    assert_eq!(s.attach_segment(vid, sid, Right::Read).unwrap_err().errno(), Errno::ENOENT);
    let error = s.detach_segment(vid, sid).unwrap_err();
    assert!(matches!(error, StoreError::NotAttached { .. }), "{error}");
}

#[test]
fn a_vas_lists_its_segments_in_order_with_their_rights_and_refuses_overlap() {
    let s = store();
    let vid = s.create_vas(&name("v"), mode(0o644)).unwrap();
    let (a, b) = (segment(&s, "a"), segment(&s, "b"));
    let base = s.segment(a).unwrap().header.base;
    let at = |base, text| {
        let spec = SegmentSpec { base: Some(base), ..SegmentSpec::new(1 << 20) };
        s.create_segment(&name(text), &spec).unwrap()
    };
    let (same, next) = (at(base, "same"), at(base + PAGE_SIZE_2M, "next"));
    s.attach_segment(vid, b, Right::Write).unwrap();
    s.attach_segment(vid, a, Right::Read).unwrap();
    let error = s.attach_segment(vid, a, Right::Write).unwrap_err();
    assert!(matches!(error, StoreError::AlreadyAttached { .. }), "{error}");
    let error = s.attach_segment(vid, same, Right::Read).unwrap_err();
    assert!(matches!(&error, StoreError::Overlap { other, .. } if *other == name("a")), "{error}");
    assert_eq!(error.errno(), Errno::EEXIST);
    s.attach_segment(vid, next, Right::Read).unwrap();
    let listed = |vid| {
        let segments = s.vas(vid).unwrap().segments;
        segments.into_iter().map(|s| (s.sid, s.right)).collect::<Vec<_>>()
    };
    let all = [(b, Right::Write), (a, Right::Read), (next, Right::Read)];
    assert_eq!(listed(vid), all);
    let copy = s.clone_vas(vid, &name("copy")).unwrap();
    s.detach_segment(vid, a).unwrap();
    assert_eq!(listed(vid), [all[0], all[2]]);
    assert_eq!(listed(copy), all);
    let copy = s.vas(copy).unwrap();
    assert_eq!((copy.name, copy.mode, copy.tagged), (name("copy"), mode(0o644), true));
}

#[test]
fn growth_ends_at_the_reserve_and_never_shrinks() {
    let s = store();
    let spec = SegmentSpec { reserve_bytes: 4 << 20, ..SegmentSpec::new(4096) };
    let sid = s.create_segment(&name("x"), &spec).unwrap();
    let mut open = s.open_segment(sid).unwrap();
    s.grow_segment(sid, 8000).unwrap();
    assert_eq!(open.locate(4096), None, "not before looking");
    s.refresh(&mut open).unwrap();
    assert_eq!(open.header().size_bytes, 8192);
    assert_eq!(open.part(0).unwrap().len_bytes(), 8192);
    let error = s.grow_segment(sid, (4 << 20) + 1).unwrap_err();
    assert_eq!(error.errno(), Errno::EFBIG, "{error}");
    assert_eq!(s.grow_segment(sid, u64::MAX).unwrap_err().errno(), Errno::EFBIG);
    assert_eq!(s.grow_segment(sid, 4096).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(s.segment(sid).unwrap().header.size_bytes, 8192);
    s.grow_segment(sid, 4 << 20).unwrap();
}

#[test]
fn large_segments_are_several_files_of_8_tib() {
    let s = store();
    let spec = SegmentSpec { reserve_bytes: 40 << 40, ..SegmentSpec::new(20 << 40) };
    let sid = s.create_segment(&name("huge"), &spec).unwrap();
    let mut file = s.open_segment(sid).unwrap();
    assert_eq!(file.header().parts(), 3);
    let here = file.locate(PART_BYTES + 5).unwrap();
    assert_eq!((here.part, here.file_offset, here.left_bytes), (1, 5, PART_BYTES - 5));
    let last = file.part(2).unwrap();
    assert_eq!((last.offset(), last.len_bytes()), (0, 4 << 40));
    s.grow_segment(sid, 33 << 40).unwrap();
    s.refresh(&mut file).unwrap();
    assert_eq!(file.part(2).unwrap().len_bytes(), PART_BYTES);
    assert_eq!(file.part(4).unwrap().len_bytes(), 1 << 40);
    s.sync(&file).unwrap();
    s.set_segment_mode(sid, mode(0o440)).unwrap();
    assert!(s.segment(sid).unwrap().stored_bytes < 1 << 20);
    s.delete_segment(sid).unwrap();
    assert!(s.parts.names().unwrap().is_empty());
}

#[test]
fn settings_and_roots_are_kept() {
    let s = store();
    let (sid, vid) = (segment(&s, "x"), s.create_vas(&name("v"), Mode::PRIVATE).unwrap());
    s.set_lockable(sid, false).unwrap();
    s.set_pages(sid, PagePolicy::Large2M).unwrap();
    s.set_segment_mode(sid, mode(0o604)).unwrap();
    s.set_vas_mode(vid, mode(0o660)).unwrap();
    s.set_vas_tagged(vid, false).unwrap();
    let base = s.segment(sid).unwrap().header.base;
    let root = SegRoot { address: base + (1 << 20) - 1, fingerprint: [1, u64::MAX] };
    s.root_set(sid, root).unwrap();
    assert_eq!(s.root_get(sid).unwrap(), root);
    for address in [base - 1, base + (1 << 20), u64::MAX] {
        let error = s.root_set(sid, SegRoot { address, fingerprint: [0; 2] }).unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL, "{error}");
    }
    let record = s.segment(sid).unwrap();
    assert_eq!((record.header.root, record.mode), (root, mode(0o604)));
    assert_eq!((record.header.lockable, record.header.pages), (false, PagePolicy::Large2M));
    let vas = s.vas(vid).unwrap();
    assert_eq!((vas.mode, vas.tagged), (mode(0o660), false));
    s.root_set(sid, SegRoot::default()).unwrap();
}

#[test]
fn a_listed_segment_is_deleted_only_after_its_vases_let_go() {
    let s = store();
    let (sid, vid) = (segment(&s, "x"), s.create_vas(&name("v"), Mode::PRIVATE).unwrap());
    s.attach_segment(vid, sid, Right::Read).unwrap();
    let error = s.delete_segment(sid).unwrap_err();
    let names = [name("v")];
    assert!(
        matches!(&error, StoreError::Busy { why: Busy::Listed(by), .. } if *by == names),
        "{error}"
    );
    assert!(s.open_segment(sid).is_ok(), "nothing changed");
    s.delete_vas(vid).unwrap();
    s.delete_segment(sid).unwrap();
    assert!(s.list_segments().unwrap().is_empty() && s.list_vases().unwrap().is_empty());
    assert!(s.tmp.names().unwrap().is_empty());
}

#[test]
fn running_vms_see_every_change_of_a_vas_as_a_new_count() {
    let s = store();
    let changes = || s.changes(&s.lock_shared().unwrap()).unwrap();
    let (sid, vid) = (segment(&s, "x"), s.create_vas(&name("v"), Mode::PRIVATE).unwrap());
    let steps: [&dyn Fn(); 5] = [
        &|| s.attach_segment(vid, sid, Right::Read).unwrap(),
        &|| s.set_vas_tagged(vid, false).unwrap(),
        &|| s.detach_segment(vid, sid).unwrap(),
        &|| s.bump().unwrap(),
        &|| s.delete_vas(vid).unwrap(),
    ];
    for (i, step) in steps.iter().enumerate() {
        let before = changes();
        step();
        assert!(changes() > before, "step {i}");
    }
    let mut word = [0; 8];
    let live = std::fs::File::from(s.counters_fd().try_clone_to_owned().unwrap());
    live.read_exact_at(&mut word, 0).unwrap();
    assert_eq!(u64::from_le_bytes(word), changes());
}

#[test]
fn a_folder_with_other_things_never_becomes_a_store() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.tex"), "").unwrap();
    let error = Store::open_or_create(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = Store::open(&folder.path().join("none")).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOENT, "{error}");
    let error = Store::open(&folder.path().join("thesis.tex")).unwrap_err();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error}");
}

#[test]
fn a_place_is_checked_for_a_store_without_making_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("file"), "").unwrap();
    std::fs::create_dir(at("empty")).unwrap();
    std::fs::create_dir(at("foreign")).unwrap();
    std::fs::write(at("foreign/thesis.tex"), "").unwrap();
    for good in ["empty", "new", "new/in/new"] {
        Store::check_place(&at(good)).unwrap();
    }
    for bad in ["file", "file/below", "foreign"] {
        let error = Store::check_place(&at(bad)).unwrap_err();
        assert!(error.to_string().contains(bad), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    assert_eq!(std::fs::read_dir(at("empty")).unwrap().count(), 0);
    Store::open_or_create(&at("new")).unwrap();
    Store::check_place(&at("new")).unwrap();
    std::fs::write(at("new/format"), "spacejmp store 99\n").unwrap();
    let error = Store::check_place(&at("new")).unwrap_err();
    assert!(!matches!(error, StoreError::NotAStore { .. }), "{error}");
}

#[test]
fn no_new_object_is_called_as_a_version_or_a_right_and_one_that_is_is_found() {
    let s = store();
    let (sid, vid) = (segment(&s, "x"), s.create_vas(&name("v"), Mode::PRIVATE).unwrap());
    for odd in ["x@1", "x:ro", "x:rw"].map(name) {
        let refusals = [
            s.create_segment(&odd, &SegmentSpec::new(4096)).unwrap_err(),
            s.clone_segment(sid, &odd).unwrap_err(),
            s.create_vas(&odd, Mode::PRIVATE).unwrap_err(),
            s.clone_vas(vid, &odd).unwrap_err(),
        ];
        for error in refusals {
            assert_eq!(error.errno(), Errno::EINVAL, "{error}");
        }
        // As an earlier version, or somebody by hand, called it.
        for folder in ["segments", "vas"] {
            let from = if folder == "vas" { "v" } else { "x" };
            let folder = s.path().join(folder);
            std::fs::rename(folder.join(from), folder.join(odd.as_str())).unwrap();
        }
        assert_eq!(s.find_segment(&odd).unwrap(), sid);
        assert_eq!(s.find_vas(&odd).unwrap(), vid);
        for folder in ["segments", "vas"] {
            let to = if folder == "vas" { "v" } else { "x" };
            let folder = s.path().join(folder);
            std::fs::rename(folder.join(odd.as_str()), folder.join(to)).unwrap();
        }
        assert_eq!(
            (s.find_segment(&name("x")).unwrap(), s.find_vas(&name("v")).unwrap()),
            (sid, vid)
        );
    }
}
