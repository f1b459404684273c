//! Calls that few programs make: compared with the host's own kernel, and what is specific to VMs.
//!
//! In addition to `calls.rs`, whose table cannot contain them: they wait, need threads or a
//! prepared structure, or would have an effect natively if root ran them with valid arguments.

use tests::guests;
use tests::skip_without_kvm;
use tests::vm::Run;

#[test]
fn rare_calls_answer_as_natively() {
    skip_without_kvm!();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_string_lossy().into_owned();
    Run::new(guests::c("rare_calls")).args(&[&path]).dir(path.clone()).same_as_native();
}

#[test]
fn what_takes_a_privilege_is_refused_once_its_arguments_are_good() {
    skip_without_kvm!();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_string_lossy().into_owned();
    let run = Run::new(guests::c("rare_calls")).args(&[&path, "vm"]).dir(path.clone()).in_vm();
    let expected = "CPUID off: ENODEV\n\
                    chroot: EPERM\n\
                    adjtimex, single: EPERM\n\
                    ustat of the root: ok\n\
                    ustat to nowhere: EFAULT\n";
    assert_eq!(run.out(), expected, "{run:?}");
}
