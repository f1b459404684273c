//! Which VMs are alive, what live ones keep others from doing, and that dead ones keep them from
//! nothing.

use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use abi::Errno;
use abi::objects::{LeaseId, Right, VasId};
use abi::switch::{InstanceEntry, SUSPENDED_BITS, VcpuStatus};

use crate::testing::{TestStore, name, segment, store};
use crate::{
    Busy, INSTANCES_OFFSET, Inside, Lease, LeaseInfo, Mode, Store, StoreError, VCPU_STATUSES_OFFSET,
};

fn lease(s: &Store, program: &str) -> Lease {
    Lease::create(s, &LeaseInfo { program: program.into(), pid: 42 }).unwrap()
}

/// As the VMM writes an instance entry, and the guest kernel a status entry.
fn poke(lease: &Lease, offset: u64, value: u64) {
    let file = std::fs::File::from(lease.fd().try_clone_to_owned().unwrap());
    file.write_all_at(&value.to_le_bytes(), offset).unwrap();
}

fn put_instance(lease: &Lease, handle: u64, vid: Option<VasId>) {
    let at = INSTANCES_OFFSET + handle * 64 + offset_of!(InstanceEntry, vid) as u64;
    poke(lease, at, vid.map_or(0, VasId::raw));
}

fn put_inside(lease: &Lease, vcpu: u64, handle: u64, thread: u64) {
    let line = VCPU_STATUSES_OFFSET + vcpu * 64;
    poke(lease, line + offset_of!(VcpuStatus, announced) as u64, handle);
    poke(lease, line + offset_of!(VcpuStatus, inside) as u64, handle);
    poke(lease, line + offset_of!(VcpuStatus, thread) as u64, thread);
}

fn vas(s: &TestStore, text: &str) -> VasId {
    s.create_vas(&name(text), Mode::PRIVATE).unwrap()
}

#[test]
fn a_lease_tells_what_its_vm_does_until_it_is_dropped() {
    let s = store();
    let (v, w) = (vas(&s, "v"), vas(&s, "w"));
    let (x, y) = (segment(&s, "x"), segment(&s, "y"));
    let lease = lease(&s, "a\nb %");
    put_instance(&lease, 1, Some(v));
    put_instance(&lease, 32767, Some(w));
    put_inside(&lease, 0, 1, 7);
    put_inside(&lease, 1023, 32767, 0);
    lease.set_segment(0, Some((x, Right::Read))).unwrap();
    lease.set_segment(65535, Some((y, Right::Write))).unwrap();
    assert_eq!(lease.set_segment(65536, None).unwrap_err().errno(), Errno::EINVAL);
    let views = s.leases().unwrap();
    let [view] = views.as_slice() else { panic!("{views:?}") };
    assert_eq!((view.id, view.pid, view.program.as_str()), (lease.id(), 42, "a\nb %"));
    assert_eq!(view.vases, [v, w].into());
    assert_eq!(view.segments, [(x, Right::Read), (y, Right::Write)]);
    let inside = |vid, thread| Inside { vid, thread, entering: false };
    assert_eq!(view.inside, [inside(v, 7), inside(w, 0)]);
    assert!(s.is_alive(lease.id()));
    let id = lease.id();
    drop(lease);
    assert!(!s.is_alive(id) && s.leases().unwrap().is_empty());
    assert!(!s.is_alive(LeaseId::new(1).unwrap()));
}

#[test]
fn a_sparse_lease_costs_little_disk() {
    use std::os::unix::fs::MetadataExt;
    let s = store();
    let lease = lease(&s, "p");
    let path = s.path().join("vms").join(lease.id().to_string());
    let meta = std::fs::metadata(path).unwrap();
    assert_eq!(meta.len(), 5 << 20);
    assert!(meta.blocks() * 512 <= 256 << 10, "{}", meta.blocks() * 512);
    lease.reserve(INSTANCES_OFFSET, 4096).unwrap();
    assert!(s.leases().unwrap().first().unwrap().vases.is_empty());
}

#[test]
fn long_program_names_are_cut_between_characters() {
    let s = store();
    let _lease = lease(&s, &"\u{e9}\u{1}".repeat(900));
    let program = s.leases().unwrap().remove(0).program;
    assert!(program.len() > 1000 && program.len() <= 1024, "{}", program.len());
}

