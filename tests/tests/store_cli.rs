//! `spacejmp vas`, `seg` and `store` as their users see them: what is printed, what is
//! refused, and what damage to a store's files does. Needs no KVM.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use abi::layout::VAS_START;
use abi::objects::Right;
use serde_json::Value;
use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::pace;
use vmm::store::{Mode, Name, SegmentSpec, Store};

struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Home {
        Home { folder: tempfile::tempdir().expect("a temporary directory") }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.env_remove("SPACEJMP_LOG").env("SPACEJMP_STORE", self.store());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command().args(args).output().expect("the command starts")
    }

    /// The output of a command that must succeed.
    #[track_caller]
    fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && error.is_empty(), "{:?}: {error}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("JSON")
    }

    /// Its only error; nothing is printed on standard output.
    #[track_caller]
    fn refused<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let error = String::from_utf8(output.stderr).expect("text");
        assert!(error.starts_with("spacejmp: cannot "), "{error}");
        assert_eq!(error.matches("spacejmp: cannot ").count(), 1, "{error}");
        error
    }
}

#[test]
fn what_is_created_is_listed_shown_changed_and_deleted() {
    let home = Home::new();
    home.ok(&[
        "seg",
        "create",
        "graph",
        "--size",
        "4G",
        "--reserve",
        "8G",
        "--mode",
        "660",
        "--lifetime",
        "persistent",
    ]);
    home.ok(&[
        "seg",
        "create",
        "fixed",
        "--size",
        "2M",
        "--base",
        "0x300000000000",
        "--no-lock",
        "--lifetime",
        "persistent",
    ]);
    home.ok(&["vas", "create", "map"]);
    home.ok(&["vas", "attach", "map", "graph", "--read-only"]);
    home.ok(&["vas", "attach", "map", "fixed"]);

    let graph = home.json(&["seg", "show", "graph", "--json"]);
    for (key, value) in [
        ("name", Value::from("graph")),
        ("size_bytes", (4_u64 << 30).into()),
        ("reserve_bytes", (8_u64 << 30).into()),
        ("mode", "660".into()),
        ("dirty", false.into()),
        ("inconsistent", false.into()),
        ("lockable", true.into()),
        ("root", Value::Null),
        ("vases", vec!["map"].into()),
    ] {
        assert_eq!(graph[key], value, "{key}");
    }
    assert!(graph["stored_bytes"].as_u64().expect("a number") < 1 << 20);
    assert_eq!(graph["lock"]["state"], "free");
    let map = home.json(&["vas", "show", "map", "--json"]);
    assert_eq!(map["segments"][0]["right"], "read");
    assert_eq!(map["segments"][1]["base"], "0x300000000000");
    assert_eq!(map["segments"][1]["right"], "write");
    let text = home.ok(&["seg", "show", "fixed"]);
    for part in ["fixed", "2 MiB", "0x300000000000", "lockable  no", "free", "in VASes  map"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(home.ok(&["vas", "show", "map"]).contains("fixed at 0x300000000000, 2 MiB, to write"));

    home.ok(&["seg", "grow", "graph", "--size", "5G"]);
    home.ok(&["seg", "chmod", "graph", "640", "--no-lock", "--pages", "4k"]);
    home.ok(&["seg", "clone", "graph", "copy"]);
    home.ok(&["vas", "clone", "--share", "map", "map2"]);
    home.ok(&["vas", "chmod", "map2", "644", "--tagged", "false"]);
    let list = home.json(&["seg", "ls", "--json"]);
    let names: Vec<_> = list["segments"].as_array().expect("a list").iter().collect();
    assert_eq!(names.len(), 3);
    assert_eq!((&names[0]["name"], &names[0]["mode"]), (&"copy".into(), &"640".into()));
    assert_eq!(names[2]["size_bytes"], 5_u64 << 30);
    assert_eq!((&names[2]["pages"], &names[2]["lockable"]), (&"4k".into(), &false.into()));
    let list = home.json(&["vas", "ls", "--json"]);
    assert_eq!(
        (&list["vases"][1]["name"], &list["vases"][1]["tagged"]),
        (&"map2".into(), &false.into())
    );
    assert!(home.ok(&["seg", "ls"]).lines().next().expect("a heading").starts_with("NAME"));

    let busy = home.refused(&["seg", "rm", "graph"]);
    assert!(busy.contains("'map'") && busy.contains("help: "), "{busy}");
    home.ok(&["vas", "detach", "map", "graph"]);
    home.ok(&["vas", "rm", "map2", "map"]);
    home.ok(&["seg", "rm", "graph", "copy", "fixed"]);
    let info = home.json(&["store", "info", "--json"]);
    assert_eq!((&info["vases"], &info["segments"]), (&0.into(), &0.into()));
    assert_eq!(home.json(&["store", "check", "--json"])["sound"], true);
    assert_eq!(home.json(&["store", "gc", "--json"])["parts"], 0);
}

#[test]
fn commands_that_only_look_make_no_store() {
    let home = Home::new();
    for line in [
        "seg ls",
        "seg show x",
        "seg rm x",
        "seg check x",
        "seg recover x",
        "vas ls",
        "vas show x",
        "vas check x",
        "vas export x y",
        "store info",
        "store check",
        "store gc",
        "vas import nothing",
    ] {
        let error = home.refused(&line.split(' ').collect::<Vec<_>>());
        assert!(error.contains("is not a store") || line.contains("import"), "{line}: {error}");
        assert!(!home.store().exists(), "{line}");
    }
}

#[test]
fn the_option_counts_more_than_the_environment() {
    let (home, other) = (Home::new(), Home::new());
    let path = other.store();
    let path = path.to_str().expect("ASCII");
    home.ok(&["seg", "create", "s", "--size", "4K", "--store", path]);
    assert!(other.store().exists() && !home.store().exists());
}

#[test]
fn refusals_name_the_object_and_say_what_to_do() {
    let home = Home::new();
    home.ok(&["seg", "create", "s", "--size", "4K"]);
    home.ok(&["vas", "create", "v"]);
    let table: &[(&str, &str)] = &[
        ("seg create s --size 4K", "segment 's' exists already"),
        ("vas create v", "VAS 'v' exists already"),
        ("seg show t", "no segment 't'"),
        ("vas show t", "no VAS 't'"),
        ("vas detach v s", "does not belong to VAS 'v'"),
        ("seg create t --size 0", "the size is 0x0"),
        ("seg create t --size 4K --base 0x1000", "the base is 0x1000"),
        ("seg create t --size 1G --reserve 1M", "the reserve is"),
        ("seg grow s --size 4G", "segment 's' can grow to"),
        ("vas import nothing", "nothing"),
    ];
    for (line, expected) in table {
        let error = home.refused(&line.split(' ').collect::<Vec<_>>());
        assert!(error.contains(expected), "{line}: {error}");
    }
    // Not even the command line's own refusals create anything.
    for line in [
        "seg create a/b --size 4K",
        "seg create .. --size 4K",
        "seg create x --size 4X",
        "seg create x --size 4K --mode 9999",
        "vas create x --mode 1777",
        "seg create x",
    ] {
        let output = home.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(125), "{line}");
    }
    assert_eq!(home.json(&["store", "info", "--json"])["segments"], 1);
}

