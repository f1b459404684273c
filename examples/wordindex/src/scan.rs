//! Finding the files, in an order that depends only on their paths, and reporting problems.
//! Nothing here reads a file's contents.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A file to index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundFile {
    /// The path by which it is opened and named in answers.
    pub(crate) path: PathBuf,
    /// Its size when it was found: only a hint for dividing it.
    pub(crate) size: u64,
}

/// Which directory entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All but those whose name begins with a dot.
    Visible,
    All,
}

/// Something that could not be read; the rest is indexed anyway. Ordered by path.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub(crate) path: PathBuf,
    pub(crate) message: String,
}

impl Problem {
    /// The problem of a call that failed on `path`.
    pub(crate) fn new(path: &Path, err: &io::Error) -> Self {
        Self { path: path.to_owned(), message: err.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: {}", self.path.display(), self.message)
    }
}

/// Lists the regular files at and under `roots`, sorted by the bytes of their paths,
/// without duplicates, and what could not be listed. Roots may be symbolic links; links
/// below them are not followed.
pub(crate) fn find(roots: &[PathBuf], selection: Selection) -> (Vec<FoundFile>, Vec<Problem>) {
    let mut files = Vec::new();
    let mut problems = Vec::new();
    // A stack of our own: a deep tree must not overflow the thread's.
    let mut directories = Vec::new();
    for root in roots {
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => directories.push(root.clone()),
            Ok(meta) if meta.is_file() => {
                files.push(FoundFile { path: tidy(root), size: meta.len() });
            }
            Ok(_) => problems.push(Problem {
                path: root.clone(),
                message: "neither a file nor a directory".into(),
            }),
            Err(err) => problems.push(Problem::new(root, &err)),
        }
    }
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(err) => {
                problems.push(Problem::new(&directory, &err));
                continue;
            }
        };
        for entry in entries {
            let result = entry.and_then(|entry| {
                let hidden = entry.file_name().as_bytes().starts_with(b".");
                if hidden && selection == Selection::Visible {
                    return Ok(());
                }
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    directories.push(entry.path());
                } else if kind.is_file() {
                    let size = entry.metadata()?.len();
                    files.push(FoundFile { path: tidy(&entry.path()), size });
                }
                Ok(())
            });
            if let Err(err) = result {
                problems.push(Problem::new(&directory, &err));
            }
        }
    }
    let bytes = |file: &FoundFile| file.path.as_os_str().as_bytes().to_owned();
    files.sort_by_cached_key(bytes);
    files.dedup_by(|a, b| a.path == b.path);
    (files, problems)
}

/// Drops the `./` that a root of `.` puts before every name.
fn tidy(path: &Path) -> PathBuf {
    path.strip_prefix(".").unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tests::texts;

    #[test]
    fn files_come_sorted_and_links_and_hidden_ones_are_left_out() {
        let all = ["b/two", "a/one", "a.txt", ".hidden/x", "b/.y"];
        let dir = texts(&all.map(|name| (name, &b"text"[..])));
        std::os::unix::fs::symlink("/", dir.path().join("b/link")).unwrap();
        let names = |selection| {
            let (files, problems) = find(&[dir.path().to_owned()], selection);
            assert_eq!(problems, []);
            let relative =
                |file: &FoundFile| file.path.strip_prefix(dir.path()).unwrap().to_owned();
            files.iter().map(relative).collect::<Vec<_>>()
        };
        assert_eq!(names(Selection::Visible), ["a.txt", "a/one", "b/two"].map(PathBuf::from));
        let all = [".hidden/x", "a.txt", "a/one", "b/.y", "b/two"];
        assert_eq!(names(Selection::All), all.map(PathBuf::from));
    }

    #[test]
    fn a_missing_root_is_a_problem_and_the_others_are_listed() {
        let dir = texts(&[("here", b"text")]);
        let roots = [dir.path().join("gone"), dir.path().to_owned(), dir.path().join("here")];
        let (files, problems) = find(&roots, Selection::Visible);
        assert_eq!(files.len(), 1, "the file given twice is listed once");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().contains("gone: No such file"));
    }

    #[test]
    fn names_under_the_current_directory_have_no_dot() {
        assert_eq!(tidy(Path::new("./a/b")), Path::new("a/b"));
        assert_eq!(tidy(Path::new("../a")), Path::new("../a"));
        assert_eq!(tidy(Path::new("/a")), Path::new("/a"));
    }
}
