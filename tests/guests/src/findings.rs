//! What a program found: one line for each check, `ok: WHAT` or
//! `FAILED: WHAT: ...`, a last line `done` or `N failed`, and exit status 0 or 1. Lines of a
//! successful run do not vary, so that a test can compare them as a whole.

use std::fmt::Debug;
use std::process::ExitCode;

use spacejmp::sys;

/// How many checks have failed.
#[derive(Debug, Default)]
pub struct Findings {
    failed: u32,
}

impl Findings {
    /// No findings yet. Outside a VM the program ends with status 3.
    #[must_use]
    pub fn new() -> Findings {
        require_vm();
        Findings::default()
    }

    /// Notes whether `what` holds.
    pub fn check(&mut self, what: &str, holds: bool) {
        if holds {
            println!("ok: {what}");
        } else {
            self.fail(what, "it does not hold");
        }
    }

    /// Notes whether `got` is `expected`.
    pub fn same<T: PartialEq + Debug>(&mut self, what: &str, got: T, expected: T) {
        if got == expected {
            println!("ok: {what}");
        } else {
            self.fail(what, &format!("{got:?}, not {expected:?}"));
        }
    }

    /// Notes whether a call was refused with `expected`, and names the error.
    pub fn refused<T: Debug>(
        &mut self,
        what: &str,
        got: Result<T, abi::Errno>,
        expected: abi::Errno,
    ) {
        match got {
            Err(error) if error == expected => println!("ok: {what}: {error:?}"),
            other => self.fail(what, &format!("{other:?}, not {expected:?}")),
        }
    }

    /// The value of a call that must succeed for the rest to make sense; otherwise the program
    /// ends here with status 1.
    pub fn need<T>(&mut self, what: &str, got: Result<T, abi::Errno>) -> T {
        match got {
            Ok(value) => {
                println!("ok: {what}");
                value
            }
            Err(error) => {
                let current = sys::vas_current().map(sys::VasHandle::raw);
                println!("FAILED: {what}: {error:?}, in VAS handle {current:?}; giving up");
                std::process::exit(1);
            }
        }
    }

    /// Notes a failure.
    pub fn fail(&mut self, what: &str, how: &str) {
        self.failed += 1;
        println!("FAILED: {what}: {how}");
    }

    /// The last line and the exit status.
    #[must_use]
    pub fn end(self) -> ExitCode {
        if self.failed == 0 {
            println!("done");
            ExitCode::SUCCESS
        } else {
            println!("{} failed", self.failed);
            ExitCode::FAILURE
        }
    }
}

/// Ends the program with status 3 and a line that says why, if it does not run in a VM.
pub fn require_vm() {
    if let Err(missing) = spacejmp::CallPage::find() {
        println!("{missing}");
        std::process::exit(3);
    }
}

/// Unwraps a call's result in set-up code and in threads, naming the call.
///
/// # Panics
/// If it failed.
#[track_caller]
pub fn must<T>(what: &str, got: Result<T, abi::Errno>) -> T {
    got.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}
