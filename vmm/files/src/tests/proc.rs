//! `/proc` as a tree: what is found and listed, where its links lead, and where the name of a
//! thread that does not exist leads. The content of the files is tested where it is generated, and
//! in VMs.

use std::sync::{Arc, Weak};

use abi::{Errno, PAGE_SIZE};

use super::super::{Files, GrantAccess, View, Whose};
use super::tree::names;
use super::{CWD, TEXTS, World, files, grant, open, read, running};
use crate::charge::{FilesOnly, MemoryAccount};

/// A process with two threads, whose files say which one they are about.
#[derive(Debug, Default)]
struct Two {
    /// The inode of the file that one of them runs.
    runs: Option<u64>,
}

impl View for Two {
    fn pid(&self) -> i32 {
        70
    }

    fn tids(&self) -> Vec<i32> {
        vec![70, 71]
    }

    fn caller(&self) -> i32 {
        71
    }

    fn process_group(&self) -> i32 {
        60
    }

    fn others(&self) -> Vec<i32> {
        vec![72]
    }

    fn program_of(&self, pid: i32) -> Result<Vec<u8>, Errno> {
        if pid == 72 { Ok(b"/proc/cpuinfo".to_vec()) } else { Err(Errno::ENOENT) }
    }

    fn directory_of(&self, pid: i32) -> Result<Vec<u8>, Errno> {
        if pid == 72 { Ok(b"/dev".to_vec()) } else { Err(Errno::ENOENT) }
    }

    fn runs(&self, _: u64, inode: u64) -> bool {
        self.runs == Some(inode)
    }

    fn threads_of(&self, pid: i32) -> Vec<i32> {
        // A number twice: who says which they are may say anything.
        if pid == 72 { vec![74, 72, 74] } else { vec![] }
    }

    fn descriptors_of(&self, pid: i32) -> Vec<u32> {
        if pid == 72 { vec![0, 5] } else { vec![] }
    }

    fn descriptor_of(&self, _: i32, fd: u32) -> Result<Vec<u8>, Errno> {
        match fd {
            0 => Ok(b"pipe:[7]".to_vec()),
            5 => Ok(b"/root/secret".to_vec()),
            _ => Err(Errno::ENOENT),
        }
    }

    fn text(&self, row: usize, of: Whose) -> Result<Vec<u8>, Errno> {
        let path = TEXTS[row].path;
        Ok(format!("{path} {of:?}").into_bytes())
    }

