//! `spacejmp completions`: a completion script for a shell. That of bash, zsh and fish asks the command for
//! names of what is in the store (`names`).

mod names;

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
pub(crate) use names::{Args as Names, run as print_names};
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
    errors::write_all(&mut io::stdout(), script(args.shell).as_bytes())
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "spacejmp", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + include_str!("names.bash"),
        Shell::Fish => script + include_str!("names.fish"),
        Shell::Zsh => {
            // The script ends by calling itself, which is for the first time that it is used.
            let names = include_str!("names.zsh");
            let mut script = script.replace(":_default'", ":_spacejmp_names'");
            // A colon ends what zsh shows of a value, and what follows would be its command.
            for name in value_names(&Cli::command()) {
                let plain = name.split([':', '[']).next().unwrap_or_default();
                script = script.replace(&format!(":{name}:"), &format!(":{plain}:"));
            }
            script.replacen("\n\n", &format!("\n{names}\n"), 1)
        }
        _ => script,
    }
}

/// What values are called, with a colon in it.
fn value_names(of: &Command) -> Vec<String> {
    let own = of.get_arguments().flat_map(|arg| arg.get_value_names().unwrap_or_default());
    let own = own.map(ToString::to_string).filter(|name| name.contains(':'));
    own.chain(of.get_subcommands().flat_map(value_names)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Shell, script};

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = script(shell);
            assert!(script.contains("doctor") && script.contains("completions"), "{shell}");
        }
    }

    #[test]
    fn what_values_are_called_has_no_colon_for_zsh() {
        let script = script(Shell::Zsh);
        assert!(script.contains("]:NAME:_spacejmp_names'") && !script.contains("[:ro]:"));
    }
}
