//! `bench sam`: reads of a genome, parsed once and then only worked on, beside samtools, which reads its file
//! each time.
//!
//! `genome` is an example that is built separately, and samtools is found in `PATH`: what is not there has no
//! figures.
//!
//! - `tools`: the two programs, and how their runs are timed

mod tools;

use std::collections::BTreeMap;

use self::tools::{Genome, Samtools, Seconds};
use super::{Bench, Progress};
use crate::BenchError;
use crate::report::{Axis, Check, Origin, Plot, Report, Series, paper};
use crate::stats::{median, ratio};

/// What is done with the reads, in the order of the paper's figure, and how many times as fast as samtools
/// it was there.
const OPERATIONS: [(&str, &str, f64); 4] = [
    ("flagstat", "counting flags", 24.0),
    ("name_sort", "sorting by name", 2.9),
    ("coordinate_sort", "sorting by coordinate", 28.0),
    ("index", "making an index of the coordinate order", 1.12),
];

/// Samples of seconds, by what was timed.
type Samples = BTreeMap<String, Vec<f64>>;

/// Runs the experiment.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let (reads, rounds) = match bench.is_huge {
        true => (10_000_000, 1),
        false => bench.sized((20_000, 1), (1_000_000, 3)),
    };
    let genome = Genome::find(bench);
    let samtools = Samtools::find(bench);
    let mut found = Found { reads, ..Found::default() };
    let Some(genome) = genome.as_ref().filter(|genome| genome.is_there()) else {
        return Ok(found.report(Some(tools::NO_GENOME), samtools.as_ref().err()));
    };
    progress("generating reads");
    genome.generate(reads)?;
    if let Ok(samtools) = &samtools {
        samtools.prepare()?;
    }
    for _ in 0..rounds {
        // Alternately: a machine that gets slower gets slower for all.
        progress("working on reads in an address space");
        ours(bench, genome, samtools.is_ok(), &mut found)?;
        if let Ok(samtools) = &samtools {
            progress("working on files with samtools");
            theirs(samtools, &mut found)?;
        }
        progress("working on reads in plain memory");
        for (name, seconds) in genome.natively()? {
            found.push(format!("native_{name}"), seconds);
        }
    }
    bench.remove_store();
    Ok(found.report(None, samtools.as_ref().err()))
}

/// Loads the file of each format into a new address space, and does everything in the last one.
fn ours(
    bench: &Bench<'_>,
    genome: &Genome<'_>,
    has_bam: bool,
    found: &mut Found,
) -> Result<(), BenchError> {
    let files = if has_bam { &["bam", "sam"][..] } else { &["sam"] };
    for format in files {
        bench.remove_store();
        found.time(&format!("load_{format}"), genome.load(format)?);
    }
    found.bytes = genome.bytes();
    if let Some(bytes) = found.bytes {
        found.push("write".into(), genome.write_alone(bytes)?);
    }
    genome.tag("loaded")?;
    let (seconds, counts) = genome.flagstat()?;
    found.time("flagstat", seconds);
    found.counts.0 = counts;
    found.time("name_sort", genome.sort("name")?);
    genome.rollback("loaded")?;
    found.time("coordinate_sort", genome.sort("coordinate")?);
    found.time("index", genome.index()?);
    Ok(())
}

fn theirs(samtools: &Samtools<'_>, found: &mut Found) -> Result<(), BenchError> {
    for format in ["sam", "bam"] {
        let (seconds, counts) = samtools.flagstat(format)?;
        found.push(format!("flagstat_{format}"), seconds);
        found.counts.1 = counts;
        found.push(format!("count_{format}"), samtools.count(format)?);
        found.push(format!("name_sort_{format}"), samtools.sort(format, true)?.0);
        let (seconds, peak) = samtools.sort(format, false)?;
        found.push(format!("coordinate_sort_{format}"), seconds);
        found.peak = found.peak.max(peak);
    }
    found.push("index_bam".into(), samtools.index()?);
    Ok(())
}

