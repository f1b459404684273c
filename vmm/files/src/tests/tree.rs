//! The guest's tree: grants, what is above and inside them, devices.

use abi::Errno;

use super::super::{Files, FilesError, Grant, GrantAccess, GrantError, Namespace, NamespaceError};
use super::{CWD, OffLimits, World, files, grant, null, open, read};

pub(super) fn names(files: &Files, path: &str) -> Vec<String> {
    let fd = open(files, path, libc::O_DIRECTORY).unwrap();
    let mut bytes = files.getdents64(fd, 4096).unwrap();
    files.close(fd).unwrap();
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(u16::from_le_bytes([bytes[16], bytes[17]]));
        let name: Vec<u8> = bytes[19..len].iter().copied().take_while(|b| *b != 0).collect();
        out.push(String::from_utf8(name).unwrap());
        bytes.drain(..len);
    }
    out.sort();
    out
}

#[test]
fn grants_are_parsed_as_host_guest_and_right() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().to_str().unwrap();
    let parse = |text: &str| text.parse::<Grant>();
    let plain = parse(host).unwrap();
    assert_eq!((plain.guest.to_str(), plain.access), (Some(host), GrantAccess::ReadWrite));
    let whole = parse(&format!("{host}:/data/./x/:ro")).unwrap();
    assert_eq!(whole, grant(dir.path(), "/data/x", GrantAccess::ReadOnly));
    let ro = parse(&format!("{host}:ro")).unwrap();
    assert_eq!(ro, grant(dir.path(), host, GrantAccess::ReadOnly));
    let here = parse(".").unwrap();
    assert_eq!(here.guest, std::env::current_dir().unwrap());
    let up = parse("..").unwrap();
    assert_eq!(Some(up.guest.as_path()), std::env::current_dir().unwrap().parent());
    assert!(matches!(parse(""), Err(GrantError::NoHost { .. })));
    assert!(matches!(parse(":/x"), Err(GrantError::NoHost { .. })));
    assert!(matches!(parse("a:b:c:ro"), Err(GrantError::TooManyParts { .. })));
    for guest in ["x", "../x", "/x/../y"] {
        let error = parse(&format!("{host}:{guest}")).unwrap_err();
        assert!(matches!(error, GrantError::GuestPath { .. }), "{guest}");
    }
    let error = parse(&format!("{host}/missing")).unwrap_err();
    assert!(error.to_string().ends_with("/missing") && !error.help().is_empty());
    std::fs::write(dir.path().join("f"), "").unwrap();
    let error = parse(&format!("{host}/f")).unwrap_err();
    assert!(matches!(error, GrantError::NotADirectory { .. }));
}

#[test]
fn the_root_lists_what_leads_to_the_grants_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "text").unwrap();
    let grants = [
        grant(dir.path(), "/a/b/c", GrantAccess::ReadWrite),
        grant(dir.path(), "/a/d", GrantAccess::ReadOnly),
    ];
    let files = files(&grants, "/");
    assert_eq!(names(&files, "/"), [".", "..", "a", "dev", "proc", "sys"]);
    assert_eq!(names(&files, "a"), [".", "..", "b", "d"]);
    assert_eq!(names(&files, "a/b/c/.."), [".", "..", "c"]);
    assert_eq!(names(&files, "a/d"), [".", "..", "f"]);
    assert_eq!(read(&files, "/a/b/../d/f").unwrap(), "text");
    assert_eq!(read(&files, "/a/d/../b/c/f").unwrap(), "text");
    assert_eq!(read(&files, "/etc/passwd"), Err(Errno::ENOENT));
    assert_eq!(read(&files, "/a/x/f"), Err(Errno::ENOENT));
    assert_eq!(files.mkdirat(CWD, b"/a/x", 0), Err(Errno::EROFS));
    assert_eq!(files.mkdirat(CWD, b"/a/b", 0), Err(Errno::EEXIST));
    assert_eq!(files.mkdirat(CWD, b"/a/d", 0), Err(Errno::EEXIST));
    assert_eq!(open(&files, "/a/x", libc::O_CREAT), Err(Errno::EROFS));
    assert_eq!(files.unlinkat(CWD, b"/a/b", 0x200), Err(Errno::EROFS));
    assert_eq!(files.unlinkat(CWD, b"/a/b/c", 0x200), Err(Errno::EBUSY));
    let moved = files.renameat2(CWD, b"/a/b/c/f", CWD, b"/a/d/g", 0);
    assert_eq!(moved, Err(Errno::EXDEV));
    let linked = files.linkat(CWD, b"/a/b/c/f", CWD, b"/a/d/g", 0);
    assert!(matches!(linked, Err(Errno::EXDEV | Errno::EROFS)));
    let stat = files.newfstatat(CWD, b"/a", 0).unwrap();
    assert_eq!(stat.mode, 0o040_555);
    assert_eq!(files.faccessat2(CWD, b"/a", 5, 0), Ok(()));
    assert_eq!(files.faccessat2(CWD, b"/a", 2, 0), Err(Errno::EROFS));
    assert!(files.statfs(b"/a").is_ok() && files.statfs(b"/a/d").is_ok());
}

