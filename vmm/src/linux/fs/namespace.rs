//! The guest's name space: the tree with the granted directories opened and hung into it.
//!
//! How a path is resolved in it is in `resolve` and `walk`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use thiserror::Error;

use super::grant::{Access, Grant};
use super::off_limits::OffLimits;
use super::tree::{GrantRoot, Tree};

/// The host's procfs shows this very process (its memory, its descriptors): no grant may
/// lead into it.
pub(super) const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Everything a program can name.
#[derive(Debug)]
pub struct Namespace {
    pub(super) tree: Tree,
    /// The program's own guest path, for `/proc/self/exe`.
    pub(super) exe: Option<Vec<u8>>,
    pub(super) off_limits: OffLimits,
    pub(super) tty: Tty,
}

/// Whether a program has the terminal that its user sits at, by the name `/dev/tty`. Standard
/// streams that are terminals are given one by one and have nothing to do with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tty {
    /// Opening it gives `ENXIO`, as to a process without a controlling terminal.
    #[default]
    Withheld,
    /// It is the host's.
    Granted,
}

/// Why the grants make no name space.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// A granted directory cannot be opened.
    #[error("cannot open granted directory {}", host.display())]
    Open {
        /// The directory.
        host: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// A granted directory is on the host's procfs.
    #[error("cannot grant {}: it is part of procfs and would open the monitor's own memory", host.display())]
    Procfs {
        /// The directory.
        host: PathBuf,
    },
    /// A granted directory is a store or lies in one.
    #[error("cannot grant {}: it belongs to the store {}, which programs reach by its own calls", host.display(), store.display())]
    Store {
        /// The directory.
        host: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// Two grants claim one guest path, or one is at or below something built in.
    #[error("guest path {} is already taken", guest.display())]
    Taken {
        /// The path.
        guest: PathBuf,
    },
}

impl Namespace {
    /// Opens the granted directories and builds the tree. `exe` is what `/proc/self/exe`
    /// reads as; without it that entry gives `ENOENT`.
    ///
    /// A grant may lie inside another one: as with a mount, it hides what the outer one has
    /// there, but it is listed by the outer directory only if that has an entry of its name.
    /// Later renames of the host directories do not matter: they stay open.
    ///
    /// # Errors
    /// Names the grant that cannot be opened or hung.
    pub fn new(
        grants: &[Grant],
        exe: Option<&Path>,
        off_limits: OffLimits,
    ) -> Result<Namespace, NamespaceError> {
        let mut tree = Tree::new();
        // Outer ones first: what lies between an outer and an inner one depends on it.
        let mut ordered: Vec<&Grant> = grants.iter().collect();
        ordered.sort_by_key(|grant| grant.guest.components().count());
        for grant in ordered {
            let taken = || NamespaceError::Taken { guest: grant.guest.clone() };
            let open = |source| NamespaceError::Open { host: grant.host.clone(), source };
            let dir = Dir::open_ambient_dir(&grant.host, ambient_authority()).map_err(open)?;
            let statfs = rustix::fs::fstatfs(&dir).map_err(|e| open(e.into()))?;
            if statfs.f_type as i64 == PROC_SUPER_MAGIC {
                return Err(NamespaceError::Procfs { host: grant.host.clone() });
            }
            if let Some(store) = off_limits.store_around(&dir) {
                return Err(NamespaceError::Store { host: grant.host.clone(), store });
            }
            let node = tree.make(grant.guest.as_os_str().as_bytes()).ok_or_else(taken)?;
            let root = Arc::new(GrantRoot {
                node,
                dir: Arc::new(dir),
                read_only: grant.access == Access::ReadOnly,
            });
            if !tree.hang(root) {
                return Err(taken());
            }
        }
        let exe = exe.map(|path| path.as_os_str().as_bytes().to_vec());
        Ok(Namespace { tree, exe, off_limits, tty: Tty::default() })
    }

    /// The same with another say on `/dev/tty`.
    #[must_use]
    pub fn with_tty(self, tty: Tty) -> Namespace {
        Namespace { tty, ..self }
    }
}
