//! Creates, attaches, uses, detaches and deletes, many times over: `vas_churn ROUNDS`.
//!
//! Prints `warm` after a tenth of the rounds and `churned` after all, each time at home with
//! nothing attached but one VAS, and each time waits: for a VAS named `go-on`, then for one named
//! `end`, which a test creates when it has measured. Status 0.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use guests::findings::{must, require_vm};
use guests::place::{Place, enter, go_home};
use guests::store::{base_of, sized};
use spacejmp::sys::{self, Right, SegId, VasId, attach};

fn main() -> ExitCode {
    require_vm();
    let rounds: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).expect("ROUNDS");
    // Stays attached all the time, so that the process always has something attached.
    let stays = must("vas_create", sys::vas_create("stays", 0o600));
    let always = must("seg_alloc", sys::seg_alloc("stays", &sized(4 << 20)));
    must("seg_attach", sys::seg_attach(stays, always, Right::Write));
    must("vas_attach", sys::vas_attach(stays, 0));
    (0..rounds / 10).for_each(|n| round(n, stays, always));
    wait("warm", "go-on");
    (0..rounds).for_each(|n| round(n, stays, always));
    wait("churned", "end");
    ExitCode::SUCCESS
}

fn wait(what: &str, name: &str) {
    println!("{what}");
    while sys::vas_find(name).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Attaches and detaches; each fourth time with objects that come and go.
fn round(n: u64, stays: VasId, always: SegId) {
    let flags = [0, attach::READ_ONLY, attach::POPULATE, attach::NO_TAG][n as usize / 4 % 4];
    let vh = must("vas_attach", sys::vas_attach(stays, flags));
    must("vas_switch", enter(vh));
    let _ = Place::at(base_of(always) + n % 512 * 4096).read();
    go_home();
    if n.is_multiple_of(4) {
        let mut params = sized(6 << 20);
        params.lockable = u8::from(n.is_multiple_of(8));
        params.lifetime = u8::from(n.is_multiple_of(12));
        let (vas, segment) = (format!("vas-{n}"), format!("segment-{n}"));
        let vid = must("vas_create", sys::vas_create(&vas, 0o600));
        let sid = must("seg_alloc", sys::seg_alloc(&segment, &params));
        let other = must("vas_attach", sys::vas_attach(vid, 0));
        must("seg_attach", sys::seg_attach(vid, sid, Right::Write));
        must("seg_attach_local", sys::seg_attach_local(vh, sid, Right::Read));
        for handle in [other, vh] {
            must("vas_switch", enter(handle));
            let _ = Place::at(base_of(sid) + 8).read();
        }
        go_home();
        must("seg_detach_local", sys::seg_detach_local(vh, sid));
        must("vas_detach", sys::vas_detach(other));
        must("seg_detach", sys::seg_detach(vid, sid));
        must("vas_delete", sys::vas_delete(vid));
        match sys::seg_delete(sid) {
            // A volatile one is deleted automatically.
            Err(abi::Errno::ENOENT) if params.lifetime == 1 => {}
            deleted => must("seg_delete", deleted),
        }
    }
    must("vas_detach", sys::vas_detach(vh));
}
