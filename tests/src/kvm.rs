//! Whether this machine can run VMs, and what a test does when it cannot.
//!
//! A test that needs a VM begins with [`skip_without_kvm!`](crate::skip_without_kvm). Where
//! there is no usable /dev/kvm it says so on standard error and adds a line to
//! `target/skipped-tests.txt`, so that a run of skipped tests is not mistaken for a run of
//! passed ones; with `SPACEJMP_REQUIRE_KVM=1`, as in CI, it fails instead.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::OnceLock;

/// If this is set to anything but `0` or the empty string, a missing /dev/kvm fails tests.
pub const REQUIRE: &str = "SPACEJMP_REQUIRE_KVM";

/// Why this machine cannot run VMs, or `None` when it can.
pub fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let found = MISSING.get_or_init(|| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .err()
            .map(|err| format!("cannot open /dev/kvm: {err}"))
    });
    found.as_deref()
}

/// Whether `test` has to be skipped; if so, it reports that. Use the macro
/// [`skip_without_kvm!`](crate::skip_without_kvm), which knows the name.
///
/// # Panics
/// When there is no KVM and `SPACEJMP_REQUIRE_KVM` asks for it.
pub fn must_skip(test: &str) -> bool {
    missing().is_some_and(|reason| skip(test, reason))
}

/// Reports that `test` is skipped, and why, on standard error and in the list.
///
/// # Panics
/// When `SPACEJMP_REQUIRE_KVM` asks for every test to run.
pub fn skip(test: &str, reason: &str) -> bool {
    let required = std::env::var(REQUIRE).is_ok_and(|value| !value.is_empty() && value != "0");
    assert!(!required, "{test} cannot run ({REQUIRE} is set): {reason}");
    report(test, reason);
    true
}

/// Reports that `test` has nothing to check on this kind of host, on standard error and in
/// the list. Unlike [`skip`] this is not a failure in CI, where another machine is of the
/// right kind.
pub fn other_kind_of_host(test: &str, reason: &str) {
    report(test, reason);
}

fn report(test: &str, reason: &str) {
    // Bypasses the test framework's capture of standard error: a skipped test passes, and the
    // output of passing tests is not shown.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    let list = crate::guests::target().join("skipped-tests.txt");
    // Emulated machines have tests, but no such directory.
    let _ = std::fs::create_dir_all(crate::guests::target());
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&list)
        .and_then(|mut file| writeln!(file, "{test}: {reason}"));
    if let Err(err) = written {
        panic!("{test} is skipped and cannot be listed in {}: {err}", list.display());
    }
}

/// Ends the calling test, with a message, where there are no VMs.
#[macro_export]
macro_rules! skip_without_kvm {
    () => {{
        fn here() {}
        let name = ::std::any::type_name_of_val(&here);
        if $crate::kvm::must_skip(name.trim_end_matches("::here")) {
            return;
        }
    }};
}
