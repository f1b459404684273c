//! Part of `bench map`: the paper's figure 1, attaching and mapping from 4 KiB to 64 GiB. Curves;
//! the figures that are compared are measured separately in `map`.

use std::path::Path;

use serde_json::Value;

use super::{Bench, Progress};
use crate::BenchError;
use crate::report::{Axis, Origin, Plot, Report, Series, paper};
use crate::sample::Environment::{Native, Vm};

/// What was measured: the side that mapped, its legend, and its names for attaching and
/// detaching.
struct Curve {
    legend: String,
    origin: Origin,
    /// What precedes and follows the size in the names of attaching and of detaching.
    names: [(&'static str, &'static str); 2],
    answer: Value,
}

/// Adds two plots. `file` is a warm file and its size.
pub(super) fn measure(
    report: &mut Report,
    bench: &Bench<'_>,
    file: (&Path, u64),
    progress: Progress<'_>,
) -> Result<(), BenchError> {
    // Attaching does not access the content; what is mapped must be in memory.
    let (attached, mapped, rounds) =
        bench.sized((1_u64 << 28, 1_u64 << 26, "3"), (64 << 30, 2 << 30, "10"));
    let mut run = |what: &str, place, kind: &[&str], most: u64| {
        progress(&format!("{what}, 4 KiB and more"));
        let most = most.to_string();
        let args = [kind, &["--count", rounds, "--bytes", &most]].concat();
        bench.run_fresh(place, &args).map(|sample| sample.answer)
    };
    let ours = run("attaching", Vm, &["attach-sizes"], attached)?;
    let native = run("mapping", Native, &["map-sizes"], mapped)?;
    let in_vm = run("mapping in a VM", Vm, &["map-sizes"], mapped / 2)?;
    let path = file.0.to_string_lossy();
    let of_file = run("mapping a file", Native, &["map-sizes", &path], file.1.min(mapped))?;
    let attach = |legend: &str, names| Curve {
        legend: legend.into(),
        origin: Origin::Ours,
        names,
        answer: ours.clone(),
    };
    let map = |legend: &str, answer| Curve {
        legend: legend.into(),
        origin: Origin::Alternative,
        names: [("", "_map"), ("", "_unmap")],
        answer,
    };
    let curves = [
        attach("SpaceJMP, tables kept, 4 KiB pages", [("4k_", "_kept"), ("4k_", "_kept_gone")]),
        attach("SpaceJMP, first, 4 KiB pages", [("4k_", "_first"), ("4k_", "_first_gone")]),
        attach(
            "SpaceJMP, first, largest pages that fit",
            [("largest_", "_first"), ("largest_", "_first_gone")],
        ),
        map("native mmap and munmap, 4 KiB pages", native),
        map("mmap and munmap in the VM", in_vm),
        map("native mmap of a file in the temporary directory", of_file),
    ];
    let prebuilt = "the paper: with prebuilt tables";
    let of_paper = [("map", "the paper: mmap, Linux"), ("map cached", prebuilt)];
    report.plots.push(plot("map_attach", "Making memory appear", 0, &curves, &of_paper));
    let of_paper = [("unmap", "the paper: munmap, Linux"), ("unmap cached", prebuilt)];
    report.plots.push(plot("map_detach", "Making it go", 1, &curves, &of_paper));
    Ok(())
}

fn plot(
    name: &'static str,
    title: &str,
    index: usize,
    curves: &[Curve],
    of_paper: &[(&str, &str)],
) -> Plot {
    let series = |curve: &Curve| Series {
        name: curve.legend.clone(),
        origin: curve.origin,
        points: sizes().filter_map(|size| Some((size as f64, at(curve, index, size)?))).collect(),
    };
    Plot {
        name: name.into(),
        title: title.into(),
        x: Axis::log("bytes"),
        y: Axis::log("microseconds"),
        series: curves.iter().map(series).chain(paper::curves(paper::FIGURE_1, of_paper)).collect(),
        note: "With tables kept the size does not matter. mmap (MAP_POPULATE, pages in the page \
               cache) finds every page again; an attach leaves that to the first touch, which the \
               host answers 2 MiB at a time. Native mapping ends where memory does: 2 GiB here."
            .into(),
    }
}

fn sizes() -> impl Iterator<Item = u64> {
    (12..=36).map(|power| 1 << power)
}

/// Microseconds.
fn at(curve: &Curve, index: usize, size: u64) -> Option<f64> {
    let (before, after) = curve.names.get(index)?;
    Some(curve.answer.get(format!("{before}{size}{after}"))?.as_f64()? / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_the_sizes_that_were_measured_in_microseconds() {
        let curves = [Curve {
            legend: "x".into(),
            origin: Origin::Ours,
            names: [("4k_", "_kept"), ("4k_", "_kept_gone")],
            answer: serde_json::json!({"4k_4096_kept": 5000, "4k_8192_kept_gone": 7000}),
        }];
        let of = |index| plot("map_attach", "t", index, &curves, &[("map", "the paper")]);
        assert_eq!(of(0).series[0].points, [(4096.0, 5.0)]);
        assert_eq!(of(1).series[0].points, [(8192.0, 7.0)]);
        assert!(of(0).series[1].points.len() > 5, "the paper's");
    }
}
