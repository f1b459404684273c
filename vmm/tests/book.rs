//! The book agrees with the code: where a page repeats a table of the source, the two are
//! compared here; and its links lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use vmm::exit_code;

const DISPATCH: &str = include_str!("../src/linux/mod.rs");
const CALLS_PAGE: &str = include_str!("../../docs/src/linux-calls.md");
const ABI_PAGE: &str = include_str!("../../docs/src/abi.md");
const BINDINGS: [&str; 4] = [
    include_str!("../../guest-sdk/src/sys/ready.rs"),
    include_str!("../../guest-sdk/src/sys/switch.rs"),
    include_str!("../../guest-sdk/src/sys/vas.rs"),
    include_str!("../../guest-sdk/src/sys/seg.rs"),
];
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
fn what_doctor_says_is_not_served_is_not() {
    let calls = dispatched();
    for name in vmm::process::needs::calls::NOT_SERVED {
        assert_ne!(calls.get(*name), Some(&Verdict::Served), "{name}");
        let is_call = (0..512).any(|number| vmm::stats::names::name(number) == Some(name));
        assert!(is_call, "{name}");
    }
}

#[test]
fn a_trace_knows_the_arguments_of_every_call_that_is_served() {
    for (name, verdict) in dispatched() {
        let knows = vmm::linux::strace::knows(&name);
        assert!(knows || verdict == Verdict::Refused, "{name} has no line in signatures.txt");
    }
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
        let known = (0..512).any(|number| vmm::stats::names::name(number) == Some(name));
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
    assert_eq!(statuses.len(), 7, "{statuses:?}");
    for status in statuses {
        assert!(RUN_PAGE.contains(&format!("\n| {status} | ")), "{status}");
    }
}

/// The rows of the table under `## heading`, cell by cell, without its head.
fn rows(page: &'static str, heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("there is a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let table = section.lines().filter(|line| line.starts_with("| "));
    let cells = |row: &'static str| row.trim_matches('|').split('|').map(str::trim).collect();
    table.skip(1).map(cells).collect()
}

/// Names of errors in `text`.
fn errnos(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_errno = |word: &&str| {
        let is_upper = word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        word.starts_with('E') && word.len() > 2 && is_upper
    };
    quoted.filter(is_errno).collect()
}

#[test]
fn the_page_of_calls_has_every_number_once() {
    let rows = rows(ABI_PAGE, "Numbers");
    let page: Vec<_> = rows.iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let code = abi::call::ALL.iter();
    let code: Vec<_> = code.map(|(n, name)| (format!("`{n:#x}`"), format!("`{name}`"))).collect();
    assert_eq!(page, code);
}

#[test]
fn the_page_of_calls_has_every_structures_size() {
    use abi::objects::{Attachment, SegParams, SegRoot, SegStat, VasStat};
    for (name, bytes) in [
        ("`seg_params`, ", size_of::<SegParams>()),
        ("`seg_stat`, ", size_of::<SegStat>()),
        ("`vas_stat`, ", size_of::<VasStat>()),
        ("An attachment (`vas_segments`) is ", size_of::<Attachment>()),
        ("`seg_root_set`) is\n", size_of::<SegRoot>()),
    ] {
        assert!(ABI_PAGE.contains(&format!("{name}{bytes} bytes")), "{name}{bytes}");
    }
}

#[test]
fn every_call_has_the_same_errors_on_the_page_and_in_the_bindings() {
    let rows = rows(ABI_PAGE, "Errors");
    assert_eq!(rows.len(), abi::call::ALL.len());
    for (row, (_, name)) in rows.iter().zip(abi::call::ALL) {
        assert_eq!(row[0], format!("`{name}`"));
        let known = (1..200).filter_map(|raw| abi::Errno::from_raw(raw).name());
        let known: BTreeSet<_> = known.collect();
        let mut page = errnos(row[1]);
        assert!(page.is_subset(&known), "{name}: {page:?}");

        let function = format!("fn {name}(");
        let source = BINDINGS.iter().find(|source| source.contains(&function));
        let (before, _) = source.expect("a binding").split_once(&function).expect("it is there");
        let comment = before.rsplit_once("\n\n").expect("something stands before").1;
        let (_, errors) = comment.split_once("# Errors").expect("a section of errors");
        let errors = errors.split("# Safety").next().unwrap_or_default();
        let mut bindings = errnos(errors);
        // An unknown right is a type error in Rust, a buffer that is too short cannot be passed,
        // and outside a VM there is no kernel to answer.
        if name.starts_with("seg_attach") || name.ends_with("_stat") {
            bindings.insert("EINVAL");
        }
        bindings.remove("ENOSYS");
        if row[1].contains(" but `EINTR`") {
            page.remove("EINTR");
            bindings.remove("EINTR");
        }
        assert_eq!(page, bindings, "{name}");
        assert_eq!(row[2].contains("name"), errors.contains("name errors"), "{name}");
        let has_store = errors.contains("store errors") || errors.contains("As [`vas_switch`]");
        assert_eq!(row[2].contains("store"), has_store, "{name}");
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

/// The anchor that mdBook and others derive from a heading.
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
