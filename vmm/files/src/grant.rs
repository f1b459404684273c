//! What the user grants: one host directory at one guest path, as `--dir` writes it.
//!
//! Only the text is checked here, and that the directory exists; `Namespace` opens it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// Whether a program may change what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantAccess {
    /// Every call that would change something returns `EROFS`.
    ReadOnly,
    /// The host's own permissions decide.
    ReadWrite,
}

/// A host directory a program may see, and where it sees it.
///
/// Parsed from `HOST[:GUEST][:ro|:rw]`; `:rw` is the default of [`Grant`], `:ro` of
/// [`Grant::root`]. Without `GUEST` the program sees the directory at its
/// absolute host path, so that paths mean the same inside and outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The directory outside.
    pub host: PathBuf,
    /// Its path inside: absolute, without `.` and `..`.
    pub guest: PathBuf,
    /// What may be done to it.
    pub access: GrantAccess,
}

/// Why a `--dir` argument cannot be used.
#[derive(Debug, Error)]
pub enum GrantError {
    /// The argument names no host directory.
    #[error("`{argument}` names no directory")]
    NoHost {
        /// The argument as given.
        argument: String,
    },
    /// Something follows the guest path that is neither `ro` nor `rw`.
    #[error("`{argument}` has too many parts")]
    TooManyParts {
        /// The argument as given.
        argument: String,
    },
    /// The guest path is relative or contains `..`.
    #[error("guest path `{guest}` is not an absolute path without `..`")]
    GuestPath {
        /// The guest path as given.
        guest: String,
    },
    /// The host path cannot be examined.
    #[error("cannot grant {}", host.display())]
    Missing {
        /// The host path as given.
        host: PathBuf,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
    /// The host path is not a directory.
    #[error("cannot grant {}: not a directory", host.display())]
    NotADirectory {
        /// The host path as given.
        host: PathBuf,
    },
}

impl GrantError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            GrantError::NoHost { .. } | GrantError::TooManyParts { .. } => {
                "write --dir HOST, --dir HOST:GUEST or either with :ro or :rw at the end; --root DIR or DIR:rw"
            }
            GrantError::GuestPath { .. } => {
                "write the whole path the program is to see, such as --dir data:/data"
            }
            GrantError::Missing { .. } => "create the directory first, or correct the path",
            GrantError::NotADirectory { .. } => "grant the directory the file is in",
        }
    }
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(argument: &str) -> Result<Grant, GrantError> {
        let mut parts: Vec<&str> = argument.split(':').collect();
        let access = access_at_end(&mut parts).unwrap_or(GrantAccess::ReadWrite);
        let (host, guest) = match *parts.as_slice() {
            [host] | [host, ""] => (host, None),
            [host, guest] => (host, Some(guest)),
            _ => {
                return Err(GrantError::TooManyParts { argument: argument.to_owned() });
            }
        };
        if host.is_empty() {
            return Err(GrantError::NoHost { argument: argument.to_owned() });
        }
        let host = PathBuf::from(host);
        let missing = |source| GrantError::Missing { host: host.clone(), source };
        if !std::fs::metadata(&host).map_err(missing)?.is_dir() {
            return Err(GrantError::NotADirectory { host });
        }
        let guest = match guest {
            Some(guest) => normal(Path::new(guest))
                .ok_or_else(|| GrantError::GuestPath { guest: guest.to_owned() })?,
            None => {
                let absolute = std::path::absolute(&host).map_err(missing)?;
                match normal(&absolute) {
                    Some(path) => path,
                    // `..` after a link cannot be resolved in the text alone.
                    None => std::fs::canonicalize(&host).map_err(missing)?,
                }
            }
        };
        Ok(Grant { host, guest, access })
    }
}

impl Grant {
    /// A whole tree, as `--root` writes it: `DIR[:ro|:rw]`, read-only unless told otherwise.
    ///
    /// # Errors
    /// As for `--dir`.
    pub fn root(argument: &str) -> Result<Grant, GrantError> {
        let mut parts: Vec<&str> = argument.split(':').collect();
        let access = access_at_end(&mut parts).unwrap_or(GrantAccess::ReadOnly);
        match *parts.as_slice() {
            [host] => Ok(Grant { guest: PathBuf::from("/"), access, ..host.parse()? }),
            _ => Err(GrantError::TooManyParts { argument: argument.to_owned() }),
        }
    }
}

/// Takes `ro` or `rw` from the end of an argument that has something before it.
fn access_at_end(parts: &mut Vec<&str>) -> Option<GrantAccess> {
    let access = match parts.last() {
        Some(&"ro") => GrantAccess::ReadOnly,
        Some(&"rw") => GrantAccess::ReadWrite,
        _ => return None,
    };
    if parts.len() < 2 {
        return None;
    }
    parts.pop();
    Some(access)
}

/// The path without empty parts and `.`, or `None` if it is relative, has `..`, or is
/// longer than a call's path may be.
fn normal(path: &Path) -> Option<PathBuf> {
    if !path.is_absolute() || path.as_os_str().as_bytes().len() > super::PATH_MAX {
        return None;
    }
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}
