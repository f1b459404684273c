//! `bench tlb`: what reaching a random page costs, with and without a switch before it: the
//! paper's figure 6.
//!
//! Accesses are timed one by one, so that the switch is not in them and nothing large has to be
//! subtracted (`vmm/bench/programs/payload/lines.rs` says how); a point is the median over the VMs.

use serde_json::Value;

use super::counter::Misses;
use super::{Bench, Progress, no_tags};
use crate::BenchError;
use crate::report::{Axis, Check, Origin, Plot, Report, Series, paper};
use crate::sample::Environment;
use crate::stats::{median_of, ratio};

/// Curves of figure 6 and their names in our legend.
const PAPER: [(&str, &str); 3] = [
    ("tags on", "the paper (M3): a CR3 write, tags"),
    ("tags off", "the paper (M3): a CR3 write, no tags"),
    ("no switch", "the paper (M3): none"),
];
/// Fewest pages.
const FEWEST: u32 = 16;

/// Pages of one size.
struct Pages {
    most: u32,
    is_small: bool,
    runs: Vec<Value>,
}

impl Pages {
    fn counts(&self) -> impl Iterator<Item = u32> {
        let doubled = std::iter::successors(Some(FEWEST), |count| count.checked_mul(2));
        let most = self.most;
        doubled.flat_map(|count| [count, count / 2 * 3]).take_while(move |&count| count <= most)
    }

    /// Cycles of an access to one of `count` pages.
    fn cycles(&self, count: u32, how: &str) -> Option<f64> {
        let of = |run: &Value| Some(run.get(format!("p{count}_{how}"))?.as_f64()? / 1000.0);
        median_of(&self.runs, of)
    }

    fn number(&self, key: &str) -> Option<f64> {
        median_of(&self.runs, |run| run.get(key)?.as_f64())
    }

    /// The most pages at which an access without a switch costs no more than twice what it
    /// costs with the fewest: the reach of the first-level TLB.
    fn reach(&self) -> Option<u32> {
        let least = self.cycles(FEWEST, "stay")?;
        let within = |&count: &u32| self.cycles(count, "stay").is_some_and(|c| c <= 2.0 * least);
        self.counts().take_while(within).last()
    }
}

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let (runs, samples, small, large) = bench.sized((1, "100", 2048, 128), (3, "1000", 8192, 1024));
    let mut sizes = [
        Pages { most: small, is_small: true, runs: Vec::new() },
        Pages { most: large, is_small: false, runs: Vec::new() },
    ];
    for run in 1..=runs {
        progress(&format!("reaching random pages, {run} of {runs}"));
        for pages in &mut sizes {
            let most = pages.most.to_string();
            let args = ["tlb", "--pages", &most, "--count", samples, "--small"];
            let args = if pages.is_small { &args[..] } else { &args[..5] };
            pages.runs.push(bench.run_fresh(Environment::Vm, args)?.answer);
        }
    }
    let mut report = report(&sizes, no_tags(bench.has_tags));
    progress("counting TLB misses");
    misses(&mut report, bench, small)?;
    Ok(report)
}

/// Accesses in the two runs whose difference is counted.
const COUNTED: [u64; 2] = [100_000, 1_100_000];

/// Misses per access to one of `pages` pages of 4 KiB, or why there is no such figure.
fn misses_each(bench: &Bench<'_>, pages: u32) -> Result<Result<f64, String>, BenchError> {
    let mut counted = [0.0; 2];
    for (counted, accesses) in counted.iter_mut().zip(COUNTED) {
        bench.remove_store();
        let (pages, accesses) = (pages.to_string(), accesses.to_string());
        let args = ["tlb", "--pages", &pages, "--count", &accesses, "--small", "--untimed"];
        let misses = match Misses::start() {
            Ok(misses) => misses,
            Err(error) => {
                return Ok(Err(format!("this host has no usable counter of dTLB misses: {error}")));
            }
        };
        bench.run(Environment::Vm, &args)?;
        match misses.end() {
            Ok(count) => *counted = count as f64,
            Err(error) => return Ok(Err(format!("the counter of dTLB misses failed: {error}"))),
        }
    }
    Ok(Ok((counted[1] - counted[0]) / (COUNTED[1] - COUNTED[0]) as f64))
}

