//! Readers where nothing can be written: a full disk, a file system or a mount that is read-only. They have no lease that
//! others could find, and nobody changes what they see all the same.

use std::path::Path;
use std::process::{Command, Output};

use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use tests::small_disk::Disk;

use crate::world::{Talker, Vm, World};

const PROGRAM: &str = "vas_versions";

/// A store on a small disk, with a bank, and what is run on it.
struct Place {
    world: World,
    disk: Disk,
}

impl Place {
    fn new(test: &str, mib: u32) -> Option<Place> {
        let world = World::new();
        let folder = world.path();
        let disk = Disk::mount(&format!("unwritable::{test}"), folder.parent()?, mib)?;
        let place = Place { world, disk };
        place.good(&["bank", "make"]);
        Some(place)
    }

    /// The command that runs a program in a VM, with a store that is on the disk.
    fn run(&self, store: &Path, options: &[&str], program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.args(["run", "--timeout", "300", "--store"]).arg(store).args(options);
        command.arg(program).args(args);
        self.disk.within(&command)
    }

    fn command(&self, args: &[&str]) -> Command {
        self.run(&self.world.path(), &[], &guests::rust(PROGRAM), args)
    }

    /// The output of a run that must end well, of a program of the Rust SDK's.
    #[track_caller]
    fn sdk(&self, options: &[&str], args: &[&str]) -> String {
        let program = guests::program("bank", "bank", Profile::Dev);
        let command = self.run(&self.world.path(), options, &program, args);
        Vm::start(command, &format!("the example bank, {args:?}")).ends_well()
    }

    /// The same of one in C.
    #[track_caller]
    fn c(&self, args: &[&str]) -> String {
        let command = self.run(&self.world.path(), &[], &guests::c_linked("figure4"), args);
        Vm::start(command, &format!("figure4 {args:?}")).ends_well()
    }

    /// Changes, by all kinds of programs.
    #[track_caller]
    fn is_used(&self) {
        self.good(&["bank", "move", "1", "20", "1"]);
        self.sdk(&[], &["open", "3", "100", "--vas", "money"]);
        self.sdk(&[], &["move", "5", "--vas", "money"]);
        self.c(&["create"]);
        self.says(&["seg", "convert", "s0", "--to", "versioned"]);
        self.c(&["store", "hello"]);
    }

    fn spawn(&self, args: &[&str]) -> Vm {
        Vm::start(self.command(args), &format!("{args:?}"))
    }

    #[track_caller]
    fn good(&self, args: &[&str]) -> String {
        self.spawn(args).ends_well()
    }

