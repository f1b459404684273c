//! Lists of segments and VASes, in which unreadable objects also have a line.

use std::collections::BTreeMap;

use serde::Serialize;
use vmm::exit_code::ExitCode;
use vmm::store::{Name, StoreError};

use crate::errors::{self, Failure};
use crate::store_options::table;
use crate::store_show::plain;

pub(crate) const SEGMENT_HEADING: [&str; 8] =
    ["NAME", "SIZE", "STORED", "BASE", "MODE", "ATTACHED", "VERSION", "STATE"];
pub(crate) const VAS_HEADING: [&str; 6] =
    ["NAME", "SEGMENTS", "MODE", "ATTACHED", "VERSION", "STATE"];

/// An object of a list that cannot be read.
#[derive(Debug, Serialize)]
pub(crate) struct Broken {
    name: String,
    error: String,
}

/// An entry of a list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Entry<T> {
    Good(Box<T>),
    Broken(Broken),
}

/// `good` makes the entry of an object that can be read.
pub(crate) fn entry<R, T>(
    name: &Name,
    record: &Result<R, StoreError>,
    good: impl Fn(&R) -> T,
) -> Entry<T> {
    match record {
        Ok(record) => Entry::Good(Box::new(good(record))),
        Err(error) => Entry::Broken(Broken {
            name: name.as_str().to_owned(),
            error: vmm::error::chain(error),
        }),
    }
}

/// The entry of an object that cannot be read, for this reason.
pub(crate) fn unreadable<T>(name: &Name, error: String) -> Entry<T> {
    Entry::Broken(Broken { name: name.as_str().to_owned(), error })
}

/// Prints entries: in JSON in an object under `key`, as text in a table.
pub(crate) fn print_list<T: Serialize>(
    json: bool,
    key: &str,
    heading: &[&str],
    entries: &[Entry<T>],
    good: fn(&T) -> Vec<String>,
) -> Result<ExitCode, Failure> {
    errors::output(json, &BTreeMap::from([(key, entries)]), |colour| {
        let rows: Vec<_> = entries.iter().map(|entry| row(entry, heading.len(), good)).collect();
        table(heading, &rows, colour)
    })
}

/// The row of an entry; an unreadable one has the reason in the last of `columns`.
fn row<T>(entry: &Entry<T>, columns: usize, good: impl Fn(&T) -> Vec<String>) -> Vec<String> {
    match entry {
        Entry::Good(object) => good(object),
        Entry::Broken(broken) => {
            let mut row = vec!["?".to_owned(); columns];
            if let Some(first) = row.first_mut() {
                *first = plain(&broken.name);
            }
            if let Some(last) = row.last_mut() {
                *last = plain(&broken.error);
            }
            row
        }
    }
}
