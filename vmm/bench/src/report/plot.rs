//! A plot as SVG, for people.
//!
//! `plotters` does the drawing. Logarithmic axes are drawn as linear axes of the logarithm
//! to base 2, with labels that show the number itself: one kind of plot then serves all
//! four combinations, and sizes and counts fall on whole steps.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Axis, Origin, Plot, Series};

/// Pixels of a plot.
const SIZE: (u32, u32) = (1160, 600);
/// Of them, to the right of the curves: for their names.
const NAMES: u32 = 330;
/// From one name to the next.
const NAME_HEIGHT: i32 = 18;
/// As many as a plot of ours has curves. The first seven are distinguishable by the colour-blind, too (M. Okabe, K. Ito,
/// 2008).
const COLOURS: [RGBColor; 14] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(136, 34, 85),
    RGBColor(51, 34, 136),
    RGBColor(153, 153, 51),
    RGBColor(68, 170, 153),
    RGBColor(120, 70, 20),
    RGBColor(0, 0, 0),
    RGBColor(170, 170, 170),
];

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the plot {name}: {reason}")]
pub struct PlotError {
    /// Which.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The plot as an SVG file's text.
///
/// # Errors
/// [`PlotError`] when it has no point.
pub fn svg(plot: &Plot) -> Result<String, PlotError> {
    let mut text = String::new();
    draw(plot, &mut text)
        .map_err(|error| PlotError { name: plot.name.to_string(), reason: error.to_string() })?;
    Ok(text)
}

fn draw(plot: &Plot, text: &mut String) -> Result<(), Box<dyn Error>> {
    let xs = range(&plot.x, plot.series.iter().flat_map(|s| &s.points).map(|p| p.0))?;
    let ys = range(&plot.y, plot.series.iter().flat_map(|s| &s.points).map(|p| p.1))?;
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, _) = root.split_horizontally(SIZE.0 - NAMES);
    let mut chart = ChartBuilder::on(&left)
        .caption(&plot.title, ("sans-serif", 22))
        .margin(12)
        .margin_right(12)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(xs.0..xs.1, ys.0..ys.1)?;
    chart
        .configure_mesh()
        .x_desc(&plot.x.label)
        .y_desc(&plot.y.label)
        .x_labels(labels(&plot.x, xs))
        .y_labels(labels(&plot.y, ys))
        .x_label_formatter(&|v| label(&plot.x, *v))
        .y_label_formatter(&|v| label(&plot.y, *v))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 14))
        .draw()?;
    let on = |axis: &Axis, v: f64| if axis.is_log { v.log2() } else { v };
    for (index, series) in plot.series.iter().enumerate() {
        let points: Vec<(f64, f64)> =
            series.points.iter().map(|(x, y)| (on(&plot.x, *x), on(&plot.y, *y))).collect();
        let style = style(index, series);
        if series.origin == Origin::Paper {
            let dashed = DashedLineSeries::new(points.iter().copied(), 6, 5, style);
            chart.draw_series(dashed)?;
        } else {
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            // Of more curves than colours, marks still distinguish two of a colour.
            if index < COLOURS.len() {
                let marks = points.iter().map(|at| Circle::new(*at, 3, style.color.filled()));
                chart.draw_series(marks)?;
            } else {
                let marks =
                    points.iter().map(|at| TriangleMarker::new(*at, 6, style.color.filled()));
                chart.draw_series(marks)?;
            }
        }
    }
    let end = |series: &Series| {
        let (x, y) = series.points.last()?;
        Some(chart.plotting_area().map_coordinate(&(on(&plot.x, *x), on(&plot.y, *y))))
    };
    let ends: Vec<Option<(i32, i32)>> = plot.series.iter().map(end).collect();
    let heights = spread(&ends.iter().map(|end| end.map(|(_, y)| y)).collect::<Vec<_>>());
    let begin = (SIZE.0 - NAMES).cast_signed();
    for (index, series) in plot.series.iter().enumerate() {
        let (Some(end), Some(height)) = (ends[index], heights[index]) else { continue };
        let style = style(index, series);
        // From the curve's end to its name, so that a colour need not be recognised.
        let way = vec![(end.0 + 4, end.1), (begin - 4, height), (begin + 4, height)];
        root.draw(&PathElement::new(way, style.color.mix(0.5)))?;
        let strokes = match series.origin {
            Origin::Paper => vec![(4, 12), (17, 25)],
            Origin::Ours | Origin::Alternative => vec![(4, 25)],
        };
        for (from, to) in strokes {
            let stroke = vec![(begin + from, height), (begin + to, height)];
            root.draw(&PathElement::new(stroke, style))?;
        }
        let font = ("sans-serif", 14).into_text_style(&root);
        let font = font.pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(series.name.as_str(), (begin + 31, height), font))?;
    }
    Ok(root.present()?)
}

fn style(index: usize, series: &Series) -> ShapeStyle {
    let colour = COLOURS[index % COLOURS.len()];
    colour.stroke_width(if series.origin == Origin::Ours { 3 } else { 1 })
}

