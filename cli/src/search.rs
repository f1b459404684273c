//! Where a program is that the user named without a slash: in PATH, as for a shell.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use vmm::error::Remedy;
use vmm::exit_code::ExitCode;

use crate::errors::Failure;

#[derive(Debug, thiserror::Error)]
enum SearchError {
    #[error("there is no program {name} in PATH")]
    NotInPath { name: String },
    #[error("there is no program {name} in PATH; the one in the current directory is not meant")]
    OnlyHere { name: String },
}

impl Remedy for SearchError {
    fn remedy(&self) -> Option<String> {
        match self {
            SearchError::NotInPath { .. } => Some("give its path".into()),
            SearchError::OnlyHere { name } => Some(format!("give its path: ./{name}")),
        }
    }
}

/// The file of a program on the host: a name with a slash is a path.
///
/// # Errors
/// Status 127 if PATH does not have it.
pub(crate) fn on_host(named: &OsStr) -> Result<PathBuf, Failure> {
    if named.is_empty() || named.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(named)).find(|file| runs(file));
    found.ok_or_else(|| {
        let name = named.display().to_string();
        let error = match Path::new(named).is_file() {
            true => SearchError::OnlyHere { name },
            false => SearchError::NotInPath { name },
        };
        Failure::with_remedy(format!("run {}", named.display()), error).code(ExitCode::NotFound)
    })
}

fn runs(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}
