//! `mktext`: writes a deterministic text of a given size, for `wordindex`, the examples
//! and the benchmarks. The same size and seed give the same bytes on every machine.
//!
//! The text itself is made in `text.rs`; this file reads the arguments and writes.

mod text;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use text::Text;

const USAGE: &str = "\
Write a deterministic text: words by Zipf's law, in lines of 40 to 85 bytes.

Usage: mktext SIZE [FILE] [--seed N]

  SIZE      bytes, or with suffix K, M or G (powers of 1024)
  FILE      where to write (default: standard output)
  --seed N  another text of the same kind (default: 1)

Exit status: 0 done, 1 the text could not be written, 2 wrong arguments.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    size: u64,
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
            eprintln!("mktext: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match write(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let target = options.file.as_deref().unwrap_or("standard output");
            eprintln!("mktext: cannot write {target}: {err}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut size = None;
    let mut options = Options { size: 0, file: None, seed: 1 };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--seed" {
            let value = args.next().ok_or("--seed needs a number")?;
            options.seed = value.parse().map_err(|_| format!("bad seed {value:?}"))?;
        } else if arg.starts_with('-') {
            return Err(format!("unknown option {arg}"));
        } else if size.is_none() {
            size = Some(parse_size(arg).ok_or_else(|| format!("bad size {arg:?}"))?);
        } else if options.file.is_none() {
            options.file = Some(arg.clone());
        } else {
            return Err(format!("one argument too many: {arg:?}"));
        }
    }
    options.size = size.ok_or("no size given")?;
    Ok(options)
}

/// Reads `100`, `4K`, `100M` or `1G`.
fn parse_size(text: &str) -> Option<u64> {
    let (number, shift) = match text.bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn write(options: &Options) -> io::Result<()> {
    let out: Box<dyn Write> = match &options.file {
        Some(path) => Box::new(File::create(path)?),
        None => Box::new(io::stdout().lock()),
    };
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let mut text = Text::new(options.seed);
    let mut left = options.size;
    let mut line = Vec::new();
    while left > 0 {
        line.clear();
        text.push_line(&mut line);
        if line.len() as u64 > left {
            // The last line is truncated so that the size is exact, and still ends with a newline.
            line.truncate(left as usize - 1);
            line.push(b'\n');
        }
        left -= line.len() as u64;
        out.write_all(&line)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn sizes_take_binary_suffixes() {
        assert_eq!(parse_size("100"), Some(100));
        assert_eq!(parse_size("3k"), Some(3072));
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size("M"), None);
        assert_eq!(parse_size(""), None);
        assert_eq!(parse_size("99999999999999G"), None);
    }

    #[test]
    fn arguments_may_come_in_any_order() {
        let expected = Options { size: 1 << 20, file: Some("a.txt".into()), seed: 9 };
        assert_eq!(parse_line("--seed 9 1M a.txt"), Ok(expected));
        assert!(parse_line("a.txt").is_err());
        assert!(parse_line("1M a b").is_err());
        assert!(parse_line("1M --sed 1").is_err());
    }

    #[test]
    fn the_file_has_exactly_the_size_asked_for() {
        let path = std::env::temp_dir().join(format!("mktext-{}", std::process::id()));
        for size in [0, 1, 2, 77, 1 << 20, (1 << 20) + 1, 3_000_001] {
            let file = Some(path.to_str().unwrap().to_owned());
            write(&Options { size, file, seed: 1 }).unwrap();
            let text = std::fs::read(&path).unwrap();
            assert_eq!(text.len() as u64, size);
            assert_eq!(text.last().copied().unwrap_or(b'\n'), b'\n');
        }
        std::fs::remove_file(&path).unwrap();
    }
}
