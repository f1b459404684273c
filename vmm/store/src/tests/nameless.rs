//! Readers without a lease: what they keep others from doing, and what they cannot do.

use std::fs;

use abi::Errno;
use abi::objects::{Lifetime, Right, SegId};

use crate::testing::{TestStore, mode, name, segment, store, versioned};
use crate::{Busy, Lease, LeaseInfo, OtherWriters, SegmentSpec, StoreError};

fn join(
    s: &TestStore,
    sid: SegId,
    lease: &Lease,
    right: Right,
) -> Result<OtherWriters, StoreError> {
    let mut file = s.open_to_attach(sid)?;
    let mut found = OtherWriters::None;
    s.join_versioned(&mut file, lease, 0, right, &mut |_, others| {
        found = others;
        Ok(())
    })?;
    Ok(found)
}

#[track_caller]
fn is_read(error: StoreError) {
    let right =
        matches!(&error, StoreError::Busy { why: Busy::WithoutLease(file), .. } if file.exists());
    assert!(right && error.errno() == Errno::EBUSY, "{error}");
}

#[test]
fn a_segment_is_busy_while_somebody_reads_it_who_has_no_lease_and_free_afterwards() {
    let s = store();
    let sid = versioned(&s, "x");
    let writer = Lease::create(&s, &LeaseInfo { program: "w".into(), pid: 1 }).unwrap();
    let file = s.open_segment(sid).unwrap();
    let is_shared = || s.others_attached(&file, writer.id()).unwrap();
    let (one, two) = (Lease::refused(&s), Lease::refused(&s));
    for lease in [&one, &two] {
        assert_eq!(join(&s, sid, lease, Right::Read).unwrap(), OtherWriters::None);
    }
    assert!(is_shared());
    assert!(s.leases().unwrap().iter().all(|lease| lease.id == writer.id()));
    is_read(s.delete_segment(sid).unwrap_err());
    is_read(s.set_lockable(sid, true).unwrap_err());
    is_read(s.convert_segment(sid, Lifetime::Persistent).unwrap_err());
    // A writer comes and goes all the same.
    assert_eq!(join(&s, sid, &writer, Right::Write).unwrap(), OtherWriters::None);
    assert_eq!(join(&s, sid, &Lease::refused(&s), Right::Read).unwrap(), OtherWriters::Live);
    s.leave(&file, &writer, 0).unwrap();
    // One leaves, the other dies.
    s.leave(&file, &one, 0).unwrap();
    assert!(is_shared());
    drop(two);
    assert!(!is_shared());
    s.delete_segment(sid).unwrap();
}

#[test]
fn who_has_no_lease_writes_nothing_and_takes_no_lock() {
    let s = store();
    let (sid, raw) = (versioned(&s, "x"), segment(&s, "raw"));
    let spec = SegmentSpec { lockable: false, ..SegmentSpec::new(1 << 20) };
    let plain = s.create_segment(&name("plain"), &spec).unwrap();
    let spec = SegmentSpec { lifetime: Lifetime::Volatile, ..spec };
    let volatile = s.create_segment(&name("volatile"), &spec).unwrap();
    let lease = Lease::refused(&s);
    assert_eq!(join(&s, sid, &lease, Right::Read).unwrap(), OtherWriters::None);
    let full = |done: Result<(), StoreError>| assert_eq!(done.unwrap_err().errno(), Errno::ENOSPC);
    full(join(&s, sid, &lease, Right::Write).map(drop));
    // It still reads.
    is_read(s.delete_segment(sid).unwrap_err());
    let attach = |sid, right| {
        let mut file = s.open_segment(sid).unwrap();
        s.join(&mut file, &lease, 1, right)
    };
    full(attach(raw, Right::Read));
    full(attach(raw, Right::Write));
    full(attach(volatile, Right::Read));
    full(attach(plain, Right::Write));
    full(lease.check_named());
    full(lease.set_segment(2, Some((plain, Right::Read))));
    attach(plain, Right::Read).unwrap();
    is_read(s.delete_segment(plain).unwrap_err());
    s.delete_segment(raw).unwrap();
    s.leave(&s.open_segment(plain).unwrap(), &lease, 1).unwrap();
    s.delete_segment(plain).unwrap();
}

#[test]
fn who_has_a_lease_on_a_disk_that_is_full_by_now_reads_all_the_same() {
    let s = store();
    let (sid, raw) = (versioned(&s, "x"), segment(&s, "raw"));
    let lease = Lease::named_and_full(&s);
    assert_eq!(join(&s, sid, &lease, Right::Read).unwrap(), OtherWriters::None);
    assert!(s.is_alive(lease.id()));
    is_read(s.delete_segment(sid).unwrap_err());
    // Not what others must find in the lease.
    let refused = join(&s, sid, &lease, Right::Write).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOSPC);
    let mut file = s.open_segment(raw).unwrap();
    assert_eq!(s.join(&mut file, &lease, 1, Right::Read).unwrap_err().errno(), Errno::ENOSPC);
    is_read(s.delete_segment(sid).unwrap_err());
    s.leave(&s.open_segment(sid).unwrap(), &lease, 0).unwrap();
    s.delete_segment(sid).unwrap();
}

#[test]
fn a_vas_is_busy_while_somebody_has_it_who_has_no_lease() {
    let s = store();
    let (vid, sid) = (s.create_vas(&name("v"), mode(0o600)).unwrap(), versioned(&s, "x"));
    s.attach_segment(vid, sid, Right::Write).unwrap();
    let lease = Lease::refused(&s);
    lease.note_vas(1, vid, &s).unwrap();
    lease.note_vas(2, vid, &s).unwrap();
    is_read(s.delete_vas(vid).unwrap_err());
    is_read(s.detach_segment(vid, sid).unwrap_err());
    // What is put there is for those who come later, and for those who look.
    let more = versioned(&s, "y");
    s.attach_segment(vid, more, Right::Read).unwrap();
    lease.forget_vas(1);
    is_read(s.delete_vas(vid).unwrap_err());
    lease.forget_vas(2);
    s.detach_segment(vid, more).unwrap();
    s.delete_vas(vid).unwrap();
    assert!(matches!(lease.note_vas(1, vid, &s), Err(StoreError::NotFound(_))));
}

#[test]
fn a_file_that_was_replaced_since_it_was_opened_is_not_read() {
    let s = store();
    let sid = versioned(&s, "x");
    let mut file = s.open_to_attach(sid).unwrap();
    let path = s.path().join("segments/x");
    fs::copy(&path, path.with_extension("new")).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    let joined =
        s.join_versioned(&mut file, &Lease::refused(&s), 0, Right::Read, &mut |_, _| Ok(()));
    assert!(matches!(joined, Err(StoreError::NotFound(_))), "{joined:?}");
}

#[test]
fn a_lease_to_read_is_a_file_where_the_disk_takes_one_and_else_in_memory() {
    let s = store();
    let info = LeaseInfo { program: "r".into(), pid: 1 };
    // Where a disk takes a lease, it is a file like all others.
    let named = Lease::create_to_read(&s, &info, 4096).unwrap();
    named.check_named().unwrap();
    assert!(s.is_alive(named.id()));
    let nameless = Lease::refused(&s);
    assert!(!s.is_alive(nameless.id()) && nameless.path_if_truncated().is_none());
    nameless.reserve(crate::INSTANCES_OFFSET, 4096).unwrap();
}
