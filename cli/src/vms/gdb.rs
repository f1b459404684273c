//! `spacejmp gdb`: a debugger for a running VM.
//!
//! gdb starts this command again (`--pipe`), as the other end of its connection, and that one carries what both
//! say to each other through the VM's control socket: so the VM opens nothing for it.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use vmm::control::{Vm, VmRef};
use vmm::exit_code::ExitCode;

use super::{STATUS_HELP, failed};
use crate::errors::{self, Failure};

/// Debug the program of a running VM with gdb
///
/// It stands as soon as gdb is there, and goes on with `detach`, or when gdb ends. Without gdb in PATH, the line is
/// printed by which one connects.
#[derive(Debug, clap::Args)]
#[command(after_help = examples())]
pub(crate) struct Args {
    /// The number of its process, or the name given by `run --name`
    vm: VmRef,
    /// Only print the line by which gdb connects
    #[arg(long)]
    print: bool,
    /// Be the other end of gdb's connection, on standard input and output
    #[arg(long, conflicts_with_all = ["print", "gdb"])]
    pipe: bool,
    /// Arguments of gdb
    #[arg(last = true, value_name = "GDB ARGS")]
    gdb: Vec<OsString>,
}

fn examples() -> String {
    format!(
        "Examples:\n  spacejmp gdb web\n  spacejmp gdb 4711 -- -batch -ex 'thread apply all bt'\n  \
         gdb -ex \"$(spacejmp gdb --print web)\"\n\n{STATUS_HELP}"
    )
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let doing = || format!("debug VM {}", args.vm);
    let vm = Vm::find(args.vm.clone()).map_err(failed(doing()))?;
    if args.pipe {
        let stream = vm.gdb().map_err(failed(doing()))?;
        return carry(stream).map_err(|error| Failure::new(doing(), error));
    }
    let own = std::env::current_exe().map_err(|error| Failure::new(doing(), error))?;
    let own = own.to_string_lossy().replace('\'', "'\\''");
    let line = format!("target remote | '{own}' gdb --pipe {}", args.vm);
    if !args.print {
        let error = Command::new("gdb").arg("-ex").arg(&line).args(&args.gdb).exec();
        if error.kind() != io::ErrorKind::NotFound {
            return Err(Failure::new("start gdb", error));
        }
    }
    errors::write_all(&mut io::stdout().lock(), format!("{line}\n").as_bytes())
}

/// Carries what both sides say until one of them ends.
fn carry(stream: UnixStream) -> io::Result<ExitCode> {
    let to = stream.try_clone()?;
    // It ends with the process: gdb may say nothing more.
    std::thread::Builder::new().name("from gdb".to_owned()).spawn(move || {
        // What cannot be sent, nobody reads.
        let _ = pump(io::stdin(), &to);
        let _ = to.shutdown(Shutdown::Write);
    })?;
    pump(&stream, io::stdout())?;
    Ok(ExitCode::Program(0))
}

/// As `io::copy`, with nothing held back.
fn pump(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The VM has ended with something unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        to.write_all(bytes.get(..read).unwrap_or_default())?;
        to.flush()?;
    }
}
