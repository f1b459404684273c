//! A tour of the file calls: `file_calls DIR` (empty and writable). Each result is
//! compared with what Linux returns; prints "files: fine" and exits with 0, or panics.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).expect("a directory"));
    let path = |name: &str| dir.join(name);
    let kind = |result: std::io::Result<()>| result.expect_err("must fail").kind();

    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).open(path("a")).unwrap();
    assert_eq!(File::create_new(path("a")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    file.write_all(b"0123456789").unwrap();
    assert_eq!(file.seek(SeekFrom::End(-4)).unwrap(), 6);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "6789");
    file.write_all_at(b"ab", 3).unwrap();
    let mut four = [0; 4];
    file.read_exact_at(&mut four, 2).unwrap();
    assert_eq!((&four, file.stream_position().unwrap()), (b"2ab5", 10));
    assert!(file.seek(SeekFrom::Current(-11)).is_err(), "before the beginning");
    file.set_len(20).unwrap();
    assert_eq!(fs::read(path("a")).unwrap()[8..12], *b"89\0\0");
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    let mut second = file.try_clone().unwrap();
    second.seek(SeekFrom::Start(1)).unwrap();
    assert_eq!(file.stream_position().unwrap(), 1, "duplicates share their position");
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.nlink(), meta.is_file()), (5, 1, true));

    let mut appended = OpenOptions::new().append(true).open(path("a")).unwrap();
    appended.write_all(b"+").unwrap();
    assert_eq!(fs::read(path("a")).unwrap(), b"012ab+");
    assert!(appended.read(&mut four).is_err(), "opened for writing only");
    assert!(File::open(path("a")).unwrap().write(b"x").is_err(), "opened for reading only");

    fs::create_dir_all(path("d/e/f")).unwrap();
    assert_eq!(kind(fs::create_dir(path("d"))), ErrorKind::AlreadyExists);
    assert_eq!(kind(fs::create_dir(path("no/d"))), ErrorKind::NotFound);
    assert_eq!(kind(fs::remove_dir(path("d"))), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(fs::remove_dir(path("a"))), ErrorKind::NotADirectory);
    assert_eq!(kind(fs::remove_file(path("d"))), ErrorKind::IsADirectory);
    assert_eq!(kind(fs::read(path("a/b")).map(drop)), ErrorKind::NotADirectory);
    fs::hard_link(path("a"), path("d/link")).unwrap();
    assert_eq!(fs::metadata(path("a")).unwrap().nlink(), 2);
    symlink("../a", path("d/soft")).unwrap();
    assert_eq!(fs::read_link(path("d/soft")).unwrap(), PathBuf::from("../a"));
    assert_eq!(fs::read(path("d/soft")).unwrap(), b"012ab+");
    assert!(fs::symlink_metadata(path("d/soft")).unwrap().is_symlink());
    fs::rename(path("a"), path("d/e/moved")).unwrap();
    assert_eq!(kind(fs::read(path("d/soft")).map(drop)), ErrorKind::NotFound);
    fs::set_permissions(path("d/link"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(path("d/e/moved")).unwrap().mode() & 0o777, 0o640);
    let stamp = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5000);
    file.set_modified(stamp).unwrap();
    assert_eq!(fs::metadata(path("d/link")).unwrap().modified().unwrap(), stamp);

    (0..300).for_each(|n| fs::write(path(&format!("d/e/f/{n:03}")), format!("{n}")).unwrap());
    let mut names: Vec<_> =
        fs::read_dir(path("d/e/f")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!((names.len(), names[299].to_str()), (300, Some("299")));
    assert_eq!(fs::copy(path("d/link"), path("copy")).unwrap(), 6);
    fs::remove_dir_all(path("d")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0, "an open file outlives its names");
    std::env::set_current_dir(&dir).unwrap();
    assert_eq!(fs::read("copy").unwrap(), b"012ab+");
    assert!(std::env::current_dir().unwrap().is_absolute());
    fs::remove_file("copy").unwrap();
    assert_eq!(fs::read_dir(".").unwrap().count(), 0);
    println!("files: fine");
}
