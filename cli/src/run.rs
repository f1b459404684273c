//! `spacejmp run`: runs a program in its own VM, as the command line (`run_args`) says.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmm::cli::json_lines;
use vmm::exit_code::ExitCode;
use vmm::files::{Grant, GrantError, Tty, take_over_umask};
use vmm::gdb::place::Listener;
use vmm::host;
use vmm::linux::core_dump::CorePlace;
use vmm::linux::debug::Debugger;
use vmm::linux::sched::use_processors;
use vmm::linux::signal::name::signal_name;
use vmm::linux::strace::Tracer;
use vmm::process::truncation::report_truncation;
use vmm::process::{Command, Ended, HostSignals, Libraries, Process, RunConfig, Supervise};
use vmm::process_tree::disk_use::DiskLimit;
use vmm::report::run::RunReport;
use vmm::store::{PrivateStore, Store};
use vmm::vas::VasGrants;

use crate::ending;
use crate::errors::{self, Failure};
use crate::inherited;
use crate::log;
use crate::network;
use crate::profiles::Profiles;
use crate::run_args::{Args, Backtrace, STDERR, StatsFormat};
use crate::run_options::{default_memory, environment, limits_of, no_processors};
use crate::run_tree::{Tree, private_tmp};
use crate::search;
use crate::snapshots;
use crate::start_error::start_failure;
use crate::terminal;
use crate::vms;

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    // Before there is another thread or process.
    if let Some(processors) = args.cpus {
        use_processors(processors).map_err(|error| no_processors(processors, error))?;
    }
    // Before any other file is opened.
    let (program, arguments) = match (&args.from, args.command.split_first()) {
        (None, Some((program, arguments))) => (Some(program), arguments),
        _ => (None, args.command.as_slice()),
    };
    let inherited = inherited::take(&args.fd, arguments)?;
    let from =
        args.from.as_ref().map(|name| snapshots::open(name, args.store.clone())).transpose()?;
    let named = match (&from, program) {
        (Some(from), _) => snapshots::program(from),
        (None, program) => program.cloned().unwrap_or_default(),
    };
    if let Some(from) = &from {
        snapshots::check_arguments(from, arguments.len(), args.env.len())?;
    }
    let command: Vec<Vec<u8>> =
        arguments.iter().cloned().map(OsString::into_encoded_bytes).collect();
    let grants = grants(&args, &named)?;
    let root = args.root.as_deref().map(Grant::root).transpose();
    let root = root.map_err(|error| bad_grant(&named, error))?;
    let net = network::grants(args.net, args.connect, args.listen)
        .map_err(|error| network::failure(&named, error))?;
    let stats_file = args.stats_to.as_deref().map(create).transpose()?;
    let tracer = args.strace.as_ref().map(tracer).transpose()?;
    let profiles = Profiles::prepare(args.profile, args.profile_hz, args.profile_exits)?;
    let core = args.core.as_deref().map(CorePlace::at).transpose();
    let core = core.map_err(|error| Failure::new("prepare for a core file", error))?;
    let place = args.gdb.as_ref().or(args.gdb_on_crash.as_ref());
    let listener = place.map(Listener::at).transpose();
    let listener = listener.map_err(no_gdb)?.map(Arc::new);
    let debugger = match &listener {
        None => Debugger::absent(),
        Some(_) if args.gdb.is_some() => Debugger::new(),
        Some(at) => {
            let at = at.to_string();
            Debugger::on_crash(move |signal| tell_crash(&at, signal))
        }
    };
    let debugger = debugger.map_err(no_gdb)?;
    let stats_format = match (args.stats, &stats_file) {
        (None, Some(_)) => Some(StatsFormat::Table),
        (format, _) => format,
    };
    let memory_bytes = args.memory.unwrap_or_else(|| default_memory(&host::memory()));
    // Dropped, and so removed, on every way out.
    let private = args
        .no_store
        .then(PrivateStore::create)
        .transpose()
        .map_err(|error| Failure::with_remedy("make a store", error))?;
    // What the user has named must be right even if the program does not get as far as using it.
    let named_store = args.store.as_deref().map(Store::check_place).transpose();
    named_store.map_err(|error| Failure::with_remedy("use the store", error))?;
    let tty = if args.tty { Tty::Granted } else { Tty::Withheld };
    let env = environment(std::env::vars_os(), &args.env, memory_bytes);
    let program = match root {
        None if from.is_none() => search::on_host(&named)?,
        // The tree is looked into when it is open, and a snapshot knows its program.
        _ => PathBuf::from(&named),
    };
    // Dropped, and so removed, on every way out.
    let tmp = private_tmp(root.is_some(), &grants, memory_bytes, args.detach_children)?;
    let own_store = private.as_ref().map(|store| store.path().to_owned());
    let own_tmp = tmp.as_ref().and_then(|tmp| tmp.removed_at_end().map(Path::to_owned));
    let own_folder = listener.as_ref().and_then(|at| at.folder()).map(Path::to_owned);
    let removed = own_store.into_iter().chain(own_tmp).chain(own_folder).collect();
    let disk = args.disk.map(DiskLimit::new).transpose().map(|disk| disk.map(Arc::new));
    let disk = disk.map_err(|error| Failure::new("prepare the limit of --disk", error))?;
    let at_ready = args.snapshot_at_ready.map(|name| snapshots::at_ready(name, args.store.clone()));
    let at_ready = at_ready.transpose()?;
    let limits = (args.processes, args.open_files.unwrap_or(u64::MAX));
    let new_tree = || Tree::new(limits, args.detach_children, tmp.as_deref());
    let tree = (args.processes > 1 || args.open_files.is_some()).then(new_tree);
    let tree = tree.transpose().map_err(|error| Failure::new("prepare for processes", error))?;
    if let (Some(tree), Some(seconds)) = (&tree, args.cpu_time) {
        tree.shared.registry().limit_processor_time(seconds);
    }
    let config = RunConfig {
        command: Command {
            program: program.clone(),
            argv0: Some(named.into_encoded_bytes()),
            args: command,
        },
        env,
        memory_bytes,
        limits: limits_of(args.cpu_time, args.file_size),
        grants,
        root,
        tmp: tmp.clone(),
        libraries: if args.no_libs { Libraries::Withheld } else { Libraries::Shown },
        net,
        cwd: args.cwd,
        store: private.as_ref().map(|store| store.path().to_owned()).or(args.store),
        vases: VasGrants::of(args.vas),
        tty,
        umask: take_over_umask(),
        stdio: stdio()?,
        tracer,
        profiler: profiles.profiler.clone(),
        core: core.map(Arc::new),
        backtraces: args.backtrace == Backtrace::All,
        disk: disk.clone(),
        debug: Some(debugger),
        at_ready: at_ready.clone(),
        socket: listener.as_ref().and_then(|at| at.socket()).map(Path::to_owned),
        inherited,
        tree: tree.as_ref().map(|tree| tree.shared.clone()),
        confine: args.confine.into(),
        confine_files: Some(removed),
    };
    // Before any thread starts; the terminal is restored (dropped) while signals are still
    // blocked.
    let signals = if tree.is_some() { HostSignals::block_all() } else { HostSignals::block() };
    let signals = signals.map_err(|error| Failure::new("listen to signals", error))?;
    report_truncation().map_err(|error| Failure::new("listen to signals", error))?;
    let saved = terminal::Saved::now(tty);
    let control = vms::listen(args.name)?;
    let process = match from {
        None => Process::start(config),
        Some(from) => Process::start_from(config, from),
    };
    let process = process.map_err(|error| start_failure(&program, error))?;
    let options = Supervise {
        timeout: args.timeout,
        signals: Some(&signals),
        control: control.as_ref(),
        gdb: listener.as_ref(),
        ..Supervise::default()
    };
    if let Some(at) = &listener
        && args.gdb.is_some()
    {
        tell_where(at);
    }
    let Ended { process, name, outcome } = Process::run_programs(process, options);
    tree.into_iter().for_each(Tree::end);
    drop(saved);
    drop(signals);
    ending::tell(&name, &outcome, args.timeout);
    if let Some(at) = at_ready.filter(|at| !at.has_come()) {
        tracing::warn!("there is no snapshot '{}': the program has not called sj_ready", at.name());
    }
    let code = ending::exit_code(&outcome);
    if let (Some(format), Some(process)) = (stats_format, &process) {
        // The times first: examining the memory is not part of the run.
        let mut report = RunReport::new(&outcome, code, process.stats.snapshot());
        report.stats.memory_touched_bytes = process.machine.mem.resident_bytes();
        report.stats.memory_limit_bytes = Some(process.machine.mem.ledger().limit_bytes());
        report.stats.limits = Some(process.limits_report());
        report.stats.memory = process.machine.mem.ledger().report();
        report.stats.rss_peak_bytes = host::rss_peak_bytes();
        write_stats(&report, format, stats_file)?;
    }
    profiles.write(&program)?;
    // The kernel frees a VM at our exit anyway; tearing it down first would only take longer.
    std::mem::forget(process);
    log::tell_left_out();
    Ok(code)
}

