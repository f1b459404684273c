//! `--memory` bounds the host memory of a run, whichever way a program tries to exceed it.
//!
//! One program, `guests/c/memory_limit.c`, tries to hold four times as much, in a way named by
//! its argument. Either the call fails (`ENOMEM`, for a file `ENOSPC`) or the program is ended with
//! status 137; in between, the VMM is measured from outside.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

const LIMIT_MIB: u64 = 64;
/// What the VMM itself uses, measured at 10 to 20 MiB, with a margin for other hosts.
const OWN_MIB: u64 = 40;

/// How an attempt ended, and how much memory was held then.
#[derive(Debug)]
struct Seen {
    /// `WAY: ERROR after N`, or empty when the program was ended.
    said: String,
    status: Option<i32>,
    held_mib: u64,
    stats: serde_json::Value,
}

/// Memory of the host that a process holds: its own pages, and files in memory.
fn held_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it still runs");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("the field exists");
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it still runs").flatten() {
        let named = std::fs::read_link(entry.path()).unwrap_or_default();
        if named.to_string_lossy().starts_with("/memfd:")
            && let Ok(meta) = std::fs::metadata(entry.path())
        {
            files.insert(meta.ino(), meta.blocks() * 512);
        }
    }
    let stored: u64 = files.values().sum();
    // Mapped pages of the files are in both figures.
    (field("RssAnon:") / 1024) + (stored >> 20).max(field("RssShmem:") / 1024)
}

/// Where the run's store is.
#[derive(Debug, Clone, Copy)]
enum Kept {
    OnDisk,
    Nowhere,
}

/// Runs an attempt, after the shell commands `shell`.
fn attempt(shell: &str, way: &[&str]) -> Seen {
    attempt_with(Kept::OnDisk, shell, way)
}

fn attempt_with(kept: Kept, shell: &str, way: &[&str]) -> Seen {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let stats = folder.path().join("stats.json");
    let path = |path: &Path| path.display().to_string();
    let timeout = pace::limit(std::time::Duration::from_secs(200)).as_secs().to_string();
    let mut child = Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$@\""), "sh"])
        .arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .args(["run", "--log", "error", "--memory", &format!("{LIMIT_MIB}M")])
        .args(["--timeout", &timeout, "--stats=json", "--stats-to", &path(&stats)])
        .args(match kept {
            Kept::OnDisk => vec!["--store".to_owned(), path(&folder.path().join("store"))],
            Kept::Nowhere => vec!["--no-store".to_owned()],
        })
        .arg(guests::c("memory_limit"))
        .args([way[0], &LIMIT_MIB.to_string()])
        .args(&way[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    let mut said = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut said).expect("it is text");
    let held_mib = if said.is_empty() { 0 } else { held_mib(child.id()) };
    drop(child.stdin.take());
    let status = child.wait().expect("it ends").code();
    let text = std::fs::read_to_string(&stats).expect("statistics were written");
    let stats = serde_json::from_str(&text).expect("they are JSON");
    Seen { said: said.trim().to_owned(), status, held_mib, stats }
}

fn peak(seen: &Seen, kind: &str) -> u64 {
    let all = seen.stats["memory"].as_array().expect("memory by kind");
    let one = all.iter().find(|one| one["kind"] == kind).expect("the kind is there");
    one["peak_bytes"].as_u64().expect("a number")
}

/// Asserts that some call failed with `error` and that the run used no more host memory than the
/// limit.
#[track_caller]
fn told(way: &str, error: &str) -> Seen {
    told_with(Kept::OnDisk, way, error)
}

#[track_caller]
fn told_with(kept: Kept, way: &str, error: &str) -> Seen {
    let seen = attempt_with(kept, "", &[way]);
    println!("{way}: {} MiB held, {}", seen.held_mib, seen.said);
    assert_eq!(seen.status, Some(0), "{seen:?}");
    assert!(seen.said.starts_with(&format!("{way}: {error} after ")), "{seen:?}");
    assert!(seen.held_mib <= LIMIT_MIB + OWN_MIB, "{seen:?}");
    let rss = seen.stats["rss_peak_bytes"].as_u64().expect("the host tells");
    assert!(rss >> 20 <= LIMIT_MIB + OWN_MIB, "{seen:?}");
    assert_eq!(seen.stats["memory_limit_bytes"], LIMIT_MIB << 20);
    seen
}

