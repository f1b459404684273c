//! `payload`: the work that `spacejmp bench` times, natively and in a VM. It times itself
//! from the inside, so that start-up is not part of a figure.
//!
//! Each subcommand lives in its own module; this file only chooses one and prints what it
//! returns: exactly one line, one JSON object. Nothing here knows about VMs, but for `store-trace`,
//! which recognises a process that runs one.

mod attaching;
mod beside;
mod calls;
mod channel;
mod compute;
mod exchange;
mod gups;
mod handover;
mod heap;
mod json;
mod keys;
mod lines;
mod loads;
mod mapping;
mod maps;
mod memory;
mod options;
mod paths;
mod random;
mod samples;
mod scaling;
mod sizes;
mod space;
mod store;
mod switching;
mod trees;
mod turns;

use std::process::ExitCode;

use json::Object;
use options::{Misuse, Options};

const USAGE: &str = "\
Do a piece of work and print one line of JSON about it (times in nanoseconds).

Usage: payload SUBCOMMAND [OPTIONS]

  hello                               print nothing
  compute [--threads N] [--quick]     sort, hash, HashMap, BTreeMap; every thread all of it
  read FILE [--piece N] [--passes K]  read FILE in pieces of N bytes (default 1M), K times
  touch --bytes N                     touch every page of N bytes, twice
  syscalls [--count N]                the cheapest system call, N times (default 100000)
  clock [--count N] [--threads N]     reading the clock, and whether it ever goes back
  switch [--count N]                  switching address spaces, N rounds (in a VM)
  paths [--count N]                   single calls and switches, N of each (in a VM)
  paths-native [--count N]            the host's calls and process switches
  scale KIND [--count N]              switching with up to N `vases`, `segments`, `threads`; their
                                      memory by `memory-vases`, `memory-segments`; `find` looks
                                      for one of the former and ends (in a VM)
  attach [--count N] [--bytes N]      attaching them, N rounds, the largest of N bytes (in a VM)
  attach-sizes, map-sizes [FILE] [--count N] [--bytes N]
                                      both for 4 KiB, 8 KiB ... N bytes
  instances [--count N]               attaching one VAS N times, for its memory (in a VM)
  handover NAME [--count N]           taking a lock that another VM wants too (in two VMs)
  handover-futex FILE [--count N]     passing a turn by futex (two native processes)
  map [FILE] [--bytes N] [--count N]  mapping a warm file, or a memfd, N times (natively)
  tlb [--pages N] [--count N] [--small] [--untimed]
                                      reading lines of up to N random pages, N times (in a VM)
  rpc KIND [--count N]                getting bytes by `switch`, `polled` or `socket`
  gups KIND [--windows N] [--from N] [--bytes N] [--count N] [--rounds N] [--small]
                                      random updates of 1 to N windows (default 16), N sets each
  heap [--count N] [--rounds N]       allocating in a VAS against malloc, N requests (in a VM)
  maps [--count N] [--rounds N] [--volatile]
                                      a hash map of N entries in a VAS against one at home (in a VM)
  maps-fill NAME [--count N]          making such a map (in a VM)
  maps-open NAME                      finding it again (in another VM)
  loads-fill FOLDER [--count N]       writing such a map as files of other formats
  loads-open FILE [--checked]         finding it in one of them
  trees [--count N] [--rounds N]      the same as maps of ordered maps
  store-load NAME [--count N] [--batch N] [--hash | --persistent]
                                      a map of N entries in a versioned space (in a VM)
  store-update NAME [--count N] [--rounds N] [--batch N] [--persistent]
                                      changing N of its values (in a VM)
  store-read NAME [--count N] [--hash], store-put NAME [--count N] [--rounds N],
  store-beside NAME [--count N] [--millis N]
                                      reading it, changing it, both at once (in a VM)
  store-commit NAME [--pages N] [--bytes N] [--rounds N] [--marked]
                                      commits of N pages of a versioned segment (in a VM)
  store-fill NAME [--bytes N] [--rounds N]
                                      commits until it is killed; store-open NAME finds it again,
                                      store-view NAME@TAG a version that was kept
  store-enter NAME [--count N]        switches into a versioned segment to read, and plain ones (in a VM)
  store-whole NAME [--bytes N], store-change NAME [--count N] [--seed N]
                                      a segment whose pages are all in use; N of them changed
  store-scan NAME [--windows N] [--marked]
                                      reading it, or N copies of it (in a VM)
  store-cached FOLDER [--checked]     what the host has of its files in memory
  store-floor FOLDER [--pages N] [--rounds N] [--compared]
                                      the least that such commits can cost on a disk
  store-trace COMMAND...              what a command with --marked asks the host for
  gups-party, rpc-party, paths-party  started by the others: the other parties

Sizes are in bytes or with suffix K, M or G (powers of 1024).
Exit status: 0 done, 1 the work failed, 2 wrong arguments.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((subcommand, rest)) = args.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    if subcommand == "--help" || subcommand == "-h" {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    // What it runs has options of its own.
    if subcommand == "store-trace" {
        return end(subcommand, store::trace::run(rest).map(Some).map_err(Failure::from));
    }
    let options = match Options::parse(rest) {
        Ok(options) => options,
        Err(problem) => return misuse(&problem),
    };
    end(subcommand, run(subcommand, &options))
}