#[test]
fn odd_names_work_everywhere_and_keep_to_their_line() {
    let home = Home::new();
    let odd = ["a\nb", "-dash", "--size", "\u{1f980} \u{e9}", " ", "%0a", "\u{1b}[2J", "'\"\\"];
    let long = "x".repeat(255);
    for name in odd.iter().copied().chain([long.as_str()]) {
        home.ok(&["seg", "create", "--size", "4K", "--", name]);
        home.ok(&["vas", "create", "--", name]);
        home.ok(&["vas", "attach", "--", name, name]);
        for kind in ["seg", "vas"] {
            let shown = home.json(&[kind, "show", "--json", "--", name]);
            assert_eq!(shown["name"], name);
            let text = home.ok(&[kind, "show", "--", name]);
            assert!(!text.contains('\x1b') && !text.contains("a\nb"), "{text:?}");
            home.ok(&[kind, "check", "--", name]);
        }
    }
    let count = odd.len() + 1;
    for (kind, key) in [("seg", "segments"), ("vas", "vases")] {
        assert_eq!(home.ok(&[kind, "ls"]).lines().count(), count + 1);
        let list = home.json(&[kind, "ls", "--json"]);
        let names: Vec<_> = list[key].as_array().expect("a list").iter().collect();
        assert_eq!(names.len(), count);
        assert!(names.iter().any(|entry| entry["name"] == "a\nb"));
    }
    for name in odd {
        home.ok(&["vas", "rm", "--", name]);
        home.ok(&["seg", "rm", "--", name]);
    }
    let bytes = OsString::from_vec(b"a\xff".to_vec());
    let output = home.run(&[OsStr::new("vas"), OsStr::new("create"), &bytes]);
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not UTF-8"));
    home.command().args(["vas", "create", &"x".repeat(256)]).output().expect("starts");
    assert_eq!(home.json(&["store", "info", "--json"])["vases"], 1);
}

