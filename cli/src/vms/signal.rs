//! `spacejmp stop` and `spacejmp kill`: signals to a running VM.
#![forbid(unsafe_code)]

use std::time::Duration;

use rustix::process::Signal;
use vmm::control::{Vm, VmRef};
use vmm::exit_code::ExitCode;
use vmm::linux::signal::name::signal_number;

use super::{STATUS_HELP, failed};
use crate::errors::Failure;
use crate::run_options::parse_timeout;

/// How long a VM may take to end after SIGKILL: the host takes its memory back.
const AFTER_KILL: Duration = Duration::from_secs(60);

/// End a running VM: ask its program, and kill it if it takes too long
///
/// It gets SIGTERM, and SIGCONT in case that it is stopped, and SIGKILL after the time-out. Neither loses anything that was committed. Returns when it
/// has ended.
#[derive(Debug, clap::Args)]
#[command(after_help = stop_examples())]
pub(crate) struct StopArgs {
    /// Numbers of processes, or names given by `run --name`
    #[arg(required = true)]
    vm: Vec<VmRef>,
    /// How long the program may take
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout, default_value = "10")]
    timeout: Duration,
}

fn stop_examples() -> String {
    format!("Examples:\n  spacejmp stop web\n  spacejmp stop --timeout 60 4711\n\n{STATUS_HELP}")
}

/// Send a running VM a signal
///
/// The program gets it if it has a handler; without one the signal does what it does to any program.
#[derive(Debug, clap::Args)]
#[command(after_help = kill_examples())]
pub(crate) struct KillArgs {
    /// Numbers of processes, or names given by `run --name`
    #[arg(required = true)]
    vm: Vec<VmRef>,
    /// The signal, by name or number
    #[arg(long, short, value_name = "SIGNAL", value_parser = parse_signal, default_value = "KILL")]
    signal: Signal,
}

fn kill_examples() -> String {
    format!("Examples:\n  spacejmp kill web\n  spacejmp kill --signal HUP 4711\n\n{STATUS_HELP}")
}

fn parse_signal(text: &str) -> Result<Signal, String> {
    let number = signal_number(text).and_then(Signal::from_named_raw);
    number.ok_or_else(|| {
        "give a signal's name or number, as in --signal HUP; `kill -l` lists them".to_owned()
    })
}

pub(crate) fn stop(args: StopArgs) -> Result<ExitCode, Failure> {
    // All are asked before any is waited for.
    let mut asked = Vec::new();
    for vm in args.vm {
        let doing = format!("stop VM {vm}");
        let process = Vm::find(vm).and_then(|vm| vm.process());
        let process = process.map_err(failed(doing.clone()))?;
        process.signal(Signal::TERM).map_err(failed(doing.clone()))?;
        // One that is stopped gets the other signal when it goes on; to one that runs this is none.
        process.signal(Signal::CONT).map_err(failed(doing.clone()))?;
        asked.push((doing, process));
    }
    for (doing, process) in asked {
        let wait = |limit| process.wait(limit);
        if wait(args.timeout).map_err(failed(doing.clone()))? {
            continue;
        }
        // It may have ended by now.
        let _ = process.signal(Signal::KILL);
        if !wait(AFTER_KILL).map_err(failed(doing.clone()))? {
            return Err(Failure::new(doing, Stuck));
        }
    }
    Ok(ExitCode::Program(0))
}

/// The host does not let it end.
#[derive(Debug, thiserror::Error)]
#[error("it has not ended a minute after SIGKILL: it waits for a device of the host")]
struct Stuck;

pub(crate) fn kill(args: KillArgs) -> Result<ExitCode, Failure> {
    for vm in args.vm {
        let doing = format!("send VM {vm} a signal");
        let sent = Vm::find(vm).and_then(|vm| vm.process()).and_then(|one| one.signal(args.signal));
        sent.map_err(failed(doing))?;
    }
    Ok(ExitCode::Program(0))
}
