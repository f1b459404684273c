//! Reports how a program ended: the exit status, and a line for the user where the program itself
//! could not report the reason.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::time::Duration;

use vmm::cli::json_lines;
use vmm::exit_code::ExitCode;
use vmm::linux::signal::name::signal_name;
use vmm::process::Outcome;

use crate::errors::one_line;
use crate::style::{Colour, Look};

/// The exit status that reflects the outcome.
pub(crate) fn exit_code(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Exited(status) => ExitCode::Program(*status),
        Outcome::Killed { signal, .. } | Outcome::Interrupted { signal } => {
            ExitCode::Signal(*signal)
        }
        Outcome::TimedOut => ExitCode::TimedOut,
        Outcome::OutOfMemory { .. } => ExitCode::OutOfMemory,
        Outcome::HostFailed(_) => ExitCode::OwnFailure,
    }
}

/// Reports on stderr how `program` ended, when it did not exit on its own.
pub(crate) fn tell(program: &str, outcome: &Outcome, timeout: Option<Duration>) {
    if json_lines::are_chosen() {
        let text = text(program, outcome, timeout, Colour::Plain);
        if let Some(text) = text.strip_prefix("spacejmp: ") {
            json_lines::tell_error(
                text.trim_end(),
                [("status", exit_code(outcome).status().into())],
            );
        }
        return;
    }
    let stderr = io::stderr();
    let text = text(program, outcome, timeout, Colour::of(&stderr));
    // When stderr is closed, only the exit status remains.
    let _ = stderr.lock().write_all(text.as_bytes());
}

fn text(program: &str, outcome: &Outcome, timeout: Option<Duration>, colour: Colour) -> String {
    let us = colour.paint(Look::Bad, "spacejmp:");
    let program = one_line(program);
    match outcome {
        // The program reported the reason itself, or the user at the terminal knows it.
        Outcome::Exited(_) | Outcome::Interrupted { .. } => String::new(),
        // A reader that has gone away is normal in a pipeline.
        Outcome::Killed { signal, report } if *signal == 13 && report.is_empty() => String::new(),
        Outcome::Killed { signal, report } if report.is_empty() => {
            format!("{us} {program} was ended by {}\n", signal_name(*signal))
        }
        Outcome::Killed { report, .. } => format!("{us} {report}"),
        Outcome::TimedOut => {
            let limit = timeout.map(|time| format!(" {} s", time.as_secs_f64()));
            format!("{us} {program} was ended: --timeout{} ran out\n", limit.unwrap_or_default())
        }
        Outcome::OutOfMemory { limit_bytes } => format!(
            "{us} {program} was ended: it needed more than the {} MiB of memory it may use\n  {} \
             give it more with --memory\n",
            limit_bytes >> 20,
            colour.paint(Look::Good, "help:")
        ),
        Outcome::HostFailed(what) => {
            format!("{us} the virtual machine failed: {}\n", what.trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Colour, Duration, Outcome, exit_code, text};

    fn plain(outcome: &Outcome) -> String {
        text("demo", outcome, Some(Duration::from_millis(2500)), Colour::Plain)
    }

    #[test]
    fn an_end_by_the_programs_or_the_users_will_needs_no_words() {
        assert_eq!(plain(&Outcome::Exited(3)), "");
        assert_eq!(plain(&Outcome::Interrupted { signal: 2 }), "");
        assert_eq!(plain(&Outcome::Killed { signal: 13, report: String::new() }), "");
    }

    #[test]
    fn other_ends_are_told_with_name_and_reason() {
        let aborted = Outcome::Killed { signal: 6, report: String::new() };
        assert_eq!(plain(&aborted), "spacejmp: demo was ended by SIGABRT\n");
        assert_eq!(
            plain(&Outcome::TimedOut),
            "spacejmp: demo was ended: --timeout 2.5 s ran out\n"
        );
        let memory = plain(&Outcome::OutOfMemory { limit_bytes: 64 << 20 });
        assert!(memory.contains("64 MiB") && memory.contains("--memory"), "{memory}");
    }

    #[test]
    fn every_end_has_its_documented_status() {
        assert_eq!(exit_code(&Outcome::Exited(3)).status(), 3);
        assert_eq!(exit_code(&Outcome::Interrupted { signal: 2 }).status(), 130);
        assert_eq!(exit_code(&Outcome::Interrupted { signal: 15 }).status(), 143);
        assert_eq!(exit_code(&Outcome::Killed { signal: 11, report: String::new() }).status(), 139);
        assert_eq!(exit_code(&Outcome::TimedOut).status(), 124);
        assert_eq!(exit_code(&Outcome::OutOfMemory { limit_bytes: 0 }).status(), 137);
        assert_eq!(exit_code(&Outcome::HostFailed(String::new())).status(), 125);
    }
}