/// All that was measured.
#[derive(Default)]
struct Found {
    reads: u64,
    seconds: Samples,
    /// Of the address space, on the disk.
    bytes: Option<u64>,
    /// The most memory that samtools was seen to have while it sorted.
    peak: Option<u64>,
    /// What we count, and what samtools counts.
    counts: (String, String),
}

impl Found {
    fn push(&mut self, name: String, seconds: f64) {
        self.seconds.entry(name).or_default().push(seconds);
    }

    fn time(&mut self, name: &str, seconds: Seconds) {
        self.push(name.to_owned(), seconds.whole);
        self.push(format!("{name}_inside"), seconds.inside);
    }

    fn median(&self, name: &str) -> Option<f64> {
        median(self.seconds.get(name)?)
    }

    /// Of samtools: the better of the two formats.
    fn better(&self, name: &str) -> Option<f64> {
        let both =
            ["sam", "bam"].into_iter().filter_map(|end| self.median(&format!("{name}_{end}")));
        both.min_by(f64::total_cmp)
    }

    fn times(&self, operation: &str) -> Option<f64> {
        ratio(self.better(operation), self.median(operation))
    }

    /// The same without the start of the VM, which samtools does not need.
    fn times_inside(&self, operation: &str) -> Option<f64> {
        ratio(self.better(operation), self.median(&format!("{operation}_inside")))
    }

    fn report(&self, no_genome: Option<&str>, no_samtools: Option<&String>) -> Report {
        let mut report = Report::default();
        let why = |is_ours: bool, note: String| match (no_genome, no_samtools) {
            (Some(why), _) => format!("{note}: {why}"),
            (None, Some(why)) if !is_ours => format!("{note}: {why}"),
            _ => note,
        };
        let mut figure = |name: String, of: &str, is_ours: bool, note: String| {
            let ms: Vec<f64> =
                self.seconds.get(of).into_iter().flatten().map(|seconds| seconds * 1e3).collect();
            report.push_median(name, &ms, "ms", why(is_ours, note));
        };
        for (name, what, _) in OPERATIONS {
            let of = |what: &str, how: &str| format!("{what}, {} reads: {how}", self.reads);
            let ours = of(what, "`spacejmp run genome`, from `fork` to its end");
            figure(format!("sam_{name}_ms"), name, true, ours);
            let inside = of(what, "the same without the start of the VM");
            figure(format!("sam_{name}_inside_ms"), &format!("{name}_inside"), true, inside);
            let native = of(what, "the same code natively, in the memory of one process");
            figure(format!("sam_{name}_native_ms"), &format!("native_{name}"), true, native);
            for format in ["sam", "bam"].into_iter().filter(|f| name != "index" || *f == "bam") {
                let theirs = of(what, &format!("samtools on a file of {format}"));
                figure(
                    format!("sam_{name}_samtools_{format}_ms"),
                    &format!("{name}_{format}"),
                    false,
                    theirs,
                );
            }
        }
        for format in ["sam", "bam"] {
            let note = format!("loading the file of {format}, two threads, until it is stored");
            figure(
                format!("sam_load_{format}_ms"),
                &format!("load_{format}"),
                format == "sam",
                note,
            );
            let note = "`samtools view -c` of it, two threads".to_owned();
            figure(format!("sam_count_{format}_ms"), &format!("count_{format}"), false, note);
        }
        let note = "what the address space has on the disk, written to a file and synced, by a loop without a VM";
        figure("sam_write_ms".into(), "write", true, note.to_owned());
        for (name, what, paper) in OPERATIONS {
            let note =
                format!("{what}: samtools on the better format / ours; the paper's is {paper}");
            report.push(format!("sam_{name}_times"), self.times(name), "", why(false, note));
            let note = format!("{what}: the same, ours without the start of the VM");
            let inside = self.times_inside(name);
            report.push(format!("sam_{name}_inside_times"), inside, "", why(false, note));
        }
        for format in ["sam", "bam"] {
            let (load, count) = (format!("load_{format}"), format!("count_{format}"));
            let over = ratio(self.median(&load), self.median(&count));
            let note = format!("loading {format} / `samtools view -c` of it");
            report.push(format!("sam_load_{format}_over_count"), over, "", why(false, note));
        }
        let per_read = |bytes: Option<u64>| Some(bytes? as f64 / self.reads.max(1) as f64);
        let note = "bytes of the address space on the disk, for each read".to_owned();
        report.push("sam_bytes_per_read", per_read(self.bytes), "bytes", why(true, note));
        let note = "the most memory that samtools was seen to have while sorting, for each read";
        let note = why(false, note.to_owned());
        report.push("sam_samtools_bytes_per_read", per_read(self.peak), "bytes", note);
        report.checks.extend(self.checks(no_genome.is_none() && no_samtools.is_none()));
        report.plots.push(self.plot());
        report
    }