#[test]
fn our_own_directories_are_a_full_file_system_and_proc_is_one_without_blocks() {
    let files = files(&[], "/");
    // Blocks, free ones, available ones, files, free ones: the words from the third onwards.
    let sizes = |path: &str| -> Vec<u64> {
        let bytes = files.statfs(path.as_bytes()).unwrap();
        let words = bytes[16..56].chunks_exact(8);
        words.map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    };
    for path in ["/", "/dev", "/dev/null"] {
        let [blocks, 0, 0, nodes, 0] = sizes(path)[..] else { panic!("{path}: {:?}", sizes(path)) };
        assert!(blocks > 0 && nodes > 0, "{path}");
    }
    assert_eq!(sizes("/proc"), [0; 5]);
    assert_eq!(sizes("/proc/self/status"), [0; 5]);
}

#[test]
fn a_grant_inside_another_hides_what_is_there() {
    let outer = tempfile::tempdir().unwrap();
    let inner = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(outer.path().join("x/out")).unwrap();
    std::fs::write(outer.path().join("x/out/f"), "outer").unwrap();
    std::fs::write(outer.path().join("x/g"), "beside").unwrap();
    std::fs::write(inner.path().join("f"), "inner").unwrap();
    std::os::unix::fs::symlink("x/out/f", outer.path().join("l")).unwrap();
    let grants = [
        grant(inner.path(), "/w/x/out", GrantAccess::ReadWrite),
        grant(outer.path(), "/w", GrantAccess::ReadOnly),
    ];
    let files = files(&grants, "/w");
    assert_eq!(read(&files, "x/out/f").unwrap(), "inner");
    assert_eq!(read(&files, "l").unwrap(), "inner");
    assert_eq!(read(&files, "x/g").unwrap(), "beside");
    assert_eq!(read(&files, "x/out/../g").unwrap(), "beside");
    assert!(open(&files, "x/out/new", libc::O_CREAT | libc::O_RDWR).is_ok());
    assert_eq!(open(&files, "x/new", libc::O_CREAT), Err(Errno::EROFS));
    assert_eq!(names(&files, "x"), [".", "..", "g", "out"]);
    files.chdir(b"x/out").unwrap();
    assert_eq!(files.getcwd().unwrap(), b"/w/x/out");
    assert_eq!(read(&files, "../g").unwrap(), "beside");
    files.chdir(b"..").unwrap();
    assert_eq!(files.getcwd().unwrap(), b"/w/x");
    assert_eq!(read(&files, "out/f").unwrap(), "inner");
    let fd = open(&files, ".", libc::O_PATH).unwrap();
    let stat = files.newfstatat(fd, b"out/f", 0).unwrap();
    assert_eq!(stat.size, 5);
    assert_eq!(files.unlinkat(CWD, b"out", 0x200), Err(Errno::EBUSY));
}

#[test]
fn an_inner_grant_is_reached_even_where_the_outer_directory_lacks_the_way() {
    let outer = tempfile::tempdir().unwrap();
    let inner = tempfile::tempdir().unwrap();
    std::fs::write(inner.path().join("f"), "inner").unwrap();
    let grants = [
        grant(outer.path(), "/", GrantAccess::ReadWrite),
        grant(inner.path(), "/no/where", GrantAccess::ReadOnly),
    ];
    let files = files(&grants, "/no");
    assert_eq!(read(&files, "where/f").unwrap(), "inner");
    assert_eq!(read(&files, "/no/where/../where/f").unwrap(), "inner");
    assert_eq!(names(&files, "/no"), [".", "..", "where"]);
    assert!(open(&files, "/new", libc::O_CREAT).is_ok());
    assert_eq!(names(&files, "/"), [".", "..", "new"]);
    // Built-in entries are on top of a grant of the host's root.
    assert!(open(&files, "/dev/null", libc::O_RDWR).is_ok());
    assert_eq!(files.readlinkat(CWD, b"/proc/self/exe", 99), Err(Errno::ENOENT));
}

#[test]
fn bad_sets_of_grants_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let twice = [
        grant(dir.path(), "/x", GrantAccess::ReadWrite),
        grant(dir.path(), "/x", GrantAccess::ReadOnly),
    ];
    let error = Namespace::new(&twice, OffLimits::none(), super::TEXTS.to_vec()).unwrap_err();
    assert!(matches!(error, NamespaceError::Taken { .. }), "{error}");
    let below = [grant(dir.path(), "/dev/null/x", GrantAccess::ReadWrite)];
    assert!(matches!(
        Namespace::new(&below, OffLimits::none(), super::TEXTS.to_vec()),
        Err(NamespaceError::Taken { .. })
    ));
    let missing = [grant(&dir.path().join("none"), "/x", GrantAccess::ReadWrite)];
    assert!(matches!(
        Namespace::new(&missing, OffLimits::none(), super::TEXTS.to_vec()),
        Err(NamespaceError::Open { .. })
    ));
    let namespace = Namespace::new(&[], OffLimits::none(), super::TEXTS.to_vec()).unwrap();
    let standard = [null(), null(), null()];
    let error = Files::new(namespace, standard, "/x".as_ref(), 0).unwrap_err();
    assert!(matches!(error, FilesError::Cwd { source: Errno::ENOENT, .. }), "{error}");
}

