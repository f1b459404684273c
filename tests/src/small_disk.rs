//! A disk that fills up quickly: a small file system that only one command and its children see.

use std::path::Path;
use std::process::{Command, Output};

use crate::kvm;

/// Runs a command with a file system of 12 MiB at `folder`. Where none can be mounted, returns
/// `None` and reports `test` as skipped.
///
/// # Panics
/// When the command does not start.
#[must_use]
pub fn run(test: &str, folder: &Path, command: &Command) -> Option<Output> {
    let small = |command: &Command| {
        let mut private = Command::new("unshare");
        private.args(["--mount", "sh", "-c"]);
        private.arg("mount -t tmpfs -o size=12m tmpfs \"$0\" && exec \"$@\"").arg(folder);
        private.arg(command.get_program()).args(command.get_args());
        private.output()
    };
    let possible = small(&Command::new("true"));
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        kvm::skip(test, &format!("cannot mount a small file system: {possible:?}"));
        return None;
    }
    Some(small(command).expect("it starts"))
}
