//! A program that did not start: which of the reasons the user should read first.

use std::path::{Path, PathBuf};

use vmm::error::Remedy;
use vmm::exit_code::ExitCode;
use vmm::process::StartError;

use crate::errors::Failure;

/// What is wrong with a request before anything is started.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("there is no file {name}; the one at {found} is not meant: PATH is not searched")]
    InPath { name: String, found: String },
}

impl Remedy for RunError {
    fn remedy(&self) -> Option<String> {
        match self {
            RunError::InPath { found, .. } => Some(format!("give its path: {found}")),
        }
    }
}

/// "cannot run PROGRAM", then what is wrong with it; the error's own line would say the first
/// part again.
pub(crate) fn start_failure(program: &Path, error: StartError) -> Failure {
    let doing = format!("run {}", program.display());
    let (code, remedy) = (error.exit_code(), error.remedy());
    if code == ExitCode::NotFound
        && let Some(found) = in_path(program)
    {
        let name = program.display().to_string();
        let cause = RunError::InPath { name, found: found.display().to_string() };
        return Failure::with_remedy(doing, cause).code(code);
    }
    let failure = match error {
        StartError::Open { source, .. } => Failure::new(doing, source),
        StartError::Elf { source, .. } => Failure::new(doing, source),
        other => Failure::new(doing, other),
    };
    failure.help(remedy).code(code)
}

/// A program of that name in PATH, for users who expect PATH to be searched.
fn in_path(program: &Path) -> Option<PathBuf> {
    if program.components().count() != 1 {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
