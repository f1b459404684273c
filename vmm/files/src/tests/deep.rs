//! Directories whose path is longer than the host's kernel tells, and removed ones: what `..` of them is, and that it
//! leads out of no grant.

use std::path::PathBuf;

use abi::Errno;

use super::super::GrantAccess;
use super::{CWD, Files, files, grant, open};

const NAME: [u8; 100] = [b'd'; 100];

/// A grant at `/w`, another one mounted in it, and a secret beside both.
struct Deep {
    outer: tempfile::TempDir,
    files: Files,
}

impl Deep {
    /// `above` levels of the host lead to the grant, and `below` from there to the working directory.
    fn new(above: usize, below: usize) -> Deep {
        let outer = tempfile::tempdir().unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        let name = std::str::from_utf8(&NAME).unwrap();
        let long: PathBuf = std::iter::repeat_n(name, above).collect();
        let (granted, other) =
            (outer.path().join("granted").join(long), outer.path().join("other"));
        for dir in [&granted, &other] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let rights = GrantAccess::ReadWrite;
        let files =
            files(&[grant(&granted, "/w", rights), grant(&other, "/w/other", rights)], "/w");
        for _ in 0..below {
            files.mkdirat(CWD, &NAME, 0o755).unwrap();
            files.chdir(&NAME).unwrap();
        }
        Deep { outer, files }
    }

    fn make(&self, path: &str) -> Result<(), Errno> {
        let fd = self.files.openat(CWD, path.as_bytes(), libc::O_CREAT | libc::O_WRONLY, 0o600)?;
        self.files.close(fd)
    }

    fn has(&self, path: &str) -> bool {
        self.outer.path().join(path).exists()
    }
}

fn up(levels: usize) -> String {
    "../".repeat(levels)
}

#[test]
fn relative_names_climb_and_descend_wherever_they_begin() {
    let deep = Deep::new(0, 50);
    assert_eq!(deep.files.getcwd(), Err(Errno::ENAMETOOLONG));
    deep.make("file").unwrap();
    deep.files.mkdirat(CWD, b"sub", 0o755).unwrap();
    deep.make("sub/../file2").unwrap();
    assert!(open(&deep.files, "file2", 0).is_ok());
    // What is mounted is seen from below, as far as that is.
    deep.make(&(up(50) + "other/note")).unwrap();
    assert!(deep.has("other/note"));
    assert_eq!(open(&deep.files, &(up(70) + "secret"), 0), Err(Errno::ENOENT));
    for left in (0..50).rev() {
        deep.files.chdir(b"..").unwrap();
        assert_eq!(deep.files.getcwd().is_ok(), 2 + left * 101 <= 4095, "{left}");
    }
    assert_eq!(deep.files.getcwd().unwrap(), b"/w");
}

#[test]
fn a_short_path_of_the_guests_is_told_however_long_the_hosts_is() {
    let deep = Deep::new(38, 6);
    let expected = [b"/w".as_slice(), &[b"/".as_slice(), &NAME].concat().repeat(6)].concat();
    assert_eq!(deep.files.getcwd().unwrap(), expected);
    deep.make(&(up(6) + "other/note")).unwrap();
    assert!(deep.has("other/note"));
}

#[test]
fn a_deep_directory_that_is_moved_out_of_its_grant_leads_nowhere() {
    let deep = Deep::new(0, 50);
    let name = std::str::from_utf8(&NAME).unwrap();
    std::fs::rename(deep.outer.path().join("granted").join(name), deep.outer.path().join("out"))
        .unwrap();
    for path in [up(1) + "file", up(49) + "file", up(50) + "secret", up(51) + "secret"] {
        assert_eq!(open(&deep.files, &path, 0), Err(Errno::ENOENT), "{path}");
    }
    assert_eq!(deep.files.getcwd(), Err(Errno::ENOENT));
}

#[test]
fn a_removed_directory_has_one_above_it_and_no_name() {
    for levels in [2, 50] {
        let deep = Deep::new(0, levels);
        deep.files.mkdirat(CWD, b"sub", 0o755).unwrap();
        deep.files.chdir(b"sub").unwrap();
        deep.files.mkdirat(CWD, b"sub", 0o755).unwrap();
        deep.files.chdir(b"sub").unwrap();
        // From below, one after the other, while it is the working directory.
        for dir in ["../sub", "../../sub"] {
            deep.files.unlinkat(CWD, dir.as_bytes(), libc::AT_REMOVEDIR as u32).unwrap();
        }
        assert_eq!(deep.files.getcwd(), Err(Errno::ENOENT));
        assert_eq!(deep.make("file"), Err(Errno::ENOENT));
        deep.make("../../file").unwrap();
        deep.make(&(up(levels + 2) + "other/note")).unwrap();
        assert!(deep.has("other/note"));
        assert_eq!(open(&deep.files, &(up(levels + 9) + "secret"), 0), Err(Errno::ENOENT));
        // What it was in is moved out of the grant.
        let name = std::str::from_utf8(&NAME).unwrap();
        let out = deep.outer.path().join("out");
        std::fs::rename(deep.outer.path().join("granted").join(name), out).unwrap();
        for path in ["../../file", "../file", &(up(levels + 3) + "secret")] {
            assert_eq!(open(&deep.files, path, 0), Err(Errno::ENOENT), "{path}");
        }
        deep.files.chdir(b"/w").unwrap();
    }
}
