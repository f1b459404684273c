//! `/dev/shm`: files in memory that only the program has.

use std::sync::Arc;

use abi::{Errno, PAGE_SIZE};

use super::super::GrantAccess;
use super::{CWD, Files, World, files, grant, open, read};
use crate::charge::{FilesOnly, MemoryAccount};

const NEW: i32 = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;

fn create(files: &Files, path: &str, text: &str) {
    let fd = open(files, path, NEW).unwrap();
    let file = files.get(fd).unwrap();
    assert_eq!(rustix::io::write(file.host_fd(), text.as_bytes()).unwrap(), text.len());
    files.close(fd).unwrap();
}

fn link(files: &Files, old: &str, new: &str) -> Result<(), Errno> {
    files.linkat(CWD, old.as_bytes(), CWD, new.as_bytes(), 0)
}

fn rename(files: &Files, old: &str, new: &str, flags: u32) -> Result<(), Errno> {
    files.renameat2(CWD, old.as_bytes(), CWD, new.as_bytes(), flags)
}

fn links(files: &Files, path: &str) -> u64 {
    files.newfstatat(CWD, path.as_bytes(), 0).unwrap().nlink
}

fn names(files: &Files, fd: i32) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let bytes = files.getdents64(fd, 64).unwrap();
        if bytes.is_empty() {
            return names;
        }
        let mut rest = bytes.as_slice();
        while let Some(len) = rest.get(16..18) {
            let len = usize::from(u16::from_le_bytes([len[0], len[1]]));
            let name: Vec<u8> = rest[19..len].iter().copied().take_while(|b| *b != 0).collect();
            names.push(String::from_utf8(name).unwrap());
            rest = &rest[len..];
        }
    }
}

