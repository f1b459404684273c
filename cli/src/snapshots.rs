//! `spacejmp snapshot`: processes of VMs as they were, to go on from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use serde::Serialize;
use vmm::control::{Vm, VmRef};
use vmm::exit_code::ExitCode;
use vmm::linux::snapshot::head::Head;
use vmm::linux::snapshot::ready::AtReady;
use vmm::process::Snapshot;
use vmm::store::{Name, SnapshotEntry};
use vmm::vas::attach::kept::KeptVases;

use crate::errors::{self, Failure};
use crate::store_list::{Entry, print_list, unreadable};
use crate::store_options::{Named, Names, Output, StoreArgs, failed, name_parser, size};
use crate::store_show::plain;
use crate::versions::log::ago;
use crate::vms;

/// Keep what the program of a running VM is now, to start copies of it from there
///
/// `spacejmp run --from NAME` starts one, any number at the same time. The VM goes on unchanged; while its memory is
/// written, its program waits. A snapshot has the program's memory, with all secrets in it, its registers, handlers for signals and open
/// files by path and offset; it is in the store, and only for its user to read. What it has not is printed: sockets,
/// pipes, timers, processes that the program has started, and numbers of processes that it has stored. Threads keep their
/// numbers and the locks that they hold.
///
/// Address spaces that it has attached are attached again, as far as they are granted to the copy; a thread that reads inside
/// comes back at the version that it saw. Refused is a program with a thread that writes inside, or is inside raw segments, with memory
/// that others may share, or under a debugger, and one whose first thread has ended. `run --snapshot-at-ready` makes one where the
/// program says so itself; copies of that are given arguments.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = examples())]
pub(crate) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Option<Command>,
    /// The number of its process, or the name given by `run --name`
    #[arg(required = true)]
    vm: Option<VmRef>,
    /// What the snapshot is to be called
    #[arg(required = true, value_parser = name_parser())]
    new: Option<Name>,
    #[command(flatten)]
    output: Output,
}

fn examples() -> String {
    format!(
        "Examples:\n  spacejmp snapshot web warm             as it is now\n  \
         spacejmp run --from warm --dir .       go on from there, with what is granted now\n  \
         spacejmp snapshot ls\n  spacejmp snapshot rm warm\n\n{}",
        vms::STATUS_HELP
    )
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all snapshots of the store
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  spacejmp snapshot ls
  spacejmp snapshot ls --json"
    )]
    Ls(Output),
    /// Show all about one snapshot: its program, and what it has not
    #[command(after_help = "\
Examples:
  spacejmp snapshot show warm")]
    Show(Named),
    /// Delete snapshots; programs that were started from one go on
    #[command(after_help = "\
Examples:
  spacejmp snapshot rm warm")]
    Rm(Names),
}

/// A snapshot, for output.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    program: String,
    executable: String,
    pid: u32,
    /// Seconds since 1970.
    made_at: u64,
    memory_bytes: u64,
    disk_bytes: u64,
    version: String,
    /// Whether it was made where the program called `sj_ready`: copies of it are given arguments.
    at_ready: bool,
    /// The address spaces that it has attached.
    vases: Vec<String>,
    /// Their versions that threads saw which were inside, and that are kept for it.
    versions: Vec<String>,
    /// What is not restored.
    lost: Vec<String>,
}

impl Shown {
    fn of(name: &Name, disk_bytes: u64, head: &Head) -> Shown {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Shown {
            name: name.as_str().to_owned(),
            program: text(&head.program),
            executable: text(&head.executable.host),
            pid: head.pid,
            made_at: head.made_at,
            memory_bytes: head.memory_bytes,
            disk_bytes,
            version: head.version.clone(),
            at_ready: head.ready.is_some(),
            vases: head.vases.as_ref().map(names_of).unwrap_or_default(),
            versions: head.vases.as_ref().map(versions_of).unwrap_or_default(),
            lost: head.lost.clone(),
        }
    }

