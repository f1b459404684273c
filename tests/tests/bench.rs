//! `spacejmp bench` as its users see it: the list, the files it leaves, comparisons and their
//! exit statuses. The measured values do not matter here. Only the last test creates VMs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use vmm::cli::bench::PROGRAM;
use vmm::cli::subjects;

fn bench(arguments: &[&str]) -> Output {
    // It must be in the same folder as the command.
    guests::program(PROGRAM, PROGRAM, Profile::Dev);
    bench_of(&guests::program("spacejmp-cli", "spacejmp", Profile::Dev), arguments)
}

fn bench_of(spacejmp: &Path, arguments: &[&str]) -> Output {
    Command::new(spacejmp)
        .env_remove("SPACEJMP_LOG")
        .arg("bench")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with results of one experiment: a time, and a count of exits.
fn results(exits: u32) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let one = json!({
        "bench": "run",
        "quick": false,
        "host": { "translation": { "kind": "ept" } },
        "results": { "hello_ms": f64::from(exits) / 4.0, "hello_exits": exits },
        "notes": { "hello_ms": "ms: all of a run", "hello_exits": "exits: start to end" },
    });
    fs::write(dir.path().join("results.json"), one.to_string()).expect("write the results");
    dir
}

fn path(dir: &TempDir) -> &str {
    dir.path().to_str().expect("ASCII")
}

#[test]
fn without_a_name_every_experiment_is_listed_and_a_wrong_one_is_answered_with_all() {
    let list = bench(&[]);
    assert_eq!(list.status.code(), Some(0));
    let wrong = bench(&["swich"]);
    assert_eq!(wrong.status.code(), Some(125));
    for name in subjects::named().map(|one| one.name).chain(["all"]) {
        assert!(text(&list.stdout).lines().any(|line| line.starts_with(name)), "{name}");
        assert!(text(&wrong.stderr).contains(name), "{name}");
    }
}

#[test]
fn without_the_program_that_measures_there_is_help_and_an_error_that_says_how_to_build_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let alone = dir.path().join("spacejmp");
    fs::copy(guests::program("spacejmp-cli", "spacejmp", Profile::Dev), &alone)
        .expect("copy the command");
    let help = bench_of(&alone, &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("switch"), "{}", text(&help.stdout));
    let wrong = bench_of(&alone, &["swich"]);
    assert_eq!(wrong.status.code(), Some(125));
    assert!(text(&wrong.stderr).contains("swich"), "{}", text(&wrong.stderr));
    for arguments in [&["switch"][..], &[], &["report", "x"]] {
        let output = bench_of(&alone, arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains(&format!("cargo build --release -p {PROGRAM}")), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_count_that_grew_fails_a_comparison_unless_it_is_allowed_to_and_a_time_does_not() {
    let (before, after) = (results(34), results(35));
    let compare = |a: &TempDir, b: &TempDir, more: &[&str]| {
        bench(&[&["compare", path(a), path(b)], more].concat())
    };
    let grown = compare(&before, &after, &[]);
    assert_eq!(grown.status.code(), Some(1), "{}", text(&grown.stderr));
    let table = text(&grown.stdout);
    let row = |name: &str| table.lines().find(|line| line.contains(name)).unwrap_or_default();
    assert!(
        row("hello_exits").contains("GROWN") && row("hello_exits").contains("+2.9 %"),
        "{table}"
    );
    assert!(row("hello_ms").ends_with('?'), "nothing is known of its noise: {table}");
    assert_eq!(compare(&before, &after, &["--allow-growth"]).status.code(), Some(0));
    assert_eq!(compare(&after, &before, &[]).status.code(), Some(0), "fewer exits are no growth");
    assert_eq!(compare(&after, &after, &[]).status.code(), Some(0));
    let counts = text(&compare(&before, &after, &["--counts"]).stdout);
    assert!(counts.contains("hello_exits") && !counts.contains("hello_ms"), "{counts}");
    let runs = [path(&before), path(&after)].repeat(3);
    let table = text(&bench(&[&["compare"], &runs[..]].concat()).stdout);
    let row = table.lines().find(|line| line.contains("hello_ms")).unwrap_or_default();
    assert!(row.contains("0.0 % changed"), "three runs agree: {table}");
    let odd = bench(&["compare", path(&before), path(&after), path(&before)]);
    assert_eq!(odd.status.code(), Some(125));
    assert!(text(&odd.stderr).contains("3 runs are not pairs"), "{}", text(&odd.stderr));
    let json = compare(&before, &after, &["--json"]);
    assert_eq!(json.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&json.stdout).expect("one JSON object");
    let lines = json["lines"].as_array().expect("a list");
    let exits = lines.iter().find(|line| line["figure"] == "hello_exits").expect("it is there");
    assert_eq!((&exits["verdict"], &exits["a"]), (&json!("grown"), &json!(34.0)));
}

#[test]
fn what_is_no_result_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("other.json");
    fs::write(&file, "{\"some\": \"thing\"}").expect("write it");
    let good = results(34);
    for bad in [file.to_str().expect("ASCII"), "/no/such/results"] {
        for arguments in [&["compare", bad, path(&good)][..], &["report", bad]] {
            let output = bench(arguments);
            assert_eq!(output.status.code(), Some(125), "{arguments:?}");
            assert!(text(&output.stderr).contains(bad), "{}", text(&output.stderr));
            assert!(output.stdout.is_empty());
        }
    }
}

#[test]
fn nothing_is_measured_for_a_folder_that_holds_something_else_and_nothing_in_it_changes() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("thesis.txt"), "precious").expect("write it");
    let output = bench(&["all", "--quick", "--out", path(&dir)]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains(path(&dir)), "{}", text(&output.stderr));
    assert_eq!(names(dir.path()), ["thesis.txt"]);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("read the folder");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("read the folder").file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_quick_experiment_leaves_the_files_and_prints_the_object_that_scripts_rely_on() {
    skip_without_kvm!();
    let dir = tempfile::tempdir().expect("a folder");
    let output = bench(&["switch", "--quick", "--json", "--out", path(&dir)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "no progress without a terminal");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&printed["bench"], &printed["quick"]), (&json!("switch"), &json!(true)));
    let figures = printed["results"].as_object().expect("figures");
    assert!(figures["switch_over_null"].as_f64().is_some_and(|ratio| ratio > 0.0));
    for name in figures.keys() {
        assert!(printed["notes"][name].is_string(), "{name} has no note");
    }
    let files = names(dir.path());
    for name in ["figures.csv", "report.md", "results.json"] {
        assert!(files.iter().any(|file| file == name), "{name} is not in {files:?}");
    }
    // The report links what is there.
    let report = fs::read_to_string(dir.path().join("report.md")).expect("read the report");
    for link in report.split("](").skip(1).filter_map(|after| after.split(')').next()) {
        assert!(dir.path().join(link).is_file(), "{link}");
    }
    let read = bench(&["report", path(&dir)]);
    assert_eq!(text(&read.stdout), report, "made of what was written, it is the same");
    let same = bench(&["compare", path(&dir), path(&dir), "--counts"]);
    assert_eq!(same.status.code(), Some(0));
}