fn end(subcommand: &str, done: Result<Option<Object>, Failure>) -> ExitCode {
    match done {
        Ok(Some(object)) => {
            println!("{object}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(Failure::Misuse(problem)) => misuse(&problem),
        Err(Failure::Work(problem)) => {
            eprintln!("payload {subcommand}: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Why a subcommand has no result.
enum Failure {
    Misuse(String),
    Work(String),
}

impl From<Misuse> for Failure {
    fn from(Misuse(problem): Misuse) -> Failure {
        Failure::Misuse(problem)
    }
}

impl From<String> for Failure {
    fn from(problem: String) -> Failure {
        Failure::Work(problem)
    }
}

fn misuse(problem: &str) -> ExitCode {
    eprint!("payload: {problem}\n\n{USAGE}");
    ExitCode::from(2)
}

fn run(subcommand: &str, options: &Options) -> Result<Option<Object>, Failure> {
    let threads = options.number("threads", 1)? as usize;
    if threads == 0 {
        return Err(Misuse("--threads must be at least 1".into()).into());
    }
    let object = match subcommand {
        "hello" => return Ok(None),
        "compute" => compute::run(threads, if options.has("quick") { 10 } else { 1 }),
        "read" => {
            let file = options.positional()?;
            let piece = options.number("piece", 1 << 20)?;
            let passes = options.number("passes", 1)?;
            if piece == 0 || passes == 0 {
                return Err(Misuse("--piece and --passes must be at least 1".into()).into());
            }
            memory::read(file, piece as usize, passes)
                .map_err(|err| format!("cannot read {file}: {err}"))?
        }
        "touch" => memory::touch(options.number("bytes", 1 << 30)? as usize)?,
        "syscalls" => calls::syscalls(options.number("count", 100_000)?),
        "clock" => calls::clock(options.number("count", 1_000_000)?, threads),
        "paths-party" => {
            paths::party()?;
            return Ok(None);
        }
        "switch" | "paths" | "paths-native" | "scale" | "attach" | "attach-sizes" | "map-sizes"
        | "instances" | "handover" | "handover-futex" | "map" => spaces(subcommand, options)?,
        "tlb" => {
            let (pages, count) = (options.number("pages", 1024)?, options.number("count", 1000)?);
            let measure = if options.has("untimed") { lines::only_read } else { lines::run };
            measure(pages, count, options.has("small"))?
        }
        "rpc" => exchange::run(options.positional()?, options.number("count", 100)?)?,
        "rpc-party" => {
            exchange::party()?;
            return Ok(None);
        }
        "heap" | "maps" | "maps-fill" | "maps-open" | "trees" | "loads-fill" | "loads-open" => {
            collections(subcommand, options)?
        }
        kind if kind.starts_with("store-") => store::run(kind, options)?,
        "gups" => random_updates(options)?,
        "gups-party" => {
            window_party(options)?;
            return Ok(None);
        }
        other => return Err(Misuse(format!("no subcommand {other:?}")).into()),
    };
    Ok(Some(object))
}

/// The subcommands about address spaces and what they are compared with.
fn spaces(subcommand: &str, options: &Options) -> Result<Object, Failure> {
    let (count, bytes) = (options.number("count", 100)?, options.number("bytes", 1 << 30)?);
    Ok(match subcommand {
        "switch" => switching::run(count),
        "paths" => paths::in_vm(count),
        "paths-native" => paths::native(count),
        "scale" => scaling::run(options.positional()?, count),
        "attach" => attaching::run(count, bytes),
        "attach-sizes" => sizes::attached(bytes, count),
        "map-sizes" => sizes::mapped(bytes, count, options.positional().ok()),
        "instances" => attaching::instances(count),
        "handover" => handover::by_lock(options.positional()?, count),
        "handover-futex" => handover::by_futex(options.positional()?, count),
        _ => mapping::run(bytes, count, options.positional().ok()),
    }?)
}

/// The subcommands about the guest SDK.
fn collections(subcommand: &str, options: &Options) -> Result<Object, Failure> {
    let (count, rounds) = (options.number("count", 100_000)?, options.number("rounds", 3)?);
    Ok(match subcommand {
        "heap" => heap::run(count, rounds),
        "maps" => maps::run(count, rounds, options.has("volatile")),
        "loads-fill" => loads::fill(options.positional()?, count),
        "loads-open" => loads::open(options.positional()?, options.has("checked")),
        "trees" => trees::run(count, rounds),
        "maps-fill" => maps::fill(options.positional()?, count),
        _ => maps::open(options.positional()?),
    }?)
}

fn random_updates(options: &Options) -> Result<Object, Failure> {
    let plan = gups::plan::Plan {
        windows: options.small_number("windows", 16)?,
        from: options.small_number("from", 1)?,
        window_bytes: options.number("bytes", 1 << 20)?,
        sets: options.number("count", 100)?,
        rounds: options.number("rounds", 3)?,
        is_small: options.has("small"),
    };
    Ok(gups::run(options.positional()?, &plan.checked().map_err(Misuse)?)?)
}

fn window_party(options: &Options) -> Result<(), Failure> {
    use gups::messages::{Told, Wait, party};
    let told = Told {
        windows: options.small_number("windows", 1)?,
        window: options.small_number("window", 0)?,
        window_bytes: options.number("bytes", 4096)?,
        wait: if options.has("polling") { Wait::Polling } else { Wait::Sleeping },
        is_crowded: options.has("crowded"),
    };
    Ok(party(options.positional()?, &told)?)
}