    fn age(&self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ago(now.saturating_sub(Duration::from_secs(self.made_at)))
    }

    fn row(&self) -> Vec<String> {
        let program = self.program.rsplit('/').next().unwrap_or_default();
        let program = format!("{} ({})", plain(program), self.pid);
        vec![plain(&self.name), self.age(), size(self.memory_bytes), program, "ok".to_owned()]
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{}: {} ({}) as it was {}, with {} of memory\n  executable  {}\n  version     {}\n",
            plain(&self.name),
            plain(&self.program),
            self.pid,
            self.age(),
            size(self.memory_bytes),
            plain(&self.executable),
            plain(&self.version),
        );
        if self.at_ready {
            text +=
                "  made at     sj_ready: copies get arguments and an environment of their own\n";
        }
        if !self.vases.is_empty() {
            let names: Vec<_> = self.vases.iter().map(|name| plain(name)).collect();
            text += &format!("  address spaces  {}\n", names.join(", "));
        }
        if !self.versions.is_empty() {
            let names: Vec<_> = self.versions.iter().map(|name| plain(name)).collect();
            text += &format!("  keeps       {}\n", names.join(", "));
        }
        text += "  not in it:\n";
        for lost in &self.lost {
            text += &format!("    {}\n", plain(lost));
        }
        text
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match (&args.command, &args.vm, &args.new) {
        (None, Some(vm), Some(name)) => make(args, vm, name),
        (Some(Command::Ls(output)), ..) => list(&args.store, output.json),
        (Some(Command::Show(named)), ..) => show(&args.store, &named.name, named.output.json),
        (Some(Command::Rm(names)), ..) => remove(&args.store, &names.names),
        // clap requires both.
        (None, ..) => Ok(ExitCode::OwnFailure),
    }
}

