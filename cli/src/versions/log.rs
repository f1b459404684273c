//! `log`: which versions there are.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use vmm::exit_code::ExitCode;
use vmm::store::{Name, Store, VasVersion, VersionRecord};

use super::Of;
use crate::errors::{self, Failure};
use crate::store_options::{failed, size, table};
use crate::store_show::plain;

pub(super) fn log(of: Of, store: &Store, name: &Name, json: bool) -> Result<ExitCode, Failure> {
    let doing = || failed(format!("read the log of '{name}'"));
    match of {
        Of::Segment => {
            let versions = store.find_segment(name).and_then(|sid| store.history(sid));
            let versions = versions.map_err(doing())?;
            show(json, &versions, &[], |it, now| {
                let mut row = row(it, now);
                row.push(plain(&it.message));
                row
            })
        }
        Of::Vas => {
            let versions = store.find_vas(name).and_then(|vid| store.vas_history(vid));
            let versions = versions.map_err(doing())?;
            show(json, &versions, &["SEGMENTS"], |it, now| {
                let mut row = row(&of_vas(it), now);
                let each = it.segments.iter();
                let each: Vec<_> =
                    each.map(|at| format!("{}@{}", plain(&at.segment), at.number)).collect();
                row.push(each.join(", "));
                row.push(plain(&it.message));
                row
            })
        }
    }
}

fn show<T: Serialize>(
    json: bool,
    versions: &[T],
    more: &[&'static str],
    row: impl Fn(&T, Duration) -> Vec<String>,
) -> Result<ExitCode, Failure> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    errors::output(json, &BTreeMap::from([("versions", versions)]), |colour| {
        let heading = ["VERSION", "COMMITTED", "PAGES", "SIZE", "OPENS", "TAGS", "PROGRAM (PID)"];
        let mut heading: Vec<_> = heading.iter().chain(more).chain(&["MESSAGE"]).copied().collect();
        let mut rows: Vec<_> = versions.iter().map(|version| row(version, now)).collect();
        // Most programs say nothing.
        if rows.iter().all(|row| row.last().is_some_and(String::is_empty)) {
            heading.pop();
            rows.iter_mut().for_each(|row| drop(row.pop()));
        }
        table(&heading, &rows, colour)
    })
}

/// A version of a VAS as one of a segment: of as many bytes as all of them.
fn of_vas(it: &VasVersion) -> VersionRecord {
    VersionRecord {
        number: it.number,
        time_ns: it.time_ns,
        pid: it.pid,
        program: it.program.clone(),
        message: it.message.clone(),
        pages: it.pages,
        size_bytes: it.size_bytes,
        opens: it.opens,
        tags: it.tags.clone(),
    }
}

fn row(it: &VersionRecord, now: Duration) -> Vec<String> {
    let age = now.saturating_sub(Duration::from_nanos(it.time_ns));
    let who = if it.program.is_empty() { "-".into() } else { plain(&it.program) };
    let tags: Vec<_> = it.tags.iter().map(|tag| plain(tag)).collect();
    let opens = if it.opens { "yes" } else { "no" };
    vec![
        it.number.to_string(),
        ago(age),
        it.pages.to_string(),
        size(it.size_bytes),
        opens.to_owned(),
        if tags.is_empty() { "-".to_owned() } else { tags.join(", ") },
        format!("{who} ({})", it.pid),
    ]
}

/// A time that has passed, in the largest unit of which it is one.
pub(crate) fn ago(age: Duration) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    match units.iter().find(|(seconds, _)| age.as_secs() >= *seconds) {
        Some((seconds, unit)) => format!("{} {unit} ago", age.as_secs() / seconds),
        None => format!("{:.1} s ago", age.as_secs_f64()),
    }
}
