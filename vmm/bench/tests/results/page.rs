//! The book's page of results: prose written by hand and, between two marks, a part
//! generated from the runs committed in `resources/results`. A test compares the two; `cargo
//! xtask results` regenerates both.

use spacejmp_bench::report::document::Document;
use spacejmp_bench::report::markdown;

/// The line before the generated part.
pub(crate) const BEGIN: &str =
    "<!-- generated from resources/results by `cargo xtask results`: begin -->";
/// The line after it.
pub(crate) const END: &str = "<!-- generated: end -->";

/// Folder of the plots of a kind of host, relative to the page.
pub(crate) fn plots(kind: &str) -> String {
    format!("results/{kind}")
}

/// The page with its generated part made of `runs`, whatever it was before; `None` when the
/// page does not have both marks, each once and in order.
pub(crate) fn page(page: &str, runs: &[Document]) -> Option<String> {
    if [BEGIN, END].iter().any(|mark| page.matches(mark).count() != 1) {
        return None;
    }
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}{END}{after}", generated(runs)))
}

fn generated(runs: &[Document]) -> String {
    if runs.is_empty() {
        return "No full run has been committed yet.\n\n".to_owned();
    }
    let section = |run: &Document| {
        let kind = run.kind();
        let heading = format!("## A full run: {}", in_words(kind));
        markdown::section(run, &heading, &plots(kind)) + "\n"
    };
    runs.iter().map(section).collect()
}

fn in_words(kind: &str) -> &str {
    match kind {
        "ept" => "hardware KVM with EPT",
        "npt" => "hardware KVM with NPT",
        "shadow" => "hardware KVM with shadow tables",
        "software" => "software KVM",
        _ => "a host of unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use spacejmp_bench::report::document::VERSION;
    use spacejmp_bench::report::{Axis, Origin, Plot, Report, Series};

    use super::*;

    fn run() -> Document {
        let mut report = Report::default();
        report.push("b_us", Some(3.0), "us", "b");
        let axis = || Axis { label: "pages".into(), is_log: true };
        let points = vec![(16.0, 5.0), (64.0, 80.0)];
        report.plots.push(Plot {
            name: "curve".into(),
            title: "A title".into(),
            x: axis(),
            y: axis(),
            series: vec![Series { name: "ours".into(), origin: Origin::Ours, points }],
            note: "note".into(),
        });
        let outcome = report.outcome("tlb", false, serde_json::Value::Null);
        let host = serde_json::json!({ "translation": { "kind": "software" } });
        Document { version: VERSION, host, experiments: vec![outcome], failed: Default::default() }
    }

    #[test]
    fn only_what_is_between_the_marks_changes_and_once_made_it_stays() {
        let template = format!("# Results\n\nBy hand.\n\n{BEGIN}\nold\n{END}\n\nMore by hand.\n");
        let made = page(&template, &[run()]).expect("both marks are there");
        assert!(made.starts_with("# Results\n\nBy hand.\n\n") && !made.contains("old"));
        assert!(made.ends_with(&format!("{END}\n\nMore by hand.\n")));
        assert!(made.contains("\n## A full run: software KVM\n"), "{made}");
        assert!(made.contains("\n### `tlb`\n") && made.contains("](results/software/curve.svg)"));
        assert_eq!(page(&made, &[run()]).as_ref(), Some(&made));
    }

    #[test]
    fn without_a_run_the_page_says_so_instead_of_nothing() {
        let made = page(&format!("{BEGIN}\n{END}\n"), &[]).expect("both marks are there");
        assert!(made.contains("No full run has been committed yet."));
    }

    #[test]
    fn a_page_without_both_marks_in_order_is_not_touched() {
        for bad in [
            String::new(),
            BEGIN.to_owned(),
            format!("{END}{BEGIN}"),
            format!("{BEGIN}{BEGIN}{END}"),
            format!("{BEGIN}{END}{END}"),
        ] {
            assert_eq!(page(&bad, &[]), None, "{bad}");
        }
    }
}
