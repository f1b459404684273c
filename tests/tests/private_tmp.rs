//! `/tmp` of `--root`: as a directory natively, the same one for all processes of the run, nobody else's,
//! with a limit, and gone with the run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

/// A tree with one program and a `/tmp` of its own, which programs do not see.
struct Tree {
    dir: TempDir,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Tree {
    fn new() -> Tree {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("tmp")).expect("a folder");
        std::fs::write(dir.path().join("tmp/hidden"), "").expect("a file");
        guests::copy_program(guests::c("private_tmp"), dir.path().join("program"));
        Tree { dir }
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Output {
        let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--timeout", &limit]);
        command.arg("--root").arg(self.dir.path()).args(options).arg("/program").args(words);
        command.stdin(Stdio::null()).output().expect("it starts")
    }

    #[track_caller]
    fn says(&self, options: &[&str], words: &[&str], expected: &str) {
        let output = self.run(options, words);
        let complaint = text(&output.stderr);
        assert_eq!(
            (text(&output.stdout).as_str(), output.status.code()),
            (expected, Some(0)),
            "{complaint}"
        );
    }

    /// What it says natively, in a folder of its own.
    fn native(&self, mode: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(self.dir.path().join("program"));
        command.arg(mode).arg(folder.path()).stdin(Stdio::null());
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    }
}

#[test]
fn directories_links_and_nameless_files_are_as_natively() {
    skip_without_kvm!();
    let tree = Tree::new();
    let native = tree.native("calls");
    for said in ["ENOTEMPTY", "EEXIST", "nameless: 1, wrote 5", "NAMED!", "its own name: 1"] {
        assert!(native.contains(said), "no {said} in\n{native}");
    }
    tree.says(&[], &["calls", "/tmp"], &native);
    assert_eq!(files(&tree.dir.path().join("tmp")), ["hidden"]);
}

#[test]
fn programs_of_a_run_hand_files_over_to_each_other() {
    skip_without_kvm!();
    let tree = Tree::new();
    let native = tree.native("share");
    assert!(native.contains("from the child"), "{native}");
    tree.says(&[], &["share", "/tmp"], &native);
    // The next run has its own.
    tree.says(&[], &["list", "/tmp"], "in .\n");
}

#[test]
fn it_has_room_for_half_as_much_as_the_memory_limit() {
    skip_without_kvm!();
    let tree = Tree::new();
    let full = "statfs(\".\", &fs): 0\n32 MiB in all\n32 written, then ENOSPC\n\
                ftruncate(fd, 0): 0\nwrite(fd, block, 4096): 4096\n";
    tree.says(&["--memory", "64M"], &["fill", "/tmp"], full);
}

#[test]
fn what_is_granted_there_or_below_is_the_hosts() {
    skip_without_kvm!();
    let tree = Tree::new();
    let granted = tempfile::tempdir().expect("a folder");
    std::fs::write(granted.path().join("file"), "").expect("a file");
    let grant = |at: &str| format!("{}:{at}", granted.path().display());
    tree.says(&["--dir", &grant("/tmp")], &["list", "/tmp"], "file/8 in .\n");
    let below = grant("/tmp/x/y");
    tree.says(&["--dir", &below], &["list", "/tmp"], "x/4 in .\n");
    tree.says(&["--dir", &below], &["list", "/tmp/x"], "y/4 in .\n");
    tree.says(&["--dir", &below], &["list", "/tmp/x/y"], "file/8 in .\n");
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("it is there").flatten();
    entries
        .map(|entry: std::fs::DirEntry| PathBuf::from(entry.file_name()).display().to_string())
        .collect()
}
