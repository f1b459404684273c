//! `spacejmp bench kv`, small: every figure is there or says why it is not; whoever is compared finds every key.
//! Values do not matter here.

use std::process::{Command, Stdio};

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use vmm::cli::bench::PROGRAM;

/// What needs nobody else.
const OURS: [&str; 14] = [
    "kv_get_1_per_s",
    "kv_get_1_p99_us",
    "kv_set_1_per_s",
    "kv_serve_get_1_per_s",
    "kv_serve_set_1_p50_us",
    "kv_get_largest_batch",
    "kv_set_largest_batch",
    "kv_reads_beside_writer",
    "kv_set_exits",
    "kv_mix_10_exits",
    "kv_mix_10_over_get",
    "kv_serve_get_exits",
    "kv_bytes_per_key",
    "kv_first_answer_ms",
];
/// What is compared with Redis.
const OF_REDIS: [&str; 8] = [
    "kv_get_over_redis",
    "kv_set_over_redis",
    "kv_get_best_over_redis",
    "kv_get_batch_over_redis",
    "redis_reads_beside_writer",
    "kv_memory_over_redis",
    "redis_rdb_over_kv_first_answer",
    "redis_aof_over_kv_first_answer",
];

fn measured(path: &str) -> Value {
    guests::program(PROGRAM, PROGRAM, Profile::Dev);
    guests::program("kv", "kv", Profile::Dev);
    let dir = tempfile::tempdir_in(guests::target()).expect("a folder");
    let output = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .env_remove("SPACEJMP_LOG")
        .env("PATH", path)
        .args(["bench", "kv", "--quick", "--json", "--dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("the command starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let left = std::fs::read_dir(dir.path()).expect("it is there").count();
    assert_eq!(left, 0, "everything is removed");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn what_needs_redis_is_measured_where_it_is_installed_and_says_so_where_it_is_not() {
    skip_without_kvm!();
    let is_there = |answer: &Value, name: &str| {
        let (value, note) = (&answer["results"][name], &answer["notes"][name]);
        assert!(value.as_f64().is_some_and(|value| value > 0.0), "{name}: {value}: {note}");
    };
    let with = Command::new("redis-server").arg("--version").output().is_ok();
    let path = if with { std::env::var("PATH").expect("there is one") } else { "/nowhere".into() };
    let answer = measured(&path);
    OURS.iter().for_each(|name| is_there(&answer, name));
    // The starts of the two runs that are compared may differ by an exit or two, which 200 requests share.
    let exits = answer["results"]["kv_get_exits"].as_f64().expect("a number");
    assert!(exits.abs() <= 0.01, "{}", answer["results"]);
    if with {
        OF_REDIS.iter().for_each(|name| is_there(&answer, name));
        return;
    }
    for name in OF_REDIS {
        assert!(answer["results"][name].is_null(), "{name} without anything to compare with");
        let note = answer["notes"][name].as_str().expect("a note");
        assert!(note.contains("redis-server is not installed"), "{name}: {note}");
    }
}
