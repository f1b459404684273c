//! `--log-format json`: all that `spacejmp` itself writes to stderr is one JSON object a line. Needs /dev/kvm.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn spacejmp(words: &[&str]) -> Output {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").env_remove("SPACEJMP_STORE");
    command.args(words).stdin(Stdio::null()).output().expect("it starts")
}

fn run(options: &[&str], program: &str, args: &[&str]) -> Output {
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    let run = ["run", "--no-store", "--timeout", &limit];
    spacejmp(&[&run[..], options, &[program], args].concat())
}

/// The lines on stderr; each has what every line has.
#[track_caller]
fn lines(output: &Output) -> Vec<Value> {
    let said = String::from_utf8(output.stderr.clone()).expect("text");
    let line = |line: &str| -> Value {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{said}"));
        let time = value["time"].as_str().expect("a time");
        assert!(time.len() == 27 && time.ends_with('Z') && time.contains('T'), "{time}");
        assert!(value["pid"].is_u64() && value["level"].is_string(), "{value}");
        value
    };
    said.lines().map(line).collect()
}

fn program(path: &std::path::Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

#[test]
fn a_failure_is_one_object_with_causes_and_remedy() {
    let output = spacejmp(&["--log-format", "json", "run", "./no-such-program"]);
    let [line] = &lines(&output)[..] else { panic!("{output:?}") };
    assert_eq!(line["level"], "error");
    let message = line["message"].as_str().expect("text");
    assert!(message.starts_with("cannot run") && message.contains("no-such-program"), "{line}");
    assert!(line["causes"].as_array().is_some_and(|causes| !causes.is_empty()), "{line}");
    let code = output.status.code();
    assert_eq!(code, spacejmp(&["run", "./no-such-program"]).status.code(), "as with text");
}

#[test]
fn what_ended_a_program_is_one_object_with_its_status() {
    skip_without_kvm!();
    let crashes = guests::c("crashes");
    let output = run(&["--log-format", "json"], program(&crashes), &[]);
    assert_eq!(output.status.code(), Some(139), "{output:?}");
    let lines = lines(&output);
    let last = lines.last().expect("a report");
    assert_eq!((&last["level"], &last["status"]), (&"error".into(), &139.into()), "{last}");
    let message = last["message"].as_str().expect("text");
    assert!(message.contains("died: it wrote to 0x0") && message.contains("rip"), "{message}");
}

#[test]
fn events_have_their_fields_and_what_lasts_says_how_long() {
    skip_without_kvm!();
    let hello = guests::c("crashes");
    let output =
        run(&["--log-format", "json", "--log", "debug,linux=trace"], program(&hello), &["term"]);
    let lines = lines(&output);
    let start = lines.iter().find(|line| line["span"] == "start").expect("it has started");
    assert!(start["took_s"].as_f64().is_some_and(|took| took > 0.0), "{start}");
    assert_eq!(start["fields"]["program"], program(&hello), "{start}");
    let call = lines.iter().find(|line| line["target"] == "linux").expect("it makes calls");
    assert!(call["fields"]["number"].is_u64() && call["level"] == "trace", "{call}");
    let text = run(&["--log", "debug"], program(&hello), &["term"]);
    let said = String::from_utf8_lossy(&text.stderr).into_owned();
    let end = said.lines().find(|line| line.contains("start{program=")).expect("likewise");
    assert!(end.contains("close time.busy="), "{end}");
}
