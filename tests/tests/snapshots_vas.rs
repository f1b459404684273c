//! A process with address spaces attached is snapshotted: each copy has them under its handles, as far as it is granted.

use std::ops::Deref;
use std::path::Path;

use tempfile::TempDir;
use tests::commands::{Commands, Running};
use tests::{guests, skip_without_kvm};
use vmm::control::Vm;
use vmm::store::{Name, Store};

/// A store with the VAS `books`, in it the versioned segment `ledger`, and `notes` with the raw one `page`.
struct World {
    folder: TempDir,
    commands: Commands,
}

impl Deref for World {
    type Target = Commands;

    fn deref(&self) -> &Commands {
        &self.commands
    }
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let commands = Commands::on(folder.path().join("store"));
        let world = World { folder, commands };
        for line in [
            "seg create ledger --size 1M --lifetime versioned",
            "vas create books",
            "vas attach books ledger",
            "seg create page --size 1M --lifetime persistent",
            "vas create notes",
            "vas attach notes page",
        ] {
            world.text(&line.split(' ').collect::<Vec<_>>());
        }
        world
    }

    /// A program with these options and arguments, once it is ready.
    #[track_caller]
    fn program(&self, options: &[&str], program: &Path, arguments: &[&str]) -> Running {
        let program = program.to_str().expect("a path");
        self.run_until_ready(&[options, &[program], arguments].concat())
    }

    /// The names of all VASes.
    fn vases(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.store().join("vas")).expect("a folder");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.expect("an entry").file_name().into_string().expect("text")
        };
        let mut names: Vec<String> = all.map(name).collect();
        names.sort();
        names
    }
}

#[test]
fn a_copy_has_the_address_spaces_under_its_handles_with_what_is_in_them_by_then() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.program(&[], &guests::c("snapshotted_vas"), &["books", "notes"]);
    assert_eq!(first.tell("add 0 5"), "is 5");
    assert_eq!(first.tell("add 1 3"), "is 3");
    let said = world.text(&["snapshot", &first.pid(), "warm"]);
    assert!(said.contains("address spaces  books, notes"), "{said}");
    assert_eq!(first.tell("add 0 1"), "is 6", "the program goes on with them");
    let mut copies = [(); 2].map(|()| world.run(&["--from", "warm"]));
    for copy in &mut copies {
        assert_eq!(copy.tell("where 0"), "at home");
        assert_eq!(copy.tell("get 0"), "is 6", "what was committed since");
        assert_eq!(copy.tell("get 1"), "is 3");
    }
    // Each writes, one after the other, and all see it.
    assert_eq!(copies[0].tell("add 0 10"), "is 16");
    assert_eq!(copies[1].tell("add 0 100"), "is 116");
    assert_eq!(copies[1].tell("add 1 4"), "is 7");
    assert_eq!(first.tell("get 0"), "is 116");
    assert_eq!(copies[0].tell("get 1"), "is 7");
    let mut next: Vec<String> = copies.iter_mut().map(|it| it.tell("attach 0")).collect();
    next.push(first.tell("attach 0"));
    assert_eq!(next, ["handle 5"; 3], "the next free one");
    first.end();
    copies.into_iter().for_each(Running::end);
    // Nobody is there any more.
    assert_eq!(world.run(&["--from", "warm"]).tell("get 0"), "is 116");
    assert!(world.text(&["store", "check"]).contains("all can be used"));
}

#[test]
fn a_space_of_the_safe_api_goes_on_in_copies() {
    skip_without_kvm!();
    let world = World::new();
    let mut first = world.program(&[], &guests::rust("snapshotted_space"), &["numbers"]);
    for number in 0..100 {
        assert_eq!(first.tell(&format!("add {number}")), "added");
    }
    world.text(&["snapshot", &first.pid(), "warm"]);
    assert_eq!(first.tell("add 100"), "added");
    let mut copies = [(); 2].map(|()| world.run(&["--from", "warm"]));
    for (number, copy) in copies.iter_mut().enumerate() {
        assert_eq!(copy.tell(&format!("add {}", 200 + number)), "added");
    }
    for vm in copies.iter_mut().chain([&mut first]) {
        assert_eq!(vm.tell("count"), "103 are right");
    }
    first.end();
    copies.into_iter().for_each(Running::end);
}

