//! Emulated machines with their own KVM: the kinds, and running a command in one. The
//! recipes are in `resources/machines/`, whose README.md describes the machines for their
//! users.

mod args;
mod bochs;
mod disk;
mod emulator;
mod initramfs;
mod qemu;
pub(crate) mod setup;
mod transcript;

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;

pub(crate) use self::args::MachineArgs;
use self::emulator::{Arrival, End, Lines, Next};
pub(crate) use self::initramfs::{Addition, interpreter_is_needed};
use self::transcript::{Event, Transcript};
use crate::workspace::Workspace;

const INITCALL_BLACKLIST: &str = include_str!("../../../resources/machines/initcall_blacklist");
/// Number of console lines shown when a machine fails.
const LAST_WORDS: usize = 3000;

/// What translates the addresses of guests in the machine, and what its CPU offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Intel, EPT, PCID and INVPCID offered to guests
    Intel,
    /// Intel, EPT, neither PCID nor INVPCID
    IntelNopcid,
    /// Intel without EPT: KVM makes shadow page tables; PCID and INVPCID are offered
    IntelShadow,
    /// AMD, nested page tables, no PCID
    Amd,
}

/// All kinds.
#[cfg(test)]
pub(crate) const KINDS: &[Kind] = &[Kind::Intel, Kind::IntelNopcid, Kind::IntelShadow, Kind::Amd];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emulator {
    Bochs,
    Qemu,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Kind {
    fn emulator(self) -> Emulator {
        match self {
            Self::Intel | Self::IntelNopcid | Self::IntelShadow => Emulator::Bochs,
            Self::Amd => Emulator::Qemu,
        }
    }

    /// The KVM module and its parameters.
    fn module(self) -> (&'static str, &'static str) {
        match self {
            Self::Intel | Self::IntelNopcid => ("kvm_intel", ""),
            Self::IntelShadow => ("kvm_intel", "ept=0"),
            Self::Amd => ("kvm_amd", ""),
        }
    }

    /// The most memory the emulator can give to the machine.
    fn most_memory(self) -> Memory {
        match self.emulator() {
            Emulator::Bochs => Memory(2048),
            Emulator::Qemu => Memory(Memory::MOST_MIB),
        }
    }

    /// Parameters on the kernel command line that make the machine's Linux this kind.
    fn kernel_words(self) -> &'static str {
        match self {
            Self::IntelNopcid => "nopcid noinvpcid",
            Self::Intel | Self::IntelShadow | Self::Amd => "",
        }
    }
}

/// Memory of a machine: whole MiB, at least what Linux and its initramfs need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory(u32);

impl Memory {
    /// Enough for Linux, the files of an ordinary run and a guest of ours.
    pub(crate) const DEFAULT: Self = Self(512);
    /// For many programs and guests that use much: half of it is for files, of which all tests are 750 MiB. No kind
    /// of machine has less.
    pub(crate) const LARGE: Self = Self(2048);
    const LEAST_MIB: u32 = 128;
    const MOST_MIB: u32 = 64 << 10;

    /// Parses a number with the suffix M or G.
    ///
    /// # Errors
    /// For other texts, and for sizes no machine can have.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (digits, scale) = match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1),
            None => {
                (text.strip_suffix(['G', 'g']).context("expected a size such as 512M or 2G")?, 1024)
            }
        };
        let number: u32 = digits.parse().context("expected a size such as 512M or 2G")?;
        let mib = number
            .checked_mul(scale)
            .filter(|mib| (Self::LEAST_MIB..=Self::MOST_MIB).contains(mib));
        mib.map(Self)
            .with_context(|| format!("a machine has {}M to {}M", Self::LEAST_MIB, Self::MOST_MIB))
    }

    fn mib(self) -> u32 {
        self.0
    }
}

/// A machine to boot for one command.
pub(crate) struct Machine {
    pub(crate) kind: Kind,
    pub(crate) cpus: u8,
    pub(crate) memory: Memory,
    /// From the start of the emulator.
    pub(crate) timeout: Duration,
    pub(crate) additions: Vec<Addition>,
    /// Further parameters for the machine's kernel command line.
    pub(crate) append: String,
    /// Whether the machine's console is shown on stderr.
    pub(crate) verbose: bool,
}

/// How a command in a machine ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// By itself, with this status (128 + the signal's number if by a signal).
    Exited {
        status: u8,
        /// From the start of the emulator to the start of the command.
        booted: Duration,
        /// From the start of the emulator to the end of the command.
        ended: Duration,
    },
    TimedOut {
        after: Duration,
        started: bool,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status, booted, ended } => {
                let (booted, ended) = (booted.as_secs_f64(), ended.as_secs_f64());
                write!(f, "status {status}, started after {booted:.1} s, ended after {ended:.1} s")
            }
            Self::TimedOut { after, started } => {
                let what =
                    if *started { "the command has not ended" } else { "no command started" };
                write!(f, "{what} within {} s", after.as_secs())
            }
        }
    }
}