    /// Runs the command on this store.
    fn tell(&self, args: &[&str]) -> Output {
        self.disk.within(&self.world.command_of(args)).output().expect("the command starts")
    }

    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        let output = self.tell(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The error of a command that must fail, with its message.
    #[track_caller]
    fn refuses(&self, args: &[&str]) -> String {
        let output = self.tell(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What reads, on the command line and in VMs.
    #[track_caller]
    fn is_read(&self) {
        assert_eq!(self.good(&["bank", "sums", "3"]), "states 1\n");
        let sum = self.sdk(&["--vas", "money:ro"], &["sum", "2", "--vas", "money"]);
        assert!(sum.contains("300"), "{sum}");
        let shown = self.c(&["show"]);
        assert!(shown.ends_with(": hello\n"), "{shown}");
        for args in [
            &["vas", "ls"][..],
            &["vas", "show", "bank"],
            &["vas", "log", "bank"],
            &["seg", "ls"],
            &["seg", "show", "bank"],
            &["seg", "log", "bank"],
            &["seg", "check", "bank"],
            &["store", "info"],
            &["store", "check"],
        ] {
            self.says(args);
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        let archive = folder.path().join("archive");
        self.says(&["vas", "export", "bank", archive.to_str().expect("text")]);
        // Elsewhere it is what it was.
        let other = World::new();
        other.says(&["vas", "import", archive.to_str().expect("text")]);
        assert_eq!(other.good(PROGRAM, &["bank", "sums", "1"]), "states 1\n");
    }

    /// A program that would write is told why it cannot.
    #[track_caller]
    fn refuses_writers(&self, errno: &str) {
        let mut writer = self.spawn(&["bank", "move", "1", "1", "1"]);
        assert_ne!(writer.end(), 0);
        assert!(writer.err().contains(errno), "{}", writer.err());
    }
}

#[test]
fn a_store_on_a_read_only_file_system_is_read() {
    skip_without_kvm!();
    let Some(place) = Place::new("a_store_on_a_read_only_file_system_is_read", 64) else { return };
    place.is_used();
    place.disk.make_read_only();
    place.is_read();
    place.refuses_writers("EROFS");
}

#[test]
fn a_store_on_a_full_disk_is_read_and_written_again_when_there_is_space() {
    skip_without_kvm!();
    let test = "a_store_on_a_full_disk_is_read_and_written_again_when_there_is_space";
    let Some(place) = Place::new(test, 64) else { return };
    place.is_used();
    place.disk.fill();
    place.is_read();
    place.refuses_writers("ENOSPC");
    let mut reader = place.spawn(&["bank", "watch", "20"]);
    place.disk.empty();
    place.good(&["bank", "move", "1", "200", "2"]);
    assert_eq!(reader.ends_well(), "states 20\n");
    place.good(&["bank", "sums", "1"]);
}

/// A lease needs 128 KiB at first, and more for what it comes to say.
#[test]
fn a_store_is_read_however_little_space_is_left() {
    skip_without_kvm!();
    let test = "a_store_is_read_however_little_space_is_left";
    let Some(place) = Place::new(test, 64) else { return };
    place.disk.fill();
    for left in (0..=152).step_by(4) {
        if left > 0 {
            place.disk.give_back(4);
        }
        // Two of these are about the lease itself, the others about what it is to say.
        if !(8..120).contains(&left) {
            assert_eq!(place.good(&["bank", "sums", "1"]), "states 1\n", "{left} KiB are left");
        }
    }
}

/// Logs of 76 MiB: whoever is alone with the segment writes what they have over the file that the reader looks at.
#[test]
fn what_a_reader_without_a_lease_sees_stays_and_what_it_has_is_not_taken_away() {
    skip_without_kvm!();
    let test = "what_a_reader_without_a_lease_sees_stays_and_what_it_has_is_not_taken_away";
    let Some(place) = Place::new(test, 400) else { return };
    place.good(&["bank", "long", "150"]);
    place.disk.fill();
    let mut reader = Talker::start(place.command(&["bank", "stay"]), "a reader");
    assert_eq!(reader.ask("look").as_deref(), Ok("first 1000"));
    place.disk.empty();
    place.good(&["bank", "move", "1", "60", "3"]);
    place.good(&["bank", "long", "150"]);
    // What cannot be done while a program reads, and says which file tells who that is.
    for args in [
        &["vas", "rm", "bank"][..],
        &["seg", "rm", "bank"],
        &["vas", "detach", "bank", "bank"],
        &["seg", "convert", "bank", "--to", "persistent"],
    ] {
        let said = place.refuses(args);
        assert!(said.contains("is busy") && said.contains("fuser"), "{args:?}: {said}");
    }
    // What can be done beside any reader.
    let log = place.says(&["seg", "log", "bank", "--json"]);
    let log: serde_json::Value = serde_json::from_str(&log).expect("JSON");
    let earlier = log["versions"][1]["number"].to_string();
    place.says(&["seg", "rollback", "bank", &earlier]);
    place.good(&["bank", "move", "1", "20", "5"]);
    assert_eq!(reader.ask("look").as_deref(), Ok("first 1000"));
    assert_eq!(reader.rest().expect("it ends well"), ["all {1000}", "done"]);
    // It has ended, and the host has released what it had.
    place.says(&["seg", "convert", "bank", "--to", "persistent"]);
    place.says(&["vas", "detach", "bank", "bank"]);
    place.says(&["seg", "rm", "bank"]);
    place.says(&["vas", "rm", "bank"]);
}

#[test]
fn a_reader_through_a_read_only_mount_sees_what_others_commit_and_its_death_releases_all() {
    skip_without_kvm!();
    let test =
        "a_reader_through_a_read_only_mount_sees_what_others_commit_and_its_death_releases_all";
    let Some(place) = Place::new(test, 400) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    place.good(&["bank", "long", "150"]);
    place.disk.show_read_only(&place.world.path(), elsewhere.path());
    let through = |args: &[&str]| place.run(elsewhere.path(), &[], &guests::rust(PROGRAM), args);
    let mut stays = Talker::start(through(&["bank", "stay"]), "a reader");
    let mut watches = Vm::start(through(&["bank", "watch", "10"]), "one that watches");
    place.good(&["bank", "move", "1", "100", "4"]);
    place.good(&["bank", "long", "150"]);
    assert_eq!(watches.ends_well(), "states 10\n");
    assert!(place.refuses(&["vas", "rm", "bank"]).contains("is busy"));
    assert_eq!(stays.ask("look").as_deref(), Ok("first 1000"));
    stays.kill();
    place.says(&["vas", "detach", "bank", "bank"]);
    place.says(&["vas", "rm", "bank"]);
    place.says(&["seg", "rm", "bank"]);
}
