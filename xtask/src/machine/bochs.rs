//! The Intel machines: Bochs, its configuration and its disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::disk::{self, Parts};
use super::emulator::Lines;
use super::setup::{BOCHS_BIOS, BOCHS_VGABIOS, Kit};
use super::{Machine, command_line};

const CONFIGURATION: &str = include_str!("../../../resources/machines/bochsrc");
/// Emulated instructions a second of machine time. Close to the speed of Bochs on
/// ordinary computers, so that a second in the machine is close to a real one.
const IPS: u32 = 50_000_000;

/// Writes disk and configuration into `run` and returns the command that starts Bochs.
///
/// # Errors
/// When the initramfs does not fit into the memory or a file cannot be written.
pub(super) fn command(
    machine: &Machine,
    kit: &Kit,
    initramfs: &[u8],
    run: &Path,
    lines: &Lines,
) -> Result<Command> {
    let kernel = fs::read(&kit.kernel).context("cannot read the kernel")?;
    // Linux would measure the rate, which takes long and differs from run to run.
    let timer = format!("tsc_early_khz={}", IPS / 1000);
    let disk = disk::lay_out(&Parts {
        boot_sector: &kit.boot_sector()?,
        kernel: &kernel,
        initramfs,
        command_line: &command_line(machine, &timer),
        memory_mib: machine.memory.mib(),
    })?;
    let file = |name: &str| run.join(name).display().to_string();
    let configuration = fill(
        CONFIGURATION,
        &[
            ("cpus", machine.cpus.to_string()),
            ("ips", IPS.to_string()),
            ("memory", machine.memory.mib().to_string()),
            ("bios", BOCHS_BIOS.to_owned()),
            ("vgabios", BOCHS_VGABIOS.to_owned()),
            ("disk", file("disk")),
            ("cylinders", disk.cylinders.to_string()),
            ("console", lines.console.display().to_string()),
            ("output", lines.output.display().to_string()),
            ("log", file("log")),
        ],
    );
    let write = |name: &str, data: &[u8]| {
        fs::write(run.join(name), data).with_context(|| format!("cannot write {}", file(name)))
    };
    write("disk", &disk.bytes)?;
    write("bochsrc", configuration.as_bytes())?;
    // Debian's Bochs includes the debugger, which waits for a command before it starts.
    write("debugger", b"c\n")?;
    let mut command = Command::new("bochs");
    command
        .args(["-q", "-unlock", "-f"])
        .arg(run.join("bochsrc"))
        .arg("-rc")
        .arg(run.join("debugger"));
    Ok(command)
}

fn fill(template: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{name}}}"), value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_in_braces_is_known() {
        let names = [
            "cpus",
            "ips",
            "memory",
            "bios",
            "vgabios",
            "disk",
            "cylinders",
            "console",
            "output",
            "log",
        ];
        let filled = fill(CONFIGURATION, &names.map(|name| (name, "1".to_owned())));
        assert!(!filled.contains('{'), "{filled}");
        for name in names {
            assert!(CONFIGURATION.contains(&format!("{{{name}}}")), "{name} is not used");
        }
    }
}
