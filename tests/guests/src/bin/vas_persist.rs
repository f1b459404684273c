//! A linked list of ordinary addresses in a segment that outlives its programs.
//!
//! `vas_persist write NAME N`: creates VAS and segment NAME with a list of N nodes, sets the root.
//! `vas_persist read NAME`: finds it through the root, read-only, and walks it.
//! `vas_persist prepend NAME N`: puts N nodes before the others.
//! `vas_persist die NAME N`: as prepend, but kills itself in the middle, inside the VAS.
//! `vas_persist remove NAME`: deletes both.
//!
//! Each prints `nodes N sum S` of the list as it is then (`remove`: `removed`); status 0, 1
//! on any failure, 2 for wrong arguments.

use std::process::ExitCode;

use guests::findings::{must, require_vm};
use guests::place::{Place, enter, go_home, set_root};
use guests::random::mix;
use guests::store::sized;
use spacejmp::sys::{self, Right, SegRoot, attach};

const SIZE: u64 = 64 << 20;
const NODE: u64 = 32;
/// "list" and a version, to tell it from another program's root object.
const FINGERPRINT: [u64; 2] = [0x7473_696c, 1];

/// At the segment's base: the first node, and how many nodes were ever allocated.
const HEAD: u64 = 0;
const TAKEN: u64 = 8;
/// Nodes begin here: next, value, two words unused.
const NODES: u64 = 4096;

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number of nodes");
    match args[..] {
        ["write", name, count] => {
            make(name);
            prepend(name, number(count), None);
            show(name)
        }
        ["prepend", name, count] => {
            prepend(name, number(count), None);
            show(name)
        }
        ["die", name, count] => {
            prepend(name, number(count), Some(number(count) / 2));
            unreachable!("it died on the way");
        }
        ["read", name] => show(name),
        ["remove", name] => {
            must("vas_delete", sys::vas_delete(must("vas_find", sys::vas_find(name))));
            must("seg_delete", sys::seg_delete(must("seg_find", sys::seg_find(name))));
            println!("removed");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: vas_persist write|prepend|die NAME N, or read|remove NAME");
            ExitCode::from(2)
        }
    }
}

fn make(name: &str) {
    let vid = must("vas_create", sys::vas_create(name, 0o600));
    let sid = must("seg_alloc", sys::seg_alloc(name, &sized(SIZE)));
    must("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    let base = must("seg_stat", sys::seg_stat(sid)).base;
    let root = SegRoot { address: base, fingerprint: FINGERPRINT };
    must("seg_root_set", set_root(sid, &root));
}

/// The root's address, after checking that it is ours.
fn root_of(name: &str) -> u64 {
    let sid = must("seg_find", sys::seg_find(name));
    let root = must("seg_root_get", sys::seg_root_get(sid));
    assert_eq!(root.fingerprint, FINGERPRINT, "the root object is of another type");
    assert_ne!(root.address, 0, "there is no root object");
    root.address
}

fn prepend(name: &str, count: u64, die_at: Option<u64>) {
    let root = root_of(name);
    let vid = must("vas_find", sys::vas_find(name));
    let vh = must("vas_attach", sys::vas_attach(vid, 0));
    must("vas_switch", enter(vh));
    // An odd multiplier modulo a power of two scatters the nodes and makes no two alike.
    let places = 1 << ((SIZE - NODES) / NODE).ilog2();
    for n in 0..count {
        if die_at == Some(n) {
            std::process::abort();
        }
        let taken = Place::at(root + TAKEN).read();
        assert!(taken < places, "the segment is full");
        let scattered = taken.wrapping_mul(0x9e37_79b1) % places;
        let node = root + NODES + scattered * NODE;
        Place::at(node).write(Place::at(root + HEAD).read());
        Place::at(node + 8).write(mix(taken));
        Place::at(root + HEAD).write(node);
        Place::at(root + TAKEN).write(taken + 1);
    }
    go_home();
    must("vas_detach", sys::vas_detach(vh));
}

fn show(name: &str) -> ExitCode {
    let root = root_of(name);
    let vid = must("vas_find", sys::vas_find(name));
    let vh = must("vas_attach", sys::vas_attach(vid, attach::READ_ONLY));
    must("vas_switch", enter(vh));
    let (mut nodes, mut sum, mut is_whole) = (0, 0_u64, true);
    let mut node = Place::at(root + HEAD).read();
    let taken = Place::at(root + TAKEN).read();
    while node != 0 && nodes <= taken {
        let value = Place::at(node + 8).read();
        nodes += 1;
        is_whole &= value == mix(taken.wrapping_sub(nodes));
        sum = sum.wrapping_add(value);
        node = Place::at(node).read();
    }
    go_home();
    println!("nodes {nodes} sum {sum:016x}");
    if !is_whole || nodes != taken {
        println!("FAILED: {taken} nodes were put in, in another order or with other values");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