/// Where names go: at the heights of what they name, but with room for each.
fn spread(ends: &[Option<i32>]) -> Vec<Option<i32>> {
    let mut order: Vec<usize> = (0..ends.len()).filter(|index| ends[*index].is_some()).collect();
    order.sort_by_key(|index| ends[*index]);
    let mut heights = ends.to_vec();
    // Down from the top, then up from the bottom.
    let mut least = NAME_HEIGHT;
    for index in &order {
        let height = heights[*index].map(|height| height.max(least));
        heights[*index] = height;
        least = height.unwrap_or(least) + NAME_HEIGHT;
    }
    let mut most = SIZE.1.cast_signed() - NAME_HEIGHT;
    for index in order.iter().rev() {
        let height = heights[*index].map(|height| height.min(most));
        heights[*index] = height;
        most = height.unwrap_or(most) - NAME_HEIGHT;
    }
    heights
}

/// The range of an axis: all points, and a small margin.
fn range(axis: &Axis, values: impl Iterator<Item = f64>) -> Result<(f64, f64), String> {
    let values = values.filter(|v| v.is_finite() && (!axis.is_log || *v > 0.0));
    let values = values.map(|v| if axis.is_log { v.log2() } else { v });
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return Err("it has no points".into());
    }
    Ok(if axis.is_log {
        (low.floor(), high.ceil().max(low.floor() + 1.0))
    } else {
        (low.min(0.0), if high > 0.0 { high * 1.05 } else { 1.0 })
    })
}

/// The approximate number of labels on an axis: on a logarithmic one no more than there are
/// powers of two, or labels would be at odd numbers.
fn labels(axis: &Axis, (low, high): (f64, f64)) -> usize {
    if axis.is_log { ((high - low) as usize + 1).min(14) } else { 8 }
}

fn label(axis: &Axis, value: f64) -> String {
    let value = if axis.is_log { value.exp2() } else { value };
    let is_bytes = axis.label.starts_with("bytes");
    let (step, units) = if is_bytes {
        (1024.0, ["", " Ki", " Mi", " Gi", " Ti"])
    } else {
        (1000.0, ["", " k", " M", " G", " T"])
    };
    // 8192 pages are not a round number of thousands, and are shown in full.
    let from = if is_bytes { 1024.0 } else { 100_000.0 };
    let mut scaled = value;
    let mut unit = units[0];
    if value.abs() >= from {
        for next in &units[1..] {
            if scaled.abs() < step {
                break;
            }
            (scaled, unit) = (scaled / step, next);
        }
    }
    let digits = if scaled == 0.0 || scaled.abs() >= 10.0 {
        0
    } else {
        // Two significant digits, without a trailing zero.
        (1 - scaled.abs().log10().floor() as i32).clamp(0, 6)
    };
    let text = format!("{scaled:.*}", usize::try_from(digits).unwrap_or(0));
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::super::document::tests::report;
    use super::*;

    fn log(label: &str) -> Axis {
        Axis { label: label.into(), is_log: true }
    }

    #[test]
    fn a_plot_has_its_title_axes_names_and_one_dot_for_each_point() {
        let plot = &report().plots[0];
        let text = svg(plot).expect("it has points");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        for word in ["A &lt;title&gt;", "pages", "cycles", "ours &amp; theirs"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(text.matches("<circle").count(), 2);
    }

    #[test]
    fn names_are_beside_the_ends_of_their_curves_and_never_on_each_other() {
        assert_eq!(spread(&[Some(300), None, Some(100)]), [Some(300), None, Some(100)]);
        let close = spread(&[Some(300), Some(301), Some(299)]);
        assert_eq!(close, [Some(317), Some(335), Some(299)]);
        let bottom = SIZE.1.cast_signed();
        assert_eq!(
            spread(&[Some(bottom), Some(bottom)]),
            [Some(bottom - 2 * NAME_HEIGHT), Some(bottom - NAME_HEIGHT)]
        );
    }

    #[test]
    fn no_colour_is_twice_in_a_plot_that_we_draw() {
        let colours: std::collections::BTreeSet<_> =
            COLOURS.iter().map(|colour| (colour.0, colour.1, colour.2)).collect();
        assert_eq!(colours.len(), COLOURS.len());
    }

    #[test]
    fn without_points_there_is_an_error_that_names_the_plot() {
        let mut plot = report().plots.remove(0);
        plot.series[0].points = vec![(0.0, 0.0)];
        let error = svg(&plot).expect_err("zero has no logarithm").to_string();
        assert!(error.contains("curve") && error.contains("no points"), "{error}");
    }

    #[test]
    fn labels_say_the_number_itself() {
        assert_eq!(label(&log("pages"), 13.0), "8192");
        assert_eq!(label(&log("bytes"), 18.0), "256 Ki");
        assert_eq!(label(&log("cycles"), 20.0), "1 M");
        assert_eq!(label(&log("x"), -3.0), "0.12");
        assert_eq!(label(&Axis { label: "x".into(), is_log: false }, 2.5), "2.5");
        assert_eq!(label(&Axis { label: "x".into(), is_log: false }, 0.0), "0");
    }
}
