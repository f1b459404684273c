//! The book's page of results is generated from the runs in `resources/results` and nothing else:
//! no figure in its generated part can be typed in or become stale. With `SPACEJMP_RESULTS=update`
//! (set by `cargo xtask results`) page and plots are written instead of compared.

mod page;

use std::fs;
use std::path::{Path, PathBuf};

use spacejmp_bench::experiments;
use spacejmp_bench::report::document::Document;
use spacejmp_bench::report::plot;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn is_update() -> bool {
    std::env::var_os("SPACEJMP_RESULTS").is_some_and(|value| value == "update")
}

/// The committed runs with their files, by file name. The folder exists from the first
/// run on.
fn runs() -> Vec<(PathBuf, Document)> {
    let Ok(folder) = fs::read_dir(root().join("resources/results")) else { return Vec::new() };
    let mut files: Vec<_> =
        folder.map(|entry| entry.expect("read resources/results").path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let run = Document::read(&path).unwrap_or_else(|error| panic!("{error}"));
        (path, run)
    };
    files.into_iter().map(read).collect()
}

/// Writes `text`, or compares the file with it.
fn same(path: &Path, text: &str) {
    if is_update() {
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("make the folder");
        fs::write(path, text).expect("write the file");
    }
    let found = fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask results`", path.display()));
    assert!(found == text, "{} is not what its run gives: `cargo xtask results`", path.display());
}

#[test]
fn the_page_of_results_is_made_of_the_committed_runs() {
    let path = root().join("docs/src/results.md");
    let text = fs::read_to_string(&path).expect("read the page");
    let runs: Vec<_> = runs().into_iter().map(|(_, run)| run).collect();
    let made = page::page(&text, &runs).expect("the page has both marks");
    same(&path, &made);
}

#[test]
fn the_plots_of_the_page_are_made_of_the_committed_runs() {
    for (_, run) in runs() {
        let folder = root().join("docs/src").join(page::plots(run.kind()));
        let all = run.experiments.iter().flat_map(|outcome| &outcome.plots);
        for one in all.filter(|plot| plot.has_points()) {
            let svg = plot::svg(one).unwrap_or_else(|error| panic!("{}: {error}", one.name));
            same(&folder.join(format!("{}.svg", one.name)), &svg);
        }
    }
}

#[test]
fn a_committed_run_is_full_complete_sound_and_named_after_its_kind_of_host() {
    for (path, run) in runs() {
        let name = path.display();
        assert!(path.ends_with(format!("{}.json", run.kind())), "{name}: {}", run.kind());
        assert!(!run.is_quick(), "{name}: sizes are too small for the figures to be of use");
        let broken: Vec<_> = run.broken().map(|(bench, check)| (bench, &check.name)).collect();
        assert!(broken.is_empty(), "{name}: broken checks: {broken:?}");
        for experiment in experiments::ALL {
            let is_there =
                run.experiments.iter().any(|outcome| outcome.bench == experiment.subject.name);
            assert!(is_there, "{name} has no {}", experiment.subject.name);
        }
    }
}
