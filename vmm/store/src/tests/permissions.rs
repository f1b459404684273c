//! What another user may do is what the host's kernel lets them.
//!
//! Only root can become another user: these tests run themselves again as `nobody`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use abi::Errno;
use abi::objects::{PagePolicy, Right, SegRoot};

use crate::testing::{TestStore, mode, name, store};
use crate::{Access, Lease, LeaseInfo, Mode, SegmentSpec, Store, StoreError};

const NOBODY: u32 = 65534;
const PATH: &str = "SPACEJMP_TEST_STORE_AS_NOBODY";

/// A store that all users may use, with objects of root's.
fn shared_store() -> Option<TestStore> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return None;
    }
    let s = store();
    let open = |path, bits| fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    open(s.folder.path().to_owned(), 0o755);
    open(s.path().to_owned(), 0o755);
    for folder in ["vas", "segments", "parts", "vms", "tmp"] {
        open(s.path().join(folder), 0o1777);
    }
    open(s.path().join("live"), 0o666);
    for (text, bits) in [("none", 0o600), ("read", 0o644), ("write", 0o666)] {
        let spec = SegmentSpec { mode: mode(bits), ..SegmentSpec::new(1 << 20) };
        let sid = s.create_segment(&name(text), &spec).unwrap();
        let vid = s.create_vas(&name(text), mode(bits)).unwrap();
        s.attach_segment(vid, sid, Right::Write).unwrap();
    }
    Some(s)
}

/// Runs one of the tests below as another user, and passes if it does.
fn as_nobody(store: &Store, test: &str) {
    // The test program may lie where others cannot look: run a copy.
    let program = store.path().join("..").join("test-program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut run = Command::new(&program);
    run.args(["--exact", &format!("tests::permissions::{test}")]).env(PATH, store.path());
    run.current_dir("/").uid(NOBODY).gid(NOBODY);
    let output = loop {
        match run.output() {
            // A test that starts a program at this moment has a copy of the descriptor by which
            // this one was written, until it runs that.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => break output.unwrap(),
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn child_store() -> Option<Store> {
    Some(Store::open(std::env::var_os(PATH)?.as_ref()).unwrap())
}

#[test]
fn rights_of_another_user_are_those_of_the_files() {
    let Some(s) = shared_store() else { return };
    as_nobody(&s, "child_uses_what_it_may");
    let sid = s.find_segment(&name("write")).unwrap();
    assert_eq!(s.root_get(sid).unwrap().fingerprint, [5, 5], "what `nobody` wrote is there");
    let vas = s.vas(s.find_vas(&name("write")).unwrap()).unwrap();
    assert!(!vas.tagged && vas.segments.len() == 2, "{vas:?}");
}

#[test]
fn child_uses_what_it_may() {
    let Some(s) = child_store() else { return };
    let denied = |error: StoreError| {
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        assert_eq!(error.errno(), Errno::EACCES);
    };
    let not_owner = |error: StoreError| {
        assert!(matches!(error, StoreError::NotOwner(_)), "{error}");
        assert_eq!(error.errno(), Errno::EPERM);
    };
    denied(s.find_segment(&name("none")).unwrap_err());
    denied(s.find_vas(&name("none")).unwrap_err());
    let read = s.find_segment(&name("read")).unwrap();
    let file = s.open_segment(read).unwrap();
    assert_eq!((file.right(), s.segment(read).unwrap().access), (Right::Read, Access::Read));
    denied(s.root_set(read, SegRoot::default()).unwrap_err());
    denied(s.grow_segment(read, 2 << 20).unwrap_err());
    denied(s.set_lockable(read, false).unwrap_err());
    denied(s.set_pages(read, PagePolicy::Largest).unwrap_err());
    denied(s.sync(&file).unwrap_err());
    not_owner(s.set_segment_mode(read, mode(0o666)).unwrap_err());
    denied(s.delete_segment(read).unwrap_err());
    let lease = Lease::create(&s, &LeaseInfo { program: "nobody".into(), pid: 1 }).unwrap();
    denied(s.mark_dirty(&file, lease.id()).unwrap_err());
    let mut file = file;
    denied(s.join(&mut file, &lease, 0, Right::Write).unwrap_err());
    s.join(&mut file, &lease, 0, Right::Read).unwrap();
    let vid = s.find_vas(&name("read")).unwrap();
    assert_eq!(s.vas(vid).unwrap().access, Access::Read);
    denied(s.set_vas_tagged(vid, false).unwrap_err());
    not_owner(s.set_vas_mode(vid, mode(0o666)).unwrap_err());
    denied(s.detach_segment(vid, read).unwrap_err());
    denied(s.attach_segment(vid, read, Right::Read).unwrap_err());
    denied(s.delete_vas(vid).unwrap_err());
    let (write, vid) =
        (s.find_segment(&name("write")).unwrap(), s.find_vas(&name("write")).unwrap());
    assert_eq!(s.vas(vid).unwrap().access, Access::Write);
    s.root_set(write, SegRoot { address: 0, fingerprint: [5, 5] }).unwrap();
    s.set_vas_tagged(vid, false).unwrap();
    denied(s.attach_segment(vid, read, Right::Write).unwrap_err());
    s.attach_segment(vid, read, Right::Read).unwrap();
    let listed = s.list_segments().unwrap();
    let ok: Vec<_> = listed.iter().map(|e| e.record.is_ok()).collect();
    assert_eq!(ok, [false, true, true], "{listed:?}");
    let own = s.create_segment(&name("own"), &SegmentSpec::new(1)).unwrap();
    let vid = s.create_vas(&name("own"), mode(0o400)).unwrap();
    denied(s.attach_segment(vid, own, Right::Write).unwrap_err());
    s.set_vas_mode(vid, Mode::PRIVATE).unwrap();
    s.attach_segment(vid, own, Right::Write).unwrap();
    s.delete_vas(vid).unwrap();
    s.delete_segment(own).unwrap();
}

#[test]
fn a_copy_that_one_may_not_write_is_no_second_original() {
    let Some(s) = shared_store() else { return };
    let segments = s.path().join("segments");
    fs::copy(segments.join("read"), segments.join("read copy")).unwrap();
    fs::rename(segments.join("write"), segments.join("moved")).unwrap();
    fs::set_permissions(segments.join("moved"), fs::Permissions::from_mode(0o444)).unwrap();
    as_nobody(&s, "child_sees_copies");
}

#[test]
fn child_sees_copies() {
    let Some(s) = child_store() else { return };
    let error = s.find_segment(&name("read copy")).unwrap_err();
    assert!(matches!(error, StoreError::Copy { .. }), "{error}");
    assert_eq!(error.errno(), Errno::EACCES);
    let moved = s.find_segment(&name("moved")).unwrap();
    assert_eq!(s.open_segment(moved).unwrap().right(), Right::Read);
}
