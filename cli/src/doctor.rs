//! `spacejmp doctor`: can this host run VMs, how, and what to do if not. With a program: what that
//! needs (`doctor_program`).

use std::ffi::OsString;

use vmm::exit_code::ExitCode;
use vmm::host::{Check, HostReport, Level, checks, probe};

use crate::doctor_program;
use crate::errors::{self, Failure};
use crate::run_options::{EnvOption, parse_env};
use crate::style::{Colour, Look};

/// Say whether and how this machine can run VMs, with a remedy for each problem
///
/// With a PROGRAM: say what that needs (interpreter, libraries, options, calls that are not served),
/// without running it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp doctor                   a report for people
  spacejmp doctor --json            one JSON object; what is unknown is null
  spacejmp doctor > /dev/null && echo VMs can run here
  spacejmp doctor sqlite3           what that program needs, before it is run
  spacejmp doctor --root ./debian /usr/bin/samtools

Exit status: 0 if VMs can run here, 125 if not. With a program: 0 if it has all it needs to start, 126
if not, 127 if there is no such program.")]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// A directory of the host that the program is given, as for `run`
    #[arg(long, value_name = "HOST[:GUEST][:ro|:rw]", requires = "program")]
    pub(crate) dir: Vec<String>,
    /// The tree in which the program lives, as for `run`
    #[arg(long, value_name = "DIR[:ro|:rw]", requires = "program")]
    pub(crate) root: Option<String>,
    /// The host's libraries are not shown, as for `run`
    #[arg(long, conflicts_with = "root", requires = "program")]
    pub(crate) no_libs: bool,
    /// An environment variable, as for `run`: LD_LIBRARY_PATH decides where libraries are found
    #[arg(long, value_name = "K[=V]", value_parser = parse_env, requires = "program")]
    pub(crate) env: Vec<EnvOption>,
    /// The program; a name without a slash is looked up in PATH
    #[arg(value_name = "PROGRAM")]
    program: Option<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if let Some(program) = &args.program {
        return doctor_program::run(args, program, args.json);
    }
    let mut report = probe();
    if report.can_run {
        report.kvm.debug_registers = vmm::kernel::has_processor_points();
    }
    let written = errors::output(args.json, &report, |colour| render(&report, colour))?;
    Ok(if report.can_run { written } else { ExitCode::OwnFailure })
}

fn render(report: &HostReport, colour: Colour) -> String {
    let mut text: String = checks(report).iter().map(|check| line(check, colour)).collect();
    text += &format!("\n{}\n", colour.paint(Look::Bold, &report.summary));
    text
}

pub(crate) fn line(check: &Check, colour: Colour) -> String {
    let (look, word) = match check.level {
        Level::Ok => (Look::Good, "ok"),
        Level::Note => (Look::Warn, "note"),
        Level::Problem => (Look::Bad, "problem"),
    };
    let level = colour.paint(look, &format!("{word:<8}"));
    let mut text = format!("{level}{:<19}{}\n", check.subject, check.found);
    for remedy in check.remedy.iter().flat_map(|remedy| remedy.lines()) {
        text += &format!("{:27}{} {remedy}\n", "", colour.paint(Look::Dim, "->"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Check, Colour, Level, checks, line, probe, render};
    use vmm::error::Remedy;
    use vmm::host::{NoDevice, Problem};

    #[test]
    fn a_line_has_level_subject_finding_and_remedy() {
        let problem = Problem::NoDevice(NoDevice::NotPassedToContainer);
        let check = Check {
            level: Level::Problem,
            subject: "/dev/kvm",
            found: problem.to_string(),
            remedy: problem.remedy(),
        };
        let text = line(&check, Colour::Plain);
        let (first, second) = text.split_once('\n').unwrap();
        assert!(first.starts_with("problem /dev/kvm "), "{first}");
        assert!(second.trim_start().starts_with("-> ") && second.contains("--device"), "{second}");
    }

    #[test]
    fn the_report_of_this_host_has_every_check_and_ends_with_the_summary() {
        let report = probe();
        let text = render(&report, Colour::Plain);
        assert!(text.ends_with(&format!("\n\n{}\n", report.summary)));
        for check in checks(&report) {
            assert!(text.contains(&check.found), "{}", check.subject);
        }
        assert!(text.is_ascii() && !text.contains('\x1b'));
    }
}
