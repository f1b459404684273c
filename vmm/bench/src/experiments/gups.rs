//! `bench gups`: random updates of a table in windows of which one is reachable at a time.
//!
//! The paper's figures 8 and 9. All ways of reaching a window draw the same numbers and are timed
//! by the same code (`vmm/bench/programs/payload/gups`); here they are run and compared.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::Value;

use super::{Bench, Progress};
use crate::BenchError;
use crate::report::{Axis, Check, Origin, Plot, Report, Series, paper};
use crate::sample::Environment;
use crate::stats::ratio;

/// Numbers of updates in a set.
const SETS: [u32; 2] = [16, 64];
/// Curves of figure 8 and their names in our legend. MAP is too close to zero in the figure to be
/// read.
const PAPER: [(&str, &str); 2] = [
    ("SpaceJMP", "the paper (M3): SpaceJMP, windows of 1 GiB"),
    ("MP", "the paper (M3): messages to processes"),
];
/// Number of windows the headline figures are for.
const HEADLINE: u32 = 16;

/// A variant of reaching a window.
struct Variant {
    /// What the payload calls it.
    kind: &'static str,
    place: Environment,
    origin: Origin,
    legend: &'static str,
    /// Sets in a round, in hundredths of the largest number: variants differ by a factor
    /// of a thousand, and each should take about as long.
    share: u64,
}

const fn variant(
    kind: &'static str,
    place: Environment,
    origin: Origin,
    share: u64,
    legend: &'static str,
) -> Variant {
    Variant { kind, place, origin, legend, share }
}

use Environment::{Native, Vm};
use Origin::{Alternative, Ours};

const VARIANTS: [Variant; 12] = [
    variant("switch", Vm, Ours, 100, "SpaceJMP: a switch"),
    variant("attach", Vm, Ours, 15, "segment reattached"),
    variant("remap", Vm, Alternative, 5, "in the VM: mmap, pages at first touch"),
    variant("remap-populate", Vm, Alternative, 5, "in the VM: mmap, populated"),
    variant("polled", Vm, Alternative, 20, "in the VM: messages, polling"),
    variant("blocking", Vm, Alternative, 20, "in the VM: messages, sleeping"),
    variant("flat", Vm, Alternative, 100, "in the VM: all mapped at once"),
    variant("remap", Native, Alternative, 20, "natively: mmap, pages at first touch"),
    variant("remap-populate", Native, Alternative, 3, "natively: mmap, populated"),
    variant("polled-processes", Native, Alternative, 40, "natively: messages, polling"),
    variant("blocking-processes", Native, Alternative, 40, "natively: messages, sleeping"),
    variant("flat", Native, Alternative, 100, "natively: all mapped at once"),
];

/// Sizes of a run.
struct Sizes {
    windows: u32,
    window_bytes: u64,
    sets: u64,
    rounds: u64,
}

impl Sizes {
    fn new(bench: &Bench<'_>) -> Sizes {
        let (windows, window_bytes, sets) =
            bench.sized((16, 4 << 20, 60), (64, window_bytes(64), 400));
        Sizes { windows, window_bytes, sets, rounds: 3 }
    }

    fn sets(&self, variant: &Variant) -> u64 {
        (self.sets * variant.share / 100).max(5)
    }
}

/// The largest window up to 256 MiB with which all windows take no more than a third of the
/// memory now available: a variant may need them twice, and other processes use the machine,
/// too.
fn window_bytes(windows: u64) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let room = kib.unwrap_or(1 << 20) * 1024 / 3 / windows;
    (1_u64 << (63 - room.max(1 << 20).leading_zeros())).min(256 << 20)
}

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let sizes = Sizes::new(bench);
    let mut measured = Vec::new();
    // The results of plain runs with everything mapped, by the number of sets.
    let mut plain: BTreeMap<u64, Ran> = BTreeMap::new();
    for variant in &VARIANTS {
        progress(&format!("random updates, {}", variant.legend));
        let sets = sizes.sets(variant);
        let ran = run(bench, variant.kind, variant.place, &sizes, sets)?;
        let plain = match plain.entry(sets) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(place) => place.insert(run(bench, "flat", Native, &sizes, sets)?).clone(),
        };
        measured.push(Measured { variant, sets, ran, plain: plain.answer });
    }
    Ok(report(&measured, &sizes))
}

fn run(
    bench: &Bench<'_>,
    kind: &str,
    place: Environment,
    sizes: &Sizes,
    sets: u64,
) -> Result<Ran, BenchError> {
    let (windows, bytes) = (sizes.windows.to_string(), sizes.window_bytes.to_string());
    let (count, rounds) = (sets.to_string(), sizes.rounds.to_string());
    let args = ["gups", kind, "--windows", &windows, "--bytes", &bytes, "--count", &count];
    let args = [&args[..], &["--rounds", &rounds, "--small"]].concat();
    let sample = bench.run_counted(place, &args)?;
    Ok(Ran { faults: sample.counts("faults").or(sample.number("faults")), answer: sample.answer })
}