/// The names of address spaces, each once.
fn names_of(vases: &KeptVases) -> Vec<String> {
    let names: BTreeSet<_> = vases.attached.iter().map(|vas| vas.name.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// The names of the versions that are kept for it.
fn versions_of(vases: &KeptVases) -> Vec<String> {
    vases.versions().into_values().map(|name| name.as_str().to_owned()).collect()
}

/// The program's address spaces are in another store.
#[derive(Debug, thiserror::Error)]
#[error("its address spaces are in another store than the snapshot would be")]
struct OtherStore;

fn make(args: &Args, vm: &VmRef, name: &Name) -> Result<ExitCode, Failure> {
    let doing = || format!("snapshot VM {vm}");
    let store = args.store.open_or_create()?;
    let new = store.begin_snapshot(name).map_err(failed(doing()))?;
    let to = new.memory_to_write().map_err(failed(doing()))?;
    let found = Vm::find(vm.clone()).map_err(vms::failed(doing()))?;
    let head = found.ask_for_snapshot().and_then(|asked| asked.write_to(&to));
    let head = head.map_err(vms::failed(doing()))?;
    if head.vases.as_ref().is_some_and(|vases| vases.store != store.id()) {
        let help = "give the store that its run was given: --store DIRECTORY";
        return Err(Failure::new(doing(), OtherStore).help(Some(help.to_owned())));
    }
    let memory_bytes = new.memory_bytes().map_err(failed(doing()))?;
    let head = Head { memory_bytes, ..head };
    new.finish(&head.encode(), &head.versions()).map_err(failed(doing())).inspect_err(|_| {
        // What the VM has kept for it is nobody's; if it stays, it goes with the garbage.
        let _ = store.remove_forsaken();
    })?;
    let shown = Shown::of(name, memory_bytes, &head);
    errors::output(args.output.json, &shown, |_| shown.text())
}

fn read(name: &Name, bytes: &[u8]) -> Result<Head, Failure> {
    let doing = || format!("read snapshot '{name}'");
    Head::decode(bytes).map_err(|error| {
        let help = "remove it with `spacejmp snapshot rm`, and make it again";
        Failure::new(doing(), error).help(Some(help.to_owned()))
    })
}

fn list(store: &StoreArgs, json: bool) -> Result<ExitCode, Failure> {
    let entries = store.with("list snapshots".to_owned(), |store| store.snapshots())?;
    let entry = |entry: &SnapshotEntry| {
        let head = entry.head.clone();
        let head = head.and_then(|head| Head::decode(&head).map_err(|error| error.to_string()));
        match head {
            Ok(head) => Entry::Good(Box::new(Shown::of(&entry.name, entry.disk_bytes, &head))),
            Err(error) => unreadable(&entry.name, error),
        }
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let heading = ["NAME", "MADE", "MEMORY", "PROGRAM (PID)", "STATE"];
    print_list(json, "snapshots", &heading, &entries, Shown::row)
}

fn show(store: &StoreArgs, name: &Name, json: bool) -> Result<ExitCode, Failure> {
    let doing = format!("show snapshot '{name}'");
    let (files, disk_bytes) = store.with(doing, |store| {
        let all = store.snapshots()?;
        let disk_bytes = all.iter().find(|it| it.name == *name).map_or(0, |it| it.disk_bytes);
        Ok((store.open_snapshot(name)?, disk_bytes))
    })?;
    let shown = Shown::of(name, disk_bytes, &read(name, &files.head)?);
    errors::output(json, &shown, |_| shown.text())
}

fn remove(store: &StoreArgs, names: &[Name]) -> Result<ExitCode, Failure> {
    let store = store.open()?;
    for name in names {
        let doing = format!("remove snapshot '{name}'");
        store.remove_snapshot(name).map_err(failed(doing))?;
    }
    Ok(ExitCode::Program(0))
}

/// For `run --from`, with the name of its program.
pub(crate) fn open(name: &Name, store: Option<PathBuf>) -> Result<Snapshot, Failure> {
    let doing = format!("open snapshot '{name}'");
    let files = StoreArgs::of(store).with(doing, |store| store.open_snapshot(name))?;
    let head = read(name, &files.head)?;
    Ok(Snapshot { name: name.to_string(), head, memory: files.memory })
}

/// Arguments, or variables, for a program that cannot get any.
#[derive(Debug, thiserror::Error)]
#[error(
    "it was made by `spacejmp snapshot`: its program was in the middle of something, and has the arguments and the \
     environment that it was started with"
)]
struct HasItsOwn;

/// Refuses what the program of a snapshot would not get.
pub(crate) fn check_arguments(
    of: &Snapshot,
    arguments: usize,
    variables: usize,
) -> Result<(), Failure> {
    if of.head.ready.is_some() || arguments + variables == 0 {
        return Ok(());
    }
    let given = if arguments > 0 { "ARGS" } else { "--env" };
    let help = format!(
        "leave {given} out; or make the snapshot with `run --snapshot-at-ready NAME`, where the program calls sj_ready"
    );
    let doing = format!("go on from snapshot '{}' with {given}", of.name);
    Err(Failure::new(doing, HasItsOwn).help(Some(help)))
}

/// For `run --snapshot-at-ready`.
pub(crate) fn at_ready(name: Name, store: Option<PathBuf>) -> Result<Arc<AtReady>, Failure> {
    let doing = format!("make snapshot '{name}' (--snapshot-at-ready)");
    // It is opened again when the program is ready.
    let store = std::path::absolute(StoreArgs::of(store).path()?);
    let store = store.map_err(|error| Failure::new("find the store", error))?;
    AtReady::new(store, name).map(Arc::new).map_err(failed(doing))
}

/// What the program of a snapshot is called, for messages.
pub(crate) fn program(of: &Snapshot) -> std::ffi::OsString {
    plain(&String::from_utf8_lossy(&of.head.program)).into()
}

/// Names, for completions.
pub(crate) fn names(store: &vmm::store::Store) -> Vec<String> {
    let all = store.snapshots().unwrap_or_default();
    let names: BTreeMap<String, ()> =
        all.into_iter().map(|one| (one.name.as_str().to_owned(), ())).collect();
    names.into_keys().collect()
}