#[test]
fn objects_in_use_are_busy_and_free_again_when_the_vm_ends() {
    let s = store();
    let (v, x) = (vas(&s, "v"), segment(&s, "x"));
    s.attach_segment(v, x, Right::Write).unwrap();
    let lease = lease(&s, "program");
    put_instance(&lease, 3, Some(v));
    lease.set_segment(5, Some((x, Right::Write))).unwrap();
    let attached = |error: StoreError| {
        let id = lease.id();
        let right = matches!(&error, StoreError::Busy { why: Busy::Attached(by), .. }
            if by.len() == 1 && by[0].lease == id && by[0].pid == 42);
        assert!(right && error.errno() == Errno::EBUSY, "{error}");
        assert!(error.to_string().contains("process 42 (program)"), "{error}");
    };
    attached(s.delete_vas(v).unwrap_err());
    attached(s.delete_segment(x).unwrap_err());
    attached(s.set_lockable(x, false).unwrap_err());
    assert_eq!(s.vas(v).unwrap().segments.len(), 1);
    put_inside(&lease, 2, 3, 1);
    let error = s.detach_segment(v, x).unwrap_err();
    assert!(matches!(&error, StoreError::Busy { why: Busy::Inside(_), .. }), "{error}");
    put_inside(&lease, 2, 0, 1);
    s.detach_segment(v, x).unwrap();
    drop(lease);
    s.set_lockable(x, false).unwrap();
    s.delete_vas(v).unwrap();
    s.delete_segment(x).unwrap();
}

#[test]
fn lines_that_make_no_sense_are_nobody_inside() {
    let s = store();
    let v = vas(&s, "v");
    let lease = lease(&s, "p");
    put_instance(&lease, 1, Some(v));
    for (vcpu, current) in [32768, u64::MAX, 1 << 21, !63].into_iter().enumerate() {
        poke(&lease, VCPU_STATUSES_OFFSET + vcpu as u64 * 64, current);
    }
    put_inside(&lease, 9, 2, 1);
    let at = INSTANCES_OFFSET + 5 * 64 + offset_of!(InstanceEntry, vid) as u64;
    poke(&lease, at, u64::MAX);
    let view = s.leases().unwrap().remove(0);
    assert!(view.inside.is_empty(), "{:?}", view.inside);
    assert_eq!(view.vases, [v].into());
}

/// Holds a lease until it is killed; the tests below start it in its own process.
#[test]
fn child_holds_a_lease() {
    let Some(path) = std::env::var_os("SPACEJMP_TEST_LEASE_OF") else { return };
    let store = Store::open(path.as_ref()).unwrap();
    let lease = lease(&store, "child");
    let x = store.find_segment(&name("x")).unwrap();
    let mut file = store.open_segment(x).unwrap();
    store.join(&mut file, &lease, 0, Right::Write).unwrap();
    println!("\nLEASE {}", lease.id());
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn who_can_only_read_a_lease_cannot_keep_its_vm_alive() {
    use nix::fcntl::{FcntlArg, fcntl};
    use rustix::fs::{FlockOperation, flock};
    let s = store();
    let x = segment(&s, "x");
    let lease = lease(&s, "p");
    lease.set_segment(0, Some((x, Right::Write))).unwrap();
    // What a VM that was killed leaves: the file without its locks.
    let dead = LeaseId::new(0xdead).unwrap();
    let file = |id: LeaseId| s.path().join("vms").join(id.to_string());
    std::fs::copy(file(lease.id()), file(dead)).unwrap();
    for id in [lease.id(), dead] {
        let reader = std::fs::File::open(file(id)).unwrap();
        let queued = std::fs::File::open(file(id)).unwrap();
        let lock = |kind: i32| libc::flock {
            l_type: kind as i16,
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        let _ = flock(&reader, FlockOperation::NonBlockingLockExclusive);
        let _ = flock(&queued, FlockOperation::NonBlockingLockShared);
        let _ = fcntl(&reader, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK)));
        assert!(fcntl(&reader, FcntlArg::F_OFD_SETLK(&lock(libc::F_WRLCK))).is_err());
        assert_eq!(s.is_alive(id), id == lease.id());
        if id == dead {
            assert_eq!(s.leases().unwrap().len(), 1);
            assert_eq!(s.gc().unwrap().leases, 1, "with the locks still there");
        }
    }
    assert_eq!(s.delete_segment(x).unwrap_err().errno(), Errno::EBUSY);
    drop(lease);
    s.delete_segment(x).unwrap();
}

