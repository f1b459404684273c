//! Provokes every error in the table of semantics; after each the program checks whether
//! anything has changed: the lists of the store, all their details, where the thread is.
//!
//! `vas_errors`: everything that needs no special user. `vas_errors permissions`: `EACCES`, as a
//! user for whom permission bits count (not root). `vas_errors foreign`: likewise, on another
//! user's VASes and segments `secret` (600) and `readable` (644, the segment in the VAS, writable).
//! Lines `ok: WHAT: ERRNO`, then `done`; status 0.
//!
//! `names.rs`: names and addresses; `objects.rs`: ids, handles, parameters, overlap;
//! `busy.rs`: what is in use, locks, failed switches; `permissions.rs`.

mod busy;
mod names;
mod objects;
mod permissions;

use std::fmt::Debug;
use std::process::ExitCode;

use abi::Errno;
use guests::findings::Findings;
use guests::store::Picture;

/// Findings, and the state before the next refusal.
pub(crate) struct Refusals {
    pub(crate) found: Findings,
    before: Picture,
}

impl Refusals {
    /// Whether `attempt` was refused with `expected`, and changed nothing.
    pub(crate) fn refused<T: Debug>(
        &mut self,
        what: &str,
        attempt: Result<T, Errno>,
        expected: Errno,
    ) {
        self.found.refused(what, attempt, expected);
        let after = Picture::take();
        if let Some(difference) = self.before.difference(&after) {
            self.found.fail(what, &format!("it changed something: {difference}"));
            self.before = after;
        }
    }

    /// What was done since the last refusal was intended.
    pub(crate) fn settle(&mut self) {
        self.before = Picture::take();
    }

    /// Something done on purpose, which must succeed.
    pub(crate) fn need<T>(&mut self, what: &str, result: Result<T, Errno>) -> T {
        let value = self.found.need(what, result);
        self.settle();
        value
    }
}

fn main() -> ExitCode {
    let mode = std::env::args().nth(1);
    let mut refusals = Refusals { found: Findings::new(), before: Picture::take() };
    match mode.as_deref() {
        None => {
            names::provoke(&mut refusals);
            objects::provoke(&mut refusals);
            busy::provoke(&mut refusals);
        }
        Some("permissions") => permissions::provoke(&mut refusals),
        Some("foreign") => permissions::provoke_foreign(&mut refusals),
        Some(other) => panic!("there is no mode {other:?}"),
    }
    refusals.found.end()
}
