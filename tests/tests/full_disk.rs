//! A store on a disk that fills up: a heap that grows returns an error instead of its program
//! getting SIGBUS.

use std::process::{Command, Output};

use tests::guests::{self, Profile};
use tests::{skip_without_kvm, small_disk};

/// Runs a program with its store on a file system of 12 MiB. Where none can be mounted, returns
/// `None` and reports that.
fn on_a_small_disk(test: &str, program: &std::path::Path, args: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut run = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    run.args(["run", "--timeout", "100", "--store"]).arg(folder.path().join("store"));
    run.arg(program).args(args);
    small_disk::run(test, folder.path(), &run)
}

#[test]
fn a_heap_on_a_full_disk_gives_no_memory_instead_of_a_bus_error() {
    skip_without_kvm!();
    let test = "a_heap_on_a_full_disk_gives_no_memory_instead_of_a_bus_error";
    for step in ["1024", "60", "1"] {
        let program = guests::c_linked("full_disk");
        let Some(output) = on_a_small_disk(test, &program, &[step]) else { return };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{step} KiB: {output:?}");
        let kib: Option<u64> = said.split_whitespace().nth(2).and_then(|kib| kib.parse().ok());
        assert!(said.ends_with("No space left on device\n"), "{step} KiB: {said}");
        assert!(kib.is_some_and(|kib| (7000..12_288).contains(&kib)), "{step} KiB: {said}");
    }
}