/// The result of a run.
#[derive(Clone)]
struct Ran {
    answer: Value,
    faults: Option<f64>,
}

/// The result of a variant, and of a plain run of the same sets.
struct Measured<'a> {
    variant: &'a Variant,
    sets: u64,
    ran: Ran,
    plain: Value,
}

impl Measured<'_> {
    fn number(&self, windows: u32, set: u32, what: &str) -> Option<f64> {
        self.ran.answer.get(format!("w{windows}_s{set}_{what}"))?.as_f64()
    }

    /// Millions of updates per second, of the best round: disturbances only add time.
    fn mups(&self, windows: u32, set: u32) -> Option<f64> {
        let ns = self.number(windows, set, "low")?;
        Some(self.sets as f64 * f64::from(set) * 1e3 / ns)
    }

    /// Changes of window per second.
    fn moves(&self, windows: u32, set: u32) -> Option<f64> {
        let moves = self.number(windows, set, "moves")?;
        ratio(Some(moves * 1e9), self.number(windows, set, "low"))
    }

    /// Page faults for each change of window, over the timed part; in a VM also over what
    /// came before and after.
    fn faults(&self, sizes: &Sizes) -> Option<f64> {
        let cases = counts(sizes).flat_map(|n| SETS.map(|set| self.number(n, set, "moves")));
        let moves = cases.sum::<Option<f64>>()? * sizes.rounds as f64;
        ratio(self.ran.faults, Some(moves))
    }

    fn is_right(&self) -> bool {
        let sum = |value: &Value| value.get("sum").and_then(Value::as_str).map(str::to_owned);
        sum(&self.ran.answer).is_some() && sum(&self.ran.answer) == sum(&self.plain)
    }
}

fn report(measured: &[Measured<'_>], sizes: &Sizes) -> Report {
    let mut report = Report::default();
    figures(&mut report, measured, sizes);
    report.plots.extend(SETS.map(|set| plot(measured, sizes, set)));
    checks(&mut report, measured);
    report
}

fn find<'a>(
    measured: &'a [Measured<'a>],
    kind: &str,
    place: Environment,
) -> Option<&'a Measured<'a>> {
    measured.iter().find(|m| m.variant.kind == kind && m.variant.place == place)
}

