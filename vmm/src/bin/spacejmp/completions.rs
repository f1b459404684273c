//! `spacejmp completions`: a completion script for a shell.

use std::io;

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use vmm::exit_code::ExitCode;

use crate::Cli;
use crate::errors::{self, Failure};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp completions bash > ~/.local/share/bash-completion/completions/spacejmp
  spacejmp completions zsh > ~/.zfunc/_spacejmp
  spacejmp completions fish > ~/.config/fish/completions/spacejmp.fish")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "spacejmp", &mut script);
    errors::write_all(&mut io::stdout(), &script)
}

#[cfg(test)]
mod tests {
    use super::{CommandFactory, Shell, generate};

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            generate(shell, &mut crate::Cli::command(), "spacejmp", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("doctor") && script.contains("completions"), "{shell}");
        }
    }
}
