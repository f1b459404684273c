//! `spacejmp vas`: the address spaces of a store.

use std::path::PathBuf;
use std::time::Duration;

use abi::objects::{Right, VasId};
use clap::{ArgAction, Subcommand};
use vmm::exit_code::ExitCode;
use vmm::store::{Mode, Name, Store, StoreError, VasEntry, VasRecord, VasSegment};
use vmm::vas::{VasError, content, kept};

use crate::errors::{self, Failure};
use crate::run_options::parse_timeout;
use crate::seg::live;
use crate::store_list::{VAS_HEADING, entry, print_list};
use crate::store_options::{
    Named, Names, Output, StoreArgs, Waits, failed, name_parser, parse_mode, print_check,
    waiting_note,
};
use crate::store_show::{Vas, plain};
use crate::vas_archive;
use crate::versions::{self, Of, chosen_vas};

/// Make, list, show, change, delete, export and import address spaces (VASes)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp vas create genome
  spacejmp vas attach genome reads           put segment `reads` into it
  spacejmp vas show genome
  spacejmp vas export genome genome.vas      with its segments, as one file")]
pub(crate) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    /// List all VASes
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  spacejmp vas ls --json"
    )]
    Ls(Output),
    /// Show all about one VAS: its segments, who has it attached, who is inside
    #[command(after_help = "\
Examples:
  spacejmp vas show genome")]
    Show(Named),
    #[command(flatten)]
    Versions(versions::Command),
    /// Delete VASes, not their segments
    #[command(after_help = "\
Examples:
  spacejmp vas rm genome")]
    Rm(Names),
    Clone(Clone),
    Attach(Attach),
    Detach(Detach),
    Chmod(Chmod),
    /// Look for damage in one VAS and its segments, changing nothing
    #[command(after_help = "\
Examples:
  spacejmp vas check genome

Exit status: 0 if all can be used, 1 if not, 125 if it could not be looked at.")]
    Check(Named),
    Export(Export),
    Import(Import),
}

/// Make an empty VAS
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp vas create genome --mode 660")]
struct Create {
    /// Its name: 1 to 255 bytes of UTF-8 without `/`
    #[arg(value_parser = name_parser())]
    name: Name,
    /// Who may read and change it, as for chmod
    #[arg(long, value_parser = parse_mode, default_value = "600")]
    mode: Mode,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Copy a VAS with its segments, or make one that shares them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp vas clone genome genome2            segment `reads` is copied as `genome2.reads`
  spacejmp vas clone genome genome2 --timeout 10
  spacejmp vas clone books@monday trial        an old version, of versioned segments
  spacejmp vas clone books@1207 trial          the same by its number
  spacejmp vas clone --share genome window     the same segments under another name

Programs that write are kept out while the copy is made, so that it holds one moment. Versioned
segments of one's own are copied in no time.")]
struct Clone {
    /// Also NAME@TAG or, to copy it, NAME@NUMBER
    #[arg(value_name = "NAME[@VERSION]", value_parser = name_parser())]
    name: Name,
    /// The new one's name; copied segments are called NEW.SEGMENT
    #[arg(value_parser = name_parser())]
    new: Name,
    /// Do not copy the segments: both VASes have them
    #[arg(long, conflicts_with = "timeout")]
    share: bool,
    #[command(flatten)]
    waits: Waits,
}

/// Put a segment into a VAS, for all who use it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp vas attach genome reads
  spacejmp vas attach genome dictionary --read-only")]
struct Attach {
    #[arg(value_parser = name_parser())]
    vas: Name,
    #[arg(value_parser = name_parser())]
    segment: Name,
    /// Let no program write it through this VAS
    #[arg(long)]
    read_only: bool,
}

/// Take a segment out of a VAS, for all who use it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A segment whose file is gone is named as the VAS lists it, or by the id that `vas show` and \
`vas check` print.

Examples:
  spacejmp vas detach genome reads
  spacejmp vas detach genome 0123456789abcdef")]
struct Detach {
    #[arg(value_parser = name_parser())]
    vas: Name,
    /// Name or id
    #[arg(value_parser = name_parser())]
    segment: Name,
}

/// Change who may read and change a VAS, and whether it is tagged
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp vas chmod genome 644
  spacejmp vas chmod genome --tagged false")]
struct Chmod {
    #[arg(value_parser = name_parser())]
    name: Name,
    /// Permission bits
    #[arg(value_parser = parse_mode, required_unless_present = "tagged")]
    mode: Option<Mode>,
    /// Whether processors tag its TLB entries
    #[arg(long, action = ArgAction::Set, value_name = "BOOL")]
    tagged: Option<bool>,
}

/// Write a VAS with its segments to one compressed file
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp vas export genome genome.vas
  spacejmp vas export genome genome.vas --timeout 10
  spacejmp vas export genome - | ssh host spacejmp vas import -
  spacejmp vas export books@monday monday.vas    an old version, of versioned segments

The archive holds one moment. Of versioned segments that is the newest version, or the one that is
named, and programs go on writing; to find that of several, it waits until no program is in the middle
of a change. Programs that write raw segments are kept out while the archive is written. A version is
exported under the name of what it is a version of.")]
struct Export {
    /// Also NAME@TAG or NAME@NUMBER
    #[arg(value_name = "NAME[@VERSION]", value_parser = name_parser())]
    name: Name,
    /// The file, which must not exist; `-` for the standard output
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    /// Give up when writing programs have not left after this time; without it, wait for them
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout)]
    timeout: Option<Duration>,
}

