//! `spacejmp man`: manual pages, one for each command, made of the same texts as `--help`. For packages, and for
//! whoever prefers `man`.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use vmm::exit_code::ExitCode;

use crate::Cli;
use crate::errors::{self, Failure};

/// Print or write manual pages
///
/// Without DIR, one page: that of `spacejmp`, or of the command that is named.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp man | man -l -
  spacejmp man vas clone | man -l -
  spacejmp man --out ~/.local/share/man/man1     one for each command; then: man spacejmp-vas-clone")]
pub(crate) struct Args {
    /// Of which command
    command: Vec<String>,
    /// Write the pages of all commands into DIR, which is made if it is not there
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out: Option<PathBuf>,
}

/// The page of a command could not be found.
#[derive(Debug, thiserror::Error)]
#[error("there is no command {0:?}")]
struct NoCommand(String);

/// A page could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display())]
struct Unwritten {
    path: PathBuf,
    source: io::Error,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let all = pages(&built());
    if let Some(dir) = &args.out {
        return write(dir, &all).map_err(|error| Failure::new("write the manual pages", error));
    }
    let name = [&["spacejmp".to_owned()], &args.command[..]].concat().join("-");
    let page = all.iter().find(|(of, _)| *of == name);
    let page = page.ok_or_else(|| {
        let failure = Failure::new("print a manual page", NoCommand(args.command.join(" ")));
        failure.help(Some("`spacejmp help` lists them".to_owned()))
    })?;
    errors::write_all(&mut io::stdout(), &page.1)
}

fn built() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The pages of a command and of all below it, by their names. `help` is left out: it is these texts again.
fn pages(of: &Command) -> Vec<(String, Vec<u8>)> {
    let name = of.get_display_name().unwrap_or_else(|| of.get_name()).to_owned();
    let mut page = Vec::new();
    // To memory, which takes it all.
    let _ = Man::new(of.clone()).title(name.to_uppercase()).render(&mut page);
    let below = of.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help");
    std::iter::once((name, page)).chain(below.flat_map(pages)).collect()
}

fn write(dir: &Path, pages: &[(String, Vec<u8>)]) -> Result<ExitCode, Unwritten> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Unwritten { path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    for (name, page) in pages {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(failed(&path))?;
    }
    Ok(ExitCode::Program(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_help_shows_has_a_page_with_its_options() {
        let pages = pages(&built());
        let of = |name: &str| {
            let page = pages.iter().find(|(of, _)| of == name);
            String::from_utf8_lossy(&page.unwrap_or_else(|| panic!("no {name}")).1).into_owned()
        };
        assert!(of("spacejmp-run").contains("\\-\\-memory"), "{}", of("spacejmp-run"));
        assert!(of("spacejmp-vas-clone").contains(".SH SYNOPSIS"));
        assert!(of("spacejmp").contains("spacejmp\\-doctor(1)"));
        assert!(pages.iter().all(|(name, page)| !name.contains("__") && page.starts_with(b".")));
        let mut names: Vec<_> = pages.iter().map(|(name, _)| name).collect();
        names.dedup();
        assert_eq!(names.len(), pages.len());
    }

    #[test]
    fn all_are_written_where_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("man1");
        write(&below, &pages(&built())).unwrap();
        assert!(below.join("spacejmp-store-check.1").is_file());
        let refused = write(&below.join("spacejmp.1"), &[]).unwrap_err().to_string();
        assert!(refused.ends_with("spacejmp.1"), "{refused}");
    }
}
