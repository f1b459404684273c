//! The first answer after a start with much data, beside Redis's loading of the same; memory for each key.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use super::sides::{Programs, Redis, ask, info};
use crate::BenchError;
use crate::experiments::Progress;
use crate::report::Report;
use crate::stats::{median, ratio};

/// Adds the figures.
pub(super) fn measure(
    programs: &Programs<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let is_huge = programs.bench.is_huge;
    let keys = if is_huge { 10_000_000 } else { programs.bench.sized(10_000, 1_000_000) };
    progress(&format!("memory of {keys} keys"));
    memory(programs, keys, report)?;
    let keys = if is_huge { 10 << 20 } else { programs.bench.sized(5_000, 256 << 10) };
    progress(&format!("the first answer, {} MiB of values", keys >> 10));
    first_answer(programs, keys, report)
}

const SMALL: usize = 8;

fn memory(programs: &Programs<'_>, keys: u64, report: &mut Report) -> Result<(), BenchError> {
    let store = programs.bench.programs.file("store");
    let mut ours = [0.0; 2];
    for (bytes, keys) in ours.iter_mut().zip([1, keys]) {
        programs.bench.remove_store();
        programs.fill(keys, SMALL, "manual")?;
        *bytes = on_disk(&store) as f64;
    }
    let ours = (ours[1] - ours[0]) / (keys - 1) as f64;
    let note = format!(
        "what the store has on the disk, which is what it has in memory, for each of {keys} keys of 16 bytes with a value of {SMALL}"
    );
    report.push("kv_bytes_per_key", ours, "B", note);
    let mut theirs = None;
    if let Some(Redis { worker, at, .. }) = programs.redis(&["--appendonly", "no"])? {
        let before = info(&at, "used_memory");
        programs.fill_served(&at, keys, SMALL)?;
        theirs = before
            .zip(info(&at, "used_memory"))
            .map(|(before, after)| (after - before) / keys as f64);
        worker.terminate()?;
    }
    let note = |text: &str| match programs.why_not(super::sides::Side::Redis) {
        Some(why) => format!("{text}: {why}"),
        None => text.to_owned(),
    };
    report.push(
        "redis_bytes_per_key",
        theirs,
        "B",
        note("`used_memory` of Redis for each of the same"),
    );
    let over = ratio(Some(ours), theirs);
    report.push("kv_memory_over_redis", over, "", note("memory for each key: ours / Redis"));
    Ok(())
}

/// Blocks of the files in a folder, in bytes.
fn on_disk(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => on_disk(&entry.path()),
        Ok(about) => about.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

const LARGE: usize = 1024;

fn first_answer(programs: &Programs<'_>, keys: u64, report: &mut Report) -> Result<(), BenchError> {
    programs.bench.remove_store();
    programs.fill(keys, LARGE, "manual")?;
    let mut samples = Vec::new();
    for _ in 0..programs.bench.sized(3, 11) {
        let args = ["get", "key:000000000000"];
        let mut command = programs.in_vm(&programs.kv, &args);
        let what = format!("{command:?}");
        let began = Instant::now();
        let output =
            command.output().map_err(|source| BenchError::Start { what: what.clone(), source })?;
        let took = began.elapsed();
        if output.stdout.iter().filter(|&&byte| byte == b'v').count() != LARGE {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(BenchError::Failed { what, status: output.status.to_string(), stderr });
        }
        samples.push(took.as_secs_f64() * 1e3);
    }
    programs.bench.remove_store();
    let mib = (keys * LARGE as u64) >> 20;
    let note = format!(
        "from starting `kv get KEY` in a new VM until it has ended with the value, {mib} MiB of data, in the host's page cache"
    );
    report.push_median("kv_first_answer_ms", &samples, "ms", note);
    let rdb = loaded(programs, keys, &["--appendonly", "no"], &["SAVE"])?;
    let aof =
        loaded(programs, keys, &["--appendonly", "yes", "--aof-use-rdb-preamble", "no"], &[])?;
    let why = programs
        .why_not(super::sides::Side::Redis)
        .map(|why| format!(": {why}"))
        .unwrap_or_default();
    let ours = median(&samples);
    for (name, ms, what) in
        [("rdb", rdb, "its RDB file"), ("aof", aof, "its append-only file, of commands")]
    {
        let note = format!(
            "from starting `redis-server` until it answers a GET: it loads {what} of the same data{why}"
        );
        report.push(format!("redis_{name}_first_answer_ms"), ms, "ms", note);
        let note = format!("Redis's time / ours{why}");
        report.push(format!("redis_{name}_over_kv_first_answer"), ratio(ms, ours), "", note);
    }
    Ok(())
}

/// How long Redis takes to load what it was given and has stored, in milliseconds.
fn loaded(
    programs: &Programs<'_>,
    keys: u64,
    options: &[&str],
    commands: &[&str],
) -> Result<Option<f64>, BenchError> {
    let Some(Redis { worker, at, .. }) = programs.redis(options)? else { return Ok(None) };
    programs.fill_served(&at, keys, LARGE)?;
    for command in commands {
        ask(&at, command);
    }
    worker.terminate()?;
    let again = programs.redis(options)?;
    let mut ms = None;
    if let Some(Redis { worker, at, loaded }) = again {
        // Without its data it would be quicker.
        let is_whole = ask(&at, "DBSIZE").is_some_and(|line| line.trim_end() == format!(":{keys}"));
        ms = is_whole.then_some(loaded.as_secs_f64() * 1e3);
        worker.terminate()?;
    }
    for name in ["dump.rdb", "appendonlydir"] {
        let path = programs.bench.programs.file(name);
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
    }
    Ok(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_folders_of_a_folder_count() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("sub")).expect("a folder");
        std::fs::write(dir.path().join("sub/file"), vec![1; 1 << 20]).expect("a file");
        assert!(on_disk(dir.path()) >= 1 << 20);
        assert_eq!(on_disk(&dir.path().join("none")), 0);
    }
}
