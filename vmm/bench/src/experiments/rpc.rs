//! `bench rpc`: getting bytes that another party has, the paper's figure 7.
//!
//! By switching to where they are and copying them; over a channel that two vCPUs of a VM poll;
//! over a UNIX socket between two native processes. All by one program (`vmm/bench/programs/payload`), which
//! compares what arrives with the original.

use serde_json::Value;

use super::{Bench, Progress};
use crate::BenchError;
use crate::report::Origin::{self, Alternative, Ours};
use crate::report::{Axis, Check, Plot, Report, Series, paper};
use crate::sample::Environment::{self, Native, Vm};
use crate::stats::ratio;

const SIZES: [u64; 12] =
    [4, 16, 64, 128, 256, 512, 1 << 10, 2 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// Curves of figure 7 and their names in our legend.
const PAPER: [(&str, &str); 3] = [
    ("SpaceJMP", "the paper (M2): SpaceJMP"),
    ("URPC L", "the paper (M2): polled channel, one socket"),
    ("URPC X", "the paper (M2): polled channel, two sockets"),
];
/// The most cycles that an exchange of 4 bytes takes while both polling parties have a processor.
const SHARED: f64 = 100_000.0;

/// A way, and what it took in each run.
struct Channel {
    kind: &'static str,
    place: Environment,
    origin: Origin,
    legend: &'static str,
    runs: Vec<Value>,
}

impl Channel {
    /// Cycles for `bytes`: the best run's median, since disturbances only add time.
    fn cycles(&self, bytes: u64) -> Option<f64> {
        let of = |run: &Value| run.get(format!("b{bytes}"))?.as_f64();
        self.runs.iter().filter_map(of).min_by(f64::total_cmp)
    }
}

fn ways() -> [Channel; 4] {
    let way =
        |kind, place, origin, legend| Channel { kind, place, origin, legend, runs: Vec::new() };
    [
        way("switch", Vm, Ours, "SpaceJMP: switch, copy, switch back"),
        way("polled", Vm, Alternative, "polled channel, two vCPUs"),
        way("socket", Native, Alternative, "UNIX socket, native processes"),
        way("polled", Native, Alternative, "polled channel, native threads"),
    ]
}

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let (runs, count) = bench.sized((2, "200"), (5, "1000"));
    let mut ways = ways();
    for run in 1..=runs {
        progress(&format!("exchanging bytes, {run} of {runs}"));
        for way in &mut ways {
            let args = ["rpc", way.kind, "--count", count];
            way.runs.push(bench.run_fresh(way.place, &args)?.answer);
        }
    }
    Ok(report(&ways, runs))
}

fn report(ways: &[Channel; 4], runs: usize) -> Report {
    let mut report = Report::default();
    let [switch, polled, socket, native] = ways;
    let note = format!("best of {runs} runs, in each the median");
    for (name, way) in [
        ("rpc_4b_switch_cycles", switch),
        ("rpc_4b_polled_cycles", polled),
        ("rpc_4b_socket_cycles", socket),
        ("rpc_4b_polled_native_cycles", native),
    ] {
        report.push(name, way.cycles(4), "cycles", format!("4 bytes, {}; {note}", way.legend));
    }
    for (name, way) in [
        ("rpc_256k_over_polled", polled),
        ("rpc_256k_over_socket", socket),
        ("rpc_256k_over_polled_native", native),
    ] {
        let most = SIZES[SIZES.len() - 1];
        let figure = ratio(switch.cycles(most), way.cycles(most));
        report.push(name, figure, "", format!("256 KiB: cycles of SpaceJMP / of {}", way.legend));
    }
    for (name, way) in [("rpc_crossover_polled", polled), ("rpc_crossover_socket", socket)] {
        let pairs = SIZES.map(|bytes| (bytes, switch.cycles(bytes), way.cycles(bytes)));
        let (figure, note) = match crossover(&pairs) {
            Some(bytes) => (Some(bytes), "SpaceJMP takes fewer cycles from this size on than"),
            None => (None, "up to 256 KiB SpaceJMP takes more cycles than"),
        };
        report.push(name, figure, "B", format!("{note} {}", way.legend));
    }
    report.plots.push(plot(ways));
    checks(&mut report, ways);
    report
}

