//! What a segment takes on the disk beside a visit to read that lasts, while another VM commits all the time.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::Subjects;
use super::raw::{Files, add_files};
use crate::BenchError;
use crate::experiments::Progress;
use crate::report::Report;
use crate::sample::Environment;

const NAME: &str = "lasting";
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Adds the figure.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    progress("commits beside a visit that lasts");
    let (bytes, pages, commits) =
        bench.sized((2_u64 << 20, 64_u64, 300_u64), (64 << 20, 512, 1000));
    bench.remove_store();
    bench.run(Environment::Vm, &["store-whole", NAME, "--bytes", &bytes.to_string()])?;
    let folder = bench.runner.dir.join("store").join("versions");
    // As the host shows what is open.
    let folder = folder.canonicalize().unwrap_or(folder);
    let (count, times) = (pages.to_string(), commits.to_string());
    let write = || {
        let change = ["store-change", NAME, "--count", &count, "--commits", &times];
        most_while(&folder, || bench.run(Environment::Vm, &change))
    };
    let held = bench.runner.held(&bench.programs.payload(), &["store-hold", NAME], write)?;
    let (most, _) = held?;
    let note = format!(
        "most that the files of a segment of {} MiB took on the disk, all of them in use, over its size: a VM was in a \
         visit to read that began before {commits} commits of {pages} random pages each by another, {} times the \
         segment; logs, layers and what had no name any more but was open",
        bytes >> 20,
        commits * pages * 4096 / bytes
    );
    report.push("log_over_data", Some(most as f64 / bytes as f64), "", note);
    Ok(())
}

/// The most bytes on the disk that were seen while something was done, and what that returned.
fn most_while<T>(
    folder: &Path,
    work: impl FnOnce() -> Result<T, BenchError>,
) -> Result<(u64, T), BenchError> {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut most = 0;
            loop {
                // So that there is a look behind the end, too.
                let is_last = is_done.load(Ordering::Relaxed);
                most = most.max(taken(folder));
                if is_last {
                    return most;
                }
                thread::sleep(PAUSE);
            }
        });
        let done = work();
        is_done.store(true, Ordering::Relaxed);
        let most = looks.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.map(|done| (most, done))
    })
}

/// What the files of a folder take, and those that were there and that some process of this user has open still.
fn taken(folder: &Path) -> u64 {
    let mut seen = Files::new();
    add_files(folder, &mut seen);
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    for process in entries(Path::new("/proc")) {
        for open in entries(&process.path().join("fd")) {
            let Ok(target) = std::fs::read_link(open.path()) else { continue };
            if target.starts_with(folder)
                && let Ok(about) = std::fs::metadata(open.path())
                && about.is_file()
            {
                seen.insert((about.dev(), about.ino()), about.blocks() * 512);
            }
        }
    }
    seen.values().sum()
}

#[cfg(test)]
mod tests {
    use super::taken;

    #[test]
    fn what_is_open_counts_without_a_name_and_what_is_closed_no_more() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().canonicalize().expect("a path");
        let path = folder.join("file");
        std::fs::write(&path, vec![1; 1 << 20]).expect("a file");
        let open = std::fs::File::open(&path).expect("it opens");
        open.sync_all().expect("it is written");
        let named = taken(&folder);
        assert!((1 << 20..2 << 20).contains(&named), "{named}");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(taken(&folder), named);
        drop(open);
        assert_eq!(taken(&folder), 0);
    }
}