/// Whether counts are plausible: with few pages hardly any access misses, with many pages many
/// do, and none misses more than a few times.
fn is_plausible(few: f64, many: f64) -> bool {
    (-0.01..0.1).contains(&few) && (0.2..4.0).contains(&many)
}

fn misses(report: &mut Report, bench: &Bench<'_>, most: u32) -> Result<(), BenchError> {
    let few = misses_each(bench, FEWEST)?;
    // If there is no counter for one, there is none for the other.
    let many = if few.is_ok() { misses_each(bench, most)? } else { few.clone() };
    let counted = few.and_then(|few| many.map(|many| (few, many)));
    let counted = counted.and_then(|(few, many)| {
        if is_plausible(few, many) {
            Ok((few, many))
        } else {
            Err(format!("counted {few:.3} for 16 pages, {many:.3} for {most}: implausible"))
        }
    });
    let what = "dTLB misses of an access, no switch, pages of 4 KiB:";
    let (few, many, note) = match counted {
        Ok((few, many)) => (Some(few), Some(many), "counted by the processor".to_owned()),
        Err(why) => (None, None, why),
    };
    report.push("tlb_4k_16_dtlb_misses", few, "misses", format!("{what} 16; {note}"));
    report.push("tlb_4k_most_dtlb_misses", many, "misses", format!("{what} {most}; {note}"));
    Ok(())
}

fn report(sizes: &[Pages; 2], no_tags: Option<&str>) -> Report {
    let mut report = Report::default();
    let [small, large] = sizes;
    let how = "each access timed by itself after the switch; two readings of the counter with \
               nothing between them are subtracted";
    for (pages, size, what) in [
        (small, "4k", "pages of 4 KiB in a segment"),
        (large, "2m", "pages of 2 MiB in private memory"),
    ] {
        let at = |count, kind| pages.cycles(count, kind);
        let name = |of: &str| format!("tlb_{size}_{of}");
        let (stay, untagged) = (at(FEWEST, "stay"), at(FEWEST, "untagged"));
        let note = format!("16 {what}, no switch; {how}");
        report.push(name("16_cycles"), stay, "cycles", note);
        let most = pages.counts().last().unwrap_or(FEWEST);
        let note = format!("{most} {what}, no switch");
        report.push(name("most_cycles"), at(most, "stay"), "cycles", note);
        let note = format!("16 {what}, a switch without tags before each access");
        report.push(name("16_switch_cycles"), untagged, "cycles", note);
        let over = ratio(untagged, stay);
        report.push(name("16_switch_over_stay"), over, "", "that / without a switch");
        let note = format!("most {what} at which an access costs at most twice that of 16");
        report.push(name("reach_pages"), pages.reach().map(f64::from), "pages", note);
    }
    let tagged = ratio(small.cycles(FEWEST, "tagged"), small.cycles(FEWEST, "untagged"));
    let tagged = tagged.filter(|_| no_tags.is_none());
    let what = "16 pages of 4 KiB, a switch before each access: with tags / without";
    report.push("tlb_4k_16_tagged_over_untagged", tagged, "", no_tags.unwrap_or(what));
    let switch = small.number("switch");
    report.push("tlb_switch_cycles", switch, "cycles", "the switch alone, between two instances");
    let plots = [(small, "tlb_4k", "4 KiB"), (large, "tlb_2m", "2 MiB")];
    report.plots.extend(plots.map(|(pages, name, what)| plot(pages, name, what, no_tags)));
    checks(&mut report, sizes);
    report
}