#[test]
fn what_the_program_had_attached_has_to_be_granted_as_it_was_and_no_more_is_attached() {
    skip_without_kvm!();
    let world = World::new();
    let grants = ["--vas", "books", "--vas", "notes:ro"];
    let mut first = world.program(&grants, &guests::c("snapshotted_vas"), &["books", "notes?"]);
    assert_eq!(first.tell("add 0 1"), "is 1");
    world.text(&["snapshot", &first.pid(), "warm"]);
    first.end();
    for (given, missing) in [
        (&["--vas", "books"][..], "notes"),
        (&["--vas", "notes"], "books"),
        (&["--vas", "books:ro", "--vas", "notes"], "books"),
    ] {
        let error = world.error(125, &[&["run", "--from", "warm"], given].concat());
        let expected = format!("cannot attach VAS '{missing}' again");
        assert!(error.contains(&expected), "{given:?}: {error}");
        assert!(error.contains(&format!("--vas {missing}")), "{given:?}: {error}");
    }
    let mut copy = world.run(&[&["--from", "warm"], &grants[..]].concat());
    assert_eq!(copy.tell("add 0 1"), "is 2");
    assert_eq!(copy.tell("get 1"), "is 0");
    copy.end();
    let error = world.error(125, &["run", "--no-store", "--from", "warm"]);
    assert!(error.contains("--no-store") || error.contains("another store"), "{error}");
}

#[test]
fn an_address_space_that_was_deleted_is_an_error_also_when_another_one_has_its_name() {
    skip_without_kvm!();
    let world = World::new();
    let first = world.program(&[], &guests::c("snapshotted_vas"), &["books"]);
    world.text(&["snapshot", &first.pid(), "warm"]);
    first.end();
    world.text(&["vas", "rm", "books"]);
    let error = world.error(125, &["run", "--from", "warm"]);
    assert!(error.contains("VAS 'books'") && error.contains("was deleted"), "{error}");
    assert!(!error.contains("another one"), "{error}");
    world.text(&["vas", "create", "books"]);
    world.text(&["vas", "attach", "books", "ledger"]);
    let error = world.error(125, &["run", "--from", "warm"]);
    assert!(error.contains("was deleted, and the one of that name is another one"), "{error}");
    // Nothing is left of those that did not begin.
    world.text(&["vas", "rm", "books"]);
    world.text(&["seg", "rm", "ledger"]);
}

#[test]
fn a_program_in_a_store_of_its_own_and_one_that_writes_or_has_a_raw_lock_are_refused() {
    skip_without_kvm!();
    let world = World::new();
    let mut vm = world.program(&[], &guests::c("snapshotted_vas"), &["books", "notes"]);
    let refused = |vm: &Running, why: &str| {
        let error = world.error(125, &["snapshot", &vm.pid(), "refused"]);
        assert!(error.contains(why), "{error}");
    };
    assert_eq!(vm.tell("write 0"), "in 0");
    assert_eq!(vm.tell("set 0 7"), "set 7");
    refused(&vm, "inside address space 'books' to write");
    assert_eq!(vm.tell("nest-home"), "in 0");
    assert_eq!(vm.tell("where"), "at home");
    refused(&vm, "for a nested visit");
    assert_eq!(vm.tell("return 1"), "back in 0");
    assert_eq!(vm.tell("out"), "out 0");
    assert_eq!(vm.tell("in 1"), "in 0");
    refused(&vm, "inside address space 'notes', not all of which has versions");
    assert_eq!(vm.tell("out"), "out 0");
    world.text(&["snapshot", &vm.pid(), "warm"]);
    assert_eq!(vm.tell("get 0"), "is 7", "it was not disturbed");
    vm.end();
    let own = world.program(&["--no-store"], &guests::rust("snapshotted_space"), &["numbers"]);
    refused(&own, "in a store that ends with it (--no-store)");
    own.end();
    // Nor is one kept in another store.
    let vm = world.program(&[], &guests::c("snapshotted_vas"), &["books"]);
    let other = world.folder.path().join("other");
    let other = other.to_str().expect("a path");
    let error = world.error(125, &["snapshot", "--store", other, &vm.pid(), "elsewhere"]);
    assert!(error.contains("in another store"), "{error}");
    vm.end();
}

