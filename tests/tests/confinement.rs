//! The VMM's threads, confined (`run --confine`). Needs /dev/kvm.

use std::process::{Command, Output};

use tests::skip_without_kvm;

fn hostile(kind: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hostile_vmm")).arg(kind).output();
    let Output { status, stdout, stderr } = output.expect("it starts");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{status}\n{text}\n{}", String::from_utf8_lossy(&stderr));
    assert!(text.contains("Exited("), "the program ended by itself: {text}");
    text
}

#[test]
fn a_hostile_thread_of_the_vmm_gets_nowhere_whichever_it_is() {
    skip_without_kvm!();
    for (kind, least) in [("vcpu", 28), ("events", 27), ("keeper", 22)] {
        let text = hostile(kind);
        let attempts = text.lines().filter(|line| line.contains(": caught")).count();
        let failed: Vec<&str> = text.lines().filter(|line| line.contains(": failed")).collect();
        assert!(!text.contains("DONE"), "{kind}: {text}");
        println!("{kind}: {attempts} caught, {failed:?}");
        // Of the others, the kernel refuses what the program might ask for.
        let may_fail = [
            "socket of packets",
            "socket of the network",
            "mprotect, executable",
            "process_vm_readv",
        ];
        for line in &failed {
            assert!(may_fail.iter().any(|may| line.starts_with(may)), "{kind}: {line}");
        }
        assert!(attempts + failed.len() >= least, "{kind}: {text}");
    }
}