/// Make a VAS with its segments from an exported file
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp vas import genome.vas
  spacejmp vas import genome.vas --as genome-old")]
struct Import {
    /// The file; `-` for the standard input
    file: PathBuf,
    /// Call the VAS this, and segments whose names are taken NAME.SEGMENT
    #[arg(long = "as", value_name = "NAME", value_parser = name_parser())]
    as_name: Option<Name>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let store = &args.store;
    let done = Ok(ExitCode::Program(0));
    match args.command {
        Command::Create(args) => {
            let store = store.open_or_create()?;
            let doing = format!("create VAS '{}'", args.name);
            let vid = store.create_vas(&args.name, args.mode).map_err(failed(doing))?;
            if args.json { show(&store, vid, true) } else { done }
        }
        Command::Ls(output) => list(&store.open()?, output.json),
        Command::Show(Named { name, output }) => {
            let store = store.open()?;
            let vid = store.find_vas(&name).map_err(failed(format!("show VAS '{name}'")))?;
            show(&store, vid, output.json)
        }
        Command::Versions(command) => versions::run(Of::Vas, &store.open()?, &command),
        Command::Rm(args) => {
            let store = store.open()?;
            for name in &args.names {
                let removed = store.find_vas(name).and_then(|vid| store.delete_vas(vid));
                removed.map_err(failed(format!("delete VAS '{name}'")))?;
            }
            done
        }
        Command::Clone(args) => clone(&store.open()?, &args),
        Command::Attach(Attach { vas, segment, read_only }) => {
            let right = if read_only { Right::Read } else { Right::Write };
            store.with(format!("put segment '{segment}' into VAS '{vas}'"), |store| {
                let (vid, sid) = (store.find_vas(&vas)?, store.find_segment(&segment)?);
                store.attach_segment(vid, sid, right)
            })?;
            done
        }
        Command::Detach(Detach { vas, segment }) => {
            store.with(format!("take segment '{segment}' out of VAS '{vas}'"), |store| {
                let vid = store.find_vas(&vas)?;
                store.detach_segment(vid, store.listed_segment(vid, &segment)?)
            })?;
            done
        }
        Command::Chmod(Chmod { name, mode, tagged }) => {
            store.with(format!("change VAS '{name}'"), |store| {
                let vid = store.find_vas(&name)?;
                if let Some(tagged) = tagged {
                    store.set_vas_tagged(vid, tagged)?;
                }
                mode.map_or(Ok(()), |mode| store.set_vas_mode(vid, mode))
            })?;
            done
        }
        Command::Check(Named { name, output }) => {
            let check = |store: &Store| store.check_vas(&name);
            print_check(output.json, &store.with(format!("check VAS '{name}'"), check)?)
        }
        Command::Export(args) => {
            vas_archive::export(&store.open()?, &args.name, &args.file, args.force, args.timeout)
        }
        Command::Import(args) => {
            let name = args.as_name.as_ref();
            vas_archive::import(&args.file, || store.open_or_create(), name, args.json)
        }
    }
}

