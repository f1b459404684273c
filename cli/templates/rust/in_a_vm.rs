//! The program as its users run it.
//!
//! The test in a VM needs /dev/kvm and `spacejmp`, in PATH or where SPACEJMP says. Without them it
//! tests nothing, and says so.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_{{name}}");

#[test]
fn outside_a_vm_it_says_how_to_run_it() {
    let output = Command::new(PROGRAM).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("spacejmp run"), "{output:?}");
}

#[test]
fn numbers_stay() {
    let spacejmp = std::env::var("SPACEJMP").unwrap_or_else(|_| "spacejmp".into());
    let found = Command::new(&spacejmp).arg("version").output().is_ok();
    if !found || fs::File::open("/dev/kvm").is_err() {
        // Past the capture of `eprintln`: a test that did not run must be seen.
        let reason =
            if found { "cannot open /dev/kvm" } else { "cannot find spacejmp; set SPACEJMP" };
        writeln!(std::io::stderr(), "SKIPPED numbers_stay: {reason}").unwrap();
        return;
    }
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("store");
    if store.exists() {
        fs::remove_dir_all(&store).unwrap();
    }
    let run = |args: &[&str]| {
        let mut command = Command::new(&spacejmp);
        command.args(["run", "--timeout", "60", "--store"]).arg(&store).arg(PROGRAM).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["3", "4", "5"]), "run 1: 3 numbers, sum 12\n");
    assert_eq!(run(&["6"]), "run 2: 4 numbers, sum 18\n");
}
