//! What this machine offers: can it run VMs, how, and if not, what to do.
//!
//! `probe` collects the report, `device` opens `/dev/kvm` and finds out why it could not,
//! `capability` is the table of KVM capabilities, `kvm` has the calls that `kvm-ioctls` lacks,
//! `allocator` says how much freed memory is kept, `translation` concludes how guest addresses are translated, `group` reads the process group and
//! session, `landlock` asks for its version, `system` reads the host's memory and clock settings, `remedy` turns a problem into
//! advice, `checks` turns a report into lines for the user.
//!
//! Nothing here is guessed: what cannot be determined is `None`, printed "not available".

mod allocator;
mod capability;
mod checks;
mod device;
pub mod error;
mod files;
mod group;
mod kvm;
mod landlock;
mod probe;
mod problem;
mod remedy;
mod system;
mod translation;

pub use allocator::keep_freed_memory;
pub use capability::{Capability, Need, SyncRegs};
pub use checks::{Check, Level, checks, summary};
pub use group::{process_group, session};
pub use landlock::landlock_version;
pub use probe::{GuestCpu, HostReport, KvmReport, probe};
pub use problem::{NoDevice, Problem};
pub use system::{Clock, Confinement, Cpus, HugePages, HugePool, Memory, Processor, System};
pub use translation::{Translation, TranslationKind};

use files::Files;

/// Why `/dev/kvm` cannot be opened, as `doctor` would report it; `None` when it can.
#[must_use]
pub fn device_problem() -> Option<Problem> {
    device::open(&Files::at("/")).err()
}

/// The memory of this host, and our share of it.
#[must_use]
pub fn memory() -> Memory {
    system::memory(&Files::at("/"))
}

/// Most memory this process ever had resident, in bytes; `None` without `/proc`.
#[must_use]
pub fn rss_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