#[test]
fn a_thousand_vases_and_ten_thousand_segments_are_listed() {
    // Creating them syncs each; where that is cheap, the listing dominates.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let home = Home { folder: folder.expect("a temporary directory") };
    let store = Store::open_or_create(&home.store()).expect("a new store");
    let name = |text: String| Name::new(text.as_bytes()).expect("a name");
    let mut sids = Vec::new();
    let (segments, vases) = (pace::times(10_000), pace::times(1000));
    for number in 0..u64::from(segments) {
        let base = Some(VAS_START.raw() + number * (2 << 20));
        let spec = SegmentSpec { base, ..SegmentSpec::new(4096) };
        sids.push(store.create_segment(&name(format!("segment {number}")), &spec).expect("made"));
    }
    for number in 0..vases as usize {
        let vid = store.create_vas(&name(format!("vas {number}")), Mode::PRIVATE).expect("made");
        store.attach_segment(vid, sids[number * 10], Right::Write).expect("attached");
    }
    // The first run builds the command.
    home.ok(&["store", "info"]);
    for (kind, key, count) in [("seg", "segments", segments), ("vas", "vases", vases)] {
        let since = Instant::now();
        let list = home.json(&[kind, "ls", "--json"]);
        let took = since.elapsed();
        println!("{kind} ls: {count} in {took:?}");
        assert_eq!(list[key].as_array().expect("a list").len(), count as usize);
        // Half a second on an idle machine; a listing that examines all for each takes hours.
        assert!(took < pace::limit(Duration::from_secs(60)), "{kind} ls took {took:?}");
    }
}

#[test]
fn processes_that_create_delete_and_list_at_once_do_not_disturb_each_other() {
    let home = Home::new();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let home = &home;
            scope.spawn(move || {
                for round in 0..8 {
                    let name = format!("{worker}-{round}");
                    home.ok(&["seg", "create", &name, "--size", "1M", "--lifetime", "persistent"]);
                    home.ok(&["vas", "create", &name]);
                    home.ok(&["vas", "attach", &name, &name]);
                    let list = home.json(&["seg", "ls", "--json"]);
                    let list = list["segments"].as_array().expect("a list");
                    assert!(list.iter().all(|entry| entry["error"].is_null()), "{list:?}");
                    assert!(list.iter().any(|entry| entry["name"] == *name));
                    if round % 2 == 0 {
                        home.ok(&["vas", "rm", &name]);
                        home.ok(&["seg", "rm", &name]);
                    }
                }
            });
        }
    });
    let info = home.json(&["store", "info", "--json"]);
    assert_eq!((&info["vases"], &info["segments"]), (&16.into(), &16.into()));
    let check = home.json(&["store", "check", "--json"]);
    assert_eq!((&check["sound"], &check["findings"]), (&true.into(), &Value::Array(vec![])));
}

/// Offset, a value that is impossible there or differs from the previous one, and the field's name.
const HEADER_DAMAGE: &[(u64, &[u8], &str)] = &[
    (0, b"X", "magic"),
    (8, &[2], "version"),
    (12, &[9], "arch"),
    (16, &[1], "checksum"),
    (24, &[1], "incompatible features"),
    (32, &[0; 8], "sid"),
    (40, &[1], "base"),
    (48, &[0; 8], "size"),
    (56, &[1], "reserve"),
    (64, &[1], "part size"),
    (72, &[0; 8], "checksum"),
    (80, &[1], "root address"),
    (88, &[1], "checksum"),
    (96, &[1], "checksum"),
    (104, &[0xff; 8], "lease"),
    (112, &[1], "checksum"),
    (128, &[9], "pages"),
    (129, &[9], "lifetime"),
    (130, &[9], "lockable"),
    (131, &[9], "state"),
    (132, &[9], "used"),
    (133, &[1], "reserved, first"),
    (134, &[1], "durability"),
    (136, &[1], "reserved, second"),
    (142, &[0, 0], "name length"),
    (144, b"/", "name"),
    (400, &[1], "reserved, third"),
    (492, &[1], "kept version of"),
    (500, &[1], "kept version's number"),
    (508, &[0, 0, 0, 0], "checksum"),
];

