//! Points of a program that a tracer of its VMM recognises: a rare call, which the VMM passes on to
//! the host.

use std::io::{Read, Write};

use rustix::process::getpriority_process;

/// Says that the program is ready, and waits for a byte, or for the end of standard input.
pub(super) fn ready() -> Result<(), String> {
    println!("ready");
    std::io::stdout().flush().map_err(|err| err.to_string())?;
    // Whatever comes: the tracer is there.
    std::io::stdin().read(&mut [0]).map(drop).map_err(|err| err.to_string())
}

/// Marks this point.
pub(super) fn mark() -> Result<(), String> {
    getpriority_process(None).map(drop).map_err(|err| format!("getpriority: {err}"))
}