#[test]
fn a_thread_that_reads_inside_comes_back_at_the_version_that_it_saw_whatever_came_since() {
    skip_without_kvm!();
    let world = World::new();
    let program = guests::c("snapshotted_vas");
    let mut writer = world.program(&[], &program, &["books"]);
    assert_eq!(writer.tell("write 0"), "in 0");
    assert_eq!(writer.tell("set-root 0 41"), "root 0");
    assert_eq!(writer.tell("set 0 5"), "set 5");
    assert_eq!(writer.tell("out"), "out 0");
    let grants = ["--vas", "books"];
    let mut first = world.program(&grants, &program, &["books"]);
    assert_eq!(first.tell("in 0"), "in 0");
    assert_eq!(first.tell("look 0"), "sees 5");
    // Not the newest any more.
    assert_eq!(writer.tell("write 0"), "in 0");
    assert_eq!(writer.tell("set-root 0 42"), "root 0");
    assert_eq!(writer.tell("set 0 6"), "set 6");
    assert_eq!(writer.tell("out"), "out 0");
    let said = world.json(&["snapshot", &first.pid(), "warm", "--json"]);
    let kept = said["versions"][0].as_str().expect("a name").to_owned();
    assert!(kept.starts_with("books@@snapshot-"), "{said}");
    assert_eq!(world.vases(), ["books", kept.as_str(), "notes"]);
    assert_eq!(writer.tell("add 0 1"), "is 7");
    let mut copies = [(); 2].map(|()| world.run(&[&["--from", "warm"], &grants[..]].concat()));
    for vm in copies.iter_mut().chain([&mut first]) {
        assert_eq!(vm.tell("where 0"), "reading");
        assert_eq!(vm.tell("look 0"), "sees 5");
        assert_eq!(vm.tell("root 0"), "root 41");
        assert_eq!(vm.tell("in 0"), "in 0", "where it is already");
        assert_eq!(vm.tell("look 0"), "sees 5");
        assert_eq!(vm.tell("detach 0"), "detached EBUSY");
        assert_eq!(vm.tell("write 0"), "in EBUSY", "it has read an old version");
        assert_eq!(vm.tell("look 0"), "sees 5");
        assert_eq!(vm.tell("nest-home"), "in 0");
        assert_eq!(vm.tell("where 0"), "at home");
        assert_eq!(vm.tell("return 0"), "back in 1");
        assert_eq!(vm.tell("where 0"), "reading");
        assert_eq!(vm.tell("look 0"), "sees 5");
    }
    // A copy that is still inside is snapshotted itself, and has the same version.
    let again = world.json(&["snapshot", &copies[0].pid(), "again", "--json"]);
    assert_eq!(again["versions"][0], kept.as_str());
    for (vm, sum) in copies.iter_mut().chain([&mut first]).zip(["is 17", "is 27", "is 37"]) {
        assert_eq!(vm.tell("out"), "out 0");
        assert_eq!(vm.tell("root 0"), "root 42");
        assert_eq!(vm.tell("add 0 10"), sum, "the newest from then on");
        assert_eq!(vm.tell("detach 0"), "detached 0");
    }
    first.end();
    copies.into_iter().for_each(Running::end);
    let error = world.error(125, &["run", "--from", "warm", "--vas", "notes"]);
    assert!(error.contains("VAS 'books'") && error.contains("--vas books"), "{error}");
    // The version goes with the last snapshot that has it; one that a VM has stays until nobody has it.
    world.text(&["store", "gc"]);
    let mut last = world.run(&["--from", "again"]);
    assert_eq!(last.tell("look 0"), "sees 5");
    world.text(&["snapshot", "rm", "warm"]);
    assert_eq!(world.vases(), ["books", kept.as_str(), "notes"]);
    world.text(&["snapshot", "rm", "again"]);
    assert_eq!(last.tell("look 0"), "sees 5");
    last.end();
    writer.end();
    world.text(&["store", "gc"]);
    assert_eq!(world.vases(), ["books", "notes"]);
    assert!(world.text(&["store", "check"]).contains("all can be used"));
    assert!(!world.text(&["vas", "log", "books"]).contains("snapshot-"));
}