/// Smallest measured size from which the first takes less at every size.
fn crossover(pairs: &[(u64, Option<f64>, Option<f64>)]) -> Option<f64> {
    let is_less =
        |ours: Option<f64>, other: Option<f64>| ours.zip(other).is_some_and(|(a, b)| a < b);
    let ahead = pairs.iter().rev().take_while(|(_, ours, other)| is_less(*ours, *other));
    ahead.last().map(|(bytes, ..)| *bytes as f64)
}

fn plot(ways: &[Channel]) -> Plot {
    let points = |way: &Channel| -> Vec<(f64, f64)> {
        SIZES.iter().filter_map(|&bytes| Some((bytes as f64, way.cycles(bytes)?))).collect()
    };
    let curve =
        |way: &Channel| Series { name: way.legend.into(), origin: way.origin, points: points(way) };
    Plot {
        name: "rpc_cycles".into(),
        title: "Getting bytes that another party has".into(),
        x: Axis::log("bytes"),
        y: Axis::log("time-stamp cycles"),
        series: ways.iter().map(curve).chain(paper::curves(paper::FIGURE_7, &PAPER)).collect(),
        note: "A switch costs the same for all sizes, and then the bytes are copied once; over a \
               channel they are copied twice."
            .into(),
    }
}

fn checks(report: &mut Report, ways: &[Channel]) {
    let all: usize = ways.iter().map(|way| way.runs.len()).sum();
    let is_same = |run: &&Value| run.get("same").and_then(Value::as_bool) == Some(true);
    let same = ways.iter().flat_map(|way| &way.runs).filter(is_same).count();
    report.checks.push(Check {
        name: "rpc_bytes".into(),
        needs_quiet: false,
        rule: "all bytes of every size arrive unchanged, and no others".into(),
        found: format!("in {same} of {all} runs"),
        is_kept: same == all,
    });
    let polled: Vec<_> = ways.iter().filter(|way| way.kind == "polled").collect();
    let slowest = polled.iter().filter_map(|way| way.cycles(4)).max_by(f64::total_cmp);
    report.checks.push(Check {
        name: "rpc_two_processors".into(),
        needs_quiet: true,
        rule: format!(
            "4 bytes over a polled channel take less than {SHARED} cycles: otherwise the two \
             polling parties shared a processor, and the curve means nothing"
        ),
        found: slowest.map_or("not measured".into(), |cycles| format!("at most {cycles:.0}")),
        is_kept: slowest.is_some_and(|cycles| cycles < SHARED),
    });
    let rises = |way: &Channel| ratio(way.cycles(SIZES[SIZES.len() - 1]), way.cycles(4));
    let flat: Vec<_> = ways.iter().filter(|way| rises(way).is_none_or(|r| r < 1.0)).collect();
    report.checks.push(Check {
        name: "rpc_control".into(),
        needs_quiet: true,
        rule: "256 KiB take longer than 4 bytes in every way".into(),
        found: match &flat[..] {
            [] => "they do".into(),
            flat => flat.iter().map(|way| way.legend).collect::<Vec<_>>().join("; "),
        },
        is_kept: flat.is_empty(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crossover_is_where_ours_becomes_and_stays_cheaper() {
        let pair = |bytes, ours, other| (bytes, Some(ours), Some(other));
        let pairs =
            [pair(4, 1.0, 2.0), pair(16, 3.0, 2.0), pair(64, 4.0, 5.0), pair(128, 4.0, 9.0)];
        assert_eq!(crossover(&pairs), Some(64.0));
        assert_eq!(crossover(&pairs[..2]), None);
        assert_eq!(crossover(&[(4, Some(1.0), None)]), None);
    }
}
