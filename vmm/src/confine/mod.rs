//! The VMM's threads, confined: what each may still ask of the host's kernel once the VM is set up, so
//! that a guest that has taken one over gets nowhere (`docs/src/confinement.md`).
//!
//! - `table`: which calls which kind of thread may make; [`Kind`] says what kinds there are
//! - `filter`: a filter made of that, in the language of `bpf`
//! - `install`: the filter is put over a thread, for good; `violation`: what happens to a call that is
//!   not in the table
//! - `paths`: which files may still be opened
//!
//! A filter is inherited by what a thread starts, and cannot be taken off again. So a thread that serves
//! the program has what needs more done by the event loop (`linux::task::errands`).

mod bpf;
mod filter;
mod install;
mod paths;
mod table;
#[cfg(test)]
mod tests;
mod violation;

use std::cell::Cell;

pub use paths::{PathRight, Paths};
pub use violation::STATUS;

/// What happens to a call that the VMM has no business to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confine {
    /// It ends the VMM, with a report.
    On,
    /// It is told once, and made.
    Log,
    /// Nothing: there are no filters.
    #[default]
    Off,
}

/// How a VMM is confined.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// What happens to other calls.
    pub mode: Confine,
    /// Whether the program may start others.
    pub children: bool,
    /// Whether it may connect sockets, or give them names: of the network or in a directory.
    pub sockets: bool,
    /// Whether it is granted something of the network.
    pub network: bool,
}

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// It runs a vCPU, and serves the program's calls; or what such a thread has started.
    Vcpu = 1,
    /// The event loop of a program that cannot start others.
    Events = 2,
    /// It makes processes: the starter, what that has made until it is a VMM of its own, and the event
    /// loop of a program that can start others.
    Keeper = 3,
    /// It tells of calls that last (`run --strace`), or asks threads where they are (`run --profile`).
    Watch = 4,
    /// It speaks with gdb (`run --gdb`).
    Debugger = 5,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Vcpu, Kind::Events, Kind::Keeper, Kind::Watch, Kind::Debugger];

    fn name(self) -> &'static str {
        match self {
            Kind::Vcpu => "vCPU",
            Kind::Events => "event loop",
            Kind::Keeper => "starter",
            Kind::Watch => "strace or profile",
            Kind::Debugger => "gdb",
        }
    }

    /// The event loop.
    #[must_use]
    pub fn of_events(policy: &Policy) -> Kind {
        if policy.children { Kind::Keeper } else { Kind::Events }
    }
}

/// Several kinds.
#[derive(Clone, Copy)]
struct Kinds(u8);

impl Kinds {
    const VCPU: Kinds = Kinds(1 << Kind::Vcpu as u16);
    const EVENTS: Kinds = Kinds(1 << Kind::Events as u16);
    const KEEPER: Kinds = Kinds(1 << Kind::Keeper as u16);
    const WATCH: Kinds = Kinds(1 << Kind::Watch as u16);
    const DEBUGGER: Kinds = Kinds(1 << Kind::Debugger as u16);

    const fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }
}

thread_local! {
    static HELD: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// What the calling thread is confined as: a thread that it starts is so from its beginning.
#[must_use]
pub fn held() -> Option<Kind> {
    HELD.get()
}

/// Notes that the calling thread is confined because the one that has started it was.
pub fn inherit(kind: Option<Kind>) {
    HELD.set(kind);
}

/// Confines the calling thread, and what it starts, for good; nothing if it already is, as that kind.
///
/// # Errors
/// The host's kernel has no filters for system calls, or refuses this one.
pub fn enter(kind: Kind, policy: &Policy) -> std::io::Result<()> {
    if policy.mode == Confine::Off || held() == Some(kind) {
        return Ok(());
    }
    let filter = filter::filter(kind, policy, std::process::id(), violation::told_at());
    install::install(&filter)?;
    HELD.set(Some(kind));
    Ok(())
}

/// The names of the calls that a kind of thread may make, at least with some arguments.
#[must_use]
pub fn allowed(kind: Kind, policy: &Policy) -> Vec<&'static str> {
    let calls = filter::calls(kind, policy);
    calls.keys().filter_map(|call| crate::stats::names::name(*call as u64)).collect()
}

/// Sets this process up for threads that [`enter`]: to tell of violations, and to leave no core file, in
/// which a program's memory would be.
///
/// # Errors
/// The host's.
pub fn prepare(policy: &Policy) -> std::io::Result<()> {
    if policy.mode == Confine::Off {
        return Ok(());
    }
    violation::tell(policy.mode)?;
    if policy.mode == Confine::On {
        install::leave_no_core();
    }
    Ok(())
}
