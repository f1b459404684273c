//! `Space::check` in a VM: what programs have made is clean, damage that somebody does to a segment's file is named by the way to
//! it, and whatever bytes change, a check ends, and what it finds clean can be read.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn spacejmp(store: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").env("SPACEJMP_STORE", store).args(arguments);
    command.output().expect("it starts")
}

/// Runs the program in a VM; what it has printed, and its status.
fn sdk_checked(store: &Path, arguments: &[&str]) -> (String, Option<i32>) {
    let program = guests::program("guests", "sdk_checked", Profile::Dev);
    let limit = pace::limit(Duration::from_secs(300)).as_secs().to_string();
    let program = program.to_str().expect("ASCII");
    let output = spacejmp(store, &[&["run", "--timeout", &limit, program], arguments].concat());
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (said.into_owned(), output.status.code())
}

#[test]
fn damage_in_a_segments_file_is_named_by_the_way_to_it() {
    skip_without_kvm!();
    let store = tempfile::tempdir().expect("a folder");
    let (said, status) = sdk_checked(store.path(), &["fill"]);
    assert!(status == Some(0) && said.starts_with("clean: "), "{said}");
    assert!(said.contains("1 VBTreeMap") && said.contains("3 VRc"), "{said}");
    assert!(!said.contains("nobody"), "{said}");

    // One tag of one user, whichever comes first in the file.
    let path = store.path().join("segments/checked");
    let tag = b"tag-of-its-own";
    let content = fs::read(&path).expect("the segment's file");
    let place = content.windows(tag.len()).position(|bytes| bytes == tag).expect("the tag");
    let file = fs::File::options().write(true).open(&path).expect("the segment's file");
    file.write_all_at(&[0xff], place as u64 + 3).expect("written");
    let (said, status) = sdk_checked(store.path(), &["check"]);
    assert_eq!(status, Some(3), "{said}");
    let line = said.lines().next().unwrap_or_default();
    let (start, end) = ("root.users[\"", "\"].tags[1]: not UTF-8 from byte 3 on");
    assert!(line.starts_with(start) && line.ends_with(end), "{said}");

    // The command sees blocks, which are as they were, and says who sees more.
    let output = spacejmp(store.path(), &["seg", "check", "checked"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("`Space::check`"), "{said}");
    file.write_all_at(&tag[3..4], place as u64 + 3).expect("written");
    let (said, status) = sdk_checked(store.path(), &["check"]);
    assert!(status == Some(0) && said.starts_with("clean: "), "{said}");
}

#[test]
fn whatever_bytes_change_a_check_ends_and_what_is_clean_can_be_read() {
    skip_without_kvm!();
    let store = tempfile::tempdir().expect("a folder");
    let (said, status) = sdk_checked(store.path(), &["fill"]);
    assert_eq!(status, Some(0), "{said}");
    let rounds = pace::times(500).max(100).to_string();
    let (said, status) = sdk_checked(store.path(), &["flips", "20260", &rounds]);
    assert_eq!(status, Some(0), "{said}");
    let numbers: Vec<u32> = said
        .lines()
        .next()
        .unwrap_or_default()
        .split([' ', ','])
        .filter_map(|word| word.parse().ok())
        .collect();
    let [clean, damaged, of_heap] = numbers[..] else { panic!("{said}") };
    assert!(clean > 0 && damaged > of_heap && of_heap > 0, "{said}");
}
