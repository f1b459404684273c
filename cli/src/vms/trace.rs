//! `spacejmp trace`: the calls of a running VM.
#![forbid(unsafe_code)]

use std::io::{self, Read};

use vmm::control::{Vm, VmRef};
use vmm::exit_code::ExitCode;

use super::{STATUS_HELP, failed};
use crate::errors::{self, Failure};

/// Print the calls that the program of a running VM makes, until it ends or Ctrl-C
///
/// Lines as `run --strace` writes them. The program does not wait for who reads them: lines that come faster are
/// left out, and it is said how many. Switches between address spaces that the guest kernel makes by itself are not
/// seen, nor calls that the vDSO answers; other processes of the run are VMs of their own.
#[derive(Debug, clap::Args)]
#[command(after_help = examples())]
pub(crate) struct Args {
    /// The number of its process, or the name given by `run --name`
    vm: VmRef,
}

fn examples() -> String {
    format!("Examples:\n  spacejmp trace web\n  spacejmp trace 4711 > calls\n\n{STATUS_HELP}")
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let doing = || format!("trace VM {}", args.vm);
    let mut calls = Vm::find(args.vm.clone()).and_then(|vm| vm.trace()).map_err(failed(doing()))?;
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = match calls.read(&mut bytes) {
            Ok(0) => return Ok(ExitCode::Program(0)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // It was killed, with lines on their way.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(ExitCode::Program(0));
            }
            Err(error) => return Err(Failure::new(doing(), error)),
        };
        let line = bytes.get(..read).unwrap_or_default();
        let written = errors::write_all(&mut io::stdout().lock(), line)?;
        if written != ExitCode::Program(0) {
            return Ok(written);
        }
    }
}
