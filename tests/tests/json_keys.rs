//! What scripts rely on: the keys of what commands print with `--json`, and their types, as `golden/json-keys.txt` has them.
//!
//! A key that goes, or has another type, breaks a promise (docs/src/stability.md). One that is new is written down by who adds it: the
//! failure says the lines. The keys of `doctor` and of `run --stats=json` are compared with their pages (`doctor.rs`, `cli.rs`).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

const GOLDEN: &str = include_str!("../golden/json-keys.txt");

/// Every path to a value that is not an object, with `[]` for the items of a list, and the kind of value.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Object(fields) => {
            let dot = if path.ends_with(": ") { "" } else { "." };
            fields.iter().for_each(|(key, value)| keys(value, &format!("{path}{dot}{key}"), found));
            return;
        }
        Value::Array(items) => {
            items.iter().for_each(|item| keys(item, &format!("{path}[]"), found));
            return;
        }
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
    };
    found.insert(format!("{path} is {kind}"));
}

struct World {
    folder: tempfile::TempDir,
    found: BTreeSet<String>,
}

impl World {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.args(words).env_remove("SPACEJMP_LOG").current_dir(self.folder.path());
        command.env("SPACEJMP_STORE", self.folder.path().join("store"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command, which ends with this status, and takes the keys of what it prints.
    #[track_caller]
    fn printed(&mut self, name: &str, words: &[&str], status: i32) -> Value {
        let output = self.command(&[words, &["--json"]].concat()).output().expect("it starts");
        assert_eq!(output.status.code(), Some(status), "{words:?}: {output:?}");
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        keys(&value, &format!("{name}: "), &mut self.found);
        value
    }

    /// The name of the command is its first two words.
    #[track_caller]
    fn json(&mut self, words: &[&str]) -> Value {
        self.printed(&words[..2].join(" "), words, 0)
    }

    #[track_caller]
    fn done(&self, words: &[&str]) {
        let output = self.command(words).output().expect("it starts");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    #[track_caller]
    fn kv(&self, words: &[&str]) {
        let kv = guests::program("kv", "kv", Profile::Dev);
        let kv = kv.to_str().expect("a path");
        self.done(&[&["run", "--timeout", "300", kv, "--vas", "book"], words].concat());
    }
}

/// Ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that has begun to sleep.
fn sleeper(world: &World, name: &str, options: &[&str]) -> Running {
    let limit = pace::limit(Duration::from_secs(300)).as_secs().to_string();
    let mut command = world.command(&["run", "--timeout", &limit, "--name", name]);
    let program = guests::rust("sleeper");
    let mut child =
        command.args(options).arg(&program).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert_eq!(line, "sleeping\n");
    Running(child)
}

#[test]
fn json_of_every_command_has_the_keys_that_scripts_know() {
    skip_without_kvm!();
    let mut world =
        World { folder: tempfile::tempdir().expect("a folder"), found: BTreeSet::new() };
    // What a program has stored, in two versions, one of which has a tag.
    world.kv(&["set", "first", "1"]);
    world.json(&["vas", "tag", "book", "one"]);
    world.kv(&["set", "second", "2"]);
    let shown = world.json(&["vas", "show", "book"]);
    let segment = shown["segments"][0]["name"].as_str().expect("it has one").to_owned();
    let raw = "raw";
    world.json(&["seg", "create", raw, "--size", "1M", "--lifetime", "persistent"]);
    world.json(&["seg", "create", "moved", "--size", "1M", "--lifetime", "persistent"]);
    world.json(&["vas", "create", "empty"]);
    world.done(&["vas", "attach", "empty", raw]);

    world.json(&["vas", "ls"]);
    world.json(&["vas", "log", "book"]);
    world.printed("vas diff", &["vas", "diff", "book@one"], 1);
    world.json(&["vas", "check", "book"]);
    world.json(&["vas", "clone", "book", "copy"]);
    world.json(&["vas", "rollback", "book", "one"]);
    world.done(&["vas", "export", "book", "book.vas"]);
    world.json(&["vas", "import", "book.vas", "--as", "again"]);
    world.json(&["seg", "ls"]);
    world.json(&["seg", "show", &segment]);
    world.json(&["seg", "show", raw]);
    world.json(&["seg", "log", &segment]);
    world.json(&["seg", "tag", &segment, "two"]);
    world.kv(&["set", "third", "3"]);
    world.printed("seg diff", &["seg", "diff", &format!("{segment}@two")], 1);
    world.json(&["seg", "clone", &segment, "apart"]);
    world.json(&["seg", "rollback", &segment, "two"]);
    world.json(&["seg", "convert", "moved", "--to", "versioned"]);
    world.json(&["seg", "check", &segment]);
    world.json(&["seg", "recover", raw]);
    world.json(&["store", "check"]);
    world.json(&["store", "gc"]);
    world.printed("new", &["new", "project", "--c"], 0);

    let name = format!("json-{}", std::process::id());
    let sleeping = sleeper(&world, &name, &[]);
    world.json(&["store", "info"]);
    world.printed("ps", &["ps"], 0);
    world.printed("stats", &["stats", &name], 0);
    world.printed("snapshot", &["snapshot", &name, "kept"], 0);
    world.json(&["snapshot", "ls"]);
    world.json(&["snapshot", "show", "kept"]);
    drop(sleeping);

    let known: BTreeSet<String> = GOLDEN.lines().map(str::to_owned).collect();
    let key = |line: &str| line.split_once(" is ").expect("a key and a kind").0.to_owned();
    let of: BTreeSet<_> = world.found.iter().map(|line| key(line)).collect();
    let nulls: BTreeSet<_> =
        known.iter().filter(|line| line.ends_with(" is null")).map(|line| key(line)).collect();
    // What is unknown or unlimited on one machine, on another one has a value.
    let gone: Vec<_> = known
        .difference(&world.found)
        .filter(|line| !(nulls.contains(&key(line)) && of.contains(&key(line))))
        .collect();
    // Whether there are faults depends on the host.
    let is_hosts = |line: &str| line.contains("faults[]") || nulls.contains(&key(line));
    let new: Vec<_> = world.found.difference(&known).map(String::as_str).collect();
    let new: Vec<_> = new.into_iter().filter(|line| !is_hosts(line)).collect();
    assert!(gone.is_empty(), "keys that scripts know are gone, or are something else: {gone:#?}");
    assert!(
        new.is_empty(),
        "keys that {} does not have yet:\n{}",
        Path::new("tests/golden/json-keys.txt").display(),
        new.join("\n")
    );
}