    fn checks(&self, has_both: bool) -> Vec<Check> {
        if !has_both {
            return Vec::new();
        }
        let (ours, theirs) = &self.counts;
        let is_same = ours == theirs && !ours.is_empty();
        vec![Check {
            name: "sam_flagstat_same".into(),
            rule: "what is counted in the address space is what samtools counts in the file".into(),
            found: if is_same { "the same" } else { "something else" }.into(),
            is_kept: is_same,
            needs_quiet: false,
        }]
    }

    fn plot(&self) -> Plot {
        let curve = |name: &str, times: fn(&Found, &str) -> Option<f64>| Series {
            name: name.into(),
            origin: Origin::Ours,
            points: (1..)
                .zip(OPERATIONS)
                .filter_map(|(x, (name, ..))| Some((f64::from(x), times(self, name)?)))
                .collect(),
        };
        let papers = paper::curves(paper::FIGURE_11, &[("SpaceJMP", "the paper")]);
        Plot {
            name: "sam".into(),
            title: "Working on reads of a genome, against samtools".into(),
            x: Axis {
                label: "1 flagstat, 2 sort by name, 3 sort by coordinate, 4 index".into(),
                is_log: false,
            },
            y: Axis::log("times as fast as on the better file format"),
            series: [
                vec![
                    curve("whole commands", Found::times),
                    curve("without the start of the VM", Found::times_inside),
                ],
                papers,
            ]
            .concat(),
            note: "Reads were loaded before, which has figures of its own.".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ours: f64) -> Found {
        let mut found = Found { reads: 10, bytes: Some(3000), ..Found::default() };
        for (name, ..) in OPERATIONS {
            found.time(name, Seconds { whole: ours, inside: ours / 2.0 });
            found.push(format!("{name}_sam"), 90.0);
            found.push(format!("{name}_bam"), 60.0);
        }
        found.counts = ("1".into(), "1".into());
        found
    }

    #[test]
    fn we_are_compared_with_the_better_of_the_formats() {
        let report = found(2.0).report(None, None);
        assert_eq!(report.value("sam_flagstat_times"), Some(30.0));
        assert_eq!(report.value("sam_flagstat_inside_times"), Some(60.0));
        assert_eq!(report.value("sam_index_inside_ms"), Some(1000.0));
        assert_eq!(report.value("sam_bytes_per_read"), Some(300.0));
        assert!(report.checks.iter().all(|check| check.is_kept), "{:?}", report.checks);
    }

    #[test]
    fn counting_differently_breaks_a_check() {
        let mut found = found(2.0);
        found.counts.0 = "2".into();
        assert!(found.checks(true).iter().all(|check| !check.is_kept));
        assert!(found.checks(false).is_empty());
    }

    #[test]
    fn what_is_not_there_has_no_figures_and_says_why() {
        let why = "samtools is not installed".to_owned();
        let report = Found::default().report(None, Some(&why));
        let times = report.figures.iter().find(|figure| figure.name == "sam_flagstat_times");
        let times = times.expect("it is listed");
        assert!(times.value.is_none() && times.note.ends_with(&why), "{times:?}");
        let report = Found::default().report(Some(tools::NO_GENOME), None);
        assert!(report.figures.iter().all(|figure| figure.value.is_none()));
        assert!(report.checks.is_empty());
    }
}
