//! `wordindex`: indexes every word of the text files under a directory with several
//! threads, then answers queries from standard input; with `--vas` keeps the index in an address
//! space for the next program.
//!
//! An ordinary Rust `std` program: it runs unchanged natively and under `spacejmp run`, and
//! what it prints on standard output depends only on the files and the queries, not on the
//! number of threads or where it runs. This file reads the arguments and connects the
//! parts: `scan` finds files, `words` splits them into words, `build` does that in several
//! threads, `index` is the result in private memory and `stored` in an address space, `query`
//! answers from either.

#![forbid(unsafe_code)]

mod build;
mod index;
mod query;
mod scan;
#[cfg_attr(not(feature = "vas"), path = "stored_without_vas.rs")]
mod stored;
mod words;

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use scan::Selection;
use stored::{Kept, Lifetime};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const USAGE: &str = "\
Index every word of the text files under directories, then answer queries from standard
input, one a line.

Usage: wordindex [OPTIONS] PATH...
       wordindex [OPTIONS] --vas NAME

  PATH         a directory (with everything below it) or a file
  --vas NAME   keep the index in this address space (under `spacejmp run`), in the place
               of the one that is there; without a PATH answer from the one that is there
  --lifetime L what a new address space is: versioned (default), where the old index stays until
               the new one is there as a whole, whatever happens; persistent; volatile
  --threads N  threads that read (default: as many as there are processors)
  --all        files and directories whose name begins with a dot, too
  --time       say on standard error how long it took until the first query

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
rest is indexed) or the address space not be used, 2 wrong arguments.
";

#[derive(Debug)]
struct Options {
    roots: Vec<PathBuf>,
    vas: Option<String>,
    lifetime: Lifetime,
    threads: usize,
    selection: Selection,
    time: bool,
}

fn main() -> ExitCode {
    let start = Instant::now();
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
    match run(&options, start) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            let first: &(dyn Error + 'static) = &*problem;
            let causes = std::iter::successors(Some(first), |&cause| cause.source());
            let chain: Vec<String> = causes.map(ToString::to_string).collect();
            eprintln!("wordindex: {}", chain.join(": "));
            ExitCode::FAILURE
        }
    }
}

/// Whether all files could be read.
fn run(options: &Options, start: Instant) -> Result<bool> {
    let Options { roots, vas, threads, .. } = options;
    // Checked before all files are read.
    let kept = match vas {
        None => None,
        Some(name) if roots.is_empty() => Some(Kept::open(name)?),
        Some(name) => Some(Kept::open_or_create(name, options.lifetime)?),
    };
    let (files, mut problems) = scan::find(roots, options.selection);
    let (index, unread) = build::build(&files, *threads);
    problems.extend(unread);
    // Threads meet problems in any order; the reader gets them in the order of the paths.
    problems.sort();
    for problem in &problems {
        eprintln!("wordindex: {problem}");
    }
    if options.time && !roots.is_empty() {
        let (files, bytes) = (index.totals.files, index.totals.bytes);
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("wordindex: {files} files, {bytes} bytes in {seconds:.3} s, {threads} threads");
    }
    let ready = || {
        if options.time {
            eprintln!("wordindex: ready: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
        }
    };
    let Some(kept) = kept else {
        ready();
        answer_all(|line, out| Ok(query::answer(&index, line, out)?))?;
        // The process ends: freeing each word would only take time.
        std::mem::forget(index);
        return Ok(problems.is_empty());
    };
    if !roots.is_empty() {
        if index.files.is_empty() && !problems.is_empty() {
            let name = vas.as_deref().unwrap_or_default();
            return Err(
                format!("nothing could be read: the index in `{name}` is what it was").into()
            );
        }
        kept.replace(&index)?;
        drop(index);
    }
    ready();
    answer_all(|line, out| kept.answer(line, out))?;
    Ok(problems.is_empty())
}

/// Answers queries until `:quit` or the end of standard input; every answer is written
/// before the next query is read.
fn answer_all(mut answer: impl FnMut(&[u8], &mut Vec<u8>) -> Result<bool>) -> Result<()> {
    for query in io::stdin().lock().split(b'\n') {
        let query = query.map_err(|err| format!("cannot read queries: {err}"))?;
        let mut text = Vec::new();
        let done = answer(&query, &mut text)?;
        match io::stdout().write_all(&text) {
            // A reader that has seen enough closes its end: not an error.
            Err(err) if err.kind() == io::ErrorKind::BrokenPipe => break,
            other => other.map_err(|err| format!("cannot write answers: {err}"))?,
        }
        if done {
            break;
        }
    }
    Ok(())
}

fn parse(args: Vec<std::ffi::OsString>) -> Result<Options, String> {
    let mut options = Options {
        roots: Vec::new(),
        vas: None,
        lifetime: Lifetime::Versioned,
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
            Some("--vas") if !only_paths => {
                let name = args.next().and_then(|name| name.into_string().ok());
                options.vas = Some(name.ok_or("--vas needs a name")?);
            }
            Some("--lifetime") if !only_paths => {
                let value = args.next().ok_or("--lifetime needs a value")?;
                let name = value.to_string_lossy();
                options.lifetime =
                    name.parse().map_err(|err| format!("--lifetime {name}: {err}"))?;
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
    if options.roots.is_empty() && options.vas.is_none() {
        return Err("no directory or file given, and no --vas".into());
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
        assert!(!options.time && options.vas.is_none());
        assert_eq!(parse_line("--vas books").unwrap().vas.as_deref(), Some("books"));
        let of = |line| parse_line(line).unwrap().lifetime;
        assert_eq!(of("a --vas books"), Lifetime::Versioned);
        assert_eq!(of("a --vas books --lifetime persistent"), Lifetime::Persistent);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse_line("").unwrap_err(), "no directory or file given, and no --vas");
        assert_eq!(parse_line("--thread 3 .").unwrap_err(), "unknown option --thread");
        assert!(parse_line(". --threads 0").unwrap_err().contains("bad number"));
        assert!(parse_line(". --threads").unwrap_err().contains("needs a number"));
        assert!(
            parse_line(". --lifetime long").unwrap_err().contains("--lifetime long: a lifetime is")
        );
    }
}
