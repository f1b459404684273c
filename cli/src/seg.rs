//! `spacejmp seg`: the segments of a store.

use std::time::Duration;

use abi::objects::{Durability, Lifetime, PagePolicy, SegId};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use vmm::exit_code::ExitCode;
use vmm::store::{Mode, Name, SegmentEntry, SegmentSpec, Store, StoreError, VasRecord};
use vmm::vas::{VasError, content, kept};

use crate::errors::{self, Failure};
use crate::store_list::{SEGMENT_HEADING, entry, print_list};
use crate::store_options::{
    Named, Names, Output, StoreArgs, Waits, failed, name_parser, parse_address, parse_durability,
    parse_mode, parse_size, parse_timeout, print_check, waiting_note,
};
use crate::store_show::{Live, Segment};
use crate::versions::{self, Of, chosen_segment};

/// Make, list, show, change and delete segments
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg create graph --size 4G        4 GiB of zeros, at an address of its own
  spacejmp seg ls
  spacejmp seg show graph --json
  spacejmp seg rm -- -odd-                   a name that begins with a dash")]
pub(crate) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    /// List all segments
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  spacejmp seg ls
  spacejmp seg ls --json | jq .segments"
    )]
    Ls(Output),
    /// Show all about one segment: size, place, state, lock, who uses it
    #[command(after_help = "\
Examples:
  spacejmp seg show graph")]
    Show(Named),
    #[command(flatten)]
    Versions(versions::Command),
    /// Delete segments and their content
    #[command(after_help = "\
Examples:
  spacejmp seg rm graph scratch")]
    Rm(Names),
    Clone(Clone),
    /// Make a segment larger, within its reserve
    #[command(after_help = "\
Examples:
  spacejmp seg grow graph --size 8G")]
    Grow {
        #[arg(value_parser = name_parser())]
        name: Name,
        /// Its new size
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// Give up when programs that write a versioned one have not left after so long; without it,
        /// wait for them
        #[arg(long, value_name = "SECONDS", value_parser = parse_timeout)]
        timeout: Option<Duration>,
    },
    Chmod(Chmod),
    /// Look for damage in one segment and its heap, changing nothing
    #[command(after_help = "\
Examples:
  spacejmp seg check graph

Of a heap it tells how much is allocated and free, and which blocks nothing leads to
from the root object. A heap that a program may be writing to is left alone.

Exit status: 0 if it can be used, 1 if not, 125 if it could not be looked at.")]
    Check(Named),
    Convert(Convert),
    /// Declare that the content of a dirty or inconsistent segment is whole
    #[command(after_help = "\
Examples:
  spacejmp seg check graph             is its heap whole? why is it inconsistent?
  spacejmp seg clone graph before      keep what is there, to try things on
  spacejmp seg recover graph

A segment is dirty when its last writer was killed, and inconsistent when that was in the
middle of a change, or when the host lost power while a program had it. Programs that enter
are told so (EOWNERDEAD, in the SDK `Error::Inconsistent`) until one of them recovers it, or
this command does. It repairs nothing. Before you use it, know that the content is whole:

  after a killed program   what it had written is there: look whether the change it was in
                           the middle of can stay as it is
  after a power cut        any page may be old: check everything that the program can check,
                           not only the heap. If in doubt, take a backup or make it again

It is refused while a program has the segment attached for writing, or is inside, and for
versioned segments, which always show a whole version.")]
    Recover(Named),
}

/// Make a segment of zeros; nothing is stored before it is written
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg create graph --size 4G --reserve 100G --mode 660
  spacejmp seg create orders --size 1G --durability each
  spacejmp seg create index --size 1G --lifetime persistent
  spacejmp seg create scratch --size 1G --volatile --no-lock
  spacejmp seg create fixed --size 2M --base 0x200000000000 --lifetime persistent --pages 2m

Lifetimes:
  versioned    in files, until it is deleted, and changed by whole commits only: a killed
               program or a power cut leaves a version that was committed. Always locked. The
               default
  persistent   in files, until it is deleted, and written in place. A killed program leaves what
               it had written, a power cut while one has it any part of it: for data that can be
               made again
  volatile     in memory, until its last user has left it

