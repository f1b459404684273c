//! `bench map`: what it costs to map memory and to unmap it.
//!
//! Attaching is timed inside a VM, mapping by the same program run natively, alternately. The
//! notes say what an attach does not do: the host finds pages at their first touch, which
//! `mmap` with `MAP_POPULATE` has done before it returns.

use super::{Bench, Progress, map_sizes};
use crate::report::Report;
use crate::sample::{Environment, Sample};
use crate::stats::{self, ratio};
use crate::{BenchError, Size};

const GIB: u64 = 1 << 30;

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let (runs, rounds) = bench.sized((1, 10), (5, 100));
    let bytes = bench.sized(GIB / 4, GIB);
    progress("writing a file to map");
    let file = bench.programs.fill("mapped", bytes)?;
    let mut samples = Samples::default();
    let (path, count, large) = (file.to_string_lossy(), rounds.to_string(), (64 * GIB).to_string());
    for run in 1..=runs {
        progress(&format!("attaching and mapping, {run} of {runs}"));
        let args = ["attach", "--count", &count, "--bytes", &large];
        samples.vm.push(bench.run(Environment::Vm, &args)?);
        let args = ["map", "--count", "5"];
        samples.native.push(bench.run(Environment::Native, &args)?);
        let args = ["map", &path, "--count", "5", "--bytes", &bytes.to_string()];
        samples.file.push(bench.run(Environment::Native, &args)?);
    }
    let mut report = Report::default();
    map_sizes::measure(&mut report, bench, (&file, bytes), progress)?;
    let _ = std::fs::remove_file(&file);
    let note = format!("median of {runs} VM(s), in each of {rounds}");
    samples.against_mmap(&mut report, &note);
    samples.against_file(&mut report, bench.size);
    samples.times(&mut report);
    progress("attaching one address space many times");
    memory(&mut report, bench)?;
    Ok(report)
}

/// Memory of an instance: the resident memory of a VM with many, less that with one.
fn memory(report: &mut Report, bench: &Bench<'_>) -> Result<(), BenchError> {
    let count: u32 = bench.sized(200, 2000);
    let run = |count: u32| {
        bench.run_counted(Environment::Vm, &["instances", "--count", &count.to_string()])
    };
    let (one, many) = (run(1)?, run(count + 1)?);
    for (name, path, what) in [
        ("instance_tables_bytes", "memory_touched_bytes", "guest memory: page tables"),
        ("instance_bytes", "rss_peak_bytes", "all resident memory of the VMM, tables included"),
    ] {
        let each = one.stat(path).zip(many.stat(path));
        let each = each.map(|(one, many)| (many - one) / f64::from(count));
        let note = format!("one more instance of a VAS with a segment, in {count}: {what}");
        report.push(name, each, "B", note);
    }
    Ok(())
}

#[derive(Default)]
struct Samples {
    vm: Vec<Sample>,
    native: Vec<Sample>,
    file: Vec<Sample>,
}

fn median_of(samples: &[Sample], key: &str) -> Option<f64> {
    stats::median_of(samples, |sample| sample.number(key))
}

impl Samples {
    fn vm(&self, key: &str) -> Option<f64> {
        median_of(&self.vm, key)
    }

