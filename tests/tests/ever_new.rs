//! A program that keeps mapping and freeing new addresses keeps running, and uses no more memory
//! than one that does it a thousand times.
//!
//! One program, `guests/c/ever_new.c`, which reports what goes wrong and exits with 1.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

/// So little memory that blocks are recycled by the hundred.
const MEMORY: &str = "16M";

fn start(memory: &str, args: &[&str], limit: Duration) -> Child {
    let timeout = pace::limit(limit).as_secs().to_string();
    Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .args(["run", "--no-store", "--log", "error", "--memory", memory, "--timeout", &timeout])
        .arg(guests::c("ever_new"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spacejmp starts")
}

fn said(args: &[&str]) -> String {
    let child = start(MEMORY, args, Duration::from_secs(120));
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{text}: {output:?}");
    text
}

/// Memory of the host that a process holds, and its mappings.
fn held(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it still runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the field exists");
    let kib = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it still runs");
    (kib, maps.lines().count())
}

/// Cycles through new addresses and compares what is held after a thousand with the end.
fn cycles(count: u32, limit: Duration) {
    let mut child = start(MEMORY, &["cycles", &count.to_string()], limit);
    let mut stdin = child.stdin.take().expect("it is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut seen = [(0, 0); 2];
    for (word, seen) in ["warm", "done"].into_iter().zip(&mut seen) {
        let line = lines.next().expect("it says something").expect("it is text");
        assert_eq!(line, word);
        *seen = held(child.id());
        stdin.write_all(b"\n").expect("it waits for that");
    }
    assert!(child.wait().expect("it ends").success());
    let [(warm_kib, warm_maps), (kib, maps)] = seen;
    println!("{count} cycles: {warm_kib} KiB and {warm_maps} mappings, then {kib} and {maps}");
    // The allocator's own memory, and what accumulates before it is recycled.
    assert!(kib <= warm_kib + 4096, "{kib} KiB after {warm_kib}");
    assert!(maps <= warm_maps + 64, "{maps} mappings after {warm_maps}");
}

#[test]
fn many_new_addresses_take_no_more_than_a_thousand() {
    skip_without_kvm!();
    cycles(pace::times(100_000).max(6000), Duration::from_secs(300));
}

#[test]
#[ignore = "takes an hour where ring 0 is interpreted: for days of running"]
fn ten_million_new_addresses_take_no_more_than_a_thousand() {
    skip_without_kvm!();
    cycles(10_000_000, Duration::from_secs(4 * 3600));
}

#[test]
fn recycled_places_are_empty_and_nobody_elses() {
    skip_without_kvm!();
    assert_eq!(said(&["content"]), "content ok");
}

#[test]
fn a_thread_finds_nothing_where_places_were_that_others_have_now() {
    skip_without_kvm!();
    assert_eq!(said(&["stale"]), "stale ok");
}

/// As natively, the call stores nothing or, if it began in time, to the freed memory, where nothing
/// sees it.
#[test]
fn a_call_that_waits_stores_into_nobody_elses_memory() {
    skip_without_kvm!();
    let said = said(&["blocked"]);
    assert!(said.starts_with("blocked ok"), "{said}");
}
