//! What `--out DIR` writes: figures and curves as files for other programs and for people.
//!
//! `results.json`, which holds everything; `figures.csv`; for each plot `NAME.csv` and
//! `NAME.svg`; `report.md`. A folder that holds anything else is not written to, so that no
//! file of the user's is ever replaced. The folder of an earlier run, if it holds only the
//! files of that run, is emptied first: plots that the new run lacks must not remain next to
//! the new ones.

use std::fs;
use std::path::{Path, PathBuf};

use super::document::Document;
use super::plot::{self, PlotError};
use super::{Plot, markdown, paper};

const RESULTS: &str = "results.json";
const FIGURES: &str = "figures.csv";
const REPORT: &str = "report.md";

/// The files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The folder holds something else.
    #[error("{} is not a file of an earlier run: name another folder", path.display())]
    NotOurs {
        /// What is in the way.
        path: PathBuf,
    },
    /// The host refused.
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

/// Whether [`write()`] can use the folder: to be checked before measuring.
///
/// # Errors
/// [`WriteError`].
pub fn prepare(dir: &Path) -> Result<(), WriteError> {
    earlier(dir).map(drop)
}

/// The files of an earlier run, the results last; empty if there was none. Makes the folder.
fn earlier(dir: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let failed = |source| WriteError::Write { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        found.push(entry.map_err(failed)?.path());
    }
    let results = dir.join(RESULTS);
    // Nothing is known about a file that is not a result, so it is in the way itself.
    let known: Vec<PathBuf> = match Document::read(&results) {
        Ok(run) => names(&run).map(|name| dir.join(name)).collect(),
        Err(_) => Vec::new(),
    };
    if let Some(other) = found.iter().find(|path| !known.contains(path)) {
        return Err(WriteError::NotOurs { path: other.clone() });
    }
    // As long as the results exist, a half-emptied folder is still recognised as ours.
    found.sort_by_key(|path| *path == results);
    Ok(found)
}

/// Every file that a run may have written.
fn names(run: &Document) -> impl Iterator<Item = String> {
    let plots = run.experiments.iter().flat_map(|outcome| &outcome.plots);
    let plots = plots.flat_map(|plot| ["csv", "svg"].map(|end| format!("{}.{end}", plot.name)));
    [RESULTS, FIGURES, REPORT].map(str::to_owned).into_iter().chain(plots)
}

/// Writes all files; returns their paths.
///
/// # Errors
/// [`WriteError`]; files written before the error stay.
pub fn write(dir: &Path, document: &Document) -> Result<Vec<PathBuf>, WriteError> {
    for path in earlier(dir)? {
        fs::remove_file(&path).map_err(|source| WriteError::Write { path, source })?;
    }
    let mut json = serde_json::to_string_pretty(document).unwrap_or_default();
    json.push('\n');
    let mut files = vec![
        (RESULTS.to_owned(), json),
        (FIGURES.to_owned(), figures(document)),
        (REPORT.to_owned(), markdown::report(document)),
    ];
    for plot in document.experiments.iter().flat_map(|outcome| &outcome.plots) {
        files.push((format!("{}.csv", plot.name), curves(plot)));
        // Without a point there is nothing to draw; the empty table shows that.
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
    let mut text = "experiment,figure,value,unit,spread_percent,note,paper\n".to_owned();
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
                paper::beside(row.name).unwrap_or_default().to_owned(),
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

/// A line of comma-separated values (RFC 4180, except for the line ending).
fn line(fields: &[String]) -> String {
    let quoted = |field: &String| match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    fields.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::document::{VERSION, tests::report};
    use super::*;

    fn document() -> Document {
        let outcome = report().outcome("tlb", false, serde_json::Value::Null);
        Document {
            version: VERSION,
            host: serde_json::Value::Null,
            experiments: vec![outcome],
            failed: Default::default(),
        }
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
        let without = Document { experiments: Vec::new(), ..document() };
        assert_eq!(write(dir.path(), &without).expect("still ours").len(), 3);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 3, "no plot is left over");
        write(dir.path(), &document()).expect("still ours");
        let curves = fs::read_to_string(dir.path().join("curve.csv")).expect("just written");
        assert_eq!(curves, "series,pages,cycles\nours & theirs,16,5\nours & theirs,64,80\n");
    }

    #[test]
    fn a_folder_with_something_else_is_left_alone_even_if_a_run_is_there_too() {
        for (name, has_run) in [("thesis.txt", false), ("thesis.svg", true), (RESULTS, false)] {
            let dir = tempfile::tempdir().expect("a folder");
            if has_run {
                write(dir.path(), &document()).expect("it is empty");
            }
            fs::write(dir.path().join(name), "precious").expect("writable");
            let before = fs::read_dir(dir.path()).expect("there").count();
            let error = write(dir.path(), &document()).expect_err("not ours").to_string();
            assert!(error.contains("another folder") && error.contains(name), "{error}");
            assert_eq!(fs::read_dir(dir.path()).expect("there").count(), before);
            let text = fs::read_to_string(dir.path().join(name)).expect("it is still there");
            assert_eq!(text, "precious");
        }
    }

    #[test]
    fn fields_with_commas_and_quotes_are_quoted() {
        assert_eq!(line(&["a".into(), "b, \"c\"".into()]), "a,\"b, \"\"c\"\"\"\n");
    }
}