#[test]
fn pages_that_cannot_be_accessed_any_more_are_still_held() {
    skip_without_kvm!();
    let seen = told("none", "ENOMEM");
    assert!(peak(&seen, "private") <= LIMIT_MIB << 20, "{seen:?}");
}

#[test]
fn a_first_touch_beyond_the_limit_ends_the_program() {
    skip_without_kvm!();
    let seen = attempt("", &["first-touch"]);
    assert_eq!((seen.said.as_str(), seen.status), ("", Some(137)), "{seen:?}");
    assert_eq!(seen.stats["outcome"], "out-of-memory");
    let rss = seen.stats["rss_peak_bytes"].as_u64().expect("the host tells");
    assert!(rss >> 20 <= LIMIT_MIB + OWN_MIB, "{seen:?}");
}

#[test]
fn pages_that_only_calls_write_are_held() {
    skip_without_kvm!();
    told("by-read", "ENOMEM");
}

#[test]
fn single_pages_far_apart_take_single_pages() {
    skip_without_kvm!();
    let seen = attempt("", &["scattered"]);
    // 256 pages and their tables: nowhere near the limit, on any host.
    assert_eq!(seen.said, format!("scattered: nothing after {}", 4 * LIMIT_MIB), "{seen:?}");
    assert!(seen.held_mib <= OWN_MIB, "{seen:?}");
}

#[test]
fn files_in_memory_count_when_they_are_written() {
    skip_without_kvm!();
    for way in ["memfd-written", "shm-written"] {
        let seen = told(way, "ENOSPC");
        assert!(peak(&seen, "files") > (LIMIT_MIB - 16) << 20, "{seen:?}");
    }
}

#[test]
fn files_in_memory_count_when_they_are_mapped() {
    skip_without_kvm!();
    for way in ["memfd-mapped", "shm-mapped"] {
        told(way, "ENOMEM");
    }
}

#[test]
fn files_in_memory_that_are_mapped_count_when_they_grow_again() {
    skip_without_kvm!();
    told("regrown", "ENOSPC");
}

#[test]
fn volatile_segments_count() {
    skip_without_kvm!();
    let seen = told("segments", "ENOMEM");
    assert!(peak(&seen, "volatile") >= (LIMIT_MIB - 16) << 20, "{seen:?}");
}

#[test]
fn all_segments_of_a_run_without_a_store_count_until_they_are_deleted() {
    skip_without_kvm!();
    for way in ["kept-segments", "clones"] {
        let seen = told_with(Kept::Nowhere, way, "ENOMEM");
        assert!(peak(&seen, "files") >= (LIMIT_MIB - 16) << 20, "{seen:?}");
    }
    told_with(Kept::Nowhere, "deleted", "nothing");
    // A store's pages are the host's page cache.
    let seen = attempt("", &["kept-segments"]);
    let all = format!("kept-segments: nothing after {}", 4 * LIMIT_MIB);
    assert_eq!((seen.said, seen.status), (all, Some(0)));
}

#[test]
fn page_tables_and_records_of_ever_new_addresses_are_given_back() {
    skip_without_kvm!();
    let seen = attempt("", &["addresses", "20000"]);
    println!("{} MiB held, {}", seen.held_mib, seen.said);
    assert_eq!((seen.said.as_str(), seen.status), ("addresses: nothing after 20000", Some(0)));
    assert!(seen.held_mib <= OWN_MIB, "{seen:?}");
    // They do count: 4 KiB of table for each that waits to be freed.
    let tables = peak(&seen, "tables");
    assert!((1 << 20..4 << 20).contains(&tables), "{seen:?}");
}

#[test]
fn areas_and_mappings_end_where_linux_ends_them() {
    skip_without_kvm!();
    told("areas", "ENOMEM");
    told("mappings", "ENOMEM");
}

#[test]
fn files_that_stay_mapped_leave_the_vmm_its_descriptors() {
    skip_without_kvm!();
    let seen = attempt("ulimit -n 300;", &["descriptors"]);
    assert!(seen.said.starts_with("descriptors: ENOMEM after "), "{seen:?}");
    // The limit on descriptors was reached, with some to spare.
    let mapped: u64 = seen.said.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!((100..260).contains(&mapped), "{seen:?}");
    assert_eq!(seen.status, Some(0), "{seen:?}");
}
