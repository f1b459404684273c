//! The report for people: what ran where, figures next to the paper's, plots, and the checks.

use std::fmt::Write;

use serde_json::Value;
use vmm::cli::subjects;

use super::document::{Document, Outcome};
use super::paper;

/// The whole report. Plots are linked as files in the same folder.
#[must_use]
pub fn report(document: &Document) -> String {
    section(document, "# What `spacejmp bench` found", ".")
}

/// The same as part of a page: under `heading`, which begins with as many `#` as its level has,
/// and with the plots in the folder `plots`.
#[must_use]
pub fn section(document: &Document, heading: &str, plots: &str) -> String {
    let level = heading.bytes().take_while(|&byte| byte == b'#').count();
    let below = "#".repeat(level + 1);
    let plots = if plots == "." { String::new() } else { format!("{plots}/") };
    let mut text = format!("{heading}\n\n");
    host(&mut text, &document.host);
    if document.is_quick() {
        text += "**With `--quick`: sizes are too small for the figures to be of use.**\n\n";
    }
    let broken: Vec<_> =
        document.broken().map(|(bench, check)| format!("{bench}: {}", check.name)).collect();
    if !broken.is_empty() {
        let _ =
            writeln!(text, "**Broken checks: {}. Do not use these figures.**\n", broken.join(", "));
    }
    for (name, why) in &document.failed {
        let _ = writeln!(text, "**`{name}` could not be carried out:** {}\n", cell(why));
    }
    text += "A ratio of two figures of one run is what matters; an absolute time depends on this \
             machine. *Spread* is how far samples of this run lie from the figure.\n";
    for outcome in &document.experiments {
        experiment(&mut text, outcome, &below, &plots);
    }
    text
}

/// What is known about the host: its kind and what it offers guests.
fn host(text: &mut String, host: &Value) {
    let at = |path: &str| host.pointer(path).map(shown).filter(|text| text != "null");
    text.push_str("| host | |\n|---|---|\n");
    for (what, path) in HOST {
        if let Some(value) = at(path) {
            let _ = writeln!(text, "| {what} | {} |", cell(&value));
        }
    }
    text.push('\n');
}

/// The facts of `doctor --json` that are shown.
const HOST: [(&str, &str); 8] = [
    ("kind", "/summary"),
    ("kernel", "/system/kernel"),
    ("processor's vendor", "/system/processor/vendor"),
    ("processor", "/system/processor/model"),
    ("processors", "/system/cpus/usable"),
    ("memory, bytes", "/system/memory/total_bytes"),
    ("rate of the time-stamp counter, kHz", "/kvm/tsc_khz"),
    ("PCID for guests", "/guest_cpu/pcid"),
];

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn experiment(text: &mut String, outcome: &Outcome, hashes: &str, plots: &str) {
    let known = subjects::find(&outcome.bench);
    let about = known.map_or("", |subject| subject.about);
    let _ = writeln!(text, "\n{hashes} `{}`\n\n{about}.", outcome.bench);
    if let Some(paper) = known.map(|subject| subject.paper).filter(|paper| !paper.is_empty()) {
        let _ = writeln!(text, "The paper's {paper}.");
    }
    for plot in outcome.plots.iter().filter(|plot| plot.has_points()) {
        let _ =
            writeln!(text, "\n![{}]({plots}{}.svg)\n\n{}", cell(&plot.title), plot.name, plot.note);
    }
    let has_paper = outcome.rows().any(|row| paper::beside(row.name).is_some());
    let (head, rule) = if has_paper { (" the paper |", "---|") } else { ("", "") };
    let _ =
        write!(text, "\n| figure | value | spread |{head} what it is |\n|---|---|---|{rule}---|\n");
    for row in outcome.rows().filter(|row| row.value.is_some()) {
        let unit = if row.unit == "ratio" { "" } else { row.unit };
        let value = row.value.map(number).unwrap_or_default();
        let spread = row.spread_percent.map(|p| format!("{p:.1} %")).unwrap_or_default();
        let _ = write!(text, "| `{}` | {value} {unit} | {spread} |", row.name);
        if has_paper {
            let _ = write!(text, " {} |", cell(paper::beside(row.name).unwrap_or_default()));
        }
        let _ = writeln!(text, " {} |", cell(row.note));
    }
    let missing: Vec<_> = outcome.rows().filter(|row| row.value.is_none()).collect();
    if !missing.is_empty() {
        text.push_str("\nNot available here:\n\n");
        for row in missing {
            let _ = writeln!(text, "- `{}`: {}", row.name, row.note);
        }
    }
    if !outcome.checks.is_empty() {
        text.push_str("\n| check | it would be wrong unless | found | kept |\n|---|---|---|---|\n");
        for check in &outcome.checks {
            let kept = if check.is_kept { "yes" } else { "**no**" };
            let (rule, found) = (cell(&check.rule), cell(&check.found));
            let _ = writeln!(text, "| {} | {rule} | {found} | {kept} |", check.name);
        }
    }
}

/// Three significant digits, or all digits before the decimal point.
pub(super) fn number(value: f64) -> String {
    let digits = if value == 0.0 || value.abs() >= 100.0 {
        0
    } else {
        (2 - value.abs().log10().floor() as i32).clamp(0, 6)
    };
    format!("{value:.*}", usize::try_from(digits).unwrap_or(0))
}

/// Text escaped so that it stays in its table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::super::document::{VERSION, tests::report as one};
    use super::*;

    #[test]
    fn the_report_has_figures_what_is_missing_and_why_and_what_was_broken() {
        let outcome = one().outcome("tlb", true, Value::Null);
        let mut document = Document {
            version: VERSION,
            host: Value::Null,
            experiments: vec![outcome],
            failed: Default::default(),
        };
        let text = report(&document);
        for piece in [
            "--quick",
            "| `b_us` | 3.00 us | 33.3 % | b, with \\| and",
            "- `a_over_b`: not here: no PCID",
            "![A <title>](curve.svg)",
            "| c | r | f | yes |",
            "Figure 6",
        ] {
            assert!(text.contains(piece), "{piece} in {text}");
        }
        assert!(!text.contains("Broken"));
        document.experiments[0].checks[0].is_kept = false;
        assert!(report(&document).contains("Broken checks: tlb: c"));
        document.failed.insert("gups".into(), "no space".into());
        assert!(report(&document).contains("**`gups` could not be carried out:** no space"));
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.01234, 1.0, 12.345, 65_432.1].map(number);
        assert_eq!(shown, ["0", "0.0123", "1.00", "12.3", "65432"]);
    }
}
