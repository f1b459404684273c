//! The book says what the code does: where a page repeats a table of the source, the two are
//! compared here; and its pages hang together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use vmm::exit_code;

const DISPATCH: &str = include_str!("../src/linux/mod.rs");
const CALLS_PAGE: &str = include_str!("../../docs/src/linux-calls.md");
const RUN_PAGE: &str = include_str!("../../docs/src/running-programs.md");

/// Whether a call of the dispatch table can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Served,
    Refused,
}

/// Every name in a pattern of the dispatch table, and what its arm does.
fn dispatched() -> BTreeMap<String, Verdict> {
    let start = DISPATCH.find("fn dispatch(").expect("the dispatch table is there");
    let end = DISPATCH.find("fn unserved(").expect("it ends before `unserved`");
    let mut calls = BTreeMap::new();
    let mut rest = &DISPATCH[start..end];
    while let Some((_, after)) = rest.split_once("libc::SYS_") {
        let len = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, tail) = after.split_at(len.expect("a pattern follows"));
        let (pattern, arm) = tail.split_once("=>").expect("a pattern has an arm");
        assert!(!pattern.contains(';'), "{name} is not in a pattern");
        let arm = arm.trim_start_matches(['{', ' ', '\n']);
        let refuses = arm.starts_with("Err(") || arm.starts_with("thread::no_processes");
        let verdict = if refuses { Verdict::Refused } else { Verdict::Served };
        assert_eq!(calls.insert(name.to_owned(), verdict), None, "{name} is there twice");
        rest = tail;
    }
    calls
}

/// Every name in the first column of a table under `## Served` or `## Refused`.
fn documented() -> BTreeMap<String, Verdict> {
    let mut calls = BTreeMap::new();
    let mut verdict = None;
    for line in CALLS_PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            verdict = match heading {
                "Served" => Some(Verdict::Served),
                "Refused" => Some(Verdict::Refused),
                _ => None,
            };
        }
        let (Some(verdict), Some(row)) = (verdict, line.strip_prefix("| ")) else { continue };
        let first = row.split(" |").next().unwrap_or_default();
        for name in first.split('`').skip(1).step_by(2) {
            assert_eq!(calls.insert(name.to_owned(), verdict), None, "{name} is there twice");
        }
    }
    calls
}

#[test]
fn the_page_of_linux_calls_lists_the_dispatch_table() {
    let (code, page) = (dispatched(), documented());
    assert!(code.len() > 150, "the table was not found: {} calls", code.len());
    for (name, verdict) in &code {
        assert_eq!(page.get(name), Some(verdict), "{name} on the page");
    }
    for name in page.keys() {
        assert!(code.contains_key(name), "{name} is on the page, but not served or refused");
    }
}

#[test]
fn what_is_said_not_to_be_served_is_not() {
    let (_, section) = CALLS_PAGE.split_once("## Not served").expect("there is a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let code = dispatched();
    let names: Vec<_> = section.split('`').skip(1).step_by(2).collect();
    assert!(names.len() > 5);
    for name in names {
        assert!(!code.contains_key(name), "{name} is served");
        let known = (0..512).any(|number| vmm::linux::names::name(number) == Some(name));
        assert!(known, "{name} is no Linux call");
    }
}

#[test]
fn the_page_on_running_has_every_exit_status() {
    let statuses: Vec<_> = exit_code::HELP
        .lines()
        .filter_map(|line| line.trim_start().split_once("  "))
        .map(|(status, _)| status)
        .filter(|status| status.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert_eq!(statuses.len(), 6, "{statuses:?}");
    for status in statuses {
        assert!(RUN_PAGE.contains(&format!("\n| {status} | ")), "{status}");
    }
}

fn book() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src")
}

fn pages(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read the book's folder") {
        let path = entry.expect("read the book's folder").path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.insert(path);
        }
    }
}

/// Targets of `[text](target)` outside code, web addresses left out.
fn links(text: &str) -> Vec<&str> {
    let fences = text.split("```").step_by(2);
    let targets = fences.flat_map(|prose| prose.split("](").skip(1));
    let targets = targets.filter_map(|after| after.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

/// The anchor mdBook and others make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
}

#[test]
fn every_link_of_the_book_and_the_top_pages_leads_somewhere() {
    let mut all = BTreeSet::new();
    pages(&book(), &mut all);
    assert!(all.len() > 10);
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    all.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| top.join(name)));
    for page in &all {
        let text = fs::read_to_string(page).expect("read a page");
        for link in links(&text) {
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a page is in a folder").join(file),
            };
            assert!(target.exists(), "{}: {link}", page.display());
            if !wanted.is_empty() {
                let text = fs::read_to_string(&target).expect("read the linked page");
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|h| anchor(h.trim_start_matches(['#', ' '])) == wanted);
                assert!(found, "{}: {link}", page.display());
            }
        }
    }
}

#[test]
fn every_page_is_in_the_summary_once() {
    let mut all = BTreeSet::new();
    pages(&book(), &mut all);
    let summary = book().join("SUMMARY.md");
    all.remove(&summary);
    let text = fs::read_to_string(&summary).expect("read the summary");
    for link in links(&text) {
        assert!(all.remove(&book().join(link)), "{link} does not exist or is there twice");
    }
    assert!(all.is_empty(), "not in the summary: {all:?}");
}