/// Says that the program waits for gdb, before a signal ends it.
fn tell_crash(at: &str, signal: i32) {
    let signal = signal_name(u8::try_from(signal).unwrap_or(0));
    if json_lines::are_chosen() {
        tracing::warn!(at, "{signal}: waiting for gdb: target remote {at}");
    } else {
        // Without stderr, the user has named the place.
        let _ = writeln!(io::stderr(), "spacejmp: {signal}: waiting for gdb: target remote {at}");
    }
}

/// Says where gdb is to connect.
fn tell_where(at: &Listener) {
    if json_lines::are_chosen() {
        tracing::warn!(%at, "waiting for gdb: target remote {at}");
    } else {
        // Without stderr, the user has named the place.
        let _ = writeln!(io::stderr(), "spacejmp: waiting for gdb: target remote {at}");
    }
}

fn no_gdb(error: io::Error) -> Failure {
    Failure::new("listen for gdb (--gdb)", error)
}

/// The directories granted.
fn grants(args: &Args, program: &OsStr) -> Result<Vec<Grant>, Failure> {
    let parse = |text: &String| text.parse().map_err(|error| bad_grant(program, error));
    args.dir.iter().map(parse).collect()
}

pub(crate) fn bad_grant(program: &OsStr, error: GrantError) -> Failure {
    let help = Some(error.help().to_owned());
    Failure::new(format!("run {}", program.display()), error).help(help)
}