    fn take(&self, _: usize, _: Whose, bytes: &[u8]) -> Result<(), Errno> {
        if bytes == b"good" { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

fn viewed(files: &Files) -> Arc<Two> {
    viewed_running(files, None)
}

fn viewed_running(files: &Files, runs: Option<u64>) -> Arc<Two> {
    let two = Arc::new(Two { runs });
    let view: Weak<Two> = Arc::downgrade(&two);
    files.set_view(view);
    two
}

#[test]
fn a_program_that_runs_is_neither_opened_for_writing_nor_cut_by_any_way() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let w = World::new();
    w.write("tool", "a program");
    w.write("other", "another");
    let tool = w.host.path().join("tool");
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("tool", w.host.path().join("link")).unwrap();
    std::fs::hard_link(&tool, w.host.path().join("same")).unwrap();
    let _view = viewed_running(&w.files, Some(std::fs::metadata(&tool).unwrap().ino()));
    let busy = Err(Errno::ETXTBSY);
    for name in ["tool", "link", "same"] {
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_RDONLY | libc::O_TRUNC,
            libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
        ] {
            assert_eq!(w.open(name, flags), busy, "{name} {flags:o}");
        }
        assert_eq!(w.files.truncate(name.as_bytes(), 0), Err(Errno::ETXTBSY), "{name}");
    }
    let read = w.open("tool", libc::O_RDONLY).unwrap();
    let again = format!("/proc/self/fd/{read}");
    assert_eq!(w.open(&again, libc::O_RDWR), busy);
    assert_eq!(w.files.truncate(again.as_bytes(), 0), Err(Errno::ETXTBSY));
    let exclusive = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    assert_eq!(w.open("tool", exclusive), Err(Errno::EEXIST));
    assert_eq!(w.open("tool", libc::O_WRONLY | libc::O_DIRECTORY), Err(Errno::ENOTDIR));
    assert_eq!(std::fs::read_to_string(&tool).unwrap(), "a program");
    // Its name can be given to another file, and other files can be written.
    assert!(w.open("other", libc::O_RDWR | libc::O_TRUNC).is_ok());
    w.files.unlinkat(CWD, b"tool", 0).unwrap();
    assert!(w.open("tool", exclusive).is_ok());
}

#[test]
fn a_process_its_threads_and_others_of_the_run_have_directories_and_nobody_else() {
    let w = World::new();
    let _view = viewed(&w.files);
    let listed = names(&w.files, "/proc");
    for name in ["70", "72", "self", "thread-self", "mounts", "cpuinfo", "sys"] {
        assert!(listed.iter().any(|listed| listed == name), "{name} in {listed:?}");
    }
    assert_eq!(names(&w.files, "/proc/self/task"), [".", "..", "70", "71"]);
    let status = "/proc/#/status";
    for (path, of) in [
        ("/proc/self/status", "Process"),
        ("/proc/70/status", "Process"),
        ("/proc/70/task/70/status", "Thread(70)"),
        ("/proc/self/task/71/status", "Thread(71)"),
        ("/proc/thread-self/status", "Thread(71)"),
        ("/proc/self/task/71/../../status", "Process"),
        ("/proc/self/task/71/fd/../status", "Thread(71)"),
        ("/proc/self/root/proc/self/cwd/../proc/self/status", "Process"),
    ] {
        assert_eq!(read(&w.files, path), Ok(format!("{status} {of}")), "{path}");
    }
    // Of another process there is what is said to be, and what its links lead to.
    let of_others = [".", "..", "comm", "cwd", "exe", "fd", "fdinfo", "root"];
    assert_eq!(names(&w.files, "/proc/72"), [&of_others[..], &["task"]].concat());
    assert_eq!(names(&w.files, "/proc/72/task"), [".", "..", "72", "74"]);
    assert_eq!(names(&w.files, "/proc/72/task/74"), of_others);
    let of_thread = Ok("/proc/#/comm ThreadOf(72, 74)".to_owned());
    for path in
        ["/proc/72/task/74/comm", "/proc/72/task/74/fd/../comm", "/w/../proc/72/task/74/comm"]
    {
        assert_eq!(read(&w.files, path), of_thread, "{path}");
    }
    assert_eq!(w.files.readlinkat(CWD, b"/proc/72/task/74/exe", 99), Ok(b"/proc/cpuinfo".to_vec()));
    // Its descriptors have names, of what the grants show, and lead nowhere.
    assert_eq!(names(&w.files, "/proc/72/fd"), [".", "..", "0", "5"]);
    assert_eq!(names(&w.files, "/proc/72/task/74/fd"), [".", "..", "0", "5"]);
    let link = |path: &[u8]| w.files.readlinkat(CWD, path, 99);
    assert_eq!(link(b"/proc/72/fd/0"), Ok(b"pipe:[7]".to_vec()));
    assert_eq!(link(b"/proc/72/fd/5"), Ok(b"(unreachable)".to_vec()));
    assert_eq!(link(b"/proc/72/fd/6"), Err(Errno::ENOENT));
    // What only it may see is there, and refused.
    for path in [
        "/proc/72/fd/0",
        "/proc/72/fd/5/x",
        "/w/../proc/72/fd/0",
        "/proc/72/fdinfo",
        "/proc/72/task/74/fdinfo",
        "/w/../proc/72/fdinfo/0",
        "/proc/72/fdinfo/0/x",
    ] {
        for flags in [libc::O_RDONLY, libc::O_WRONLY | libc::O_CREAT] {
            let refused = [Err(Errno::EACCES), Err(Errno::EISDIR)];
            assert!(refused.contains(&w.open(path, flags)), "{path} {flags:o}");
        }
    }
    let stat = w.files.newfstatat(CWD, b"/proc/72/fd", 0).unwrap();
    assert_eq!(stat.mode, libc::S_IFDIR | 0o500);
    assert_eq!(read(&w.files, "/proc/72/comm"), Ok("/proc/#/comm Other(72)".to_owned()));
    assert_eq!(w.files.readlinkat(CWD, b"/proc/72/exe", 99), Ok(b"/proc/cpuinfo".to_vec()));
    assert_eq!(read(&w.files, "/proc/72/exe"), Ok("/proc/cpuinfo Process".to_owned()));
    assert_eq!(read(&w.files, "/proc/72/cwd/../proc/72/comm"), read(&w.files, "/proc/72/comm"));
    for path in [
        "/proc/72/status",
        "/proc/72/task/73/comm",
        "/proc/72/task/71/comm",
        "/proc/self/task/72/comm",
    ] {
        assert_eq!(read(&w.files, path), Err(Errno::ENOENT), "{path}");
    }
    for name in [
        "071",
        "73",
        "0",
        "-70",
        "+70",
        " 70",
        "70 ",
        "99999999999999999999",
        "4294967366",
        "x",
        "70\u{663}",
        "7e1",
    ] {
        for folder in ["/proc", "/proc/self/task"] {
            let path = format!("{folder}/{name}/status");
            assert_eq!(read(&w.files, &path), Err(Errno::ENOENT), "{path}");
        }
    }
    w.files.chdir(b"/proc/self/task/71").unwrap();
    assert_eq!(w.files.getcwd().unwrap(), b"/proc/70/task/71");
    assert_eq!(read(&w.files, "status"), Ok(format!("{status} Thread(71)")));
    assert_eq!(read(&w.files, "../70/status"), Ok(format!("{status} Thread(70)")));
    w.files.chdir(b"/proc/72/task/74").unwrap();
    assert_eq!(w.files.getcwd().unwrap(), b"/proc/72/task/74");
    assert_eq!(read(&w.files, "../../comm"), read(&w.files, "/proc/72/comm"));
}

#[test]
fn links_say_and_lead_where_linux_has_them() {
    let w = World::new();
    let _view = viewed(&w.files);
    w.write("f", "text");
    std::fs::create_dir(w.host.path().join("d")).unwrap();
    let fd = w.open("f", libc::O_RDWR).unwrap();
    let dir = w.open("d", libc::O_DIRECTORY).unwrap();
    let link = |path: &str| w.files.readlinkat(CWD, path.as_bytes(), 99);
    for (path, text) in [
        ("/proc/self", "70"),
        ("/proc/thread-self", "70/task/71"),
        ("/proc/mounts", "self/mounts"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/proc/self/cwd", "/w"),
        ("/proc/self/root", "/"),
        ("/proc/self/exe", "/w/program"),
        ("/proc/self/fd/0", "/dev/null"),
    ] {
        assert_eq!(link(path).as_deref(), Ok(text.as_bytes()), "{path}");
    }
    assert_eq!(link(&format!("/proc/self/fd/{fd}")).as_deref(), Ok(b"/w/f".as_slice()));
    assert_eq!(link(&format!("/dev/fd/{dir}")).as_deref(), Ok(b"/w/d".as_slice()));
    assert_eq!(read(&w.files, "/proc/self/cwd/f").as_deref(), Ok("text"));
    assert_eq!(read(&w.files, "/proc/self/root/w/f").as_deref(), Ok("text"));
    assert_eq!(read(&w.files, &format!("/proc/self/fd/{dir}/../f")).as_deref(), Ok("text"));
    assert_eq!(read(&w.files, &format!("/proc/self/fd/{fd}/f")), Err(Errno::ENOTDIR));
    let file = format!("/proc/self/fd/{fd}");
    w.files.fchmodat2(CWD, file.as_bytes(), 0o640, 0).unwrap();
    w.files.truncate(file.as_bytes(), 2).unwrap();
    let stat = w.files.newfstatat(CWD, b"f", 0).unwrap();
    assert_eq!((stat.mode & 0o777, stat.size), (0o640, 2));
    let entry = w.files.newfstatat(CWD, file.as_bytes(), 0x100).unwrap();
    assert_eq!(entry.mode, libc::S_IFLNK | 0o700);
    assert_eq!(w.open(&file, libc::O_NOFOLLOW), Err(Errno::ELOOP));
    assert_eq!(w.open(&file, libc::O_CREAT | libc::O_EXCL), Err(Errno::EEXIST));
    assert_eq!(w.files.unlinkat(CWD, file.as_bytes(), 0), Err(Errno::EROFS));
}

#[test]
fn a_nameless_file_gets_its_name_by_its_descriptor() {
    let w = World::new();
    let fd = w.open(".", libc::O_TMPFILE | libc::O_RDWR).unwrap();
    let path = format!("/proc/self/fd/{fd}");
    let follow = libc::AT_SYMLINK_FOLLOW as u32;
    assert_eq!(w.files.linkat(CWD, path.as_bytes(), CWD, b"plain", 0), Err(Errno::EXDEV));
    w.files.linkat(CWD, path.as_bytes(), CWD, b"named", follow).unwrap();
    assert_eq!(w.files.newfstatat(CWD, b"named", 0), w.files.fstat(fd));
    assert_eq!(w.files.linkat(CWD, path.as_bytes(), CWD, b"named", follow), Err(Errno::EEXIST));
}

#[test]
fn opening_a_descriptor_again_gives_no_more_than_it_may() {
    let w = World::with(GrantAccess::ReadOnly);
    w.write("f", "0123456789");
    let fd = w.open("f", libc::O_RDONLY).unwrap();
    let path = format!("/dev/fd/{fd}");
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(w.open(&path, flags), Err(Errno::EROFS), "{flags:#x}");
    }
    assert_eq!(std::fs::read(w.host.path().join("f")).unwrap(), b"0123456789");

    // A file passed in for reading cannot be written, whatever the host allows.
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), "outside").unwrap();
    let given = std::fs::File::open(outside.path()).unwrap();
    w.files.give(9, given.into()).unwrap();
    assert_eq!(read(&w.files, "/dev/fd/9").as_deref(), Ok("outside"));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(w.open("/proc/self/fd/9", flags), Err(Errno::EACCES), "{flags:#x}");
    }
    assert_eq!(w.files.truncate(b"/proc/self/fd/9", 0), Err(Errno::EPERM));
    assert_eq!(w.files.fchmodat2(CWD, b"/proc/self/fd/9", 0, 0), Err(Errno::EPERM));
    let name = w.files.readlinkat(CWD, b"/proc/self/fd/9", 99).unwrap();
    assert_eq!(name, b"(unreachable)");
    assert_eq!(std::fs::read(outside.path()).unwrap(), b"outside");
}

