//! The crash report says which VAS the thread was in, and which segment the address belongs to.

use tests::guests::c;
use tests::skip_without_kvm;
use tests::vm::Run;

#[track_caller]
fn report(how: &str, expected: &[&str]) {
    let store = tempfile::tempdir().unwrap();
    let ended = Run::new(c("vas_crash")).args(&[how]).store(store.path()).in_vm();
    let report = ended.expect_signal(libc::SIGSEGV);
    for part in expected {
        assert!(report.contains(part), "{how}: {part} is not in\n{report}");
    }
}

#[test]
fn a_pointer_used_before_switching_is_recognised() {
    skip_without_kvm!();
    let place = "not mapped in `home`; it lies in segment `reads` (+0x40) of VAS `genome`";
    report("home", &["VAS        home", "used before switching", place]);
}

#[test]
fn an_address_of_no_segment_is_said_to_be_none() {
    skip_without_kvm!();
    report("nowhere", &["VAS        home", "nor in any attached VAS"]);
}

#[test]
fn the_end_of_a_segment_is_named() {
    skip_without_kvm!();
    let place = "segment `reads` (+0x100000, beyond its end) of VAS `genome`";
    report("end", &["VAS        `genome`, handle 1", "beyond the end of a segment", place]);
}

#[test]
fn a_write_to_a_read_only_attachment_is_named() {
    skip_without_kvm!();
    report("read", &["`genome`, handle 1", "read-only", "segment `reads` (+0x80)"]);
}
