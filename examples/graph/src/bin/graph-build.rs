//! `graph-build`: reads an edge list and leaves the graph as ordinary pointers in a VAS, for
//! `graph-query` to use in place; or saves it as arrays in a file, for comparison.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use graph::csr::Csr;
use graph::edges::EdgeList;
use graph::query::Adjacency;
use graph::{pointers, program};
use spacejmp::Lifetime;

const USAGE: &str = "\
Read a directed graph from a text with one edge `FROM TO` a line.

Usage: graph-build FILE [--vas NAME] [--save OUT] [OPTIONS]

  FILE         the edge list; lines that begin with # or % are left out
  --vas NAME   build it in a new VAS of this name (under `spacejmp run`)
  --lifetime L what the VAS is: versioned (default), persistent or volatile
  --save OUT   write it to a file as arrays of numbers (anywhere)
  --mode BITS  permission bits of the VAS and its segment, octal (default: 600)
  --time       say on standard error how long the parts took

Exit status: 0 done, 1 it could not be done, 2 wrong arguments.
";

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    file: PathBuf,
    vas: Option<String>,
    save: Option<PathBuf>,
    mode: u32,
    lifetime: Lifetime,
    time: bool,
}

fn main() -> ExitCode {
    program::start("graph-build", USAGE, parse, |arguments| run(arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut began = Instant::now();
    let mut took = |what: &str| {
        if arguments.time {
            eprintln!("graph-build: {what}: {:.3} ms", began.elapsed().as_secs_f64() * 1e3);
        }
        began = Instant::now();
    };
    let list = EdgeList::read(&arguments.file);
    let list = list.with_context(|| format!("cannot use {}", arguments.file.display()))?;
    took("parse");
    let csr = Csr::new(&list);
    // The larger form; it is not needed again.
    drop(list);
    took("sort");
    if let Some(path) = &arguments.save {
        csr.save(path).with_context(|| format!("cannot write {}", path.display()))?;
        took("save");
    }
    if let Some(name) = &arguments.vas {
        pointers::store(name, &csr, arguments.mode, arguments.lifetime)?;
        took("build");
    }
    println!("{} nodes, {} edges", csr.node_count(), csr.edge_count());
    Ok(())
}

fn parse(args: Vec<String>) -> Result<Arguments, String> {
    let (mut file, mut vas, mut save) = (None, None, None);
    let (mut mode, mut lifetime, mut time) = (0o600, Lifetime::Versioned, false);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--vas" => vas = Some(value()?),
            "--save" => save = Some(value()?.into()),
            "--time" => time = true,
            "--lifetime" => {
                let name = value()?;
                lifetime = name.parse().map_err(|err| format!("--lifetime {name}: {err}"))?;
            }
            "--mode" => {
                let text = value()?;
                let bits = u32::from_str_radix(&text, 8).ok().filter(|&bits| bits <= 0o777);
                mode = bits.ok_or_else(|| format!("bad mode {text:?}"))?;
            }
            text if text.len() > 1 && text.starts_with('-') => {
                return Err(format!("unknown option {text}"));
            }
            _ if file.is_none() => file = Some(arg.into()),
            _ => return Err(format!("one argument too many: {arg:?}")),
        }
    }
    if vas.is_none() && save.is_none() {
        return Err("nowhere to put the graph: give --vas or --save".to_owned());
    }
    let file = file.ok_or("no edge list given")?;
    Ok(Arguments { file, vas, save, mode, lifetime, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn arguments_may_come_in_any_order() {
        let arguments = parse_line("--mode 644 --vas g edges.txt --time").unwrap();
        assert_eq!((arguments.mode, arguments.time), (0o644, true));
        assert_eq!(arguments.vas.as_deref(), Some("g"));
        assert_eq!(arguments.file, PathBuf::from("edges.txt"));
        assert_eq!(arguments.lifetime, Lifetime::Versioned);
        let arguments = parse_line("f --vas g --lifetime persistent").unwrap();
        assert_eq!(arguments.lifetime, Lifetime::Persistent);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse_line("f").unwrap_err(), "nowhere to put the graph: give --vas or --save");
        assert_eq!(parse_line("--vas g").unwrap_err(), "no edge list given");
        assert_eq!(parse_line("f --vas").unwrap_err(), "--vas needs a value");
        let error = parse_line("f --lifetime x").unwrap_err();
        assert!(error.starts_with("--lifetime x: a lifetime is "), "{error}");
        assert_eq!(parse_line("f --vas g --mode 9").unwrap_err(), "bad mode \"9\"");
        assert_eq!(parse_line("f g --vas g").unwrap_err(), "one argument too many: \"g\"");
    }
}