#[test]
fn devices_and_the_programs_own_path_are_there() {
    let w = World::new();
    w.write("program", "elf");
    let stat = |path: &str, flags| w.files.newfstatat(CWD, path.as_bytes(), flags);
    for name in ["null", "zero", "full", "random", "urandom", "tty", "stdin", "stdout", "stderr"] {
        let path = format!("/dev/{name}");
        assert_eq!(stat(&path, 0).unwrap().mode & libc::S_IFMT, libc::S_IFCHR, "{name}");
        let slash = format!("/dev/{name}/");
        assert_eq!(stat(&slash, 0), Err(Errno::ENOTDIR), "{name}");
    }
    let exe = "/proc/self/exe";
    assert_eq!(w.files.readlinkat(CWD, exe.as_bytes(), 4).unwrap(), b"/w/p");
    assert_eq!(stat(exe, 0x100).unwrap().mode & libc::S_IFMT, libc::S_IFLNK);
    // The running program, whatever is at its path by now.
    assert_eq!(stat(exe, 0).unwrap().size, 11);
    assert_eq!(read(&w.files, exe).unwrap(), "the program");
    assert_eq!(read(&w.files, "/w/program").unwrap(), "elf");
    assert_eq!(w.open(exe, libc::O_RDWR), Err(Errno::ETXTBSY));
    assert_eq!(names(&w.files, "/dev/fd"), [".", "..", "0", "1", "2", "3"]);
    assert_eq!(stat("/dev/fd/77", 0), Err(Errno::ENOENT));
    assert_eq!(stat("/dev/fd/01", 0), Err(Errno::ENOENT));
    assert_eq!(w.files.fchmodat2(CWD, b"/dev/null", 0, 0), Err(Errno::EROFS));
    assert_eq!(w.files.unlinkat(CWD, b"/dev/null", 0), Err(Errno::EROFS));
    assert_eq!(w.open("/dev/kvm", libc::O_RDWR), Err(Errno::ENOENT));
    let fd = w.open("/dev/full", libc::O_WRONLY).unwrap();
    let full = rustix::io::write(w.files.get(fd).unwrap().host_fd(), b"x");
    assert_eq!(full, Err(rustix::io::Errno::NOSPC));
}

#[test]
fn new_files_get_the_mode_asked_for_less_the_umask() {
    let w = World::new();
    let mode = |path: &str| w.files.newfstatat(CWD, path.as_bytes(), 0).unwrap().mode;
    w.open("a", libc::O_CREAT).unwrap();
    assert_eq!(mode("a"), 0o100_644);
    assert_eq!(w.files.umask(0o7007), 0o022);
    w.open("b", libc::O_CREAT).unwrap();
    w.files.mkdirat(CWD, b"d", 0o1777).unwrap();
    assert_eq!((mode("b"), mode("d")), (0o100_660, 0o041_770));
    assert_eq!(w.files.umask(0), 0o007);
    w.files.mkdirat(CWD, b"e", 0o777).unwrap();
    assert_eq!(mode("e"), 0o040_777);
}

#[test]
fn unknown_flags_and_odd_arguments_are_errors() {
    let w = World::new();
    w.write("f", "");
    assert_eq!(w.files.newfstatat(CWD, b"f", 0x8000_0000), Err(Errno::EINVAL));
    assert_eq!(w.files.statx(CWD, b"f", 0, 1 << 31), Err(Errno::EINVAL));
    assert_eq!(w.files.faccessat2(CWD, b"f", 8, 0), Err(Errno::EINVAL));
    assert_eq!(w.files.unlinkat(CWD, b"f", 1), Err(Errno::EINVAL));
    assert_eq!(w.files.renameat2(CWD, b"f", CWD, b"g", 4), Err(Errno::EINVAL));
    assert_eq!(w.files.mknodat(CWD, b"n", libc::S_IFCHR), Err(Errno::EPERM));
    assert_eq!(w.files.pipe2(1), Err(Errno::EINVAL));
    assert_eq!(w.files.readlinkat(CWD, b"f", 0), Err(Errno::EINVAL));
    assert_eq!(w.files.openat(55, b"f", 0, 0), Err(Errno::EBADF));
    assert_eq!(w.files.openat(0, b"f", 0, 0), Err(Errno::ENOTDIR));
    assert_eq!(w.files.openat(CWD, b"a\0b", 0, 0), Err(Errno::EINVAL));
    let fd = w.open("f", 0).unwrap();
    // F_SETSIG: recorded, never a host signal, and only a signal that exists.
    assert_eq!(w.files.fcntl(fd, 10, 9), Ok(0));
    assert_eq!(w.files.fcntl(fd, 10, 65), Err(Errno::EINVAL));
    for flags in [i32::MIN, -1, i32::MAX] {
        // Any answer will do, as long as there is one.
        let _ = w.open("f", flags);
        let _ = w.open(".", flags);
    }
}