#[test]
fn a_reader_by_the_safe_api_comes_back_inside_and_a_version_that_is_gone_is_an_error() {
    skip_without_kvm!();
    let world = World::new();
    let program = guests::rust("snapshotted_space");
    let mut writer = world.program(&[], &program, &["numbers"]);
    let mut first = world.program(&[], &program, &["numbers"]);
    (0..50).for_each(|number| assert_eq!(writer.tell(&format!("add {number}")), "added"));
    assert_eq!(first.tell("stay"), "50 are right");
    assert_eq!(writer.tell("add 50"), "added");
    let said = world.json(&["snapshot", &first.pid(), "warm", "--json"]);
    assert_eq!(writer.tell("add 51"), "added");
    let mut copies = [(); 2].map(|()| world.run(&["--from", "warm"]));
    for vm in copies.iter_mut().chain([&mut first]) {
        assert_eq!(vm.tell("again"), "50 are right");
        assert_eq!(vm.tell("leave"), "left");
        assert_eq!(vm.tell("count"), "52 are right");
    }
    assert_eq!(copies[0].tell("add 52"), "added");
    assert_eq!(copies[1].tell("count"), "53 are right");
    [first, writer].into_iter().chain(copies).for_each(Running::end);
    let kept = said["versions"][0].as_str().expect("a name");
    world.text(&["vas", "rm", kept]);
    let error = world.error(125, &["run", "--from", "warm"]);
    assert!(error.contains(&format!("cannot attach '{kept}'")), "{error}");
}

#[test]
fn who_is_killed_while_it_makes_a_snapshot_leaves_no_version_for_ever() {
    skip_without_kvm!();
    let world = World::new();
    let mut vm = world.program(&[], &guests::c("snapshotted_vas"), &["books"]);
    assert_eq!(vm.tell("add 0 5"), "is 5");
    assert_eq!(vm.tell("in 0"), "in 0");
    // As by a command that was killed when the VM had kept the version: it has no snapshot.
    let store = Store::open(world.store()).expect("a store");
    let name = |text: &str| Name::new(text.as_bytes()).expect("a name");
    let unfinished = store.begin_snapshot(&name("killed")).expect("it begins");
    let to = unfinished.memory_to_write().expect("a file");
    let found = Vm::find(vm.pid().parse().expect("a number")).expect("it is there");
    let head = found.ask_for_snapshot().expect("it stands").write_to(&to).expect("it writes");
    assert_eq!(head.versions().len(), 1);
    assert_eq!(world.vases().len(), 3);
    world.text(&["store", "gc"]);
    assert_eq!(world.vases().len(), 3, "not while it is being made");
    drop(unfinished);
    world.text(&["store", "gc"]);
    assert_eq!(world.vases(), ["books", "notes"]);
    assert_eq!(vm.tell("look 0"), "sees 5");
    // One that has failed, since its name was taken meanwhile, leaves none either.
    world.text(&["snapshot", &vm.pid(), "taken"]);
    let error = world.error(125, &["snapshot", &vm.pid(), "taken"]);
    assert!(error.contains("exists already"), "{error}");
    assert_eq!(world.vases().len(), 3);
    world.text(&["snapshot", "rm", "taken"]);
    assert_eq!(world.vases(), ["books", "notes"]);
    assert_eq!(vm.tell("out"), "out 0");
    vm.end();
}
