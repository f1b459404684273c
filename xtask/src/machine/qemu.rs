//! The AMD machine: QEMU without acceleration, which emulates SVM with nested paging.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::emulator::Lines;
use super::setup::Kit;
use super::{Machine, command_line};

/// Writes the initramfs into `run` and returns the command that starts QEMU, which loads
/// kernel and initramfs by itself.
///
/// # Errors
/// When the initramfs cannot be written.
pub(super) fn command(
    machine: &Machine,
    kit: &Kit,
    initramfs: &[u8],
    run: &Path,
    lines: &Lines,
) -> Result<Command> {
    let initrd = run.join("initramfs");
    fs::write(&initrd, initramfs).with_context(|| format!("cannot write {}", initrd.display()))?;
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi", "-machine", "q35,hpet=off", "-cpu", "EPYC"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-smp", &machine.cpus.to_string()])
        .args(["-m", &format!("{}M", machine.memory.mib())])
        .arg("-kernel")
        .arg(&kit.kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &command_line(machine, "")]);
    for (name, path) in [("console", &lines.console), ("output", &lines.output)] {
        command.args(["-chardev", &format!("file,id={name},path={}", path.display())]);
        command.args(["-serial", &format!("chardev:{name}")]);
    }
    Ok(command)
}
