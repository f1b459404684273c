//! Linked lists of ordinary addresses that several VMs change at the same time, under the lock.
//!
//! `vas_moves NAME make N`: VAS and lockable segment NAME with N nodes in the first of the lists.
//! `vas_moves NAME move THREADS COUNT SEED`: each thread COUNT times enters, removes a node from
//! one list, at its head or further on, and inserts it into another, likewise; goes home. Prints
//! `moved THREADS*COUNT`. `vas_moves NAME check`: walks all lists under a shared lock. Every node
//! must be in exactly one place. Prints `nodes N moves M`, M as the nodes have counted; status 1
//! if anything is wrong.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::thread;

use guests::findings::{must, require_vm};
use guests::place::{Place, enter, go_home};
use guests::random::{Random, mix};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, VasHandle, attach};

const SIZE: u64 = 8 << 20;
const LISTS: u64 = 4;
/// At the base: moves, nodes, heads.
const MOVES: u64 = 0;
const NODES: u64 = 8;
const HEADS: u64 = 16;
/// From here on nodes: next, number, moves; 32 bytes each, scattered.
const FIRST: u64 = 4096;
const PLACES: u64 = 1 << 17;

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (name, what) = match args[..] {
        [name, ref what @ ..] => (name, what),
        [] => return usage(),
    };
    let mut params = sized(SIZE);
    params.lockable = 1;
    let (vid, sid) = find_or_make(name, &params);
    let base = base_of(sid);
    match *what {
        ["make", count] => {
            let vh = must("vas_attach", sys::vas_attach(vid, 0));
            make(vh, base, number(count));
            ExitCode::SUCCESS
        }
        ["move", threads, count, seed] => {
            let vh = must("vas_attach", sys::vas_attach(vid, 0));
            let (threads, count) = (number(threads), number(count));
            thread::scope(|scope| {
                for n in 0..threads {
                    let random = Random::new(number(seed).wrapping_mul(1000).wrapping_add(n));
                    scope.spawn(move || wander(vh, base, count, random));
                }
            });
            println!("moved {}", threads * count);
            ExitCode::SUCCESS
        }
        ["check"] => {
            let vh = must("vas_attach", sys::vas_attach(vid, attach::READ_ONLY));
            check(vh, base)
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: vas_moves NAME make N | move THREADS COUNT SEED | check");
    ExitCode::from(2)
}

fn word(base: u64, offset: u64) -> Place {
    Place::at(base + offset)
}

/// The word that points to the first node of a list.
fn head(base: u64, list: u64) -> Place {
    word(base, HEADS + list * 8)
}

fn make(vh: VasHandle, base: u64, count: u64) {
    assert!(count <= PLACES, "there is no room for {count} nodes");
    must("vas_switch", enter(vh));
    for n in 0..count {
        // An odd multiplier modulo a power of two: no two results are equal.
        let node = base + FIRST + n.wrapping_mul(0x9e37_79b1) % PLACES * 32;
        Place::at(node).write(head(base, 0).read());
        Place::at(node + 8).write(mix(n));
        head(base, 0).write(node);
    }
    word(base, NODES).write(count);
    go_home();
}

fn wander(vh: VasHandle, base: u64, count: u64, mut random: Random) {
    for _ in 0..count {
        // Drawn outside, so that time inside is spent on moves only.
        let [from, to, deep, far] = [LISTS, LISTS, 8, 8].map(|end| random.below(end));
        must("vas_switch", enter(vh));
        shift(base, (from, deep), (to, far));
        word(base, MOVES).increment_unlocked();
        go_home();
    }
}

/// The word that points to the node `deep` nodes into a list, or to its end.
fn link(base: u64, list: u64, deep: u64) -> Place {
    let mut link = head(base, list);
    for _ in 0..deep {
        match link.read() {
            0 => break,
            node => link = Place::at(node),
        }
    }
    link
}

/// Moves a node from one list to another. If the list is empty, the node comes from the
/// next list that has one.
fn shift(base: u64, (from, deep): (u64, u64), (to, far): (u64, u64)) {
    let lists = (0..LISTS).map(|n| (from + n) % LISTS);
    let from = lists.into_iter().find(|&list| head(base, list).read() != 0);
    let from = from.expect("one list has nodes");
    let mut out = link(base, from, deep);
    if out.read() == 0 {
        out = head(base, from);
    }
    let node = out.read();
    out.write(Place::at(node).read());
    let into = link(base, to, far);
    Place::at(node).write(into.read());
    into.write(node);
    Place::at(node + 16).increment_unlocked();
}

fn check(vh: VasHandle, base: u64) -> ExitCode {
    must("vas_switch", enter(vh));
    let count = word(base, NODES).read();
    let (mut seen, mut moves) = (BTreeSet::new(), 0);
    for list in 0..LISTS {
        let mut node = head(base, list).read();
        while node != 0 && seen.insert(Place::at(node + 8).read()) {
            moves += Place::at(node + 16).read();
            node = Place::at(node).read();
        }
        if node != 0 {
            println!("FAILED: list {list} comes to a node for the second time");
        }
    }
    let counted = word(base, MOVES).read();
    go_home();
    println!("nodes {} moves {moves}", seen.len());
    let is_whole = seen == (0..count).map(mix).collect();
    if !is_whole || counted != moves {
        println!("FAILED: {count} nodes and {counted} moves should be found");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