Durabilities of a versioned segment; whichever, a killed program loses nothing that it has
committed, and a power cut leaves a complete version:
  each         a commit returns, and others see it, when it would survive a power cut
  every:MS     a commit returns at once, and survives one that comes MS milliseconds later, or
               sooner (1 to 60000; the default is every:100)
  manual       commits survive one when a program has called vas_sync, detaches or exits")]
struct Create {
    /// Its name: 1 to 255 bytes of UTF-8 without `/`
    #[arg(value_parser = name_parser())]
    name: Name,
    /// Its size: bytes, or a number with K, M, G or T
    #[arg(long, value_parser = parse_size)]
    size: u64,
    /// Its first address, a multiple of 2 MiB; by default one that no segment uses
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    base: Option<u64>,
    /// How far it may grow; by default not at all
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "0",
          hide_default_value = true)]
    reserve: u64,
    /// How long it lives, and what a crash leaves of it (see below)
    #[arg(long, default_value = "versioned")]
    lifetime: LifetimeName,
    /// When the commits of a versioned segment survive a power cut (see below)
    #[arg(long, value_name = "each|every:MS|manual", value_parser = parse_durability)]
    durability: Option<Durability>,
    /// Keep it in memory, and only until its last user has left it: as `--lifetime volatile`
    #[arg(long, conflicts_with = "lifetime")]
    volatile: bool,
    /// Acquire its lock when a thread switches into a VAS with it: the default
    #[arg(long, overrides_with = "no_lock")]
    lockable: bool,
    /// Leave locking to the programs
    #[arg(long)]
    no_lock: bool,
    /// Largest pages to map it with
    #[arg(long, default_value = "largest")]
    pages: Pages,
    /// Who may read and write it, as for chmod
    #[arg(long, value_parser = parse_mode, default_value = "600")]
    mode: Mode,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LifetimeName {
    Persistent,
    Versioned,
    Volatile,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Pages {
    #[value(name = "4k")]
    Small,
    #[value(name = "2m")]
    Large,
    Largest,
}

/// Copy a segment: same addresses, another name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg clone graph graph-before
  spacejmp seg clone graph graph-before --timeout 10
  spacejmp seg clone ledger@monday trial         an old version of a versioned one
  spacejmp seg clone ledger@1207 trial

Programs that write are kept out while the copy is made, so that it holds one moment. A versioned
segment of one's own is copied in no time, and shares with its copy what neither has changed.")]
struct Clone {
    /// Of a versioned one also NAME@TAG or NAME@NUMBER
    #[arg(value_name = "NAME[@VERSION]", value_parser = name_parser())]
    name: Name,
    /// The copy's name
    #[arg(value_parser = name_parser())]
    new: Name,
    #[command(flatten)]
    waits: Waits,
}

/// Make a raw segment versioned, or a versioned one raw
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg convert ledger --to versioned
  spacejmp seg convert ledger --to persistent    its newest version, without the older ones

It keeps its name, its id, its addresses and its permission bits, and stays in its VASes. It is
refused while a program has the segment attached. When it is killed, the segment is what it was
or what it was to be. Its content is copied: it needs the space for that, and the time.")]
struct Convert {
    #[arg(value_parser = name_parser())]
    name: Name,
    /// What it is to be
    #[arg(long)]
    to: ConvertTo,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConvertTo {
    Persistent,
    Versioned,
}

/// Change who may read and write a segment, whether it is locked, how it is mapped, when it is durable
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp seg chmod graph 640
  spacejmp seg chmod ledger --durability every:20
  spacejmp seg chmod graph --no-lock --pages 4k")]
struct Chmod {
    #[arg(value_parser = name_parser())]
    name: Name,
    /// Permission bits
    #[arg(value_parser = parse_mode, required_unless_present_any =
          ["lockable", "no_lock", "pages", "durability"])]
    mode: Option<Mode>,
    /// Acquire its lock on switches
    #[arg(long, conflicts_with = "no_lock")]
    lockable: bool,
    /// Do not acquire its lock on switches
    #[arg(long)]
    no_lock: bool,
    /// Largest pages to map it with
    #[arg(long)]
    pages: Option<Pages>,
    /// When the commits of a versioned segment survive a power cut, from the next one on
    #[arg(long, value_name = "each|every:MS|manual", value_parser = parse_durability)]
    durability: Option<Durability>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let store = &args.store;
    match args.command {
        Command::Create(args) => create(&store.open_or_create()?, &args),
        Command::Ls(output) => list(&store.open()?, output.json),
        Command::Versions(command) => versions::run(Of::Segment, &store.open()?, &command),
        Command::Show(args) => show(&store.open()?, &args.name, args.output.json),
        Command::Rm(args) => remove(&store.open()?, &args.names),
        Command::Clone(args) => clone(&store.open()?, &args),
        Command::Grow { name, size, timeout } => grow(&store.open()?, &name, size, timeout),
        Command::Chmod(args) => change(store, &args),
        Command::Check(Named { name, output }) => {
            let doing = format!("check segment '{name}'");
            let report = store.with(doing, |store| store.check_segment(&name))?;
            print_check(output.json, &report)
        }
        Command::Convert(args) => convert(&store.open()?, &args),
        Command::Recover(Named { name, output }) => recover(&store.open()?, &name, output.json),
    }
}

