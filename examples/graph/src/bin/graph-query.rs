//! `graph-query`: answers queries about a graph that `graph-build` left in a VAS, without loading
//! it; or, for comparison, about one that it first has to parse or load.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use graph::csr::Csr;
use graph::edges::EdgeList;
use graph::pointers::{Inside, Links};
use graph::program;
use graph::query::{Adjacency, Query};
use spacejmp::{In, Mode, Space};

const USAGE: &str = "\
Answer questions about a directed graph.

Usage: graph-query SOURCE [OPTIONS] [QUERY]...

  SOURCE is one of
    VAS           the VAS that graph-build made (under `spacejmp run`)
    --parse FILE  the edge list, parsed anew (anywhere)
    --load FILE   what graph-build --save wrote (anywhere)
  --writable      enter the VAS to write, alone; without it, to read, along with other readers
  --time          say on standard error how long it took until the graph could be used, and
                  how long the answers took

Queries, as arguments in quotes or, if there are none, from standard input, one a line:
  'degree N'      how many edges begin at node N
  'reach A B'     whether B can be reached from A, and in how many steps
  'stats'         nodes, edges, the largest degree

Exit status: 0 all was answered, 1 the graph cannot be used or a query not be read, 2 wrong
arguments.
";

#[derive(Debug, PartialEq, Eq)]
enum Source {
    Vas(String),
    Parse(PathBuf),
    Load(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    source: Source,
    queries: Vec<String>,
    is_writable: bool,
    time: bool,
}

fn main() -> ExitCode {
    let began = Instant::now();
    program::start("graph-query", USAGE, parse, |arguments| run(arguments, began))
}

/// Whether all queries could be read.
fn run(arguments: &Arguments, began: Instant) -> Result<bool> {
    match &arguments.source {
        Source::Vas(name) if arguments.is_writable => {
            Space::<Links<'_>>::open(name)?.write(|v| answer_inside(v, arguments, began))
        }
        Source::Vas(name) => Space::<Links<'_>>::open_read_only(name)?
            .read(|v| answer_inside(v, arguments, began))?,
        Source::Parse(path) => {
            let list = EdgeList::read(path);
            let list = list.with_context(|| format!("cannot use {}", path.display()))?;
            answer_all(&Csr::new(&list), arguments, began)
        }
        Source::Load(path) => {
            let csr = Csr::load(path).with_context(|| format!("cannot load {}", path.display()))?;
            answer_all(&csr, arguments, began)
        }
    }
}

fn answer_inside<M: Mode>(
    v: &In<Links<'_>, M>,
    arguments: &Arguments,
    began: Instant,
) -> Result<bool> {
    let graph = Inside::new(v).context("the graph is not whole: graph-build did not end yet")?;
    answer_all(&graph, arguments, began)
}

fn answer_all(graph: &impl Adjacency, arguments: &Arguments, began: Instant) -> Result<bool> {
    let ready = Instant::now();
    let mut out = BufWriter::new(io::stdout().lock());
    let mut all_read = true;
    let mut answer = |text: &str, out: &mut BufWriter<_>| match Query::parse(text) {
        Some(query) => query.answer(graph, out),
        None => {
            all_read = false;
            writeln!(io::stderr(), "graph-query: no such query: {text:?}")
        }
    };
    for query in &arguments.queries {
        answer(query, &mut out)?;
    }
    if arguments.queries.is_empty() {
        for line in io::stdin().lock().lines() {
            answer(&line.context("cannot read queries")?, &mut out)?;
            out.flush()?;
        }
    }
    out.flush().context("cannot write answers")?;
    if arguments.time {
        let (until_ready, answering) = (ready - began, ready.elapsed());
        eprintln!("graph-query: ready: {:.3} ms", until_ready.as_secs_f64() * 1e3);
        eprintln!("graph-query: answers: {:.3} ms", answering.as_secs_f64() * 1e3);
    }
    Ok(all_read)
}

fn parse(args: Vec<String>) -> Result<Arguments, String> {
    let (mut source, mut queries) = (None, Vec::new());
    let (mut is_writable, mut time) = (false, false);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut path =
            || args.next().map(PathBuf::from).ok_or_else(|| format!("{arg} needs a file"));
        let given = match arg.as_str() {
            "--time" => {
                time = true;
                continue;
            }
            "--writable" => {
                is_writable = true;
                continue;
            }
            "--parse" => Source::Parse(path()?),
            "--load" => Source::Load(path()?),
            text if text.len() > 1 && text.starts_with('-') => {
                return Err(format!("unknown option {text}"));
            }
            _ if source.is_none() => Source::Vas(arg),
            _ => {
                queries.push(arg);
                continue;
            }
        };
        if source.replace(given).is_some() {
            return Err("one source is enough: a VAS, --parse or --load".to_owned());
        }
    }
    let source = source.ok_or("no VAS, --parse or --load given")?;
    Ok(Arguments { source, queries, is_writable, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Arguments, String> {
        parse(words.iter().map(|&word| word.to_owned()).collect())
    }

    #[test]
    fn the_first_word_is_the_vas_and_the_others_are_queries() {
        let arguments = parse_words(&["g", "degree 1", "--writable", "stats"]).unwrap();
        assert_eq!((arguments.source, arguments.is_writable), (Source::Vas("g".to_owned()), true));
        assert_eq!(arguments.queries, ["degree 1", "stats"]);
        let arguments = parse_words(&["--load", "f", "stats"]).unwrap();
        assert_eq!(arguments.source, Source::Load("f".into()));
        assert_eq!(arguments.queries, ["stats"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse_words(&[]).unwrap_err(), "no VAS, --parse or --load given");
        assert_eq!(parse_words(&["--parse"]).unwrap_err(), "--parse needs a file");
        let two = parse_words(&["g", "--load", "f"]).unwrap_err();
        assert_eq!(two, "one source is enough: a VAS, --parse or --load");
        assert_eq!(parse_words(&["--tim"]).unwrap_err(), "unknown option --tim");
    }
}