#[test]
fn every_damaged_field_is_one_error_and_other_objects_are_unaffected() {
    let home = Home::new();
    for name in ["bad", "good"] {
        home.ok(&["seg", "create", name, "--size", "1M", "--lifetime", "persistent"]);
        home.ok(&["vas", "create", name]);
        home.ok(&["vas", "attach", name, name]);
    }
    let segment = home.store().join("segments/bad");
    let original = fs::read(&segment).expect("readable");
    for (offset, bytes, field) in HEADER_DAMAGE {
        let file = fs::OpenOptions::new().write(true).open(&segment).expect("there");
        file.write_all_at(bytes, *offset).expect("written");
        damaged(&home, "seg", &segment, field);
        file.write_all_at(&original[..512], 0).expect("written");
    }
    for len in [0, 511, 4096, (2 << 20) + 4096] {
        let file = fs::OpenOptions::new().write(true).open(&segment).expect("there");
        file.set_len(len).expect("cut");
        damaged(&home, "seg", &segment, "length");
        fs::write(&segment, &original).expect("written");
    }
    home.ok(&["seg", "check", "bad"]);

    let manifest = home.store().join("vas/bad/manifest");
    let text = fs::read_to_string(&manifest).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let fields = ["start", "vid", "name", "tagged", "segment"];
    for (index, field) in fields.iter().enumerate() {
        let mut changed: Vec<String> = lines[..5].iter().map(|line| (*line).to_owned()).collect();
        let key = changed[index].split(' ').next().expect("a key").to_owned();
        changed[index] = format!("{key} /");
        fs::write(&manifest, summed(&changed)).expect("written");
        damaged(&home, "vas", &manifest, field);
        // The same damage by accident: the checksum reveals it, except where the version does.
        let mut raw = lines.clone();
        raw[index] = &changed[index];
        fs::write(&manifest, raw.join("\n") + "\n").expect("written");
        damaged(&home, "vas", &manifest, if index == 0 { "start" } else { "checksum" });
    }
    for (bytes, field) in
        [("", "start"), (&text[..text.len() - 1], "checksum"), (&text[..40], "checksum")]
    {
        fs::write(&manifest, bytes).expect("written");
        damaged(&home, "vas", &manifest, field);
    }
    fs::write(&manifest, &text).expect("written");
    home.ok(&["vas", "check", "bad"]);

    // A damaged segment makes the VAS that lists it unusable, and nothing else.
    fs::write(&segment, b"nothing").expect("written");
    assert_eq!(home.run(&["vas", "check", "bad"]).status.code(), Some(1));
    home.ok(&["vas", "check", "good"]);
}

#[track_caller]
fn damaged(home: &Home, kind: &str, file: &Path, field: &str) {
    let file = file.to_str().expect("ASCII");
    let error = home.refused(&[kind, "show", "bad"]);
    let told = match field {
        "magic" => "is not a segment".to_owned(),
        "start" => "is not a VAS's manifest".to_owned(),
        "length" if error.contains("is shorter") => "is shorter than it must be".to_owned(),
        field => format!("{field} is damaged"),
    };
    assert!(error.contains(file) && error.contains(&told), "{field}: {error}");
    let field = if field == "magic" { "start" } else { field };
    let output = home.run(&["store", "check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{field}: {output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let named = findings.iter().any(|finding| {
        finding["file"] == *file && finding["field"] == *field && finding["severity"] == "error"
    });
    assert!(named, "{field}: {findings:?}");
    for line in [[kind, "show", "good"], [kind, "check", "good"]] {
        home.ok(&line);
    }
    let list = home.json(&[kind, "ls", "--json"]);
    let list = list[if kind == "seg" { "segments" } else { "vases" }].as_array().expect("a list");
    assert!(list.iter().any(|entry| entry["name"] == "bad" && entry["error"].is_string()));
    assert!(list.iter().any(|entry| entry["name"] == "good" && entry["error"].is_null()));
}

