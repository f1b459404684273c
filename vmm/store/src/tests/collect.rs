//! Copies made by the store, and collecting what dead processes left.

use std::fs;
use std::os::unix::fs::FileExt;

use abi::Errno;
use abi::objects::{Lifetime, Right};

use crate::testing::{TestStore, mode, name, segment, store};
use crate::{CheckReport, GcReport, Lease, LeaseInfo, Mode, SegmentSpec};

fn write(s: &TestStore, sid: abi::objects::SegId, offset: u64, bytes: &[u8]) {
    let file = s.open_segment(sid).unwrap();
    let at = file.locate(offset).unwrap();
    let part = file.part(at.part).unwrap();
    let raw = fs::File::from(part.fd().try_clone_to_owned().unwrap());
    raw.write_all_at(bytes, at.file_offset).unwrap();
}

fn read<const N: usize>(s: &TestStore, sid: abi::objects::SegId, offset: u64) -> [u8; N] {
    let file = s.open_segment(sid).unwrap();
    let at = file.locate(offset).unwrap();
    let part = file.part(at.part).unwrap();
    let raw = fs::File::from(part.fd().try_clone_to_owned().unwrap());
    let mut bytes = [0; N];
    raw.read_exact_at(&mut bytes, at.file_offset).unwrap();
    bytes
}

#[test]
fn a_clone_has_all_content_at_the_same_addresses_and_is_independent() {
    let s = store();
    for lifetime in [Lifetime::Persistent, Lifetime::Volatile] {
        let spec = SegmentSpec { lifetime, mode: mode(0o640), ..SegmentSpec::new(9 << 40) };
        let (from, to) = (name(&format!("{lifetime:?}")), name(&format!("{lifetime:?} clone")));
        let sid = s.create_segment(&from, &spec).unwrap();
        for offset in [0, 5 << 30, (8 << 40) - 4, 8 << 40, (9 << 40) - 4] {
            write(&s, sid, offset, b"data");
        }
        let lock_page = s.open_segment(sid).unwrap();
        let main = fs::File::from(lock_page.lock_page().0.try_clone_to_owned().unwrap());
        main.write_all_at(&[1; 4096], 4096).unwrap();
        let clone = s.clone_segment(sid, &to).unwrap();
        assert_ne!(clone, sid);
        for offset in [0, 5 << 30, (8 << 40) - 4, 8 << 40, (9 << 40) - 4] {
            assert_eq!(&read::<4>(&s, clone, offset), b"data", "{offset:#x}");
        }
        let (a, b) = (s.segment(sid).unwrap(), s.segment(clone).unwrap());
        assert_eq!((a.header.base, a.mode), (b.header.base, b.mode));
        assert!(b.stored_bytes < 1 << 20, "sparse: {}", b.stored_bytes);
        let lock_page = s.open_segment(clone).unwrap();
        let main = fs::File::from(lock_page.lock_page().0.try_clone_to_owned().unwrap());
        let mut words = [1; 4096];
        main.read_exact_at(&mut words, 4096).unwrap();
        assert_eq!(words, [0; 4096], "its lock is free");
        write(&s, clone, 0, b"else");
        assert_eq!(&read::<4>(&s, sid, 0), b"data");
        let error = s.clone_segment(sid, &to).unwrap_err();
        assert_eq!(error.errno(), Errno::EEXIST, "{error}");
    }
    assert!(s.tmp.names().unwrap().is_empty());
    assert_eq!(s.gc().unwrap(), GcReport::default());
    assert_eq!(s.list_segments().unwrap().len(), 4);
}

#[test]
fn a_clone_of_what_a_dead_writer_left_is_dirty_too() {
    let s = store();
    let sid = segment(&s, "x");
    let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
    s.join(&mut s.open_segment(sid).unwrap(), &lease, 0, Right::Write).unwrap();
    drop(lease);
    let clone = s.clone_segment(sid, &name("y")).unwrap();
    assert!(s.segment(clone).unwrap().dirty());
}

#[test]
fn a_clone_of_what_a_live_writer_has_is_clean() {
    let s = store();
    let sid = segment(&s, "x");
    let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
    s.join(&mut s.open_segment(sid).unwrap(), &lease, 0, Right::Write).unwrap();
    let clone = s.clone_segment(sid, &name("y")).unwrap();
    assert!(!s.segment(clone).unwrap().dirty());
    assert!(s.check_segment(&name("x")).unwrap().heap_in_use);
    assert_eq!(
        s.check_segment(&name("y")).unwrap(),
        CheckReport { segments: 1, ..CheckReport::default() }
    );
}

#[test]
fn the_remains_of_the_dead_are_collected_and_nothing_else() {
    let s = store();
    let huge = s.create_segment(&name("huge"), &SegmentSpec::new(9 << 40)).unwrap();
    s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    let volatile = SegmentSpec { lifetime: Lifetime::Volatile, ..SegmentSpec::new(1) };
    let used = s.create_segment(&name("used"), &volatile).unwrap();
    s.create_segment(&name("not yet used"), &volatile).unwrap();
    let lease =
        |program: &str| Lease::create(&s, &LeaseInfo { program: program.into(), pid: 1 }).unwrap();
    let alive = lease("alive");
    s.join(&mut s.open_segment(used).unwrap(), &lease("dead"), 0, Right::Write).unwrap();
    let path = |text: &str| s.path().join(text);
    fs::write(path("vms/00000000000000aa"), "left by a killed VM").unwrap();
    fs::write(path("tmp/left"), "").unwrap();
    fs::create_dir(path("tmp/folder")).unwrap();
    fs::write(path("tmp/folder/manifest"), "").unwrap();
    fs::write(path("parts/00000000000000bb.1"), "").unwrap();
    fs::write(path("parts/notes.txt"), "").unwrap();
    fs::write(path("tmp/held"), "").unwrap();
    let held = fs::File::open(path("tmp/held")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let expected = GcReport { leases: 1, unfinished: 2, volatile: 1, parts: 1 };
    assert_eq!(s.gc().unwrap(), expected);
    assert_eq!(s.gc().unwrap(), GcReport::default());
    assert!(
        s.is_alive(alive.id()) && path("tmp/held").exists() && path("parts/notes.txt").exists()
    );
    assert!(s.open_segment(huge).unwrap().part(1).is_ok());
    assert_eq!(s.list_segments().unwrap().len(), 2);
}
