//! The `spacejmp` command as its users see it: `doctor`, and the effect of a wrong command
//! line. The keys of `doctor --json` are compared with the page that documents them.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;
use tests::guests::{self, Profile};

const DOCUMENTATION: &str = include_str!("../../docs/src/doctor.md");

fn spacejmp(arguments: &[&str]) -> Output {
    Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .args(arguments)
        .env_remove("SPACEJMP_LOG")
        .output()
        .expect("the command starts")
}

/// Every path to a value that is not an object, with `[]` for the items of a list.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys(value, &path, found);
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| keys(item, &format!("{path}[]"), found))
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

/// The keys in the section on the host, or in that on a program.
fn documented(of_program: bool) -> BTreeSet<String> {
    let (_, tables) = DOCUMENTATION.split_once("## `--json`").expect("the section on JSON");
    let program = "## `spacejmp doctor PROGRAM`";
    let (host, program) = tables.split_once(program).expect("the section on programs");
    let section = if of_program { program } else { host };
    section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect()
}

/// Fails unless the object that `doctor` prints with these words has the keys of that section.
#[track_caller]
fn has_the_documented_keys(words: &[&str], of_program: bool) {
    let output = spacejmp(words);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let (mut found, documented) = (BTreeSet::new(), documented(of_program));
    keys(&report, "", &mut found);
    let undocumented: Vec<_> = found
        .difference(&documented)
        // A part that is unknown as a whole is a bare `null`.
        .filter(|key| !documented.iter().any(|one| one.starts_with(&format!("{key}."))))
        .collect();
    assert!(undocumented.is_empty(), "not in docs/src/doctor.md: {undocumented:?}");
    let absent: Vec<_> = documented
        .difference(&found)
        // The items of a list that is empty here (no problems, no pools) cannot show.
        .filter(|key| {
            let list = key.split("[]").next().expect("split yields at least one part");
            let list = report.pointer(&format!("/{}", list.replace('.', "/")));
            list != Some(&Value::Array(vec![]))
        })
        // Nor can those of a part that is unknown as a whole.
        .filter(|key| !found.iter().any(|one| key.starts_with(&format!("{one}."))))
        .collect();
    assert!(absent.is_empty(), "documented, but not printed: {absent:?}");
}

#[test]
fn doctor_json_has_exactly_the_documented_keys() {
    has_the_documented_keys(&["doctor", "--json"], false);
}

#[test]
fn doctor_json_of_a_program_has_exactly_the_documented_keys() {
    // A static program, and one of the system's, which has libraries if it is dynamic.
    let own = std::env::current_exe().expect("the test has a file");
    has_the_documented_keys(&["doctor", "--json", own.to_str().expect("UTF-8")], true);
    has_the_documented_keys(&["doctor", "--json", "/bin/ls"], true);
}

#[test]
fn the_exit_status_of_doctor_says_whether_vms_can_run() {
    for arguments in [&["doctor", "--json"][..], &["doctor"]] {
        let output = spacejmp(arguments);
        let json = spacejmp(&["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&json.stdout).expect("one JSON object");
        let expected = if report["can_run"] == true { 0 } else { 125 };
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}");
    }
}

#[test]
fn doctor_prints_no_colours_into_a_pipe() {
    let output = spacejmp(&["doctor"]);
    assert!(!output.stdout.is_empty());
    assert!(!output.stdout.contains(&0x1b));
}

#[test]
fn a_wrong_command_line_is_a_failure_of_ours_and_told_on_stderr() {
    for arguments in [&["no-such-command"][..], &["doctor", "--no-such-option"], &[]] {
        let output = spacejmp(arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_goes_to_stdout_and_names_the_exit_statuses() {
    let output = spacejmp(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).expect("help is text");
    assert!(help.contains("Exit status:") && help.contains("spacejmp doctor --json"), "{help}");
}
