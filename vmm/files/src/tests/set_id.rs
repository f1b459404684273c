//! No file that runs with its owner's rights is created in a grant, and none is created without
//! these bits while the program believes they are set.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use abi::Errno;

use super::super::Tty;
use super::{CWD, Files, GrantAccess, Namespace, OffLimits, World, grant, null, open};

const BITS: [u32; 4] = [0o4755, 0o2755, 0o6755, 0o7777];

#[test]
fn every_call_that_takes_a_mode_refuses_set_id_bits_and_makes_nothing() {
    let w = World::new();
    w.write("there", "");
    let fd = w.open("there", libc::O_RDWR).unwrap();
    let path_fd = w.open("there", libc::O_PATH).unwrap();
    let memory = w.files.memfd_create(b"m", 0).unwrap();
    let empty_path = libc::AT_EMPTY_PATH as u32;
    for mode in BITS {
        let file = libc::S_IFREG | mode;
        let creates = libc::O_CREAT | libc::O_WRONLY;
        let tmpfile = libc::O_TMPFILE | libc::O_RDWR;
        let calls = [
            ("open", w.files.openat(CWD, b"new", creates, mode).map(drop)),
            (
                "open, exclusive",
                w.files.openat(CWD, b"new", creates | libc::O_EXCL, mode).map(drop),
            ),
            ("creat", w.files.openat(CWD, b"new", creates | libc::O_TRUNC, mode).map(drop)),
            ("open without a name", w.files.openat(CWD, b".", tmpfile, mode).map(drop)),
            ("mkdir", w.files.mkdirat(CWD, b"new", mode)),
            ("mknod", w.files.mknodat(CWD, b"new", file)),
            ("mkfifo", w.files.mknodat(CWD, b"new", libc::S_IFIFO | mode)),
            ("fchmod", w.files.fchmod(fd, mode)),
            ("fchmod of memory", w.files.fchmod(memory, mode)),
            ("chmod", w.files.fchmodat2(CWD, b"there", mode, 0)),
            ("chmod of a directory", w.files.fchmodat2(CWD, b".", mode, 0)),
            ("chmod by descriptor", w.files.fchmodat2(path_fd, b"", mode, empty_path)),
        ];
        for (call, result) in calls {
            assert_eq!(result, Err(Errno::EPERM), "{call} {mode:o}");
        }
    }
    let names = std::fs::read_dir(w.host.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["there"]);
    assert_eq!(std::fs::metadata(w.host.path().join("there")).unwrap().mode() & 0o7000, 0);
}

#[test]
fn a_mode_that_means_nothing_is_not_looked_at() {
    let w = World::new();
    w.write("there", "x");
    for flags in [libc::O_RDONLY, libc::O_RDWR | libc::O_CREAT] {
        w.files.openat(CWD, b"there", flags, 0o4755).unwrap();
    }
    let exclusive = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    assert_eq!(w.files.openat(CWD, b"there", exclusive, 0o4755), Err(Errno::EEXIST));
    assert_eq!(w.files.openat(CWD, b"no/way", exclusive, 0o4755), Err(Errno::ENOENT));
}

#[test]
fn the_sticky_bit_is_the_programs_to_set() {
    let w = World::new();
    w.files.mkdirat(CWD, b"d", 0o1777).unwrap();
    w.files.fchmodat2(CWD, b"d", 0o1700, 0).unwrap();
    let mode = std::fs::metadata(w.host.path().join("d")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1700);
}

#[test]
fn the_terminal_is_there_by_name_only_if_it_was_granted() {
    let host = tempfile::tempdir().unwrap();
    let files = |tty| {
        let grants = [grant(host.path(), "/w", GrantAccess::ReadWrite)];
        let namespace = Namespace::new(&grants, OffLimits::none(), super::TEXTS.to_vec())
            .unwrap()
            .with_tty(tty);
        Files::new(namespace, [null(), null(), null()], "/w".as_ref(), 0).unwrap()
    };
    let open_tty = |tty| open(&files(tty), "/dev/tty", libc::O_RDWR).map(drop);
    assert_eq!(open_tty(Tty::Withheld), Err(Errno::ENXIO));
    let own = std::fs::File::options().read(true).write(true).open("/dev/tty").map(drop);
    let expected = own.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()));
    assert_eq!(open_tty(Tty::Granted), expected);
}