impl Machine {
    /// Boots the machine, runs `command` in it and writes its stdout and stderr to `to`
    /// as they arrive. The emulator has ended when this returns.
    ///
    /// # Errors
    /// When the machine cannot be set up, does not boot or does not match its kind; never
    /// because of the command's result.
    pub(crate) fn run(
        &self,
        workspace: &Workspace,
        command: &[String],
        to: &mut dyn Write,
    ) -> Result<Outcome> {
        let most = self.kind.most_memory().mib();
        ensure!(self.memory.mib() <= most, "the {} machine has at most {most}M", self.kind);
        let kit = setup::kit(workspace, self.kind.emulator())?;
        let run =
            tempfile::tempdir_in(&kit.runs).context("cannot make a folder for the machine")?;
        let lines = Lines::create(run.path())?;
        let token = token(command);
        let initramfs = initramfs::build(self, &kit, command, &token)?;
        let emulator = match self.kind.emulator() {
            Emulator::Bochs => bochs::command(self, &kit, &initramfs, run.path(), &lines)?,
            Emulator::Qemu => qemu::command(self, &kit, &initramfs, run.path(), &lines)?,
        };

        let start = Instant::now();
        let mut transcript = Transcript::new(&token);
        let mut console = Vec::new();
        let mut booted = None;
        let mut status = None;
        let end = emulator::run(&emulator, run.path(), &lines, start + self.timeout, |arrival| {
            let bytes = match arrival {
                Arrival::Output(bytes) => bytes,
                Arrival::Console(bytes) => {
                    if self.verbose {
                        io::stderr().write_all(&bytes).context("cannot write to stderr")?;
                    }
                    console.extend(bytes);
                    return Ok(Next::Wait);
                }
            };
            for event in transcript.feed(&bytes)? {
                match event {
                    Event::Started => booted = Some(start.elapsed()),
                    Event::Output(bytes) => {
                        to.write_all(&bytes)
                            .and_then(|()| to.flush())
                            .context("cannot write output")?;
                    }
                    Event::Exited(code) => status = Some(code),
                    Event::Failed(reason) => bail!("the machine cannot run the command: {reason}"),
                }
            }
            Ok(if status.is_some() { Next::Stop } else { Next::Wait })
        });
        let end =
            end.map_err(|error| anyhow!("{error:#}\n{}", last_words(&console, run.path())))?;

        match (end, status, booted) {
            (End::Stopped | End::Gone, Some(status), Some(booted)) => {
                let outcome = Outcome::Exited { status, booted, ended: start.elapsed() };
                if self.verbose {
                    eprintln!("machine: {outcome}");
                }
                Ok(outcome)
            }
            (End::TimeIsUp, ..) => {
                if booted.is_none() {
                    eprintln!("{}", last_words(&console, run.path()));
                }
                Ok(Outcome::TimedOut { after: self.timeout, started: booted.is_some() })
            }
            _ => bail!(
                "the machine stopped before its command ended\n{}",
                last_words(&console, run.path())
            ),
        }
    }
}

/// The last output of a machine and its emulator, for finding the cause of a failure.
fn last_words(console: &[u8], run: &std::path::Path) -> String {
    let emulator = std::fs::read(run.join("emulator.out")).unwrap_or_default();
    let end = |bytes: &[u8]| {
        let from = bytes.len().saturating_sub(LAST_WORDS);
        String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
    };
    format!(
        "-- end of its console:\n{}\n-- end of the emulator's output:\n{}",
        end(console),
        end(&emulator)
    )
}

/// Marks the lines that are not output of the command. Made from the command so that it is
/// not in it, and the same in every run: the same machine and command run the same way.
fn token(command: &[String]) -> String {
    let mut hasher = DefaultHasher::new();
    command.hash(&mut hasher);
    format!("MACHINE-{:016x}", hasher.finish())
}

/// The kernel command line. `extra` is what only one emulator needs.
fn command_line(machine: &Machine, extra: &str) -> String {
    let blacklist: Vec<&str> = INITCALL_BLACKLIST
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let blacklist = format!("initcall_blacklist={}", blacklist.join(","));
    let words = [
        "console=ttyS0,115200",
        if machine.verbose { "" } else { "quiet" },
        // Reboot, which ends the emulator, as soon as Linux gives up.
        "panic=-1",
        "nokaslr mitigations=off tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests",
        &blacklist,
        machine.kind.kernel_words(),
        extra,
        &machine.append,
    ];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Builds `spacejmp` in the release profile.
///
/// # Errors
/// When it does not build.
pub(crate) fn build_spacejmp(workspace: &Workspace) -> Result<()> {
    workspace.build_command()
}

/// The release build of `spacejmp` where machines have it.
pub(crate) fn spacejmp(workspace: &Workspace) -> Addition {
    Addition::new(workspace.spacejmp(), "/bin/spacejmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_are_numbers_with_a_unit() {
        assert_eq!(Memory::parse("512M").expect("a size").mib(), 512);
        assert_eq!(Memory::parse("2g").expect("a size").mib(), 2048);
        for text in ["512", "M", "-1M", "64M", "65G", "4194304G", "1.5G", ""] {
            assert!(Memory::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn the_kernel_command_line_fits_what_linux_takes() {
        let machine = Machine {
            kind: Kind::IntelNopcid,
            cpus: 1,
            memory: Memory(512),
            timeout: Duration::ZERO,
            additions: Vec::new(),
            append: "loglevel=7".to_owned(),
            verbose: false,
        };
        let line = command_line(&machine, "tsc_early_khz=50000");
        assert!(line.len() < 2048, "{} bytes", line.len());
        assert!(line.contains("initcall_blacklist=load_system_certificate_list,init_encrypted,"));
        assert!(line.ends_with("nopcid noinvpcid tsc_early_khz=50000 loglevel=7"));
        assert!(!line.contains('#') && !line.contains('\n'));
    }
}
