//! Lists of segments and VASes, in which unreadable objects also have a line.

use std::collections::HashMap;

use abi::objects::LeaseId;
use serde::Serialize;
use vmm::store::{LeaseView, SegmentEntry, VasEntry};

use crate::store_show::{Segment, Vas, plain};

pub(crate) const SEGMENT_HEADING: [&str; 7] =
    ["NAME", "SIZE", "STORED", "BASE", "MODE", "ATTACHED", "STATE"];
pub(crate) const VAS_HEADING: [&str; 5] = ["NAME", "SEGMENTS", "MODE", "ATTACHED", "STATE"];

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

pub(crate) fn segment_entry(
    entry: &SegmentEntry,
    live: &HashMap<LeaseId, LeaseView>,
) -> Entry<Segment> {
    match &entry.record {
        Ok(record) => Entry::Good(Box::new(Segment::of(record, live))),
        Err(error) => broken(entry.name.as_str(), error),
    }
}

pub(crate) fn vas_entry(entry: &VasEntry, live: &HashMap<LeaseId, LeaseView>) -> Entry<Vas> {
    match &entry.record {
        Ok(record) => Entry::Good(Box::new(Vas::of(record, live, |_| None))),
        Err(error) => broken(entry.name.as_str(), error),
    }
}

fn broken<T>(name: &str, error: &vmm::store::StoreError) -> Entry<T> {
    Entry::Broken(Broken { name: name.to_owned(), error: vmm::error::chain(error) })
}

/// The row of an entry; an unreadable one has the reason in the last of `columns`.
pub(crate) fn row<T>(
    entry: &Entry<T>,
    columns: usize,
    good: impl Fn(&T) -> Vec<String>,
) -> Vec<String> {
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