fn plot(pages: &Pages, name: &'static str, what: &str, no_tags: Option<&str>) -> Plot {
    let curves = [
        ("tagged", Origin::Ours, "a switch with tags before each access"),
        ("untagged", Origin::Ours, "a switch without tags before each access"),
        ("stay", Origin::Ours, "no switch"),
        ("packed", Origin::Alternative, "control: as many lines in as few pages as hold them"),
    ];
    let curve = |(how, origin, legend): (&str, Origin, &str)| Series {
        name: legend.into(),
        origin,
        points: pages
            .counts()
            .filter_map(|count| Some((f64::from(count), pages.cycles(count, how)?)))
            .collect(),
    };
    let curves = curves.into_iter().filter(|(how, ..)| *how != "tagged" || no_tags.is_none());
    let without =
        no_tags.map(|why| format!(" With tags: not available, {why}.")).unwrap_or_default();
    // The paper's pages were of 4 KiB.
    let paper = if pages.is_small { &PAPER[..] } else { &[] };
    Plot {
        name: name.into(),
        title: format!("A line of a random page of {what}"),
        x: Axis::log("pages"),
        y: Axis::log("time-stamp cycles of an access"),
        series: curves.map(curve).chain(paper::curves(paper::FIGURE_6, paper)).collect(),
        note: format!(
            "Without a switch the curve leaves the control where the TLB no longer holds all \
             pages, once for each of its levels. A switch that flushes makes every access a miss, \
             however few the pages.{without}"
        ),
    }
}

fn checks(report: &mut Report, sizes: &[Pages; 2]) {
    let small = &sizes[0];
    let few = ratio(small.cycles(FEWEST, "stay"), small.cycles(FEWEST, "packed"));
    report.checks.push(Check {
        name: "tlb_control".into(),
        needs_quiet: true,
        rule: "16 pages, no switch: as many cycles as the same lines packed into one page, within \
               a factor of 2, since both fit every TLB"
            .into(),
        found: few.map_or("not measured".into(), |ratio| format!("a factor of {ratio:.2}")),
        is_kept: few.is_some_and(|ratio| (0.5..2.0).contains(&ratio)),
    });
    let most = small.counts().last().unwrap_or(FEWEST);
    let many = ratio(small.cycles(most, "stay"), small.cycles(most, "packed"));
    report.checks.push(Check {
        name: "tlb_misses_show".into(),
        needs_quiet: true,
        rule: format!("{most} pages of 4 KiB, no switch, cost more than the same lines packed"),
        found: many.map_or("not measured".into(), |ratio| format!("a factor of {ratio:.2}")),
        is_kept: many.is_some_and(|ratio| ratio > 1.0),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(stay: &[u64]) -> Pages {
        let mut run = serde_json::Map::new();
        let mut pages = Pages { most: 64, is_small: true, runs: Vec::new() };
        for (count, cycles) in pages.counts().zip(stay) {
            run.insert(format!("p{count}_stay"), (cycles * 1000).into());
        }
        pages.runs.push(run.into());
        pages
    }

    #[test]
    fn the_reach_ends_where_an_access_first_costs_more_than_twice() {
        assert_eq!(pages(&[5, 6, 10, 11, 5]).reach(), Some(32));
        assert_eq!(pages(&[5, 5, 5, 5, 5]).reach(), Some(64));
        assert_eq!(pages(&[]).reach(), None);
    }

    #[test]
    fn counts_that_cannot_be_true_are_not_taken_for_misses() {
        assert!(is_plausible(0.001, 0.6));
        // A counter that does not move, one that counts everything, and two swapped
        // counts.
        assert!(!is_plausible(0.0, 0.0) && !is_plausible(1.0, 1.0) && !is_plausible(0.6, 0.001));
    }

    #[test]
    fn without_tags_there_is_no_curve_for_them_but_a_reason() {
        let plot = plot(&pages(&[5, 5, 5, 5, 5]), "tlb_4k", "4 KiB", no_tags(Some(false)));
        assert!(plot.series.iter().all(|series| !series.name.contains("switch with tags")));
        assert!(plot.note.contains("no PCID"));
    }
}