/// The live VMs by lease.
pub(crate) fn live(store: &Store) -> Result<Live, Failure> {
    let leases = store.leases().map_err(failed("see who uses the store"))?;
    Ok(leases.into_iter().map(|lease| (lease.id, lease)).collect())
}

fn policy(pages: Pages) -> PagePolicy {
    match pages {
        Pages::Small => PagePolicy::Small4K,
        Pages::Large => PagePolicy::Large2M,
        Pages::Largest => PagePolicy::Largest,
    }
}

fn lifetime(args: &Create) -> Lifetime {
    match args.lifetime {
        _ if args.volatile => Lifetime::Volatile,
        LifetimeName::Persistent => Lifetime::Persistent,
        LifetimeName::Versioned => Lifetime::Versioned,
        LifetimeName::Volatile => Lifetime::Volatile,
    }
}

fn create(store: &Store, args: &Create) -> Result<ExitCode, Failure> {
    let spec = SegmentSpec {
        base: args.base,
        reserve_bytes: args.reserve,
        mode: args.mode,
        lifetime: lifetime(args),
        durability: args.durability,
        pages: policy(args.pages),
        lockable: !args.no_lock,
        ..SegmentSpec::new(args.size)
    };
    let doing = format!("create segment '{}'", args.name);
    let sid = store.create_segment(&args.name, &spec).map_err(failed(doing))?;
    made(store, sid, args.json)
}

/// Reports what was created: nothing in text mode; everything as JSON.
fn made(store: &Store, sid: SegId, json: bool) -> Result<ExitCode, Failure> {
    if !json {
        return Ok(ExitCode::Program(0));
    }
    let record = store.segment(sid).map_err(failed("look at the new segment"))?;
    errors::output(true, &Segment::of(&record, &live(store)?), |_| String::new())
}

fn list(store: &Store, json: bool) -> Result<ExitCode, Failure> {
    let live = live(store)?;
    let entries = store.list_segments().map_err(failed("list the segments"))?;
    let of = |one: &SegmentEntry| entry(&one.name, &one.record, |it| Segment::of(it, &live));
    let entries: Vec<_> = entries.iter().map(of).collect();
    print_list(json, "segments", &SEGMENT_HEADING, &entries, Segment::row)
}

fn show(store: &Store, name: &Name, json: bool) -> Result<ExitCode, Failure> {
    let read = || {
        let sid = store.find_segment(name)?;
        let record = store.segment(sid)?;
        let lock = store.open_segment(sid)?.lock_view()?;
        let vases = store.list_vases()?.into_iter().filter_map(|entry| entry.record.ok());
        let with_it = |vas: &VasRecord| vas.segments.iter().any(|segment| segment.sid == sid);
        Ok((record, lock, vases.filter(with_it).collect::<Vec<_>>()))
    };
    let (record, lock, vases) =
        read().map_err(failed::<StoreError>(format!("show segment '{name}'")))?;
    let live = live(store)?;
    let segment = Segment::of(&record, &live).with_use(&vases, &live, &lock);
    errors::output(json, &segment, |_| segment.lines())
}

