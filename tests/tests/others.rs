//! What a program sees in `/proc` of the other processes of its run, and the files that all of them may have
//! open together.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `spacejmp run` with these options, of the guest or another program.
fn run(options: &[&str], program: &str, words: &[&str]) -> Output {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    command.env_remove("SPACEJMP_LOG").stdin(Stdio::null());
    command.args(["run", "--no-store", "--timeout", &limit]).args(options);
    command.arg("--").arg(program).args(words).output().expect("it starts")
}

fn guest() -> (String, String) {
    let program = guests::c("others");
    let folder = program.parent().expect("a guest is in a folder");
    let name = |path: &std::path::Path| path.to_str().expect("paths of tests are UTF-8").to_owned();
    (name(&program), name(folder))
}

#[test]
fn a_process_of_the_run_is_shown_as_natively_whatever_it_does() {
    skip_without_kvm!();
    let (program, folder) = guest();
    let native = Command::new(&program).arg("proc").output().expect("it starts");
    let here = run(&["--dir", &folder], &program, &["proc"]);
    assert_eq!(
        (text(&here.stdout), here.status.code()),
        (text(&native.stdout), Some(0)),
        "{}",
        text(&here.stderr)
    );
    assert!(text(&here.stdout).contains("state T") && text(&here.stdout).contains("state Z"));
}

#[test]
fn the_threads_and_descriptors_of_a_process_of_the_run_are_shown_as_natively() {
    skip_without_kvm!();
    let (program, folder) = guest();
    let native = Command::new(&program).arg("threads").stdin(Stdio::null()).output();
    let native = native.expect("it starts");
    let here = run(&["--dir", &folder], &program, &["threads"]);
    assert_eq!(
        (text(&here.stdout), here.status.code()),
        (text(&native.stdout), Some(0)),
        "{}",
        text(&here.stderr)
    );
    assert!(text(&here.stdout).contains("threads 3, the first 1"));
}

#[test]
fn descriptors_of_processes_are_told_of_their_end_and_send_signals() {
    skip_without_kvm!();
    let (program, _) = guest();
    let native = Command::new(&program).arg("descriptors").output().expect("it starts");
    let here = run(&[], &program, &["descriptors"]);
    let sorted = |output: &Output| {
        // The two processes print beside each other.
        let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&here), sorted(&native), "{}", text(&here.stderr));
    assert_eq!((here.status.code(), native.status.code()), (Some(0), Some(0)));
}

#[test]
fn processes_of_the_host_are_not_there_and_those_of_the_run_keep_what_is_theirs() {
    skip_without_kvm!();
    let (program, folder) = guest();
    let here = run(&["--root", "/", "--dir", &folder], &program, &["list"]);
    assert_eq!(
        text(&here.stdout),
        "listed 4, of the run 4\ncomm: ENOENT\ncomm: ENOENT\naccess(\"/proc/1\", F_OK): ENOENT\n\
         auxv: EACCES\nenviron: EACCES\nfd/0: EACCES\nfdinfo: EACCES\nmaps: EACCES\n\
         smaps: EACCES\n(comm = open(name, O_WRONLY)) >= 0: 1\nwrite(comm, \"x\", 1): EINVAL\n",
        "{}",
        text(&here.stderr)
    );
}

#[test]
fn open_files_count_together_and_are_free_when_their_process_has_ended() {
    skip_without_kvm!();
    let (program, _) = guest();
    let here = run(&["--open-files", "40"], &program, &["files"]);
    let said = text(&here.stdout);
    let counts: Vec<u32> =
        said.lines().filter_map(|line| line.strip_suffix(": ENFILE")?.parse().ok()).collect();
    let [child, parent, again] = counts[..] else {
        panic!("{said}{}", text(&here.stderr));
    };
    // All but the four that each of the two has, and perhaps an end that the parent is about to close.
    assert!((31..=32).contains(&child) && parent == 0, "{said}");
    // All but its own three.
    assert_eq!(again, 37, "{said}");
    let rest = "fork(): EAGAIN\n";
    assert!(said.contains(rest), "{said}");
    assert!(
        said.ends_with(
            "more than before: 1\ndup2(0, 2000 < sysconf(_SC_OPEN_MAX) ? 2000 : 900): ENFILE\n\
             dup2(1, 2): 2\ndup(0) == 5: 1\n"
        ),
        "{said}"
    );
    assert!(text(&here.stderr).contains("--open-files"), "{}", text(&here.stderr));
    let wrong = run(&["--open-files", "0"], &program, &["files"]);
    assert_eq!(wrong.status.code(), Some(125), "{}", text(&wrong.stderr));
}

#[test]
fn ps_and_pgrep_show_the_processes_of_the_run() {
    skip_without_kvm!();
    for program in ["/usr/bin/ps", "/usr/bin/pgrep"] {
        if !std::path::Path::new(program).exists() {
            let reason = format!("{program} (procps) is not installed");
            tests::kvm::other_kind_of_host("others: ps and pgrep", &reason);
            return;
        }
    }
    let script = "sleep 50 & until pgrep -x sleep > /dev/null; do :; done; cd /dev
        ps -A -o comm= > /tmp/list; sort /tmp/list; test \"$(pgrep -x sleep)\" = $! && echo the same number
        ps aux | grep -c ' sleep 50$'; ps -o state=,args= -p $!; kill %1; wait";
    let here = run(&["--root", "/", "--env", "PATH"], "/bin/bash", &["-c", script]);
    assert_eq!(
        text(&here.stdout),
        "bash\nps\nsleep\nthe same number\n1\nS sleep 50\n",
        "{}",
        text(&here.stderr)
    );
}
