//! `spacejmp seg create --lifetime` and what the other commands say of versioned segments. Needs no
//! KVM.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use tests::guests::{self, Profile};

struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().expect("a temporary directory"))
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn run(&self, args: &str) -> Output {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.env_remove("SPACEJMP_LOG").env("SPACEJMP_STORE", self.store());
        command.args(args.split(' ')).current_dir(self.0.path());
        command.output().expect("the command starts")
    }

    #[track_caller]
    fn ok(&self, args: &str) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && error.is_empty(), "{args}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn json(&self, args: &str) -> Value {
        serde_json::from_str(&self.ok(args)).expect("JSON")
    }

    /// What a command that must fail says, on standard error alone.
    #[track_caller]
    fn refused(&self, args: &str) -> String {
        let output = self.run(args);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }
}

#[test]
fn a_segment_lives_as_it_was_told_to() {
    let home = Home::new();
    for (name, options, lifetime, state) in [
        ("a", "", "versioned", "versioned, every:100"),
        ("b", " --lifetime persistent", "persistent", "clean"),
        ("c", " --lifetime versioned", "versioned", "versioned, every:100"),
        ("d", " --lifetime volatile", "volatile", "volatile"),
        ("e", " --volatile", "volatile", "volatile"),
    ] {
        let made = home.json(&format!("seg create {name} --size 1M{options} --json"));
        assert_eq!(made["lifetime"], lifetime, "{name}");
        let shown = home.ok(&format!("seg show {name}"));
        assert!(shown.contains(&format!("lifetime  {lifetime}")), "{shown}");
        let listed = home.ok("seg ls");
        let line = listed.lines().find(|line| line.starts_with(name)).expect("it is listed");
        assert!(line.ends_with(state), "{line}");
    }
    let shown = home.json("seg show c --json");
    for (key, value) in [
        ("size_bytes", Value::from(1 << 20)),
        ("lockable", true.into()),
        ("dirty", false.into()),
        ("inconsistent", false.into()),
        ("root", Value::Null),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert_eq!(home.json("store check --json")["findings"], Value::Array(Vec::new()));
    home.ok("seg check c");
    home.ok("seg chmod c 640");
    home.ok("seg rm a c");
    assert_eq!(fs::read_dir(home.store().join("versions")).expect("a folder").count(), 0);
}

#[test]
fn contradictions_are_errors() {
    let home = Home::new();
    let error = home.refused("seg create x --size 1M --volatile --lifetime versioned");
    assert!(error.contains("--volatile") && error.contains("cannot be used with"), "{error}");
    let error = home.refused("seg create x --size 1M --lifetime eternal");
    assert!(error.contains("persistent, versioned, volatile"), "{error}");
    let error = home.refused("seg create x --size 1M --lifetime versioned --no-lock");
    assert!(error.contains("leave out --no-lock"), "{error}");
    let error = home.refused("seg create x --size 1M --no-lock");
    assert!(error.contains("choose the lifetime persistent"), "{error}");
    home.ok("seg create x --size 1M --lifetime versioned");
    let error = home.refused("seg chmod x --no-lock");
    assert!(error.contains("versioned segment"), "{error}");
}

#[test]
fn a_versioned_segment_grows_by_a_commit() {
    let home = Home::new();
    home.ok("seg create ledger --size 1M --reserve 4M");
    home.ok("seg tag ledger small");
    home.ok("seg grow ledger --size 2M --timeout 1");
    let size = |name: &str| home.json(&format!("seg show {name} --json"))["size_bytes"].clone();
    assert_eq!((size("ledger"), size("ledger@small")), ((2 << 20).into(), (1 << 20).into()));
    let log = home.json("seg log ledger --json").to_string();
    assert!(log.contains("spacejmp seg grow"), "{log}");
    for (name, bytes, why) in [
        ("ledger", "1M", "segments do not shrink"),
        ("ledger", "5M", "can grow to 4194304 bytes"),
        ("ledger@small", "2M", "ledger@small"),
    ] {
        let error = home.refused(&format!("seg grow {name} --size {bytes}"));
        assert!(error.contains(why), "{error}");
    }
    home.ok("seg rollback ledger small");
    assert_eq!(size("ledger"), 1 << 20);
}

#[test]
fn a_header_that_was_copied_by_itself_is_no_segment() {
    let home = Home::new();
    home.ok("seg create ledger --size 1M");
    let segments = home.store().join("segments");
    fs::copy(segments.join("ledger"), segments.join("backup")).expect("copied");
    let error = home.refused("seg show backup");
    assert!(error.contains("without content of its own"), "{error}");
    assert!(error.contains("remove ") && error.contains("segments/backup"), "{error}");
}

#[test]
fn what_a_crash_left_is_told_and_collected() {
    let home = Home::new();
    home.ok("seg create x --size 1M --lifetime versioned");
    fs::remove_file(home.store().join("segments/x")).expect("removed");
    let check = home.json("store check --json");
    assert_eq!((&check["sound"], &check["findings"][0]["field"]), (&true.into(), &"folder".into()));
    assert_eq!(home.json("store gc --json")["parts"], 1);
    assert_eq!(home.json("store check --json")["findings"], Value::Array(Vec::new()));
}

#[test]
fn a_segment_is_converted_and_stays_what_it_is_otherwise() {
    let home = Home::new();
    home.ok("seg create data --size 4M --reserve 8M --mode 640 --lifetime persistent");
    home.ok("vas create v");
    home.ok("vas attach v data");
    let before = home.json("seg show data --json");
    let after = home.json("seg convert data --to versioned --json");
    assert_eq!(
        (&before["lifetime"], &after["lifetime"]),
        (&"persistent".into(), &"versioned".into())
    );
    for key in ["name", "sid", "base", "size_bytes", "reserve_bytes", "mode", "created_ns"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(home.json("seg show data --json")["vases"], before["vases"]);
    assert_eq!(home.ok("seg convert data --to versioned"), "segment 'data' is versioned already\n");
    assert_eq!(home.ok("seg convert data --to persistent"), "");
    assert_eq!(home.json("seg show data --json")["lifetime"], "persistent");
    home.ok("seg create v --size 4K --volatile");
    let error = home.refused("seg convert v --to versioned");
    assert!(error.contains("between versioned and persistent"), "{error}");
    let error = home.refused("seg convert none --to versioned");
    assert!(error.contains("no segment 'none'"), "{error}");
    assert_eq!(home.json("store check --json")["findings"], Value::Array(Vec::new()));
}