fn stdio() -> Result<[OwnedFd; 3], Failure> {
    let cannot = |error| Failure::new("duplicate standard streams", error);
    Ok([
        io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?,
        io::stdout().as_fd().try_clone_to_owned().map_err(cannot)?,
        io::stderr().as_fd().try_clone_to_owned().map_err(cannot)?,
    ])
}

/// Who writes the program's calls to `path`.
fn tracer(path: &PathBuf) -> Result<Arc<Tracer>, Failure> {
    if path == Path::new(STDERR) {
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        let cannot = |error| Failure::new("duplicate standard streams", error);
        return Ok(Tracer::new(File::from(stderr.map_err(cannot)?)));
    }
    create(path)?;
    let doing = || format!("write {}", path.display());
    let append = File::options().append(true).open(path);
    Ok(Tracer::new(append.map_err(|error| Failure::new(doing(), error))?))
}

fn create(path: &Path) -> Result<File, Failure> {
    let doing = || format!("create {}", path.display());
    File::create(path).map_err(|error| Failure::new(doing(), error))
}

fn write_stats(report: &RunReport, format: StatsFormat, file: Option<File>) -> Result<(), Failure> {
    let text = match format {
        StatsFormat::Table => report.table(),
        StatsFormat::Json => errors::json("print the statistics", report)?,
    };
    let written = match file {
        Some(mut file) => file.write_all(text.as_bytes()),
        None => io::stderr().write_all(text.as_bytes()),
    };
    written.map_err(|error| Failure::new("write the statistics", error))
}
