//! The caller's request.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::private_tmp::PrivateTmp;
use super::tree::ProcessTree;
use crate::confine::Confine;
use crate::files::{Grant, Tty};
use crate::linux::core_dump::CorePlace;
use crate::linux::debug::Debugger;
use crate::linux::net::NetGrants;
use crate::linux::profile::Profiler;
use crate::linux::snapshot::ready::AtReady;
use crate::linux::strace::Tracer;
use crate::process_tree::disk_use::DiskLimit;
use crate::vas::VasGrants;

/// Whether a dynamic program may read the directories in which its loader looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Libraries {
    /// It may, and of its own folder what its RUNPATH names.
    #[default]
    Shown,
    /// What it needs has to be granted.
    Withheld,
}

/// A program and its arguments.
#[derive(Debug, Default)]
pub struct Command {
    /// The executable: on the host, or inside the tree if [`RunConfig::root`] is given.
    pub program: PathBuf,
    /// The name it is told to have (`argv[0]`), if that is not its path.
    pub argv0: Option<Vec<u8>>,
    /// Its arguments, without its own name.
    pub args: Vec<Vec<u8>>,
}

/// Everything that decides how a program runs.
#[derive(Debug)]
pub struct RunConfig {
    /// What runs.
    pub command: Command,
    /// Its environment, `KEY=value`.
    pub env: Vec<Vec<u8>>,
    /// Memory it may have mapped and touched at the same time.
    pub memory_bytes: u64,
    /// Limits, by `RLIMIT_…`, below those that the caller has: soft and hard.
    pub limits: Vec<(u32, [u64; 2])>,
    /// Host directories granted to it.
    pub grants: Vec<Grant>,
    /// The tree in which everything is that it may see, the program included.
    pub root: Option<Grant>,
    /// What the tree has as `/tmp`; without it, files in memory that only the program itself sees.
    pub tmp: Option<Arc<PrivateTmp>>,
    /// Without a tree: whether a dynamic program is shown the host's libraries.
    pub libraries: Libraries,
    /// What of the network it may use.
    pub net: NetGrants,
    /// Its current directory, a path inside; `None` for the host's if a grant shows it,
    /// else the first grant.
    pub cwd: Option<PathBuf>,
    /// The store its address spaces are in; `None` for the user's own.
    pub store: Option<PathBuf>,
    /// Which part of the store it may use.
    pub vases: VasGrants,
    /// Whether it may open `/dev/tty`.
    pub tty: Tty,
    /// Its umask.
    pub umask: u32,
    /// Standard input, output and error.
    pub stdio: [OwnedFd; 3],
    /// What writes its calls; `None`: nobody asks.
    pub tracer: Option<Arc<Tracer>>,
    /// What is collected for profiles; `None`: nobody asks.
    pub profiler: Option<Arc<Profiler>>,
    /// Where a core file goes if a signal ends it; `None`: there is none.
    pub core: Option<Arc<CorePlace>>,
    /// Whether a report on a signal that leaves core files tells of all threads where they were.
    pub backtraces: bool,
    /// What all processes of the run may add to disks; `None`: there is no limit.
    pub disk: Option<Arc<DiskLimit>>,
    /// Who debugs it; `None`: nobody.
    pub debug: Option<Arc<Debugger>>,
    /// What is done when the program is ready (`sj_ready`); `None`: nothing.
    pub at_ready: Option<Arc<AtReady>>,
    /// A socket that the caller removes at the end, besides what `confine_files` names.
    pub socket: Option<PathBuf>,
    /// Further descriptors, with their numbers in the program.
    pub inherited: Vec<(i32, OwnedFd)>,
    /// How it may start other processes; `None` if it may not. Then [`super::Process::start`] must be
    /// called while the caller has one thread.
    pub tree: Option<Arc<ProcessTree>>,
    /// What happens when a thread of the VMM makes a call that it has no business to make. A thread that
    /// has run a program stays confined.
    pub confine: Confine,
    /// Whether the files that it opens are confined as well, for the calling thread and what it starts; and
    /// which directories the caller removes then.
    pub confine_files: Option<Vec<PathBuf>>,
}
