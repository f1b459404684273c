//! What `--out DIR` leaves: figures and curves as files for other programs and for people.
//!
//! `results.json`, the whole; `figures.csv`; for each plot `NAME.csv` and `NAME.svg`;
//! `report.md`. A folder that holds anything else is not written to, so that nothing of the
//! user's is ever replaced; one of an earlier run is.

use std::fs;
use std::path::{Path, PathBuf};

use super::document::Document;
use super::plot::{self, PlotError};
use super::{Plot, markdown};

const RESULTS: &str = "results.json";

/// The files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It holds something else.
    #[error(
        "{} is not empty and has no {RESULTS} of an earlier run: name another folder",
        path.display()
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// The host does not let us.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A plot cannot be drawn.
    #[error(transparent)]
    Plot(#[from] PlotError),
}

/// Whether [`write`] would find the folder as it must be: for asking before measuring.
///
/// # Errors
/// [`WriteError`].
pub fn prepare(dir: &Path) -> Result<(), WriteError> {
    let failed = |source| WriteError::Write { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    let is_empty = fs::read_dir(dir).map_err(failed)?.next().is_none();
    if is_empty || dir.join(RESULTS).is_file() {
        return Ok(());
    }
    Err(WriteError::NotOurs { path: dir.to_owned() })
}

/// Writes all files; returns their paths.
///
/// # Errors
/// [`WriteError`]; files written before the error stay.
pub fn write(dir: &Path, document: &Document) -> Result<Vec<PathBuf>, WriteError> {
    prepare(dir)?;
    let mut json = serde_json::to_string_pretty(document).unwrap_or_default();
    json.push('\n');
    let mut files = vec![
        (RESULTS.to_owned(), json),
        ("figures.csv".to_owned(), figures(document)),
        ("report.md".to_owned(), markdown::report(document)),
    ];
    for plot in document.experiments.iter().flat_map(|outcome| &outcome.plots) {
        files.push((format!("{}.csv", plot.name), curves(plot)));
        // Without a point there is nothing to look at; the table says so by being empty.
        if plot.has_points() {
            files.push((format!("{}.svg", plot.name), plot::svg(plot)?));
        }
    }
    let write = |(name, text): (String, String)| {
        let path = dir.join(name);
        match fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(source) => Err(WriteError::Write { path, source }),
        }
    };
    files.into_iter().map(write).collect()
}

fn figures(document: &Document) -> String {
    let mut text = "experiment,figure,value,unit,spread_percent,note\n".to_owned();
    for outcome in &document.experiments {
        for row in outcome.rows() {
            let number = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
            let fields = [
                outcome.bench.clone(),
                row.name.to_owned(),
                number(row.value),
                row.unit.to_owned(),
                number(row.spread_percent),
                row.note.to_owned(),
            ];
            text += &line(&fields);
        }
    }
    text
}

fn curves(plot: &Plot) -> String {
    let mut text = line(&["series".into(), plot.x.label.clone(), plot.y.label.clone()]);
    for series in &plot.series {
        for (x, y) in &series.points {
            text += &line(&[series.name.clone(), x.to_string(), y.to_string()]);
        }
    }
    text
}

/// A line of comma-separated values (RFC 4180, but for the line's end).
fn line(fields: &[String]) -> String {
    let quoted = |field: &String| match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    fields.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::document::{Outcome, VERSION, tests::report};
    use super::*;

    fn document() -> Document {
        let json = report().json("tlb", false, serde_json::Value::Null);
        let outcome: Outcome = serde_json::from_value(json).expect("our own");
        Document { version: VERSION, host: serde_json::Value::Null, experiments: vec![outcome] }
    }

    #[test]
    fn all_files_are_there_and_a_second_run_replaces_them() {
        let dir = tempfile::tempdir().expect("a folder");
        for _ in 0..2 {
            let files = write(dir.path(), &document()).expect("it is ours");
            let names: Vec<_> =
                files.iter().filter_map(|path| path.file_name()?.to_str()).collect();
            assert_eq!(
                names,
                ["results.json", "figures.csv", "report.md", "curve.csv", "curve.svg"]
            );
            assert!(files.iter().all(|path| path.is_file()));
        }
        assert_eq!(Document::read(dir.path()).expect("just written"), document());
        let curves = fs::read_to_string(dir.path().join("curve.csv")).expect("just written");
        assert_eq!(curves, "series,pages,cycles\nours & theirs,16,5\nours & theirs,64,80\n");
    }

    #[test]
    fn a_folder_with_something_else_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("thesis.txt"), "precious").expect("writable");
        let error = write(dir.path(), &document()).expect_err("not ours").to_string();
        assert!(error.contains("another folder"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
    }

    #[test]
    fn fields_with_commas_and_quotes_are_quoted() {
        assert_eq!(line(&["a".into(), "b, \"c\"".into()]), "a,\"b, \"\"c\"\"\"\n");
    }
}
