//! A program that was built once (`tests/golden/kept.c`) and is run ever after: numbers, structures and meanings of the
//! calls stay what they were.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

#[test]
fn a_program_of_the_first_abi_runs_and_finds_what_it_has_stored() {
    skip_without_kvm!();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/kept");
    let folder = tempfile::tempdir().expect("a folder");
    for times in ["1", "2", "3"] {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
        command.env_remove("SPACEJMP_LOG").args(["run", "--timeout", &limit, "--store"]);
        let output = command.arg(folder.path().join("store")).arg(&kept).output();
        let output = output.expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("raw {times}\nversioned {times}\nat the tag 1\n"),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(0), "{said}");
    }
}
