//! `wordindex`: indexes every word of the text files under a directory with several
//! threads, then answers queries from standard input.
//!
//! An ordinary Rust `std` program: it runs as it is natively and under `spacejmp run`, and
//! what it prints on standard output depends on the files and the queries only, not on the
//! number of threads or where it runs. This file reads the arguments and connects the
//! parts: `scan` finds files, `words` cuts them into words, `build` does that in several
//! threads, `index` is the result, `query` answers from it.

mod build;
mod index;
mod query;
mod scan;
mod words;

use std::io::{self, BufRead, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use scan::Selection;

const USAGE: &str = "\
Index every word of the text files under directories, then answer queries from standard
input, one a line.

Usage: wordindex [OPTIONS] PATH...

  PATH         a directory (with everything below it) or a file
  --threads N  threads that read (default: as many as there are processors)
  --all        files and directories whose name begins with a dot, too
  --time       say on standard error how long the indexing took

A word is a run of letters, digits and underscores; upper and lower case are the same.
Files with a NUL byte near their beginning are not text and are left out; symbolic links
below PATH are not followed; bytes that are not UTF-8 separate words.

Queries:
  WORD         how often, in how many files, and the first few places
  WORD WORD..  the files that have all of these words
  :top N       the N most frequent words (default 10)
  :stats       what was indexed
  :quit        the end, as is the end of standard input

Exit status: 0 all was read, 1 something could not be read (named on standard error; the
rest is indexed), 2 wrong arguments.
";

#[derive(Debug)]
struct Options {
    roots: Vec<PathBuf>,
    threads: usize,
    selection: Selection,
    time: bool,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(args) {
        Ok(options) => options,
        Err(problem) => {
            eprint!("wordindex: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };

    let start = Instant::now();
    let (files, mut problems) = scan::find(&options.roots, options.selection);
    let (index, unread) = build::build(files, options.threads);
    problems.extend(unread);
    // Threads meet problems in any order; the reader gets them in the order of the paths.
    problems.sort();
    for problem in &problems {
        eprintln!("wordindex: {problem}");
    }
    if options.time {
        eprintln!(
            "wordindex: {} files, {} bytes in {:.3} s with {} threads",
            index.files.len(),
            index.bytes,
            start.elapsed().as_secs_f64(),
            options.threads
        );
    }

    match answer_all(&index) {
        // A reader that has seen enough closes its end: no mistake of ours.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => {}
        Err(err) => {
            eprintln!("wordindex: cannot read queries or write answers: {err}");
            return ExitCode::from(1);
        }
        Ok(()) => {}
    }
    ExitCode::from(u8::from(!problems.is_empty()))
}

/// Answers queries until `:quit` or the end of standard input; every answer is written
/// before the next query is waited for.
fn answer_all(index: &index::Index) -> io::Result<()> {
    let mut queries = io::stdin().lock();
    let mut out = BufWriter::new(io::stdout().lock());
    let mut line = Vec::new();
    loop {
        line.clear();
        if queries.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let done = query::answer(index, &line, &mut out)?;
        out.flush()?;
        if done {
            return Ok(());
        }
    }
}

fn parse(args: Vec<std::ffi::OsString>) -> Result<Options, String> {
    let mut options = Options {
        roots: Vec::new(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        selection: Selection::Visible,
        time: false,
    };
    let mut args = args.into_iter();
    let mut only_paths = false;
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--threads") if !only_paths => {
                let value = args.next().ok_or("--threads needs a number")?;
                options.threads = value
                    .to_str()
                    .and_then(|value| value.parse().ok())
                    .filter(|threads| (1..=1024).contains(threads))
                    .ok_or_else(|| format!("bad number of threads {value:?} (1 to 1024)"))?;
            }
            Some("--all") if !only_paths => options.selection = Selection::All,
            Some("--time") if !only_paths => options.time = true,
            Some("--") if !only_paths => only_paths = true,
            Some(text) if !only_paths && text.len() > 1 && text.starts_with('-') => {
                return Err(format!("unknown option {text}"));
            }
            _ => options.roots.push(arg.into()),
        }
    }
    if options.roots.is_empty() {
        return Err("no directory or file given".into());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(Into::into).collect())
    }

    #[test]
    fn options_and_paths_may_be_mixed() {
        let options = parse_line("a --threads 3 b --all -- --time").unwrap();
        assert_eq!(options.roots, ["a", "b", "--time"].map(PathBuf::from));
        assert_eq!(options.threads, 3);
        assert_eq!(options.selection, Selection::All);
        assert!(!options.time);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse_line("").unwrap_err(), "no directory or file given");
        assert_eq!(parse_line("--thread 3 .").unwrap_err(), "unknown option --thread");
        assert!(parse_line(". --threads 0").unwrap_err().contains("bad number"));
        assert!(parse_line(". --threads").unwrap_err().contains("needs a number"));
    }
}