#[test]
fn files_of_our_making_take_only_what_can_be_written() {
    let w = World::new();
    let _view = viewed(&w.files);
    assert_eq!(w.open("/proc/self/status", libc::O_RDWR), Err(Errno::EACCES));
    assert_eq!(w.open("/proc/cpuinfo", libc::O_WRONLY), Err(Errno::EACCES));
    assert_eq!(w.files.faccessat2(CWD, b"/proc/cpuinfo", 2, 0), Err(Errno::EACCES));
    assert_eq!(w.files.faccessat2(CWD, b"/proc/cpuinfo", 4, 0), Ok(()));
    assert_eq!(w.files.unlinkat(CWD, b"/proc/cpuinfo", 0), Err(Errno::EROFS));
    let stat = w.files.newfstatat(CWD, b"/proc/cpuinfo", 0).unwrap();
    assert_eq!((stat.mode, stat.size), (libc::S_IFREG | 0o444, 0));
    let fd = w.open("/proc/thread-self/comm", libc::O_RDWR).unwrap();
    let file = w.files.get(fd).unwrap();
    for (written, answer) in [("good", Ok(())), ("bad", Err(Errno::EINVAL))] {
        rustix::io::pwrite(file.host_fd(), written.as_bytes(), 0).unwrap();
        assert_eq!(w.files.take_written(&file, Some(0), written.len()), answer);
    }
    let fd = w.open("/proc/uptime", libc::O_RDONLY).unwrap();
    assert_eq!(w.files.ftruncate(fd, 0), Err(Errno::EINVAL));
    assert_eq!(w.files.fchmod(fd, 0o777), Err(Errno::EPERM));
    let flags = w.files.fcntl(fd, libc::F_GETFL, 0).unwrap();
    assert_eq!(flags & 3, libc::O_RDONLY as u64);
    assert!(w.files.fcntl(fd, libc::F_ADD_SEALS, 8).is_err());
}

