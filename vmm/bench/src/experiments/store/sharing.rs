//! What copies of a versioned segment have in common in memory: the host's cache of files, and what its kernel
//! needs to show them to a VM. And reading through the versions that tags have left one above the other.

use std::path::Path;

use vmm::store::{Name, Store, StoreError, TagName};
use vmm::vas::{VasError, content, kept};

use super::Subjects;
use crate::BenchError;
use crate::experiments::{Bench, Progress};
use crate::report::Report;
use crate::sample::Environment;
use crate::stats::ratio;

const ORIGIN: &str = "whole";
const COPY: &str = "copy";
/// A VAS with the same content in one layer.
const PLAIN: &str = "plain";
const TAGS: u64 = 32;

/// Adds the figures.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    progress("copies that are read whole");
    copies(bench, report)?;
    progress("large copies that are read whole");
    large_copies(bench, report)?;
    progress("reading through many tags");
    generations(bench, report)
}

fn store(bench: &Bench<'_>) -> std::path::PathBuf {
    bench.runner.dir.join("store")
}

fn copies(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let (bytes, count) = bench.sized((2_u64 << 20, 4_u32), (64 << 20, 100));
    let (size, number) = (bytes.to_string(), count.to_string());
    bench.remove_store();
    bench.run(Environment::Vm, &["store-whole", ORIGIN, "--bytes", &size])?;
    let failed = |source| BenchError::Library { what: "copy", source };
    copy(&store(bench), count).map_err(failed)?;
    let folder = store(bench).join("versions").display().to_string();
    let cached = |how: &[&str]| -> Result<Option<f64>, BenchError> {
        let answer = bench.run(Environment::Native, &[&["store-cached", &folder], how].concat())?;
        Ok(answer.answer.get("cached_bytes").and_then(serde_json::Value::as_f64))
    };
    cached(&["--checked"])?;
    bench.run(Environment::Vm, &["store-scan", COPY, "--windows", &number])?;
    let ratio = cached(&[])?.map(|cached| cached / bytes as f64);
    let note = format!(
        "{count} copies of a segment of {} MiB read whole in a VM: what the host then has of all files of \
         versioned segments in memory, over the segment's size",
        bytes >> 20
    );
    report.push("clones_cache_ratio", ratio, "", note);
    kernel_memory(bench, "clones_kernel_memory_small", (bytes, count), report)
}

/// What a copy has of its own in the kernel does not go by its size: so that is told of two sizes.
fn large_copies(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let (bytes, count) = bench.sized((8_u64 << 20, 4_u32), (1 << 30, 100));
    bench.remove_store();
    bench.run(Environment::Vm, &["store-whole", ORIGIN, "--bytes", &bytes.to_string()])?;
    let failed = |source| BenchError::Library { what: "copy", source };
    copy(&store(bench), count).map_err(failed)?;
    kernel_memory(bench, "clones_kernel_memory", (bytes, count), report)
}

/// What one VM costs that has many copies, over one that has one.
fn kernel_memory(
    bench: &Bench<'_>,
    name: &'static str,
    (bytes, count): (u64, u32),
    report: &mut Report,
) -> Result<(), BenchError> {
    let about = |copies: &str| {
        let before = kernel_bytes();
        let args = ["store-scan", COPY, "--windows", copies, "--marked"];
        let during = bench.runner.held(&bench.programs.payload(), &args, kernel_bytes)?;
        Ok::<_, BenchError>(during.zip(before).map(|(during, before)| during - before))
    };
    let (mut many, mut one) = (Vec::new(), Vec::new());
    for _ in 0..bench.sized(1, 5) {
        one.extend(about("1")?);
        many.extend(about(&count.to_string())?);
    }
    // Others on the host use it, too: the median of what each adds.
    let median = |samples: &mut Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied().filter(|bytes| *bytes > 0.0)
    };
    let both = median(&mut many).zip(median(&mut one));
    let ratio = both.map(|(many, one)| many / one);
    let why = match ratio {
        Some(_) => "",
        None => ": the host tells nothing, or others changed it more",
    };
    let note = format!(
        "page tables and memslots that the host's kernel has for a VM that reads {count} copies of {} MiB, over \
         those for one that reads one: SecPageTables and VmallocUsed of /proc/meminfo, before and during{why}",
        bytes >> 20
    );
    report.push(name, ratio, "", note);
    let further = f64::from(count.saturating_sub(1).max(1));
    let each = both.map(|(many, one)| (many - one) / further / 1024.0);
    report.push(
        format!("{name}_one_kib"),
        both.map(|(_, one)| one / 1024.0),
        "KiB",
        "the same of a VM that reads one",
    );
    report.push(format!("{name}_each_kib"), each, "KiB", "what each further copy adds to that");
    Ok(())
}

fn kernel_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<f64>().ok()
    };
    Some((kib("SecPageTables")? + kib("VmallocUsed")?) * 1024.0)
}