fn grow(
    store: &Store,
    name: &Name,
    size: u64,
    timeout: Option<Duration>,
) -> Result<ExitCode, Failure> {
    let work = || -> Result<(), VasError> {
        kept::grow_segment(store, store.find_segment(name)?, size, timeout, &waiting_note())
    };
    work().map_err(failed(format!("grow segment '{name}'")))?;
    Ok(ExitCode::Program(0))
}

fn remove(store: &Store, names: &[Name]) -> Result<ExitCode, Failure> {
    for name in names {
        let removed = store.find_segment(name).and_then(|sid| store.delete_segment(sid));
        removed.map_err(failed(format!("delete segment '{name}'")))?;
    }
    Ok(ExitCode::Program(0))
}

fn clone(store: &Store, args: &Clone) -> Result<ExitCode, Failure> {
    let doing = || format!("copy segment '{}' to '{}'", args.name, args.new);
    let (sid, number) = chosen_segment(store, &args.name).map_err(failed(doing()))?;
    let copied =
        content::clone_segment(store, sid, number, &args.new, args.waits.timeout, &waiting_note());
    let sid = copied.map_err(failed(doing()))?;
    made(store, sid, args.waits.output.json)
}

fn convert(store: &Store, args: &Convert) -> Result<ExitCode, Failure> {
    let (lifetime, word) = match args.to {
        ConvertTo::Persistent => (Lifetime::Persistent, "persistent"),
        ConvertTo::Versioned => (Lifetime::Versioned, "versioned"),
    };
    let doing = || format!("make segment '{}' {word}", args.name);
    let _span = tracing::debug_span!("convert", segment = %args.name, to = word).entered();
    let sid = store.find_segment(&args.name).map_err(failed(doing()))?;
    let is_new = store.convert_segment(sid, lifetime).map_err(failed(doing()))?;
    if !is_new && !args.json {
        let name = &args.name;
        return errors::output(false, &(), |_| format!("segment '{name}' is {word} already\n"));
    }
    made(store, sid, args.json)
}

/// What `recover` reports.
#[derive(Debug, Serialize)]
struct Recovered {
    name: String,
    sid: String,
    was_dirty: bool,
    was_inconsistent: bool,
}

fn recover(store: &Store, name: &Name, json: bool) -> Result<ExitCode, Failure> {
    let doing = || format!("recover segment '{name}'");
    let sid = store.find_segment(name).map_err(failed(doing()))?;
    let before = content::recover_segment(store, sid).map_err(failed(doing()))?;
    let content::Recovered { was_dirty, was_inconsistent } = before;
    let (name_text, sid) = (name.as_str().to_owned(), sid.to_string());
    let report = Recovered { name: name_text, sid, was_dirty, was_inconsistent };
    errors::output(json, &report, |_| {
        let was = match (was_dirty, was_inconsistent) {
            (true, true) => "it was dirty and inconsistent",
            (true, false) => "it was dirty",
            (false, true) => "it was inconsistent",
            (false, false) => "it was so before",
        };
        format!("segment '{}' is clean: {was}\n", name)
    })
}

fn change(store: &StoreArgs, args: &Chmod) -> Result<ExitCode, Failure> {
    store.with(format!("change segment '{}'", args.name), |store| {
        let sid = store.find_segment(&args.name)?;
        if args.lockable || args.no_lock {
            store.set_lockable(sid, args.lockable)?;
        }
        if let Some(pages) = args.pages {
            store.set_pages(sid, policy(pages))?;
        }
        if let Some(durability) = args.durability {
            store.set_durability(sid, durability)?;
        }
        args.mode.map_or(Ok(()), |mode| store.set_segment_mode(sid, mode))
    })?;
    Ok(ExitCode::Program(0))
}