fn figures(report: &mut Report, measured: &[Measured<'_>], sizes: &Sizes) {
    let mups = |kind: &str, place| find(measured, kind, place)?.mups(HEADLINE, 64);
    // It is compared with the better of the two.
    let best = |place| [mups("remap", place), mups("remap-populate", place)].into_iter().flatten();
    let best = |place| best(place).max_by(f64::total_cmp);
    let ours = mups("switch", Vm);
    let (windows, mib) = (sizes.windows, sizes.window_bytes >> 20);
    let note = format!("a window; there are up to {windows}, and a third of memory must hold all");
    report.push("gups_window_mib", mib as f64, "MiB", note);
    let note = format!(
        "updates per second, {HEADLINE} windows of {mib} MiB in 4 KiB pages, sets of 64, best \
         round: SpaceJMP / one window remapped by mmap in the same VM, the better of MAP_POPULATE \
         and first touch"
    );
    report.push("gups16x64_over_remap", ratio(ours, best(Vm)), "", note);
    for (name, against, note) in [
        ("gups16x64_over_remap_native", best(Native), "/ the same mmap natively"),
        ("gups16x64_over_attach", mups("attach", Vm), "/ seg_detach and seg_attach in one VAS"),
        ("gups16x64_over_polled", mups("polled", Vm), "/ messages to polling threads in the VM"),
        ("gups16x64_over_blocking", mups("blocking", Vm), "/ messages to sleeping threads there"),
        (
            "gups16x64_over_polled_native",
            mups("polled-processes", Native),
            "/ messages to polling native processes",
        ),
        (
            "gups16x64_over_blocking_native",
            mups("blocking-processes", Native),
            "/ messages to sleeping native processes",
        ),
        ("gups16x64_over_flat", mups("flat", Vm), "/ all windows mapped at once in the VM"),
    ] {
        report.push(name, ratio(ours, against), "", format!("SpaceJMP {note}"));
    }
    for (name, kind, place) in [
        ("gups_switch_faults_per_move", "switch", Vm),
        ("gups_remap_faults_per_move", "remap", Vm),
        ("gups_remap_populate_faults_per_move", "remap-populate", Vm),
        ("gups_remap_native_faults_per_move", "remap", Native),
    ] {
        let variant = find(measured, kind, place);
        let note = format!(
            "page faults per change of window, {}{}",
            variant.map_or(kind, |variant| variant.variant.legend),
            if place == Vm { ", answered by the VMM; first touches included" } else { "" }
        );
        report.push(name, variant.and_then(|variant| variant.faults(sizes)), "faults", note);
    }
    let switch = find(measured, "switch", Vm);
    for set in SETS {
        let crossover = find(measured, "polled", Vm)
            .zip(switch)
            .and_then(|(polled, ours)| crossover(ours, polled, sizes, set));
        let note = match crossover {
            Some(_) => format!(
                "fewest windows from which on SpaceJMP is ahead of polled messages in the VM, \
                 sets of {set}"
            ),
            None => format!("sets of {set}: polled messages in the VM stay ahead at the most"),
        };
        report.push(format!("gups{set}_crossover_polled"), crossover, "windows", note);
        let what = format!("{HEADLINE} windows, sets of {set}, SpaceJMP");
        let rate = switch.and_then(|m| m.mups(HEADLINE, set));
        report.push(format!("gups16x{set}_mups"), rate, "M/s", format!("updates; {what}"));
        let moves = switch.and_then(|m| m.moves(HEADLINE, set));
        let name = format!("gups16x{set}_switches_per_s");
        report.push(name, moves, "1/s", format!("switches; {what}"));
    }
}

/// The fewest windows from which `ours` is faster at every larger number.
fn crossover(ours: &Measured<'_>, other: &Measured<'_>, sizes: &Sizes, set: u32) -> Option<f64> {
    let behind = |&n: &u32| ours.mups(n, set) <= other.mups(n, set);
    // With one window neither does anything.
    let ahead = counts(sizes).rev().take_while(|n| *n > 1 && !behind(n));
    ahead.last().map(f64::from)
}

fn counts(sizes: &Sizes) -> impl DoubleEndedIterator<Item = u32> {
    (0..=sizes.windows.ilog2()).map(|power| 1 << power)
}

fn plot(measured: &[Measured<'_>], sizes: &Sizes, set: u32) -> Plot {
    let curve = |m: &Measured<'_>| Series {
        name: m.variant.legend.into(),
        origin: m.variant.origin,
        points: counts(sizes).filter_map(|n| Some((f64::from(n), m.mups(n, set)?))).collect(),
    };
    let paper = if set == 16 { paper::FIGURE_8_16 } else { paper::FIGURE_8_64 };
    Plot {
        name: format!("gups_sets_of_{set}").into(),
        title: format!("Random updates, one window at a time, sets of {set}"),
        x: Axis::log("windows"),
        y: Axis::log("million updates per second"),
        series: measured.iter().map(curve).chain(paper::curves(paper, &PAPER)).collect(),
        note:
            "With one window nothing changes and all are alike; the cost of a variant shows from \
               two windows on. Polled messages are ahead while every party has a processor."
                .into(),
    }
}

fn checks(report: &mut Report, measured: &[Measured<'_>]) {
    let wrong: Vec<_> =
        measured.iter().filter(|m| !m.is_right()).map(|m| m.variant.legend).collect();
    report.checks.push(Check {
        name: "gups_sums".into(),
        needs_quiet: false,
        rule: "the sum over the table after all sets is that of a native run with all windows \
               mapped, for every variant"
            .into(),
        found: match &wrong[..] {
            [] => format!("the same for all {}", measured.len()),
            wrong => format!("another one for {}", wrong.join("; ")),
        },
        is_kept: wrong.is_empty(),
    });
    let spread = find(measured, "switch", Vm)
        .and_then(|m| ratio(m.number(HEADLINE, 64, "high"), m.number(HEADLINE, 64, "low")));
    report.checks.push(Check {
        name: "gups_spread".into(),
        needs_quiet: true,
        rule: "SpaceJMP, 16 windows, sets of 64: the slowest round takes less than 3 times the \
               fastest, or the machine was too busy"
            .into(),
        found: spread.map_or("not measured".into(), |ratio| format!("{ratio:.2} times")),
        is_kept: spread.is_some_and(|ratio| ratio < 3.0),
    });
    let at_one = |kind, place| find(measured, kind, place).and_then(|m| m.mups(1, 64));
    let control = ratio(at_one("switch", Vm), at_one("remap", Vm));
    report.checks.push(Check {
        name: "gups_one_window".into(),
        needs_quiet: true,
        rule: "with one window nothing changes: SpaceJMP and remapping in the VM are within a \
               factor of 4"
            .into(),
        found: control.map_or("not measured".into(), |ratio| format!("a factor of {ratio:.2}")),
        is_kept: control.is_some_and(|ratio| (0.25..4.0).contains(&ratio)),
    });
}