#[test]
fn files_come_and_go_by_name_as_in_any_directory() {
    let files = files(&[], "/dev/shm");
    assert_eq!(open(&files, "/dev/shm/a", libc::O_RDWR), Err(Errno::ENOENT));
    create(&files, "/dev/shm/a", "one");
    assert_eq!(open(&files, "a", NEW), Err(Errno::EEXIST));
    assert_eq!(open(&files, "a/", libc::O_RDONLY), Err(Errno::ENOTDIR));
    assert_eq!(open(&files, "a/b", libc::O_RDONLY), Err(Errno::ENOTDIR));
    assert_eq!(read(&files, "a").unwrap(), "one");
    // As `sem_open` makes a semaphore: complete before it has its name.
    link(&files, "a", "b").unwrap();
    assert_eq!(link(&files, "a", "b"), Err(Errno::EEXIST));
    assert_eq!((links(&files, "a"), links(&files, "b")), (2, 2));
    files.unlinkat(CWD, b"a", 0).unwrap();
    assert_eq!(files.unlinkat(CWD, b"a", 0), Err(Errno::ENOENT));
    assert_eq!((read(&files, "b").unwrap().as_str(), links(&files, "b")), ("one", 1));
    create(&files, "c", "two");
    assert_eq!(rename(&files, "c", "b", libc::RENAME_NOREPLACE), Err(Errno::EEXIST));
    rename(&files, "c", "b", libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(
        (read(&files, "b").unwrap(), read(&files, "c").unwrap()),
        ("two".into(), "one".into())
    );
    // Replaced while open: still there for the program that has it open.
    let fd = open(&files, "b", libc::O_RDWR).unwrap();
    rename(&files, "c", "b", 0).unwrap();
    assert_eq!(files.fstat(fd).unwrap().nlink, 0);
    assert_eq!(read(&files, "b").unwrap(), "one");
    files.truncate(b"b", 2).unwrap();
    assert_eq!(read(&files, "b").unwrap(), "on");
    let fd = open(&files, "b", libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(files.fstat(fd).unwrap().size, 0);
}

#[test]
fn what_is_no_regular_file_is_refused_and_nothing_leads_out() {
    let mut world = World::new();
    world.files = files(&[grant(world.host.path(), "/w", GrantAccess::ReadWrite)], "/w");
    let files = &world.files;
    world.write("f", "text");
    create(files, "/dev/shm/a", "one");
    assert_eq!(files.mkdirat(CWD, b"/dev/shm/d", 0o777), Err(Errno::EPERM));
    assert_eq!(files.symlinkat(b"/w/f", CWD, b"/dev/shm/l"), Err(Errno::EPERM));
    assert_eq!(files.mkdirat(CWD, b"/dev/shm/a", 0o777), Err(Errno::EEXIST));
    assert_eq!(files.unlinkat(CWD, b"/dev/shm/a", libc::AT_REMOVEDIR as u32), Err(Errno::ENOTDIR));
    for (old, new) in [("/w/f", "/dev/shm/f"), ("/dev/shm/a", "/w/a")] {
        assert_eq!(link(files, old, new), Err(Errno::EXDEV));
        assert_eq!(rename(files, old, new, 0), Err(Errno::EXDEV));
    }
    let tmpfile = libc::O_TMPFILE | libc::O_RDWR;
    assert_eq!(open(files, "/dev/shm", tmpfile), Err(Errno::EOPNOTSUPP));
    // A grant replaces it.
    let granted = super::files(&[grant(world.host.path(), "/dev/shm", GrantAccess::ReadOnly)], "/");
    assert_eq!(read(&granted, "/dev/shm/f").unwrap(), "text");
    assert_eq!(open(&granted, "/dev/shm/a", NEW), Err(Errno::EROFS));
}

#[test]
fn a_listing_shows_each_file_once_while_they_are_removed() {
    let files = files(&[], "/");
    for n in 0..20 {
        create(&files, &format!("/dev/shm/file-{n:02}"), "");
    }
    let fd = open(&files, "/dev/shm", libc::O_DIRECTORY).unwrap();
    let first = files.getdents64(fd, 128).unwrap();
    assert!(!first.is_empty());
    files.unlinkat(CWD, b"/dev/shm/file-00", 0).unwrap();
    files.unlinkat(CWD, b"/dev/shm/file-01", 0).unwrap();
    let rest = names(&files, fd);
    let expected: Vec<String> = (2..20).map(|n| format!("file-{n:02}")).collect();
    assert!(rest.ends_with(&expected[2..]), "{rest:?}");
}

#[test]
fn what_is_stored_is_charged_until_the_last_name_and_descriptor_are_gone() {
    let files = files(&[], "/");
    let account = Arc::new(FilesOnly::limited_to(8 * PAGE_SIZE));
    files.charge_to(account.clone());
    let fd = open(&files, "/dev/shm/a", NEW).unwrap();
    files.fallocate(fd, 0, 0, 4 * PAGE_SIZE as i64).unwrap();
    assert_eq!(account.used_bytes(), 4 * PAGE_SIZE);
    assert_eq!(files.fallocate(fd, 0, 0, 9 * PAGE_SIZE as i64), Err(Errno::ENOSPC));
    let keep = libc::FALLOC_FL_KEEP_SIZE as u32;
    assert_eq!(files.fallocate(fd, keep, 0, PAGE_SIZE as i64), Err(Errno::EOPNOTSUPP));
    link(&files, "/dev/shm/a", "/dev/shm/b").unwrap();
    files.unlinkat(CWD, b"/dev/shm/a", 0).unwrap();
    files.close(fd).unwrap();
    assert_eq!(account.used_bytes(), 4 * PAGE_SIZE);
    let fd = open(&files, "/dev/shm/b", libc::O_RDWR).unwrap();
    files.unlinkat(CWD, b"/dev/shm/b", 0).unwrap();
    assert_eq!(account.used_bytes(), 4 * PAGE_SIZE);
    files.close(fd).unwrap();
    assert_eq!(account.used_bytes(), 0);
    // A copy is charged before it is made.
    let (from, to) = (files.memfd_create(b"x", 0).unwrap(), files.memfd_create(b"y", 0).unwrap());
    files.fallocate(from, 0, 0, 4 * PAGE_SIZE as i64).unwrap();
    let len = 1 << 30;
    assert_eq!(files.sendfile(to, from, None, len), Err(Errno::ENOSPC));
    files.ftruncate(from, 2 * PAGE_SIZE as i64).unwrap();
    assert_eq!(files.sendfile(to, from, None, len), Ok(2 * PAGE_SIZE as usize));
    assert_eq!(account.used_bytes(), 4 * PAGE_SIZE);
}

#[test]
fn a_file_opened_once_more_by_its_descriptor_is_charged_as_before() {
    let files = files(&[], "/");
    let account = Arc::new(FilesOnly::limited_to(8 * PAGE_SIZE));
    files.charge_to(account.clone());
    let nameless = files.memfd_create(b"x", 0).unwrap();
    let named = open(&files, "/dev/shm/a", NEW).unwrap();
    for fd in [nameless, named] {
        let again = open(&files, &format!("/proc/self/fd/{fd}"), libc::O_RDWR).unwrap();
        assert_eq!(files.fallocate(again, 0, 0, 9 * PAGE_SIZE as i64), Err(Errno::ENOSPC));
        files.fallocate(again, 0, 0, 4 * PAGE_SIZE as i64).unwrap();
        files.close(fd).unwrap();
        assert_eq!(account.used_bytes(), 4 * PAGE_SIZE);
        let cut = format!("/proc/self/fd/{again}");
        let cut = open(&files, &cut, libc::O_RDWR | libc::O_TRUNC).unwrap();
        assert_eq!(account.used_bytes(), 0);
        files.close(cut).unwrap();
        files.close(again).unwrap();
    }
}

#[test]
fn the_directory_is_the_runs_own_by_every_way_that_leads_there() {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(host.path().join("dev/shm")).unwrap();
    for grants in [vec![], vec![grant(host.path(), "/", GrantAccess::ReadWrite)]] {
        let files = files(&grants, "/");
        create(&files, "/dev/shm/a", "one");
        let dir = open(&files, "/dev/shm", libc::O_DIRECTORY).unwrap();
        let by_descriptor = format!("/dev/fd/{dir}/a");
        let ways = ["/dev/../dev/shm/./a", "/proc/self/root/dev/shm/a", by_descriptor.as_str()];
        for way in ways {
            assert_eq!(read(&files, way).unwrap(), "one", "{way}");
            assert_eq!(files.readlinkat(CWD, way.as_bytes(), 100), Err(Errno::EINVAL), "{way}");
            assert_eq!(links(&files, way), 1, "{way}");
        }
        create(&files, "/proc/self/root/dev/shm/b", "two");
        assert_eq!(read(&files, "/dev/shm/b").unwrap(), "two");
        rename(&files, "/dev/shm/b", &by_descriptor, 0).unwrap();
        assert_eq!(read(&files, "/dev/shm/a").unwrap(), "two");
        files.unlinkat(dir, b"a", 0).unwrap();
        assert_eq!(names(&files, dir), [".", ".."]);
        assert_eq!(std::fs::read_dir(host.path().join("dev/shm")).unwrap().count(), 0);
    }
}