fn summed(lines: &[String]) -> String {
    let mut text = lines.join("\n");
    text.push('\n');
    // CRC-32 bit by bit: the tests have no crate for it.
    let mut crc = !0_u32;
    for byte in text.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    text + &format!("checksum {:08x}\n", !crc)
}

#[test]
fn recovery_declares_whole_what_is_marked_and_refuses_what_cannot_be() {
    let home = Home::new();
    home.ok(&["seg", "create", "raw", "--size", "4K", "--lifetime", "persistent"]);
    home.ok(&[
        "seg",
        "create",
        "unlocked",
        "--size",
        "4K",
        "--no-lock",
        "--lifetime",
        "persistent",
    ]);
    home.ok(&["seg", "create", "ledger", "--size", "4K"]);
    let was = |name: &str| {
        let report = home.json(&["seg", "recover", name, "--json"]);
        assert_eq!(report["name"], name, "{report}");
        (report["was_dirty"] == true, report["was_inconsistent"] == true)
    };
    for (name, marks) in [("raw", (true, true)), ("unlocked", (true, false))] {
        assert_eq!(was(name), (false, false));
        // Dirty, and of another boot.
        let path = home.store().join("segments").join(name);
        let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("it opens");
        let mut header = [0; 512];
        file.read_exact_at(&mut header, 0).expect("a header");
        (header[131], header[112]) = (1, 7);
        let sum = crc32fast::hash(&header[..508]);
        header[508..].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&header, 0).expect("it can be written");
        let report = home.ok(&["seg", "check", name]);
        assert!(report.contains("the host lost power"), "{report}");
        assert_eq!(report.contains("spacejmp seg recover"), marks.1, "{report}");
        assert_eq!(was(name), marks);
        assert!(!home.ok(&["seg", "check", name]).contains("dirty"));
        let text = home.ok(&["seg", "recover", name]);
        assert_eq!(text, format!("segment '{name}' is clean: it was so before\n"));
    }
    assert!(home.refused(&["seg", "recover", "ledger"]).contains("nothing to recover"));
    assert!(home.refused(&["seg", "recover", "none"]).contains("none"));
}

#[test]
fn a_cloned_vas_has_copies_and_says_that_they_are_unless_it_is_to_share() {
    let home = Home::new();
    home.ok(&["seg", "create", "graph", "--size", "4M", "--lifetime", "persistent"]);
    home.ok(&[
        "seg",
        "create",
        "names",
        "--size",
        "1M",
        "--base",
        "0x300000000000",
        "--lifetime",
        "persistent",
    ]);
    home.ok(&["vas", "create", "map"]);
    home.ok(&["vas", "attach", "map", "graph"]);
    home.ok(&["vas", "attach", "map", "names", "--read-only"]);
    let output = home.run(&["vas", "clone", "map", "copy", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(said, "spacejmp: raw segments are copied as a whole: 'graph', 'names'\n");
    let copy: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let original = home.json(&["vas", "show", "map", "--json"]);
    let segments = |vas: &Value| vas["segments"].as_array().expect("a list").clone();
    for (at, name, right) in [(0, "copy.graph", "write"), (1, "copy.names", "read")] {
        let (new, old) = (&segments(&copy)[at], &segments(&original)[at]);
        assert_eq!((&new["name"], &new["right"]), (&name.into(), &right.into()));
        assert_eq!(new["base"], old["base"]);
        assert_ne!(new["sid"], old["sid"]);
    }
    home.ok(&["vas", "clone", "--share", "map", "window"]);
    assert_eq!(home.json(&["vas", "show", "window", "--json"])["segments"], original["segments"]);
    // What has no segments has nothing to copy.
    home.ok(&["vas", "create", "empty"]);
    home.ok(&["vas", "clone", "empty", "void"]);
    let error = home.run(&["vas", "clone", "map", "copy"]);
    assert!(
        String::from_utf8_lossy(&error.stderr).contains("VAS 'copy' exists already"),
        "{error:?}"
    );
    let error = home.refused(&["vas", "clone", "map", "a@b", "--share"]);
    assert!(error.contains("cannot contain `@`"), "{error}");
    assert_eq!(home.json(&["store", "check", "--json"])["findings"], Value::Array(Vec::new()));
    assert_eq!(home.json(&["store", "info", "--json"])["segments"], 4);
}
