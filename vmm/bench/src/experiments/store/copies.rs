//! Tags, clones and rollbacks of a versioned segment of 10 GiB, by the calls that the commands make,
//! without the start of a command; and opening a tag in a VM. Once fresh, and once after thousands of
//! commits.

use std::time::Instant;

use vmm::store::{Name, Store, StoreError, TagName, VersionChoice};
use vmm::vas::{VasError, content, kept};

use super::Subjects;
use crate::BenchError;
use crate::experiments::Progress;
use crate::report::Report;
use crate::sample::Environment;

const VAS: &str = "big";
const SEGMENT: &str = "big-0";

/// Adds the figures.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    let rounds = bench.sized("50", "10000");
    bench.remove_store();
    commit(subjects, "4")?;
    progress("tags, clones and rollbacks of 10 GiB");
    add(subjects, report, "", "with a few commits")?;
    progress("tags, clones and rollbacks after many commits");
    commit(subjects, rounds)?;
    let commits = 2 * rounds.parse::<u64>().unwrap_or_default();
    add(subjects, report, "used_", &format!("after {commits} more commits of a random page"))
}

/// Makes the segment, or goes on with it: each round is two commits.
fn commit(subjects: &Subjects<'_>, rounds: &str) -> Result<(), BenchError> {
    let args = ["store-commit", VAS, "--bytes", "10G", "--pages", "1", "--rounds", rounds];
    subjects.bench.run(Environment::Vm, &args).map(drop)
}

fn add(
    subjects: &Subjects<'_>,
    report: &mut Report,
    prefix: &str,
    when: &str,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    let goes = bench.sized(3, 20);
    let failed = |source| BenchError::Library { what: "tag, clone or roll back", source };
    let samples = samples(&bench.runner.dir.join("store"), prefix, goes).map_err(failed)?;
    let mut attached = Vec::new();
    for number in 0..goes {
        let name = format!("{VAS}@{prefix}all{number}");
        let answer = bench.run(Environment::Vm, &["store-view", &name])?.answer;
        attached.extend(answer.get("open_ns").and_then(serde_json::Value::as_f64));
    }
    let attached: Vec<f64> = attached.into_iter().map(|ns| ns / 1e6).collect();
    let no_disk = subjects.disk.why_not();
    for (name, what, samples, is_durable) in [
        ("tag_10g", "keeping the newest version of a segment under a name", &samples.tags, true),
        ("clone_10g", "an independent copy of the segment", &samples.clones, true),
        ("rollback_10g", "an older version is the newest again", &samples.rollbacks, true),
        (
            "attach_tag_10g",
            "from the first call of a program in a new VM to being inside a tag of the VAS",
            &attached,
            false,
        ),
    ] {
        let note = format!("{what}: 10 GiB, sparse, {when}; median of {goes}");
        let name = format!("{prefix}{name}_ms");
        match no_disk.filter(|_| is_durable) {
            Some(why) => report.push(name, None, "ms", format!("{note}: {why}")),
            None => report.push_median(name, samples, "ms", note),
        }
    }
    Ok(())
}

/// Milliseconds.
#[derive(Default)]
struct Samples {
    tags: Vec<f64>,
    clones: Vec<f64>,
    rollbacks: Vec<f64>,
}

fn samples(folder: &std::path::Path, prefix: &str, goes: u32) -> Result<Samples, VasError> {
    let store = Store::open(folder)?;
    let named = |text: &str| Name::new(text.as_bytes()).map_err(StoreError::from);
    let sid = store.find_segment(&named(SEGMENT)?)?;
    let vid = store.find_vas(&named(VAS)?)?;
    let mut all = Samples::default();
    for number in 0..goes {
        let tag = |text: String| TagName::new(text.as_bytes()).map_err(StoreError::from);
        let kept = format!("{prefix}t{number}");
        timed(&mut all.tags, || {
            kept::tag_segment(&store, sid, None, &tag(kept.clone())?, None, &never).map(drop)
        })?;
        timed(&mut all.clones, || {
            let name = named(&format!("{prefix}clone{number}"))?;
            content::clone_segment(&store, sid, None, &name, None, &never).map(drop)
        })?;
        timed(&mut all.rollbacks, || {
            let to = VersionChoice::Tag(kept.clone());
            kept::rollback_segment(&store, sid, &to, None, &never).map(drop)
        })?;
        kept::tag_vas(&store, vid, None, &tag(format!("{prefix}all{number}"))?, None, &never)?;
    }
    Ok(all)
}

/// Nobody asks the benchmark to stop waiting.
fn never() -> bool {
    false
}

fn timed(
    samples: &mut Vec<f64>,
    work: impl FnOnce() -> Result<(), VasError>,
) -> Result<(), VasError> {
    let begin = Instant::now();
    work()?;
    samples.push(begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
