//! `spacejmp-bench-peers`: what versioned segments are compared with by `spacejmp bench store`. One
//! run is one workload on one peer, in a folder; it prints one line, a JSON object with times in
//! nanoseconds.
//!
//! The peers are the databases that a Rust program would use instead, through their well-kept
//! crates, set up as their users would:
//!
//! - [`lmdb`]: LMDB by `heed`: everything is synced, a map much larger than the data
//! - [`redb`]: its default durability, which syncs at every commit
//! - [`sqlite`]: a write-ahead log, `synchronous = FULL`, prepared statements, a large cache
//!
//! [`clients`] is LMDB as a side of `spacejmp bench kv`.
//!
//! The keys, the values and the loops are those of the programs that run in a VM: the same source
//! files. A program of its own, in a workspace of its own: what is measured here is linked into
//! nothing of ours.

mod clients;
mod lmdb;
mod reader;
mod redb;
mod sqlite;
mod workload;

#[path = "../../vmm/bench/programs/payload/beside.rs"]
mod beside;
#[path = "../../vmm/bench/programs/payload/json.rs"]
#[cfg_attr(not(test), expect(dead_code, reason = "the payload uses all of it"))]
mod json;
#[path = "../../vmm/bench/programs/payload/keys.rs"]
#[expect(dead_code, reason = "the payload uses all of it")]
mod keys;
#[path = "../../vmm/bench/programs/payload/random.rs"]
mod random;
#[path = "../../vmm/bench/programs/payload/samples.rs"]
mod samples;

#[path = "../../examples/kv/src/bin/kv-benchmark/workload.rs"]
mod orders;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::json::Object;
use crate::workload::Peer;

/// An error of a peer or of the host, for people.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Do one workload on one peer of SpaceJMP, print one line of JSON, times in nanoseconds
#[derive(Debug, Parser)]
#[command(name = "spacejmp-bench-peers", version, after_help = EXAMPLES)]
struct Cli {
    /// The database
    peer: Which,
    /// What to do with it
    workload: Workload,
    /// Where its files are; made if missing, and left
    #[arg(long)]
    dir: PathBuf,
    /// How many keys it has, 8 bytes each, with as large a value
    #[arg(long, default_value_t = 100_000)]
    entries: u64,
    /// How many puts or commits to time
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// How many pages each commit has
    #[arg(long, default_value_t = 1)]
    pages: u64,
    /// How long readers read, with a writer and without
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Which of the pages and keys are drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many bytes a value of `fill` has
    #[arg(long, default_value_t = 4)]
    value: usize,
    /// Clients sync every commit
    #[arg(long)]
    durable: bool,
}

const EXAMPLES: &str = "\
Examples:
  spacejmp-bench-peers lmdb load --dir /var/tmp/x --entries 1000000
  spacejmp-bench-peers lmdb read --dir /var/tmp/x --entries 1000000
  spacejmp-bench-peers redb commit --dir /var/tmp/x --pages 64 --count 200

The folder should be on the disk that is of interest: on a file system in memory a sync costs
nothing. `spacejmp bench store` calls this program; see `spacejmp bench store --help`.

Exit status: 0 done, 1 the work failed, 2 wrong arguments.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// LMDB, by heed
    Lmdb,
    /// redb
    Redb,
    /// SQLite, by rusqlite
    Sqlite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Insert all keys in random order: one transaction, durable at its end
    Load,
    /// Look keys up in random order, then go through all in order; after `load`
    Read,
    /// Change single values, each in a durable transaction; after `load`
    Put,
    /// Change some pages of 4000 bytes, out of 256, in a durable transaction
    Commit,
    /// Look keys up, first alone, then beside a writer of 100 transactions a second; after `load`
    Beside,
    /// Give every key a value of `--value` bytes, as a client of `bench kv` (LMDB only)
    Fill,
    /// Obey orders from standard input, as a client of `bench kv` (LMDB only)
    Clients,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(object) => {
            if let Some(object) = object {
                println!("{object}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("spacejmp-bench-peers: {}: {error}", cli.dir.display());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<Option<Object>> {
    std::fs::create_dir_all(&cli.dir)?;
    match (cli.workload, cli.peer) {
        (Workload::Fill, Which::Lmdb) => clients::fill_all(&cli.dir, cli.entries, cli.value)?,
        (Workload::Clients, Which::Lmdb) => clients::serve(&cli.dir, cli.durable)?,
        (Workload::Fill | Workload::Clients, _) => {
            return Err("only LMDB has clients: their peer is Redis".into());
        }
        _ => return measured(cli).map(Some),
    }
    Ok(None)
}

fn measured(cli: &Cli) -> Result<Object> {
    match cli.peer {
        Which::Lmdb => on(&lmdb::Lmdb::open(&cli.dir)?, cli),
        Which::Redb => on(&redb::Redb::open(&cli.dir)?, cli),
        Which::Sqlite => on(&sqlite::Sqlite::open(&cli.dir)?, cli),
    }
}

fn on<P: Peer>(peer: &P, cli: &Cli) -> Result<Object> {
    match cli.workload {
        Workload::Load => workload::load(peer, cli.entries),
        Workload::Read => workload::read(peer, cli.entries),
        Workload::Put => workload::put(peer, cli.entries, cli.count, cli.seed),
        Workload::Commit => workload::commit(peer, cli.pages, cli.count, cli.seed),
        Workload::Beside => reader::run(peer, cli.entries, cli.millis),
        Workload::Fill | Workload::Clients => Err("it measures nothing".into()),
    }
}
