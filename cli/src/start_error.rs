//! A program that did not start: which of the reasons the user should read first.

use std::path::Path;

use vmm::error::Remedy;
use vmm::process::StartError;

use crate::errors::Failure;

/// "cannot run PROGRAM", then what is wrong with it; the error's own line would say the first
/// part again.
pub(crate) fn start_failure(program: &Path, error: StartError) -> Failure {
    let doing = format!("run {}", program.display());
    let (code, remedy) = (error.exit_code(), error.remedy());
    let failure = match error {
        StartError::Open { source, .. } => Failure::new(doing, source),
        StartError::Elf { source, .. } => Failure::new(doing, source),
        StartError::Interpreter { source, .. } => Failure::new(doing, source),
        other => Failure::new(doing, other),
    };
    failure.help(remedy).code(code)
}
