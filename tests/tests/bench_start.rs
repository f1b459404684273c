//! `spacejmp bench start`, small: that it ends, passes the checks that no load may break, and
//! reports a time, or the reason why there is none, for every other way to isolate a program. How
//! long anything takes does not matter here.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::pace;
use tests::skip_without_kvm;

#[test]
fn a_quick_run_splits_a_start_into_its_parts_and_gives_a_reason_for_what_it_has_not_got() {
    skip_without_kvm!();
    let file = tempfile::NamedTempFile::new().expect("a file");
    // It must be in the same folder as the command.
    guests::program("spacejmp-bench", "spacejmp-bench", Profile::Dev);
    let mut child = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .env_remove("SPACEJMP_LOG")
        .args(["bench", "start", "--quick", "--json"])
        .stdin(Stdio::null())
        .stdout(file.reopen().expect("open it again"))
        .spawn()
        .expect("the command starts");
    let deadline = Instant::now() + pace::limit(Duration::from_secs(300));
    let status = loop {
        match child.try_wait().expect("wait for the command") {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            None => {
                child.kill().expect("it is there");
                child.wait().expect("it has been killed");
                panic!("the benchmark does not end");
            }
        }
    };
    // Its checks that need a quiet machine do not count in small runs, the others do.
    assert_eq!(status.code(), Some(0));
    let text = std::fs::read_to_string(file.path()).expect("read the figures");
    let printed: Value = serde_json::from_str(&text).expect("one JSON object");
    let figures = printed["results"].as_object().expect("figures");
    for part in ["start", "start_native", "start_exec", "start_machine", "start_load", "start_run"]
    {
        let ms = figures[&format!("{part}_ms")].as_f64();
        assert!(ms.is_some_and(|ms| ms > 0.0), "{part}: {ms:?}");
    }
    assert!(figures["start_store_find_over_2"].as_f64().is_some_and(|ratio| ratio > 0.0));
    for way in ["unshare", "bwrap", "runsc"] {
        let note = printed["notes"][&format!("start_{way}_ms")].as_str().expect("a note");
        match figures[&format!("start_{way}_ms")].as_f64() {
            Some(ms) => assert!(ms > 0.0, "{way}"),
            None => assert!(note.contains(way), "no reason: {note}"),
        }
    }
    for curve in printed["plots"][0]["series"].as_array().expect("curves") {
        assert_eq!(curve["points"].as_array().map(Vec::len), Some(2), "{curve}");
    }
}