#[test]
fn a_lease_of_an_earlier_version_lives_by_its_flock() {
    use std::os::unix::fs::FileExt;
    let s = store();
    let lease = lease(&s, "p");
    let id = LeaseId::new(0xe1).unwrap();
    let file = |id: LeaseId| s.path().join("vms").join(id.to_string());
    std::fs::copy(file(lease.id()), file(id)).unwrap();
    let old = std::fs::File::options().read(true).write(true).open(file(id)).unwrap();
    old.write_all_at(&[0; 8], 0xff8).unwrap();
    assert!(!s.is_alive(id));
    rustix::fs::flock(&old, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(s.is_alive(id));
    // And it sees ours alive.
    let ours = std::fs::File::open(file(lease.id())).unwrap();
    assert!(rustix::fs::flock(&ours, rustix::fs::FlockOperation::NonBlockingLockShared).is_err());
}

#[test]
fn a_killed_vm_is_dead_at_once_and_leaves_its_segment_dirty() {
    use std::io::{BufRead, BufReader};
    let s = store();
    let x = segment(&s, "x");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "tests::leases::child_holds_a_lease"])
        .env("SPACEJMP_TEST_LEASE_OF", s.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let id = lines.find_map(|line| line.unwrap().strip_prefix("LEASE ").map(str::to_owned));
    let id = LeaseId::new(u64::from_str_radix(&id.unwrap(), 16).unwrap()).unwrap();
    assert!(s.is_alive(id));
    let record = s.segment(x).unwrap();
    assert_eq!(
        (record.attachers.as_slice(), record.dirty()),
        ([(id, Right::Write)].as_slice(), false)
    );
    assert_eq!(s.delete_segment(x).unwrap_err().errno(), Errno::EBUSY);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!s.is_alive(id), "the file is there, the flock is not");
    assert!(s.path().join("vms").join(id.to_string()).exists());
    assert!(s.leases().unwrap().is_empty());
    let record = s.segment(x).unwrap();
    assert!(record.dirty() && record.attachers.is_empty());
    assert_eq!(record.header.lease, Some(id));
    s.delete_segment(x).unwrap();
}

#[test]
fn a_segment_is_clean_when_its_last_writer_has_left() {
    let s = store();
    let x = segment(&s, "x");
    let (first, second, reader) = (lease(&s, "1"), lease(&s, "2"), lease(&s, "3"));
    let mut open = [s.open_segment(x).unwrap(), s.open_segment(x).unwrap()];
    let mut read = s.open_segment(x).unwrap();
    s.join(&mut read, &reader, 0, Right::Read).unwrap();
    let state = || s.segment(x).unwrap().header.state as u8;
    assert_eq!(state(), 0, "reading does not make dirty");
    s.join(&mut open[0], &first, 0, Right::Write).unwrap();
    s.join(&mut open[1], &second, 9, Right::Write).unwrap();
    assert_eq!((state(), s.segment(x).unwrap().dirty()), (1, false));
    s.leave(&open[1], &second, 9).unwrap();
    assert_eq!((state(), s.segment(x).unwrap().header.lease), (1, Some(first.id())));
    s.leave(&read, &reader, 0).unwrap();
    assert_eq!(state(), 1, "a reader that leaves while another writes cleans nothing");
    s.leave(&open[0], &first, 0).unwrap();
    assert_eq!(state(), 0);
}

#[test]
fn a_reader_that_leaves_does_not_wash_off_a_dead_writer() {
    let s = store();
    let x = segment(&s, "x");
    let (writer, reader) = (lease(&s, "w"), lease(&s, "r"));
    let mut file = s.open_segment(x).unwrap();
    s.join(&mut file, &writer, 0, Right::Write).unwrap();
    drop(writer);
    s.join(&mut file, &reader, 0, Right::Read).unwrap();
    s.leave(&file, &reader, 0).unwrap();
    assert!(s.segment(x).unwrap().dirty());
}

#[test]
fn what_lies_about_in_the_folder_of_leases_is_no_vm() {
    let s = store();
    let vms = s.path().join("vms");
    std::fs::write(vms.join("readme"), "").unwrap();
    std::fs::write(vms.join("00000000000000aa"), "dead").unwrap();
    std::fs::create_dir(vms.join("00000000000000bb")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", vms.join("00000000000000cc")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        vms.join("00000000000000dd"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(s.leases().unwrap().is_empty());
    assert!(!s.is_alive(LeaseId::new(0xaa).unwrap()));
    let held = std::fs::File::open(vms.join("00000000000000aa")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let view = s.leases().unwrap().remove(0);
    assert_eq!((view.pid, view.program.as_str()), (0, "unknown"), "alive, though damaged");
}

#[test]
fn a_segment_stays_in_a_vas_while_a_visit_there_is_suspended() {
    let s = store();
    let (v, w) = (vas(&s, "v"), vas(&s, "w"));
    let x = segment(&s, "x");
    for vid in [v, w] {
        s.attach_segment(vid, x, Right::Write).unwrap();
    }
    let lease = lease(&s, "p");
    put_instance(&lease, 1, Some(v));
    put_instance(&lease, 2, Some(w));
    put_inside(&lease, 0, 2, 7);
    let at = INSTANCES_OFFSET + 64 + offset_of!(InstanceEntry, suspended) as u64;
    poke(&lease, at, 5 << SUSPENDED_BITS | 1);
    for vid in [v, w] {
        let error = s.detach_segment(vid, x).unwrap_err();
        assert!(matches!(error, StoreError::Busy { why: Busy::Inside(_), .. }), "{error}");
    }
    // Back, and home: the rest of the word counts nothing.
    poke(&lease, at, 6 << SUSPENDED_BITS);
    put_inside(&lease, 0, 0, 7);
    s.detach_segment(v, x).unwrap();
    s.detach_segment(w, x).unwrap();
}
