//! What is inside a machine: busybox, KVM's modules, `resources/machines/init`, our static
//! programs and what the caller adds. Paths here are the ones `init` and the commands see.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::cpio::Archive;
use super::modules;
use super::setup::Kit;
use super::{Kind, Machine};
use crate::workspace::output_of;

const INIT: &str = include_str!("../../../resources/machines/init");
/// Where commands start and where added files go; on their PATH, after /bin.
const WORK: &str = "/work";

/// A file or folder of the host to copy into the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    host: PathBuf,
    guest: String,
}

impl Addition {
    /// Parses `HOSTPATH[:GUESTPATH]`; without a guest path, the same name in `/work`.
    ///
    /// # Errors
    /// When the host path has no file name.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some((host, guest)) =
            text.rsplit_once(':').filter(|(_, guest)| guest.starts_with('/'))
        {
            return Ok(Self { host: host.into(), guest: guest.to_owned() });
        }
        let host = PathBuf::from(text);
        let name = host.file_name().and_then(|name| name.to_str());
        let name =
            name.with_context(|| format!("{text} has no file name: give one, {text}:/work/NAME"))?;
        Ok(Self { guest: format!("{WORK}/{name}"), host })
    }

    /// An addition with both paths given.
    pub(crate) fn new(host: impl Into<PathBuf>, guest: impl Into<String>) -> Self {
        Self { host: host.into(), guest: guest.into() }
    }
}

/// The initramfs for one run of `command`; `token` marks the lines `init` sends.
///
/// # Errors
/// When a file cannot be read, or a program could not run in the machine.
pub(super) fn build(
    machine: &Machine,
    kit: &Kit,
    command: &[String],
    token: &str,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["/dev", "/proc", "/sys", "/tmp", WORK] {
        archive.folder(folder);
    }
    let busybox = fs::read(&kit.busybox).context("cannot read busybox")?;
    archive.file("/bin/busybox", 0o755, busybox);
    let applets = output_of(std::process::Command::new(&kit.busybox).arg("--list"))?;
    for applet in applets.lines().filter(|&applet| applet != "busybox") {
        archive.link(&format!("/bin/{applet}"), "busybox");
    }
    archive.file("/init", 0o755, INIT);
    archive.file("/machine/token", 0o644, format!("{token}\n"));
    archive.file("/machine/expect", 0o644, expectations(machine.kind, machine.cpus));
    archive.file("/machine/command", 0o644, script(command)?);
    add_modules(&mut archive, kit, machine.kind)?;
    for addition in &machine.additions {
        ensure!(
            !Path::new(&addition.guest).starts_with("/machine") && addition.guest != "/init",
            "{} is the machine's own",
            addition.guest
        );
        check_program(&addition.host)?;
        archive.host_tree(&addition.host, &addition.guest)?;
    }
    archive.into_bytes()
}

fn add_modules(archive: &mut Archive, kit: &Kit, kind: Kind) -> Result<()> {
    let (module, parameters) = kind.module();
    let file = kit.modules.join(format!("{module}.order"));
    let order =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut lines = String::new();
    for name in order.lines() {
        archive.host_tree(&kit.modules.join(name), &format!("/machine/modules/{name}"))?;
        let parameters = if name == format!("{module}.ko") { parameters } else { "" };
        lines.push_str(&format!("{name} {parameters}\n"));
    }
    archive.file("/machine/modules/order", 0o644, lines);
    Ok(())
}

/// What `init` must verify before it starts the command, one fact per line.
fn expectations(kind: Kind, cpus: u8) -> String {
    let facts = match kind {
        Kind::Intel => [
            "parameter kvm_intel/parameters/ept Y",
            "parameter kvm_intel/parameters/vpid Y",
            "flag pcid present",
            "flag invpcid present",
        ]
        .as_slice(),
        // KVM offers its guests no feature that Linux was told not to use.
        Kind::IntelNopcid => {
            &["parameter kvm_intel/parameters/ept Y", "flag pcid absent", "flag invpcid absent"]
        }
        // Without EPT, KVM itself provides PCID, when the CPU has it.
        Kind::IntelShadow => {
            &["parameter kvm_intel/parameters/ept N", "flag pcid present", "flag invpcid present"]
        }
        Kind::Amd => &["parameter kvm_amd/parameters/npt Y", "flag pcid absent"],
    };
    format!("{}\ncpus online {cpus}\n", facts.join("\n"))
}

/// A shell script that executes `command` with its words unchanged.
fn script(command: &[String]) -> Result<String> {
    ensure!(!command.is_empty(), "no command to run");
    let words: Vec<String> =
        command.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    Ok(format!("exec {}\n", words.join(" ")))
}

/// Programs that need a loader would fail in the machine with a misleading "not found".
fn check_program(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let data = fs::read(path).with_context(|| format!("cannot add {}", path.display()))?;
    if modules::interpreter_is_needed(&data) == Some(true) {
        bail!(
            "cannot add {}: it is linked dynamically and the machines have no libraries (C: link \
             with -static; Rust: -C target-feature=+crt-static)",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_command_reach_it_as_they_are() {
        let words = ["sh", "-c", "echo 'a  b' \"$0\"; exit 7", ""].map(str::to_owned);
        let script = script(&words).expect("a command");
        assert_eq!(script, "exec 'sh' '-c' 'echo '\\''a  b'\\'' \"$0\"; exit 7' ''\n");
    }

    #[test]
    fn an_addition_goes_to_work_unless_it_says_where() {
        let parse = |text| Addition::parse(text).expect("a good addition");
        assert_eq!(parse("target/release/mp"), Addition::new("target/release/mp", "/work/mp"));
        assert_eq!(parse("a:b:/bin/x"), Addition::new("a:b", "/bin/x"));
        assert_eq!(parse("odd:name"), Addition::new("odd:name", "/work/odd:name"));
        assert!(Addition::parse("..").is_err());
    }

    #[test]
    fn a_machine_is_expected_to_be_what_it_is_called() {
        let expected = expectations(Kind::IntelNopcid, 2);
        assert!(expected.contains("flag pcid absent\n") && expected.ends_with("cpus online 2\n"));
    }
}
