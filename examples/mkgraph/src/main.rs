//! `mkgraph`: writes a deterministic directed graph as an edge list, for `graph-build` and the
//! benchmarks. The same arguments give the same bytes on every machine.
//!
//! A few nodes have a great many edges and most have few (a power law), as in graphs of links or
//! of people. A node's number does not reveal its popularity.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

const USAGE: &str = "\
Write a power-law graph as an edge list, one edge `FROM TO` a line.

Usage: mkgraph EDGES [FILE] [--nodes N] [--seed N]

  EDGES      how many; K or M behind the number are thousands or millions
  FILE       where to write (default: standard output)
  --nodes N  numbers of nodes are below N (default: a tenth of EDGES)
  --seed N   another graph of the same kind (default: 1)

Exit status: 0 done, 1 the graph could not be written, 2 wrong arguments.
";

#[derive(Debug, PartialEq, Eq)]
struct Options {
    edges: u64,
    nodes: u64,
    file: Option<String>,
    seed: u64,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(&args) {
        Ok(options) => options,
        Err(problem) => {
            eprint!("mkgraph: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let written = match &options.file {
        Some(path) => File::create(path).and_then(|file| write(&options, file)),
        None => write(&options, io::stdout().lock()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let target = options.file.as_deref().unwrap_or("standard output");
            eprintln!("mkgraph: cannot write {target}: {err}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let (mut edges, mut nodes, mut file, mut seed) = (None, None, None, 1);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a number"));
        match arg.as_str() {
            "--nodes" => {
                let text = value()?;
                let count = parse_count(text).filter(|count| (1..1 << 32).contains(count));
                nodes = Some(count.ok_or_else(|| format!("bad number of nodes {text:?}"))?);
            }
            "--seed" => {
                let text = value()?;
                seed = text.parse().map_err(|_| format!("bad seed {text:?}"))?;
            }
            text if text.starts_with('-') => return Err(format!("unknown option {text}")),
            text if edges.is_none() => {
                let count = parse_count(text).filter(|&count| count < 1 << 32);
                edges = Some(count.ok_or_else(|| format!("bad number of edges {text:?}"))?);
            }
            text if file.is_none() => file = Some(text.to_owned()),
            text => return Err(format!("one argument too many: {text:?}")),
        }
    }
    let edges = edges.ok_or("no number of edges given")?;
    Ok(Options { edges, nodes: nodes.unwrap_or((edges / 10).max(1)), file, seed })
}

/// Reads `100`, `20K` or `10M`.
fn parse_count(text: &str) -> Option<u64> {
    let (number, unit) = match text.bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1_000),
        b'm' | b'M' => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn write(options: &Options, out: impl Write) -> io::Result<()> {
    let mut edges = Edges::new(options.nodes, options.seed);
    let mut out = BufWriter::with_capacity(1 << 20, out);
    for _ in 0..options.edges {
        let (from, to) = edges.draw();
        writeln!(out, "{from} {to}")?;
    }
    out.flush()
}

/// An endless sequence of edges.
struct Edges {
    nodes: u64,
    state: u64,
    /// Has no divisor in common with `nodes`: ranks times this are a permutation of them.
    step: u64,
}

impl Edges {
    fn new(nodes: u64, seed: u64) -> Edges {
        let divisor = |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        // Near the golden ratio of the nodes, so that neighbours in rank lie far apart.
        let first = (nodes as f64 * 0.618) as u64 | 1;
        let step = (first..).find(|&step| divisor(step, nodes) == 1).unwrap_or(1);
        Edges { nodes, state: seed, step }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In a graph where the node of rank r is drawn about r^-a times, degrees follow a power
    /// law with exponent 1 + 1/a; drawing rank n * u^k, u uniform, has a = 1 - 1/k. Edges
    /// begin with k = 3 (exponent 2.5) and end with k = 6 (2.2). Multiplications only: the
    /// same on every machine.
    fn draw(&mut self) -> (u64, u64) {
        let (u, v) = (self.uniform(), self.uniform());
        (self.node(u * u * u), self.node(v * v * v * v * v * v))
    }

    fn uniform(&mut self) -> f64 {
        // 53 bits: as many as fit.
        (self.random() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    fn node(&self, fraction: f64) -> u64 {
        let rank = ((fraction * self.nodes as f64) as u64).min(self.nodes - 1);
        // Both below 2^32.
        rank * self.step % self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn text(edges: u64, nodes: u64, seed: u64) -> String {
        let mut out = Vec::new();
        write(&Options { edges, nodes, file: None, seed }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn arguments_may_come_in_any_order() {
        let expected =
            Options { edges: 10_000_000, nodes: 5_000, file: Some("g.txt".into()), seed: 3 };
        assert_eq!(parse_line("--nodes 5K 10M g.txt --seed 3"), Ok(expected));
        assert_eq!(parse_line("1K").unwrap().nodes, 100);
        for line in ["", "x", "1 2 3", "1 --nodes 0", "9999999M", "1 --seed"] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_graph() {
        assert_eq!(text(4, 1000, 1), "39 468\n385 333\n853 943\n825 380\n");
        assert_eq!(text(1000, 77, 5), text(1000, 77, 5));
        assert_ne!(text(1000, 77, 5), text(1000, 77, 6));
        assert_eq!(text(3, 1, 9), "0 0\n0 0\n0 0\n");
    }

    #[test]
    fn few_nodes_have_most_edges_and_all_numbers_are_in_range() {
        let nodes = 1000;
        let mut degrees = vec![0_u64; nodes];
        for line in text(100_000, nodes as u64, 1).lines() {
            let (from, to) = line.split_once(' ').unwrap();
            degrees[from.parse::<usize>().unwrap()] += 1;
            degrees[to.parse::<usize>().unwrap()] += 1;
        }
        degrees.sort_unstable();
        let top: u64 = degrees.iter().rev().take(nodes / 100).sum();
        assert!(top > 200_000 / 5, "the first hundredth has {top} of 200000");
        assert!(degrees[nodes / 2] < 200, "the middle has {}", degrees[nodes / 2]);
    }
}
