//! The paper's numbers, to show next to ours: `resources/paper`, embedded in this binary.
//!
//! The files are part of the source and tested here, so reading them does not fail: a
//! missing curve is empty.

use super::{Origin, Series};

/// Figure 1: mapping and unmapping.
pub const FIGURE_1: &str = include_str!("../../data/paper/figure-1.csv");
/// Figure 6: reaching random pages.
pub const FIGURE_6: &str = include_str!("../../data/paper/figure-6.csv");
/// Figure 7: getting bytes.
pub const FIGURE_7: &str = include_str!("../../data/paper/figure-7.csv");
/// Figure 8, sets of 16.
pub const FIGURE_8_16: &str = include_str!("../../data/paper/figure-8-sets-of-16.csv");
/// Figure 8, sets of 64.
pub const FIGURE_8_64: &str = include_str!("../../data/paper/figure-8-sets-of-64.csv");
/// Figure 10: GETs.
pub const FIGURE_10_GET: &str = include_str!("../../data/paper/figure-10-get.csv");
/// Figure 10: SETs.
pub const FIGURE_10_SET: &str = include_str!("../../data/paper/figure-10-set.csv");
/// Figure 11: work on reads of a genome, times as fast as on files.
pub const FIGURE_11: &str = include_str!("../../data/paper/figure-11.csv");
const FIGURES: &str = include_str!("../../data/paper/figures.csv");

/// Some curves of a figure: `names` are their names in the file and in our legend. Points at
/// zero are left out, since axes are logarithmic.
#[must_use]
pub fn curves(file: &str, names: &[(&str, &str)]) -> Vec<Series> {
    let of = |&(name, legend): &(&str, &str)| Series {
        name: legend.into(),
        origin: Origin::Paper,
        points: rows(file)
            .filter(|(series, ..)| *series == name)
            .map(|(_, x, y)| (x, y))
            .filter(|(_, y)| *y > 0.0)
            .collect(),
    };
    names.iter().map(of).collect()
}

/// The paper's value for one of our figures.
#[must_use]
pub fn beside(figure: &str) -> Option<&'static str> {
    FIGURES.lines().find_map(|line| {
        let (name, text) = line.split_once(',')?;
        (name == figure).then(|| text.trim_matches('"'))
    })
}

fn rows(file: &str) -> impl Iterator<Item = (&str, f64, f64)> {
    file.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.rsplitn(3, ',');
        let (y, x) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((fields.next()?, x, y))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_origin_a_head_and_only_numbers() {
        let files = [FIGURE_1, FIGURE_6, FIGURE_7, FIGURE_8_16, FIGURE_8_64];
        for file in files.into_iter().chain([FIGURE_10_GET, FIGURE_10_SET, FIGURE_11]) {
            let comments = file.lines().take_while(|line| line.starts_with('#')).count();
            assert!(comments >= 3, "{file}");
            assert_eq!(file.lines().nth(comments), Some("series,x,y"));
            assert_eq!(rows(file).count(), file.lines().count() - comments - 1, "{file}");
        }
    }

    #[test]
    fn curves_are_found_by_name_and_rise_in_x() {
        let [curve] = &curves(FIGURE_6, &[("tags on", "the paper, tags")])[..] else {
            panic!("one was asked for");
        };
        assert_eq!((curve.points.len(), curve.points[0]), (11, (81.0, 6.0)));
        assert!(curve.points.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn numbers_beside_ours_are_found_by_our_name() {
        assert!(beside("switch_cycles").is_some_and(|text| text.starts_with("1127 / 807")));
        assert_eq!(beside("figure"), Some("paper"), "the head");
        assert_eq!(beside("no_such_figure"), None);
    }
}
