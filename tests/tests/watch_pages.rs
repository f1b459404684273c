//! Watchpoints by pages, on every kind of KVM: by gdb's protocol, spoken here, as an emulated machine has no gdb.

use tests::gdb_packets::Watched;
use tests::{pace, skip_without_kvm};

/// Lets the program of `watched.c` write a page four times, with a watchpoint of this kind on what is in it; tells what
/// happened at each stop, and returns how often it left the guest.
fn watched(kind: u8, len: u64, stops: &[(&str, u64)]) -> u64 {
    let mut run = Watched::start("await", pace::times(10_000_000).into());
    let mut gdb = run.debugged();
    let at = run.at;
    // Where the processor has watchpoints, these are they, and nobody comes there.
    for place in 0..4 {
        gdb.have(&format!("Z2,{:x},8", at + 0x800 + 8 * place));
    }
    gdb.have(&format!("Z{kind},{at:x},{len:x}"));
    run.begin();
    for (stop, value) in stops {
        gdb.goes_on_to(&format!("{stop}:{at:x}"));
        assert_eq!(gdb.word(at), *value);
    }
    gdb.have(&format!("z{kind},{at:x},{len:x}"));
    gdb.have("D");
    run.exits()
}

/// Steps would take tens of millions.
const FEW: u64 = 20_000;

#[test]
fn writing_reading_and_both_are_told_and_what_is_beside_is_not() {
    skip_without_kvm!();
    let writes = [("watch", 10), ("watch", 20), ("watch", 30), ("watch", 40)];
    assert!(watched(2, 8, &writes) < FEW);
    assert!(watched(3, 8, &[("rwatch", 10), ("rwatch", 20)]) < FEW);
    let both = [("awatch", 10), ("awatch", 10), ("awatch", 20)];
    assert!(watched(4, 1, &both) < FEW);
}
