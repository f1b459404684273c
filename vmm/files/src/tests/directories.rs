//! Listing directories, and the current directory.

use std::collections::BTreeSet;
use std::path::Path;

use abi::Errno;

use super::super::{Grant, GrantAccess, default_cwd};
use super::{CWD, World, files, grant, open};

/// One record: inode, next offset, type, name.
type Entry = (u64, u64, u8, String);

fn parse(mut bytes: &[u8]) -> Vec<Entry> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let len = usize::from(u16::from_le_bytes([bytes[16], bytes[17]]));
        assert!(len >= 24 && len % 8 == 0 && len <= bytes.len());
        let name = bytes[19..len].split(|b| *b == 0).next().unwrap();
        let name = String::from_utf8(name.to_vec()).unwrap();
        out.push((word(0), word(8), bytes[18], name));
        bytes = &bytes[len..];
    }
    out
}

fn list(files: &super::Files, fd: i32, capacity: usize) -> Vec<Entry> {
    let mut out = Vec::new();
    loop {
        let bytes = files.getdents64(fd, capacity).unwrap();
        assert!(bytes.len() <= capacity);
        if bytes.is_empty() {
            return out;
        }
        out.extend(parse(&bytes));
    }
}

#[test]
fn ten_thousand_files_are_all_listed_once_whatever_the_buffer() {
    let w = World::new();
    let mut names: BTreeSet<String> = (0..10_000).map(|n| format!("file-{n}")).collect();
    for name in &names {
        w.write(name, "");
    }
    names.extend([".".to_owned(), "..".to_owned()]);
    let fd = w.open(".", libc::O_DIRECTORY).unwrap();
    for capacity in [32, 40, 100, 1000, 32 << 10, 1 << 20] {
        w.files.lseek(fd, 0, libc::SEEK_SET).unwrap();
        let entries = list(&w.files, fd, capacity);
        assert_eq!(entries.len(), names.len(), "capacity {capacity}");
        let found: BTreeSet<String> = entries.iter().map(|e| e.3.clone()).collect();
        assert_eq!(found, names, "capacity {capacity}");
        for (_, _, kind, name) in &entries {
            let wanted = if name.starts_with("file") { libc::DT_REG } else { libc::DT_DIR };
            assert_eq!(*kind, wanted, "{name}");
        }
    }
}

#[test]
fn a_listing_resumes_at_the_offset_of_an_entry() {
    let w = World::new();
    for n in 0..50 {
        w.write(&format!("{n}"), "");
    }
    std::fs::create_dir(w.host.path().join("sub")).unwrap();
    for path in [".", "/", "/dev"] {
        let fd = w.open(path, libc::O_DIRECTORY).unwrap();
        let all = list(&w.files, fd, 4096);
        for at in [0, 1, 3, all.len() - 1] {
            let Some(entry) = all.get(at) else { continue };
            w.files.lseek(fd, entry.1 as i64, libc::SEEK_SET).unwrap();
            assert_eq!(list(&w.files, fd, 4096), all[at + 1..], "{path} {at}");
        }
    }
}

#[test]
fn too_small_a_buffer_and_wrong_descriptors_are_refused() {
    let w = World::new();
    w.write("f", "");
    for path in [".", "/"] {
        let fd = w.open(path, 0).unwrap();
        for capacity in [0, 8, 23] {
            assert_eq!(w.files.getdents64(fd, capacity), Err(Errno::EINVAL), "{path}");
        }
    }
    assert_eq!(w.files.getdents64(99, 100), Err(Errno::EBADF));
    assert_eq!(w.files.getdents64(0, 100), Err(Errno::ENOTDIR));
    let fd = w.open("f", 0).unwrap();
    assert_eq!(w.files.getdents64(fd, 100), Err(Errno::ENOTDIR));
    let fd = w.open(".", libc::O_PATH).unwrap();
    assert_eq!(w.files.getdents64(fd, 100), Err(Errno::EBADF));
}

#[test]
fn inode_numbers_in_listings_are_those_of_stat() {
    let w = World::new();
    w.write("f", "");
    for path in ["/", "/w", "/proc", "/proc/self"] {
        let fd = w.open(path, 0).unwrap();
        for (ino, _, kind, name) in list(&w.files, fd, 4096) {
            let full = format!("{path}/{name}");
            let stat = w.files.newfstatat(CWD, full.as_bytes(), 0x100).unwrap();
            // As at a mount point, the entry has the inode of what is hidden below.
            if full != "//w" && full != "/w/.." {
                assert_eq!(stat.ino, ino, "{full}");
            }
            assert_eq!(stat.mode >> 12, u32::from(kind), "{full}");
        }
    }
}

#[test]
fn the_current_directory_follows_renames_and_survives_removal() {
    let w = World::new();
    std::fs::create_dir_all(w.host.path().join("a/b")).unwrap();
    w.files.chdir(b"a/b").unwrap();
    assert_eq!(w.files.getcwd().unwrap(), b"/w/a/b");
    w.files.renameat2(CWD, b"/w/a", CWD, b"/w/z", 0).unwrap();
    assert_eq!(w.files.getcwd().unwrap(), b"/w/z/b");
    w.write("z/beside", "");
    assert!(w.open("../beside", 0).is_ok());
    assert!(w.open("../../../w/z/beside", 0).is_ok());
    w.files.unlinkat(CWD, b"/w/z/b", 0x200).unwrap();
    assert_eq!(w.files.getcwd(), Err(Errno::ENOENT));
    assert!(w.files.newfstatat(CWD, b".", 0).is_ok());
    assert_eq!(w.open("new", libc::O_CREAT), Err(Errno::ENOENT));
    w.files.chdir(b"/").unwrap();
    assert_eq!(w.files.getcwd().unwrap(), b"/");
    w.files.chdir(b"w/z").unwrap();
    assert_eq!(w.files.getcwd().unwrap(), b"/w/z");
    w.files.chdir(b"../../dev").unwrap();
    assert_eq!(w.files.getcwd().unwrap(), b"/dev");
    assert_eq!(w.files.chdir(b"null"), Err(Errno::ENOTDIR));
    assert_eq!(w.files.chdir(b""), Err(Errno::ENOENT));
    assert_eq!(w.files.chdir(b"/w/z/beside"), Err(Errno::ENOTDIR));
    let fd = w.open("/w/z", 0).unwrap();
    w.files.fchdir(fd).unwrap();
    assert_eq!(w.files.getcwd().unwrap(), b"/w/z");
    assert_eq!(w.files.fchdir(0), Err(Errno::ENOTDIR));
}

#[test]
fn the_first_directory_is_the_hosts_if_a_grant_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let host = std::fs::canonicalize(dir.path()).unwrap();
    std::fs::create_dir_all(host.join("in/deep")).unwrap();
    let outer: Grant = grant(&host, "/outer", GrantAccess::ReadWrite);
    let inner: Grant = grant(&host.join("in"), "/inner", GrantAccess::ReadWrite);
    let both = [outer.clone(), inner];
    let at = |grants: &[Grant], cwd: &Path| default_cwd(grants, cwd);
    assert_eq!(at(&both, &host.join("in/deep")), Path::new("/inner/deep"));
    assert_eq!(at(&both, &host), Path::new("/outer"));
    assert_eq!(at(&both, Path::new("/")), Path::new("/outer"));
    assert_eq!(at(&[], &host), Path::new("/"));
    let files = files(&[outer], "/outer/in/deep");
    assert_eq!(files.getcwd().unwrap(), b"/outer/in/deep");
    assert!(open(&files, "../deep", 0).is_ok());
}
