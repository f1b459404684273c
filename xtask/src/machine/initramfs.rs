//! What is inside a machine: busybox, KVM's modules, `resources/machines/init`, our static
//! programs and what the caller adds. Paths here are the ones `init` and the commands see.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::setup::Kit;
use super::{Kind, Machine};
use crate::workspace::{output_of, read};

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
    let stage =
        tempfile::tempdir_in(&kit.runs).context("cannot make a folder for the initramfs")?;
    let root = stage.path();
    for folder in ["bin", "dev", "proc", "sys", "tmp", "machine/modules"] {
        fs::create_dir_all(root.join(folder)).context("cannot make a folder of the initramfs")?;
    }
    fs::create_dir_all(inside(root, WORK)).context("cannot make a folder of the initramfs")?;
    copy(&kit.busybox, root, "/bin/busybox")?;
    let applets = output_of(Command::new(&kit.busybox).arg("--list"))?;
    for applet in applets.lines().filter(|&applet| applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), Permissions::from_mode(0o755))?;
    fs::write(root.join("machine/token"), format!("{token}\n"))?;
    fs::write(root.join("machine/expect"), expectations(machine.kind, machine.cpus))?;
    fs::write(root.join("machine/command"), script(command)?)?;
    add_modules(root, kit, machine.kind)?;
    for addition in &machine.additions {
        ensure!(
            !Path::new(&addition.guest).starts_with("/machine") && addition.guest != "/init",
            "{} is the machine's own",
            addition.guest
        );
        check_program(&addition.host)?;
        copy(&addition.host, root, &addition.guest)?;
    }
    pack(root)
}

/// Where the machine's absolute path `guest` is below `root`.
fn inside(root: &Path, guest: &str) -> PathBuf {
    root.join(guest.trim_matches('/'))
}

/// Copies a file or a whole folder of the host. Links inside a folder stay links.
fn copy(host: &Path, root: &Path, guest: &str) -> Result<()> {
    let shown = host.display();
    let metadata = fs::metadata(host).with_context(|| format!("cannot add {shown}"))?;
    ensure!(
        metadata.is_file() || metadata.is_dir(),
        "cannot add {shown}: neither a file nor a folder"
    );
    let to = inside(root, guest);
    fs::create_dir_all(to.parent().unwrap_or(root))
        .with_context(|| format!("cannot add {shown}"))?;
    let mut cp = Command::new("cp");
    cp.args(["-RHT", "--remove-destination", "--preserve=mode", "--"]);
    output_of(cp.arg(host).arg(to)).map(drop)
}

/// The archive of everything below `root`. It contains no dates, owners or inode numbers of the host,
/// so the same files make the same archive and a machine's run can be repeated exactly.
fn pack(root: &Path) -> Result<Vec<u8>> {
    const PACK: &str = "find . -mindepth 1 -type d -exec chmod 755 {} + &&
        find . -mindepth 1 -exec touch --no-dereference --date=@0 {} + &&
        find . -mindepth 1 -printf '%P\\0' | LC_ALL=C sort --zero-terminated |
        cpio --quiet --null --create --format=newc --reproducible --owner=+0:+0";
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", PACK]).current_dir(root).stdin(Stdio::null());
    let output = shell.output().context("cannot start bash")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot pack the initramfs: {}", said.trim_end());
    Ok(output.stdout)
}

fn add_modules(root: &Path, kit: &Kit, kind: Kind) -> Result<()> {
    let (module, parameters) = kind.module();
    let order = kit.modules.join(format!("{module}.order"));
    let mut lines = String::new();
    for name in read(&order)?.lines() {
        copy(&kit.modules.join(name), root, &format!("/machine/modules/{name}"))?;
        let parameters = if name == format!("{module}.ko") { parameters } else { "" };
        lines.push_str(&format!("{name} {parameters}\n"));
    }
    Ok(fs::write(root.join("machine/modules/order"), lines)?)
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
    if interpreter_is_needed(&data) == Some(true) {
        bail!(
            "cannot add {}: it is linked dynamically and the machines have no libraries (C: link \
             with -static; Rust: -C target-feature=+crt-static)",
            path.display()
        );
    }
    Ok(())
}

/// Whether a 64-bit ELF executable asks for a dynamic loader, which the machines do not
/// have; `None` for other files.
pub(crate) fn interpreter_is_needed(data: &[u8]) -> Option<bool> {
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, data).ok()?;
    Some(segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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

    #[test]
    fn this_test_program_needs_no_loader_and_a_text_is_no_program() {
        let ourselves = std::env::current_exe().and_then(fs::read).expect("our own file");
        assert_eq!(interpreter_is_needed(&ourselves), Some(false));
        assert_eq!(interpreter_is_needed(b"#!/bin/sh"), None);
    }

    #[test]
    fn what_is_neither_file_nor_folder_is_refused() {
        let refused = copy(Path::new("/dev/null"), Path::new("/nowhere"), "/null");
        assert!(refused.is_err_and(|error| error.to_string().contains("/dev/null")));
    }

    /// Whether there is no `cpio` here: said as the end-to-end tests say it, and listed with theirs.
    /// Where every test is to run, that is a failure.
    fn must_skip(test: &str) -> bool {
        if Command::new("cpio").arg("--version").output().is_ok() {
            return false;
        }
        let reason = "cpio is not installed (package cpio)";
        let required = std::env::var_os("SPACEJMP_REQUIRE_KVM").is_some();
        assert!(!required, "{test} cannot run: {reason}");
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
        let list = crate::workspace::Workspace::here().target().join("skipped-tests.txt");
        let file = fs::OpenOptions::new().create(true).append(true).open(&list);
        file.and_then(|mut file| writeln!(file, "{test}: {reason}")).expect("listed as skipped");
        true
    }

    #[test]
    fn a_folder_comes_with_its_links_and_rights_and_the_same_files_make_the_same_archive() {
        if must_skip("xtask: packing an initramfs") {
            return;
        }
        let host = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(host.path().join("inner")).expect("create a folder");
        fs::write(host.path().join("inner/x"), "data").expect("write a file");
        let rights = Permissions::from_mode(0o751);
        fs::set_permissions(host.path().join("inner/x"), rights).expect("chmod");
        symlink("inner/x", host.path().join("y")).expect("link");

        let archive = || {
            let root = tempfile::tempdir().expect("a temporary folder");
            copy(host.path(), root.path(), "/work/t").expect("readable files");
            pack(root.path()).expect("cpio packs it")
        };
        let first = archive();
        assert_eq!(first, archive());
        let text = String::from_utf8_lossy(&first);
        // Magic, inode number, mode, owner and group; the name ends the entry's head.
        let entries = text.split("070701").map(|entry| entry.split('\0').next().unwrap_or(""));
        let entries: Vec<_> = entries.filter(|entry| entry.len() > 104).collect();
        let found: Vec<_> = entries.iter().map(|entry| (&entry[8..32], &entry[104..])).collect();
        let expected = [
            ("000041ED0000000000000000", "work"),
            ("000041ED0000000000000000", "work/t"),
            ("000041ED0000000000000000", "work/t/inner"),
            ("000081E90000000000000000", "work/t/inner/x"),
            ("0000A1FF0000000000000000", "work/t/y"),
            ("000000000000000000000000", "TRAILER!!!"),
        ];
        assert_eq!(found, expected);
    }
}