    fn against_mmap(&self, report: &mut Report, note: &str) {
        let large = ratio(self.vm("attach_64g"), self.vm("attach_1m"));
        let note = format!("attach of a VAS with 64 GiB / with 1 MiB, tables of both kept; {note}");
        report.push("attach_64g_over_1m_cached", large, "", note);
        let over_map = |key: &str| ratio(self.vm(key), median_of(&self.native, "map"));
        let over_unmap = |key: &str| ratio(self.vm(key), median_of(&self.native, "unmap"));
        let mmap = "mmap(MAP_POPULATE) of 1 GiB of a warm memfd in 4 KiB pages, natively";
        for (name, key, what) in [
            (
                "attach_1g_cached_over_mmap",
                "attach_1g",
                "attach of 1 GiB that is not attached in the VM now, 4 KiB tables kept",
            ),
            (
                "attach_1g_shared_over_mmap",
                "attach_1g_shared",
                "attach of 1 GiB that another instance in the VM has",
            ),
            (
                "attach_1g_first_over_mmap",
                "attach_1g_first",
                "first attach of 1 GiB in the VM, all its 4 KiB tables built (POPULATE)",
            ),
            (
                "attach_1g_first_largest_over_mmap",
                "attach_1g_first_largest",
                "the same with the largest pages that fit, the default",
            ),
        ] {
            report.push(name, over_map(key), "", format!("{what} / {mmap}"));
        }
        let munmap = "munmap of the same";
        for (name, key, what) in [
            ("detach_1g_cached_over_munmap", "detach_1g", "detach of 1 GiB, the last in the VM"),
            ("detach_1g_first_over_munmap", "detach_1g_first", "detach after the first attach"),
        ] {
            report.push(name, over_unmap(key), "", format!("{what} / {munmap}"));
        }
    }

    /// Against a file the host maps with large pages, if it does.
    fn against_file(&self, report: &mut Report, size: Size) {
        let bytes = median_of(&self.file, "bytes").unwrap_or(1.0);
        let huge = median_of(&self.file, "huge").unwrap_or(0.0);
        // The file may be smaller in a quick run: time per byte is compared.
        let mapped = median_of(&self.file, "map").map(|ns| ns * GIB as f64 / bytes);
        let what = "cached attach of 1 GiB / mmap(MAP_POPULATE) of a warm file";
        let share = 100.0 * huge / bytes;
        let scaled = if size == Size::Quick { ", scaled to 1 GiB" } else { "" };
        let is_huge = huge * 2.0 >= bytes;
        let note = if is_huge {
            format!("{what}, {share:.0} % of it in 2 MiB pages{scaled}")
        } else {
            format!("the host maps {share:.0} % of a file in the temporary directory huge")
        };
        let figure = ratio(self.vm("attach_1g"), mapped);
        report.push("attach_1g_cached_over_mmap_huge", figure.filter(|_| is_huge), "", note);
        let note = format!("{what}, however the host maps it{scaled}");
        report.push("attach_1g_cached_over_mmap_file", figure, "", note);
    }

    fn times(&self, report: &mut Report) {
        let us = |ns: Option<f64>| ns.map(|ns| ns / 1e3);
        for (name, key, what) in [
            ("attach_1m_us", "attach_1m", "attach of a VAS with 1 MiB, tables kept"),
            ("detach_1m_us", "detach_1m", "detach of it"),
            ("attach_64g_us", "attach_64g", "attach of a VAS with 64 GiB, tables kept"),
            ("detach_64g_us", "detach_64g", "detach of it"),
            ("attach_1g_us", "attach_1g", "attach of 1 GiB, 4 KiB tables kept"),
            ("attach_1g_first_us", "attach_1g_first", "first attach of it, tables built"),
            ("touch_1g_first_us", "touch_1g_first", "first switch into it and first touch"),
            ("attach_segments_1_us", "attach_segments_1", "attach of a VAS with 1 segment"),
            ("attach_segments_10_us", "attach_segments_10", "with 10 segments"),
            ("attach_segments_100_us", "attach_segments_100", "with 100 segments"),
            ("detach_segments_1_us", "detach_segments_1", "detach of a VAS with 1 segment"),
            ("detach_segments_10_us", "detach_segments_10", "with 10 segments"),
            ("detach_segments_100_us", "detach_segments_100", "with 100 segments"),
            ("vas_create_us", "create", "making a VAS: it is on stable storage"),
            ("vas_find_us", "find", "finding a VAS by name"),
            ("vas_delete_us", "delete", "deleting a VAS"),
        ] {
            report.push(name, us(self.vm(key)), "us", what);
        }
        for (name, key) in [("mmap_1g_us", "map"), ("munmap_1g_us", "unmap")] {
            let value = us(median_of(&self.native, key));
            report.push(name, value, "us", "1 GiB of a warm memfd, natively");
        }
    }
}