/// Files that the content lay in, and how quickly it was read over the plain one, by [`WAYS`], in several rounds.
type Moment = (usize, [Vec<f64>; 3]);

/// How content is read: the figure's last word, the time's name in the answer, and what it is. Both are read in the same
/// way: the first time nothing has been touched in the VM, of either; the files are in the host's memory.
const WAYS: [(&str, &str, &str); 3] = [
    ("first", "first_ns", "the first time in a new VM, in order"),
    ("scan", "again_ns", "again, in order"),
    ("random", "random_ns", "again, at random"),
];

fn generations(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let bytes = bench.sized(2_u64 << 20, 64 << 20);
    let (size, pages) = (bytes.to_string(), (bytes / 4096 / 32).to_string());
    bench.remove_store();
    for name in [PLAIN, ORIGIN] {
        bench.run(Environment::Vm, &["store-whole", name, "--bytes", &size])?;
    }
    let read = |name: &str| -> Result<[Option<f64>; 3], BenchError> {
        let answer = bench.run(Environment::Vm, &["store-scan", name])?.answer;
        Ok(WAYS.map(|(_, key, _)| answer.get(key).and_then(serde_json::Value::as_f64)))
    };
    let failed = |source| BenchError::Library { what: "tag", source };
    // How deep they lie, and how quick they were over the plain one.
    let (mut deepest, mut merged): (Option<Moment>, Option<Moment>) = (None, None);
    let mut before = 0;
    for number in 1..=TAGS {
        let seed = number.to_string();
        let change = ["store-change", ORIGIN, "--count", &pages, "--seed", &seed];
        bench.run(Environment::Vm, &change)?;
        tag(&store(bench), number).map_err(failed)?;
        let depth = depth(&store(bench), ORIGIN).map_err(failed)?;
        let is_merged = depth < before;
        before = depth;
        if !is_merged && deepest.as_ref().is_some_and(|(most, _)| depth <= *most) {
            continue;
        }
        let mut found: Moment = (depth, Default::default());
        for _ in 0..bench.sized(1, 5) {
            let (ours, plain) = (read(ORIGIN)?, read(PLAIN)?);
            for ((samples, plain), ours) in found.1.iter_mut().zip(plain).zip(ours) {
                samples.extend(ratio(plain, ours));
            }
        }
        *(if is_merged { &mut merged } else { &mut deepest }) = Some(found);
    }
    for (when, found) in [("", deepest), ("_merged", merged)] {
        for (at, (what, _, how)) in WAYS.into_iter().enumerate() {
            let name = format!("read_32_generations_over_plain_{what}{when}");
            let depth = found.as_ref().map_or_else(
                || "there was no such moment".to_owned(),
                |(depth, _)| format!("in {depth} files"),
            );
            let note = format!(
                "a word of each page of {} MiB, {how}: how many times as many a second as of the same pages in one \
                 layer, median of pairs of VMs; while {TAGS} tags were made with a commit of {pages} random pages each, {depth}{}",
                bytes >> 20,
                if when.is_empty() { ", the most there were" } else { ", after the last merge" }
            );
            let samples = found.as_ref().map_or(&[][..], |(_, samples)| samples[at].as_slice());
            report.push_median(name, samples, "", note);
        }
    }
    Ok(())
}

fn named(text: &str) -> Result<Name, StoreError> {
    Name::new(text.as_bytes()).map_err(StoreError::from)
}

fn copy(folder: &Path, count: u32) -> Result<(), VasError> {
    let store = Store::open(folder)?;
    let vid = store.find_vas(&named(ORIGIN)?)?;
    (0..count).try_for_each(|number| {
        let name = named(&format!("{COPY}{number}"))?;
        content::copy_vas(&store, vid, &name, None, &never).map(drop)
    })
}

fn tag(folder: &Path, number: u64) -> Result<(), VasError> {
    let store = Store::open(folder)?;
    let vid = store.find_vas(&named(ORIGIN)?)?;
    let tag = TagName::new(format!("t{number}").as_bytes()).map_err(StoreError::from)?;
    kept::tag_vas(&store, vid, None, &tag, None, &never).map(drop)
}

/// Logs and layers that the segment's content lies in.
fn depth(folder: &Path, name: &str) -> Result<usize, VasError> {
    let sid = Store::open(folder)?.find_segment(&named(&format!("{name}-0"))?)?;
    let files = std::fs::read_dir(folder.join("versions").join(sid.to_string()));
    let is_content = |name: &str| {
        name.starts_with("log.") || (name.starts_with("layer.") && !name.ends_with(".map"))
    };
    let names = files.into_iter().flatten().flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| is_content(&name.to_string_lossy())).count())
}

/// Nobody asks the benchmark to stop waiting.
fn never() -> bool {
    false
}
