//! Sockets: pairs, and what is granted of the network. Loopback only.

use tests::vm::Run;
use tests::{guests, skip_without_kvm};
use vmm::process::Outcome;

#[test]
fn pairs_of_sockets_carry_bytes_descriptors_and_credentials_as_natively() {
    skip_without_kvm!();
    let ended = Run::new(guests::c("socket_pairs")).same_as_native();
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert!(ended.out().ends_with("done\n"), "{}", ended.out());
}