#[test]
fn the_program_can_read_its_own_file_at_its_own_path() {
    let alone = running(&[], "/");
    assert_eq!(read(&alone, "/w/program").as_deref(), Ok("the program"));
    assert_eq!(names(&alone, "/w"), [".", "..", "program"]);
    assert_eq!(open(&alone, "/w/program", libc::O_RDWR), Err(Errno::ETXTBSY));
    assert_eq!(open(&alone, "/w/other", libc::O_CREAT), Err(Errno::EROFS));
    // A grant decides what is inside it.
    let dir = tempfile::tempdir().unwrap();
    let granted = running(&[grant(dir.path(), "/w", GrantAccess::ReadOnly)], "/w");
    assert_eq!(read(&granted, "/w/program"), Err(Errno::ENOENT));
    assert_eq!(read(&granted, "/proc/self/exe").as_deref(), Ok("the program"));
}

#[test]
fn a_grant_of_the_whole_root_keeps_its_own_sys() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("sys/devices/own")).unwrap();
    std::fs::write(dir.path().join("sys/devices/own/f"), "the host's").unwrap();
    std::fs::create_dir_all(dir.path().join("proc")).unwrap();
    std::fs::write(dir.path().join("proc/secret"), "the host's").unwrap();
    let files = files(&[grant(dir.path(), "/", GrantAccess::ReadOnly)], "/");
    let _view = viewed(&files);
    assert_eq!(read(&files, "/sys/devices/own/f").as_deref(), Ok("the host's"));
    let online = "/sys/devices/system/cpu/online";
    assert_eq!(read(&files, online), Ok(format!("{online} Process")));
    assert_eq!(read(&files, "/proc/secret"), Err(Errno::ENOENT));
}

