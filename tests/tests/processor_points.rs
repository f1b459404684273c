//! Breakpoints and watchpoints of the processor, and what stands for them where there are none, or no more: by gdb's
//! protocol, spoken here, as an emulated machine has no gdb.

use tests::gdb_packets::{Gdb, Watched, has_processor_points};
use tests::{kvm, pace, skip_without_kvm};

/// The program stops at its function, which it calls once, and goes on.
fn stops_at(gdb: &mut Gdb, begins: u64) {
    gdb.goes_on_to("hwbreak:");
    assert_eq!(gdb.rip(), begins);
    gdb.have(&format!("z1,{begins:x},1"));
    // One instruction, which is made.
    let told = gdb.ask("vCont;s");
    assert!(told.starts_with("T05") && !told.contains("break"), "{told}");
    assert_ne!(gdb.rip(), begins);
}

#[test]
fn a_watchpoint_of_the_processor_costs_nothing_beside_what_is_watched() {
    skip_without_kvm!();
    if !has_processor_points() {
        kvm::other_kind_of_host(
            "a_watchpoint_of_the_processor_costs_nothing_beside_what_is_watched",
            "this KVM does not report the processor's watchpoints",
        );
        return;
    }
    // Each use of what is beside would be two exits, of 12 times as many.
    let between = pace::times(100_000).max(10_000);
    for (kind, len, stops) in [
        (2, 8, [("watch", 10), ("watch", 20), ("watch", 30)]),
        (4, 2, [("awatch", 10), ("awatch", 10), ("awatch", 20)]),
    ] {
        let mut run = Watched::start("beside", between.into());
        let mut gdb = run.debugged();
        let (at, begins) = (run.at, run.begins);
        gdb.have(&format!("Z{kind},{at:x},{len:x}"));
        gdb.have(&format!("Z1,{begins:x},1"));
        run.begin();
        stops_at(&mut gdb, begins);
        for (stop, value) in stops {
            gdb.goes_on_to(&format!("{stop}:{at:x}"));
            assert_eq!(gdb.word(at), value);
        }
        gdb.have(&format!("z{kind},{at:x},{len:x}"));
        gdb.have("D");
        let exits = run.exits();
        assert!(exits < u64::from(between), "{exits}");
    }
}

#[test]
fn what_the_processor_has_no_place_for_is_watched_all_the_same() {
    skip_without_kvm!();
    let mut run = Watched::start("await", pace::times(100_000).into());
    let mut gdb = run.debugged();
    let (at, begins) = (run.at, run.begins);
    for place in 0..4 {
        gdb.have(&format!("Z2,{:x},8", at + 0x800 + 8 * place));
    }
    // Of reading alone, and of a length that the processor does not know, it has none at all.
    gdb.have(&format!("Z3,{at:x},3"));
    gdb.have(&format!("Z2,{at:x},3"));
    gdb.have(&format!("Z1,{begins:x},1"));
    run.begin();
    stops_at(&mut gdb, begins);
    gdb.goes_on_to(&format!("watch:{at:x}"));
    gdb.goes_on_to(&format!("rwatch:{at:x}"));
    // A place that is free again is taken.
    gdb.have(&format!("z2,{:x},8", at + 0x800));
    gdb.have(&format!("z2,{at:x},3"));
    gdb.have(&format!("z3,{at:x},3"));
    gdb.have(&format!("Z4,{at:x},8"));
    gdb.goes_on_to(&format!("awatch:{at:x}"));
    assert_eq!(gdb.word(at), 20);
    // All of them go with the debugger.
    gdb.have("D");
    run.exits();
}

#[test]
fn breakpoints_of_both_kinds_at_one_place_go_one_by_one() {
    skip_without_kvm!();
    let mut run = Watched::start("await", 2);
    let mut gdb = run.debugged();
    let (at, begins) = (run.at, run.begins);
    for place in 0..4 {
        gdb.have(&format!("Z2,{:x},8", at + 0x800 + 8 * place));
    }
    for packet in ["Z0", "Z1", "z0"] {
        gdb.have(&format!("{packet},{begins:x},1"));
    }
    run.begin();
    stops_at(&mut gdb, begins);
    gdb.have("D");
    run.exits();
}

#[test]
fn threads_that_begin_later_stop_too() {
    skip_without_kvm!();
    let mut run = Watched::start("join", 2);
    let mut gdb = run.debugged();
    let (at, begins) = (run.at, run.begins);
    gdb.have(&format!("Z2,{at:x},8"));
    gdb.have(&format!("Z1,{begins:x},1"));
    run.begin();
    stops_at(&mut gdb, begins);
    let first = gdb.ask("qC");
    for value in 1..=3 {
        gdb.goes_on_to(&format!("watch:{at:x}"));
        assert_eq!(gdb.word(at), value);
        assert_ne!(gdb.ask("qC"), first);
    }
    gdb.have("D");
    run.exits();
}
