//! The command line.

use std::num::NonZero;
use std::path::PathBuf;

use genome::generate::Plan;
use genome::sort::By;

pub(crate) const USAGE: &str = "\
usage, under `spacejmp run`:
  genome load FILE              reads of a file, SAM, BAM or CRAM, into a new address space
  genome flagstat               how many reads have which flags
  genome stats                  what samtools says of the reads: lengths, qualities, insert sizes, depths and more
  genome sort                   by their places, or by their names
  genome index                  so that regions are found
  genome markdup                marks duplicates; reads need the tags of `samtools fixmate -m`
  genome view [REGION]..        the reads as lines of SAM; CHR, CHR:FROM-TO, or * for those without a place
  genome depth [REGION]         how many reads cover each position that any covers
  genome save FILE              all as a file; BAM if its name ends so
  genome generate READS         reads by chance as SAM, to try it with; needs no VM
  genome measure FILE           loads and works on a file in plain memory; says how many seconds each took, as
                                JSON; needs no VM

options:
  --vas NAME            the address space, instead of `genome`; NAME@TAG is an old version, to be read
  --threads NUMBER      of load and save, instead of as many as there are processors
  --reference FASTA     of load: the references of a file of CRAM, with their index beside them
  --by ORDER            of sort: `coordinate` (without it) or `name`
  --tag TAG             of sort, index and markdup: keeps what was before, for `spacejmp vas rollback NAME TAG`
  -h, -H                of view: with the header; only the header
  -c                    of view: only how many reads
  --seed NUMBER         of generate: other reads
  --length BASES        of generate: instead of 100 in a read
  --time                says on standard error how long it took

Exit status: 0 done, 1 not done, and nothing has changed, 2 wrong arguments.";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) command: String,
    pub(crate) words: Vec<String>,
    pub(crate) vas: String,
    pub(crate) threads: NonZero<usize>,
    pub(crate) reference: Option<PathBuf>,
    pub(crate) by: By,
    pub(crate) tag: Option<String>,
    pub(crate) with_header: bool,
    pub(crate) only_header: bool,
    pub(crate) only_count: bool,
    pub(crate) time: bool,
    pub(crate) plan: Plan,
}

impl Options {
    pub(crate) fn parse(args: Vec<String>) -> Result<Options, String> {
        let mut options = Options {
            command: String::new(),
            words: Vec::new(),
            vas: "genome".to_owned(),
            threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            reference: None,
            by: By::Coordinate,
            tag: None,
            with_header: false,
            only_header: false,
            only_count: false,
            time: false,
            plan: Plan { reads: 0, seed: 1, length: 100 },
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match &arg[..] {
                "--vas" => options.vas = value()?,
                "--reference" => options.reference = Some(value()?.into()),
                "--tag" => options.tag = Some(value()?),
                "--threads" => {
                    let value = value()?;
                    options.threads =
                        value.parse().map_err(|_| format!("{value} is no number of threads"))?;
                }
                "--by" => {
                    options.by = match &value()?[..] {
                        "coordinate" => By::Coordinate,
                        "name" => By::Name,
                        other => {
                            return Err(format!(
                                "reads are sorted by coordinate or name, not by {other}"
                            ));
                        }
                    }
                }
                "--seed" => options.plan.seed = number(&value()?)?,
                "--length" => {
                    let length = number(&value()?)?;
                    let length =
                        u32::try_from(length).ok().filter(|length| (8..1 << 20).contains(length));
                    options.plan.length = length.ok_or("a read has 8 to 1048575 bases")?;
                }
                "--time" => options.time = true,
                "-h" => options.with_header = true,
                "-H" => options.only_header = true,
                "-c" => options.only_count = true,
                _ if arg.starts_with('-') => return Err(format!("there is no option {arg}")),
                _ if options.command.is_empty() => options.command = arg,
                _ => options.words.push(arg),
            }
        }
        let words = options.words.len();
        match &options.command[..] {
            "load" | "save" | "measure" if words == 1 => {}
            "generate" if words == 1 => options.plan.reads = number(&options.words[0])?,
            "flagstat" | "stats" | "sort" | "index" | "markdup" if words == 0 => {}
            "view" => {}
            "depth" if words < 2 => {}
            "depth" => return Err("depth is of one region".to_owned()),
            "load" | "save" | "measure" => {
                return Err(format!("{} needs one file", options.command));
            }
            "generate" => return Err("generate needs the number of reads".to_owned()),
            "flagstat" | "stats" | "sort" | "index" | "markdup" => {
                return Err(format!("{} has no argument {}", options.command, options.words[0]));
            }
            "" => return Err("a command is missing".to_owned()),
            other => return Err(format!("there is no command {other}")),
        }
        Ok(options)
    }
}

/// A number, also as `10k` and `2M`.
fn number(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    number.ok_or_else(|| format!("{text} is no number"))
}
