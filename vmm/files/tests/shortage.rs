//! A host that is out of descriptors cannot tell what belongs to a store: then nothing is let
//! through. In a separate process, whose limit is lowered.

use std::fs;
use std::path::Path;

use abi::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spacejmp_files::{Files, Grant, GrantAccess, Namespace, OffLimits};
use spacejmp_store::FOLDERS;

const CWD: i32 = libc::AT_FDCWD;

fn null() -> std::os::fd::OwnedFd {
    fs::File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

/// Lets the process have `spare` descriptors more than it has.
fn limit(spare: u64) {
    let next = fs::File::open("/dev/null").unwrap();
    let used = std::os::fd::AsRawFd::as_raw_fd(&next).unsigned_abs();
    let current = Some(u64::from(used) + spare);
    setrlimit(Resource::Nofile, Rlimit { current, ..getrlimit(Resource::Nofile) }).unwrap();
}

#[test]
fn the_way_to_a_store_stays_off_limits_when_descriptors_run_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("up/store");
    fs::create_dir(folder.path().join("up")).unwrap();
    let host = folder.path().to_owned();
    let grant = Grant { host, guest: "/w".into(), access: GrantAccess::ReadWrite };
    let off_limits = OffLimits::stores([store.clone()], &FOLDERS);
    let namespace = Namespace::new(&[grant], off_limits, Vec::new()).unwrap();
    let files = Files::new(namespace, [null(), null(), null()], Path::new("/"), 0).unwrap();
    let rename = || files.renameat2(CWD, b"/w/up", CWD, b"/w/away", 0);

    // The store is created, and is looked up by the next call.
    for folder in FOLDERS {
        fs::create_dir_all(store.join(folder)).unwrap();
    }
    let before = getrlimit(Resource::Nofile);
    for spare in 0..8 {
        limit(spare);
        assert!(rename().is_err(), "with {spare} descriptors left");
        setrlimit(Resource::Nofile, before).unwrap();
    }
    assert_eq!(rename(), Err(Errno::EACCES));
    assert!(store.is_dir());
}
