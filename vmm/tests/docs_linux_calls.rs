//! The page of the book about Linux calls lists exactly the calls that are in the table of
//! `vmm/src/linux/mod.rs`. What it says about each is for people to check.

use std::collections::BTreeSet;

const TABLE: &str = include_str!("../src/linux/mod.rs");
const PAGE: &str = include_str!("../../docs/src/linux-calls.md");

/// The names in the arms of the two `match`es, which write `libc::SYS_name`.
fn in_table() -> BTreeSet<&'static str> {
    let start = TABLE.find("fn dispatch(").expect("the table starts there");
    let end = TABLE.find("fn unserved(").expect("what is not in the table comes after it");
    TABLE[start..end]
        .lines()
        .map(|line| line.split_once("=>").map_or(line, |(pattern, _)| pattern))
        .flat_map(|pattern| pattern.split("libc::SYS_").skip(1))
        .map(|rest| rest.split(|c: char| !is_in_name(c)).next().unwrap_or_default())
        .collect()
}

/// The names in the first columns of the page's tables, in the order of the page.
fn on_page() -> Vec<&'static str> {
    PAGE.lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split_once(" |").map(|(cell, _)| cell))
        .flat_map(|cell| cell.split(['`', ' ']).filter(|name| !name.is_empty()))
        .collect()
}

fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[test]
fn every_call_in_the_table_is_on_the_page_and_no_other() {
    let (table, page) = (in_table(), on_page());
    assert!(table.len() > 100 && table.contains("brk") && table.contains("utimes"), "{table:?}");
    let listed: BTreeSet<&str> = page.iter().copied().collect();
    let missing: Vec<_> = table.difference(&listed).collect();
    let invented: Vec<_> = listed.difference(&table).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "docs/src/linux-calls.md lacks {missing:?} and lists {invented:?}, which nobody serves"
    );
}

#[test]
fn no_call_is_listed_twice() {
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = on_page().into_iter().filter(|&name| !seen.insert(name)).collect();
    assert!(twice.is_empty(), "listed twice: {twice:?}");
}
