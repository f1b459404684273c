//! `spacejmp bench store`, small: every figure is there or says why it is not; everybody who is
//! compared has the same content; what was committed is there after a kill. Values do not matter here.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use vmm::cli::bench::PROGRAM;

/// What the peers are for.
const OF_PEERS: [&str; 11] = [
    "commit_1_over_best",
    "commit_64_over_best",
    "get_hash_over_lmdb",
    "get_over_lmdb",
    "get_over_redb",
    "scan_over_lmdb",
    "load_over_lmdb",
    "insert_over_lmdb",
    "load_hash_over_lmdb",
    "durable_put_over_best",
    "reads_beside_writer_sqlite",
];
/// What needs nobody else.
const OURS: [&str; 36] = [
    "commit_1_over_floor",
    "commit_64_over_floor",
    "commit_1_over_compared",
    "commit_64_over_compared",
    "commit_64g_over_64m",
    "commit_fsyncs",
    "commit_bytes_over_ideal",
    "small_txn_exits",
    "read_enter_over_plain",
    "read_enter_over_plain_instructions",
    "read_enter_over_plain_trap_instructions",
    "get_ns",
    "insert_ns",
    "hash_load_ns",
    "reads_beside_writer",
    "load_time_over_raw",
    "get_time_over_raw",
    "load_peak_mib",
    "space_over_data",
    "log_over_data",
    "open_after_crash_64g_ms",
    "tag_10g_ms",
    "clone_10g_ms",
    "rollback_10g_ms",
    "attach_tag_10g_ms",
    "used_clone_10g_ms",
    "open_over_rkyv_checked",
    "open_exits",
    "open_host_calls",
    "clones_cache_ratio",
    "read_32_generations_over_plain_first",
    "read_32_generations_over_plain_scan",
    "read_32_generations_over_plain_random",
    "read_32_generations_over_plain_first_merged",
    "read_32_generations_over_plain_scan_merged",
    "read_32_generations_over_plain_random_merged",
];

/// Opening a segment: finding VAS and segment, what is known of it, attaching, entering, the first page.
const OPEN_EXITS: f64 = 6.0;
/// What that may ask the host for at most, whatever else the store has: 60 things, and two where the heap has to grow.
const OPEN_HOST_CALLS: f64 = 62.0;

fn bench(arguments: &[&str]) -> Output {
    guests::program(PROGRAM, PROGRAM, Profile::Dev);
    Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .env_remove("SPACEJMP_LOG")
        .args(["bench", "store", "--quick", "--json", "--entries", "2000"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

/// What it measured in a folder of the build's, which is on a disk where builds are.
fn measured(more: &[&str]) -> Value {
    let dir = tempfile::tempdir_in(guests::target()).expect("a folder");
    let path = dir.path().to_str().expect("ASCII");
    let output = bench(&[&["--dir", path], more].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let left = std::fs::read_dir(dir.path()).expect("it is there").count();
    assert_eq!(left, 0, "everything is removed");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn peers() -> PathBuf {
    let folder = guests::target().join("x86_64-unknown-linux-gnu/release");
    folder.join("spacejmp-bench-peers")
}

fn assert_measured(answer: &Value, names: &[&str]) {
    for name in names {
        let (value, note) = (&answer["results"][name], &answer["notes"][name]);
        assert!(value.as_f64().is_some_and(|value| value > 0.0), "{name}: {value}: {note}");
    }
    for check in answer["checks"].as_array().expect("checks") {
        assert_eq!(check["is_kept"], true, "{check}");
    }
}

#[test]
fn without_peers_what_needs_them_says_how_to_build_them_and_the_rest_is_measured() {
    skip_without_kvm!();
    let answer = measured(&[]);
    assert_measured(&answer, &OURS);
    assert_eq!(answer["results"]["commit_fsyncs"], 1.0, "{}", answer["results"]);
    // Counted, not timed.
    for name in ["commit_8_bytes_over_ideal", "commit_bytes_over_ideal"] {
        assert!(answer["results"][name].as_f64() <= Some(1.1), "{name}: {}", answer["results"]);
    }
    assert_eq!(answer["results"]["small_txn_exits"], 1.0, "{}", answer["results"]);
    let of = |name: &str| answer["results"][name].as_f64().expect("counted");
    assert_eq!(of("open_exits"), OPEN_EXITS);
    assert!(of("open_host_calls") <= OPEN_HOST_CALLS, "{}", of("open_host_calls"));
    // All copies have the same files: what the host keeps besides are root records and logs, which weigh
    // against segments as small as here.
    assert!(of("clones_cache_ratio") < 2.0, "{}", of("clones_cache_ratio"));
    for name in OF_PEERS {
        assert!(answer["results"][name].is_null(), "{name} without anything to compare with");
        let note = answer["notes"][name].as_str().expect("a note");
        assert!(note.contains("cargo xtask peers"), "{name}: {note}");
    }
}

#[test]
fn with_peers_everything_is_measured_and_all_have_the_same_content() {
    skip_without_kvm!();
    let peers = peers();
    if !peers.is_file() {
        tests::kvm::other_kind_of_host(
            "with_peers_everything_is_measured_and_all_have_the_same_content",
            &format!("{} has not been built: cargo xtask peers", peers.display()),
        );
        return;
    }
    let answer = measured(&["--peers", peers.to_str().expect("ASCII")]);
    assert_measured(&answer, &OURS);
    assert_measured(&answer, &OF_PEERS);
}

#[test]
fn peers_that_are_named_and_not_there_and_options_of_others_are_refused() {
    let output = bench(&["--peers", "/no/such/peers"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("/no/such/peers") && said.contains("cargo xtask peers"), "{said}");
    let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let run = |arguments: &[&str], dir: &Path| {
        let mut command = Command::new(&spacejmp);
        command.arg("bench").args(arguments).arg("--dir").arg(dir).output().expect("it starts")
    };
    let output = run(&["run", "--quick", "--entries", "5"], Path::new("/tmp"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("--entries") && said.contains("store"), "{said}");
    let output = run(&["store", "--quick"], Path::new("/no/such/folder"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("/no/such/folder") && said.contains("--dir"), "{said}");
}
