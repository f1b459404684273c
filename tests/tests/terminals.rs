//! Pseudo-terminals, natively and in VMs: both ends, the line discipline, controlling terminals and their
//! signals. A terminal of others is not there.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn in_vm(options: &[&str], words: &[&str]) -> Output {
    let program = guests::c("terminals");
    let folder = program.parent().expect("a guest is in a folder");
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--timeout", &limit]);
    command.arg("--dir").arg(folder).args(options).arg(&program).args(words);
    command.stdin(Stdio::null()).output().expect("it starts")
}

#[test]
fn a_terminal_does_at_both_ends_and_to_its_session_what_it_does_natively() {
    skip_without_kvm!();
    let mut native = Command::new(guests::c("terminals"));
    let native = native.stdin(Stdio::null()).output().expect("it starts");
    let here = in_vm(&[], &[]);
    assert_eq!(
        (text(&here.stdout), here.status.code()),
        (text(&native.stdout), Some(0)),
        "{}",
        text(&here.stderr)
    );
    // The last line: it has done all.
    assert!(text(&here.stdout).ends_with("done\n"), "{}", text(&here.stdout));
}

#[test]
fn a_terminal_that_the_program_does_not_have_open_is_not_there() {
    skip_without_kvm!();
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).expect("it is ours");
    unlockpt(&master).expect("it is ours");
    let name = ptsname(&master, Vec::new()).expect("it has a name");
    let name = name.to_str().expect("it is ASCII");
    assert!(Path::new(name).exists(), "the host has it");
    for options in [&[][..], &["--root", "/"]] {
        let here = in_vm(options, &["foreign", name]);
        assert_eq!(
            text(&here.stdout),
            "open(name, O_RDWR | O_NOCTTY): ENOENT\nopen(name, O_PATH): ENOENT\n\
             stat(name, &stat_of): ENOENT\naccess(name, F_OK): ENOENT\nlisted: 0\n",
            "{}",
            text(&here.stderr)
        );
    }
}
