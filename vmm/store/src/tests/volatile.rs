//! Segments that live in memory.

use std::os::unix::fs::FileExt;

use abi::Errno;
use abi::objects::{Lifetime, Right};

use crate::testing::{TestStore, name, store};
use crate::{Lease, LeaseInfo, Mode, SegmentSpec, StoreError};
use abi::objects::SegId;

fn volatile(s: &TestStore, text: &str) -> SegId {
    let spec = SegmentSpec { lifetime: Lifetime::Volatile, ..SegmentSpec::new(1 << 20) };
    s.create_segment(&name(text), &spec).unwrap()
}

fn lease(s: &TestStore) -> Lease {
    Lease::create(s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap()
}

fn shm_files(s: &TestStore) -> usize {
    let prefix = format!("spacejmp-{:016x}-", s.id());
    let names = std::fs::read_dir("/dev/shm").unwrap().flatten();
    names.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).count()
}

#[test]
fn content_is_in_memory_and_the_same_for_all_openers() {
    let s = store();
    let sid = volatile(&s, "x");
    assert_eq!(shm_files(&s), 1);
    let (a, b) = (s.open_segment(sid).unwrap(), s.open_segment(sid).unwrap());
    let (a, b) = (a.part(0).unwrap(), b.part(0).unwrap());
    assert_eq!((a.offset(), a.len_bytes()), (0, 1 << 20));
    let a = std::fs::File::from(a.fd().try_clone_to_owned().unwrap());
    let b = std::fs::File::from(b.fd().try_clone_to_owned().unwrap());
    a.write_all_at(b"hello", 4096).unwrap();
    let mut bytes = [0; 5];
    b.read_exact_at(&mut bytes, 4096).unwrap();
    assert_eq!(&bytes, b"hello");
    let main = std::fs::metadata(s.path().join("segments/x")).unwrap().len();
    assert_eq!(main, 8192, "header and lock page only");
}

#[test]
fn it_goes_when_the_last_vm_leaves_and_not_before() {
    let s = store();
    let sid = volatile(&s, "x");
    let (first, second) = (lease(&s), lease(&s));
    let mut a = s.open_segment(sid).unwrap();
    let mut b = s.open_segment(sid).unwrap();
    s.join(&mut a, &first, 0, Right::Write).unwrap();
    s.join(&mut b, &second, 0, Right::Read).unwrap();
    s.leave(&a, &first, 0).unwrap();
    assert!(s.open_segment(sid).is_ok());
    s.leave(&b, &second, 0).unwrap();
    assert_eq!(s.open_segment(sid).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!((shm_files(&s), s.list_segments().unwrap().len()), (0, 0));
    let error = s.join(&mut a, &first, 0, Right::Read).unwrap_err();
    assert!(matches!(error, StoreError::NotFound(_)), "opened before it went: {error}");
    volatile(&s, "x");
}

#[test]
fn before_its_first_use_it_waits_and_after_its_users_death_it_is_gone() {
    let s = store();
    let sid = volatile(&s, "x");
    assert!(s.find_segment(&name("x")).is_ok());
    let dead = lease(&s);
    s.join(&mut s.open_segment(sid).unwrap(), &dead, 0, Right::Read).unwrap();
    drop(dead);
    assert!(s.list_segments().unwrap().is_empty());
    assert_eq!(s.find_segment(&name("x")).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(shm_files(&s), 0);
    let sid = volatile(&s, "x");
    s.join(&mut s.open_segment(sid).unwrap(), &lease(&s), 0, Right::Read).unwrap();
    assert_ne!(volatile(&s, "x"), sid, "the name is free although `gc` has not run");
}

#[test]
fn one_of_an_earlier_boot_is_gone() {
    let s = store();
    volatile(&s, "x");
    let path = s.path().join("segments/x");
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut header = crate::format::header::read_header(&file, &path).unwrap();
    header.boot.0[0] ^= 1;
    crate::format::header::write_header(&file, &path, &header).unwrap();
    assert_eq!(s.find_segment(&name("x")).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(shm_files(&s), 0);
}

#[test]
fn last_detach_reported_by_id_is_enough() {
    let s = store();
    let sid = volatile(&s, "x");
    s.segment_left(sid).unwrap();
    assert!(s.open_segment(sid).is_ok(), "no VM has used it yet");
    let lease = lease(&s);
    let file = s.open_segment(sid).unwrap();
    lease.set_segment(7, Some((sid, Right::Write))).unwrap();
    s.mark_dirty(&file, lease.id()).unwrap();
    s.segment_left(sid).unwrap();
    assert!(s.open_segment(sid).is_ok(), "the lease still has it");
    lease.set_segment(7, None).unwrap();
    s.segment_left(sid).unwrap();
    assert!(s.open_segment(sid).is_err());
}

#[test]
fn a_file_that_somebody_else_put_in_its_place_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make files of another user");
        return;
    }
    let s = store();
    let sid = volatile(&s, "x");
    s.set_segment_mode(sid, Mode::new(0o666).unwrap()).unwrap();
    let path = format!("/dev/shm/spacejmp-{:016x}-{sid}.0", s.id());
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    let error = s.open_segment(sid).unwrap().part(0).unwrap_err();
    assert!(matches!(error, StoreError::BadField { field: "owner", .. }), "{error}");
}
