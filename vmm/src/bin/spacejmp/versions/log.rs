//! `log`: which versions there are.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use vmm::exit_code::ExitCode;
use vmm::store::{Name, SegmentFile, Store, StoreError, VersionRecord};

use super::Of;
use crate::errors::{self, Failure};
use crate::store_options::{failed, size, table};
use crate::store_show::plain;

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    /// Of a VAS with several versioned segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<String>,
    #[serde(flatten)]
    version: VersionRecord,
}

pub(super) fn log(of: Of, store: &Store, name: &Name, json: bool) -> Result<ExitCode, Failure> {
    let lines = lines(of, store, name).map_err(failed(format!("read the log of '{name}'")))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let several = lines.iter().any(|line| line.segment.is_some());
    errors::output(json, &BTreeMap::from([("versions", &lines)]), |colour| {
        let mut heading =
            vec!["VERSION", "COMMITTED", "PAGES", "SIZE", "OPENS", "TAGS", "PROGRAM (PID)"];
        let rows: Vec<_> = lines.iter().map(|line| row(line, now, several)).collect();
        if several {
            heading.insert(0, "SEGMENT");
        }
        table(&heading, &rows, colour)
    })
}

fn lines(of: Of, store: &Store, name: &Name) -> Result<Vec<Line>, StoreError> {
    let mut lines = Vec::new();
    match of {
        Of::Segment => {
            let versions = store.history(store.find_segment(name)?)?;
            lines.extend(versions.into_iter().map(|version| Line { segment: None, version }));
        }
        Of::Vas => {
            let vas = store.vas(store.find_vas(name)?)?;
            let segments = store.open_listed(&vas)?;
            let versioned: Vec<_> = segments.iter().filter(|it| it.is_versioned()).collect();
            if versioned.is_empty() {
                return Err(StoreError::NoVersions(vas.name));
            }
            let own = format!("{}@", vas.name.as_str());
            for segment in &versioned {
                let segment: &SegmentFile = segment;
                let shown = (versioned.len() > 1).then(|| segment.name().as_str().to_owned());
                for mut version in store.history(segment.sid())? {
                    // The VAS's own tags are called as the VAS calls them.
                    for tag in &mut version.tags {
                        *tag = tag.strip_prefix(&own).unwrap_or(tag).to_owned();
                    }
                    lines.push(Line { segment: shown.clone(), version });
                }
            }
        }
    }
    Ok(lines)
}

fn row(line: &Line, now: Duration, several: bool) -> Vec<String> {
    let it = &line.version;
    let age = now.saturating_sub(Duration::from_nanos(it.time_ns));
    let who = if it.program.is_empty() { "-".into() } else { plain(&it.program) };
    let tags: Vec<_> = it.tags.iter().map(|tag| plain(tag)).collect();
    let opens = if it.opens { "yes" } else { "no" };
    let mut row = vec![
        it.number.to_string(),
        ago(age),
        it.pages.to_string(),
        size(it.size_bytes),
        opens.to_owned(),
        if tags.is_empty() { "-".to_owned() } else { tags.join(", ") },
        format!("{who} ({})", it.pid),
    ];
    if several {
        row.insert(0, plain(line.segment.as_deref().unwrap_or_default()));
    }
    row
}

/// A time that has passed, in the largest unit of which it is one.
fn ago(age: Duration) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    match units.iter().find(|(seconds, _)| age.as_secs() >= *seconds) {
        Some((seconds, unit)) => format!("{} {unit} ago", age.as_secs() / seconds),
        None => format!("{:.1} s ago", age.as_secs_f64()),
    }
}