#[test]
fn a_listing_misses_nothing_when_descriptors_are_closed_meanwhile() {
    let w = World::new();
    let open: Vec<i32> = (0..40).map(|_| w.open("/dev/null", 0).unwrap()).collect();
    let dir = w.open("/proc/self/fd", libc::O_DIRECTORY).unwrap();
    let mut seen = Vec::new();
    loop {
        // Space for a few records at a time.
        let bytes = w.files.getdents64(dir, 100).unwrap();
        if bytes.is_empty() {
            break;
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let len = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
            let name = rest[19..len].split(|byte| *byte == 0).next().unwrap();
            if let Ok(fd) = std::str::from_utf8(name).unwrap().parse::<i32>() {
                seen.push(fd);
                if fd > 2 && fd != dir {
                    w.files.close(fd).unwrap();
                }
            }
            rest = &rest[len..];
        }
    }
    for fd in open {
        assert!(seen.contains(&fd), "{fd} in {seen:?}");
    }
}

#[test]
fn what_an_open_file_says_is_charged_until_it_is_closed() {
    let w = World::new();
    let _view = viewed(&w.files);
    let account = Arc::new(FilesOnly::limited_to(16 * PAGE_SIZE));
    w.files.charge_to(account.clone());
    let open = || open(&w.files, "/proc/self/status", libc::O_RDONLY);
    let opened: Vec<i32> = (0..17).map_while(|_| open().ok()).collect();
    assert_eq!(open(), Err(Errno::ENOMEM));
    assert_eq!(account.used_bytes(), opened.len() as u64 * PAGE_SIZE);
    assert!(opened.len() > 8, "{opened:?}");
    for fd in opened {
        w.files.close(fd).unwrap();
    }
    assert_eq!(account.used_bytes(), 0);
}