fn clone(store: &Store, args: &Clone) -> Result<ExitCode, Failure> {
    let (name, new) = (&args.name, &args.new);
    let doing = || match args.share {
        true => format!("make VAS '{new}' with the segments of '{name}'"),
        false => format!("copy VAS '{name}' to '{new}'"),
    };
    let (vid, number) = chosen_vas(store, name).map_err(failed(doing()))?;
    if let Some(number) = number {
        if args.share {
            return Err(failed(doing())(StoreError::Passing(name.clone())));
        }
        return clone_number(store, vid, number, args);
    }
    let vid = if args.share {
        store.clone_vas(vid, new).map_err(failed(doing()))?
    } else {
        let vas = store.vas(vid).map_err(failed(doing()))?;
        note_copies(store, &vas);
        let copied = content::copy_vas(store, vid, new, args.waits.timeout, &waiting_note());
        copied.map_err(failed(doing()))?.vid
    };
    if args.waits.output.json { show(store, vid, true) } else { Ok(ExitCode::Program(0)) }
}

/// A version that has no tag gets one for so long.
fn clone_number(store: &Store, vid: VasId, number: u64, args: &Clone) -> Result<ExitCode, Failure> {
    let doing = || format!("copy VAS '{}' to '{}'", args.name, args.new);
    let stopping = waiting_note();
    let work = || -> Result<VasId, VasError> {
        kept::remove_old(store)?;
        let kept = kept::keep_number(store, vid, number, args.waits.timeout, &stopping)?.vid;
        let copied = content::copy_vas(store, kept, &args.new, args.waits.timeout, &stopping);
        // What was kept goes by itself, later: another program may have found it by its number.
        Ok(copied?.vid)
    };
    let vid = work().map_err(failed(doing()))?;
    if args.waits.output.json { show(store, vid, true) } else { Ok(ExitCode::Program(0)) }
}

/// Says which segments take as long as their content is large, and its space.
fn note_copies(store: &Store, vas: &VasRecord) {
    let is_raw = |it: &&VasSegment| store.open_segment(it.sid).is_ok_and(|it| !it.is_versioned());
    let raw = vas.segments.iter().filter(is_raw);
    let names: Vec<_> = raw.map(|it| format!("'{}'", plain(it.name.as_str()))).collect();
    if !names.is_empty() {
        eprintln!("spacejmp: raw segments are copied as a whole: {}", names.join(", "));
    }
}

fn show(store: &Store, vid: VasId, json: bool) -> Result<ExitCode, Failure> {
    let record = store.vas(vid).map_err(failed("show the VAS"))?;
    let vas = Vas::of(&record, &live(store)?, |segment| store.segment(segment.sid).ok());
    // A segment that cannot be read has its place in what is shown.
    let vas = vas.numbered(store.vas_number(&record).ok().flatten());
    errors::output(json, &vas, |_| vas.lines())
}

fn list(store: &Store, json: bool) -> Result<ExitCode, Failure> {
    let live = live(store)?;
    let entries = store.list_vases().map_err(failed("list the VASes"))?;
    let known = |sid| {
        let segment = store.open_segment(sid).ok()?;
        Some((segment.header().clone(), store.newest_number(&segment).ok()?))
    };
    let vas = |it: &VasRecord| {
        let number = store.vas_number(it).ok().flatten();
        Vas::of(it, &live, |_| None).with_versions(known).numbered(number)
    };
    let of = |one: &VasEntry| entry(&one.name, &one.record, vas);
    let entries: Vec<_> = entries.iter().map(of).collect();
    print_list(json, "vases", &VAS_HEADING, &entries, Vas::row)
}
