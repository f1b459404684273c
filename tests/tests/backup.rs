//! The book's page on backup and recovery: its commands are run, in their order, and print what it says.

use std::time::Duration;

use tests::guests::{self, Profile};
use tests::pages::{self, Step};
use tests::skip_without_kvm;

const PAGE: &str = include_str!("../../docs/src/backup.md");

#[test]
fn what_the_page_on_backup_and_recovery_says_can_be_done_as_it_says() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let mut path = spacejmp.parent().expect("cargo's folder").as_os_str().to_owned();
    path.push(":/usr/bin:/bin");
    guests::copy_program(guests::program("kv", "kv", Profile::Dev), folder.path().join("kv"));
    let mut commands = Vec::new();
    for step in pages::steps(PAGE) {
        let Step::Run(command, expected) = step else { panic!("it has commands only: {step:?}") };
        let mut shell = pages::shell(folder.path(), command, Duration::from_secs(120));
        shell.env("PATH", &path).env("SPACEJMP_STORE", folder.path().join("store"));
        pages::run(shell, command, &expected);
        commands.push(command);
    }
    assert!(commands.len() > 20, "the page has lost its commands");
    // Each kind of loss that the page speaks of was tried.
    for what in ["vas rollback", "vas import", "rm -r \"$SPACEJMP_STORE\"", "cp -a", "store check"]
    {
        assert!(commands.iter().any(|command| command.contains(what)), "{what}");
    }
}
