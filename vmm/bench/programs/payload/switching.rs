//! `switch`: what a switch costs, in time-stamp cycles, compared with null calls.
//!
//! Every round times a batch of each kind, one kind after the other, so that a disturbance
//! of the machine affects all of them; a figure is the median over the rounds. The
//! time-stamp counter is read twice a batch: its own cost is a thousandth of a batch.

use spacejmp::sys::{self, PagePolicy, VasHandle, attach};

use crate::json::Object;
use crate::space::{cycles, enter, enter_by_hypercall, make, median, sized, tell, unmake};

/// Calls of a batch.
const BATCH: u64 = 32;
/// Names of the figures for a VAS by the number of its lockable segments.
const LOCKS: [(u64, &str); 5] =
    [(0, "locks_0"), (1, "locks_1"), (2, "locks_2"), (4, "locks_4"), (8, "locks_8")];

/// Measures for `rounds` rounds.
pub(crate) fn run(rounds: u64) -> Result<Object, String> {
    let mut made = Vec::new();
    let mut handles = Vec::new();
    for (locks, name) in LOCKS {
        let mut params = sized(4096, PagePolicy::Largest);
        // Even without locks it has a segment: a switch into an empty VAS would not be
        // representative.
        params.lockable = u8::from(locks > 0);
        let (vid, sids) = make(name, locks.max(1), &params)?;
        handles.push(tell("vas_attach", sys::vas_attach(vid, 0))?);
        made.push((vid, sids));
    }
    let (plain, other) = (handles[0], tell("vas_attach", sys::vas_attach(made[0].0, 0))?);
    // The last has its own lock, so that what readers leave behind affects no other figure.
    let mut params = sized(4096, PagePolicy::Largest);
    params.lockable = 1;
    let (vid, sids) = make("turns", 1, &params)?;
    let writes = tell("vas_attach", sys::vas_attach(vid, 0))?;
    let reads = tell("vas_attach", sys::vas_attach(vid, attach::READ_ONLY))?;
    made.push((vid, sids));
    let untagged = tell("vas_attach", sys::vas_attach(made[0].0, attach::NO_TAG))?;

    let [mut null, mut hyper_null, mut by_hypercall, mut direct] = [const { Vec::new() }; 4];
    let [mut without_tag, mut turns, mut after_a_reader] = [const { Vec::new() }; 3];
    let mut by_locks = [const { Vec::new() }; LOCKS.len()];
    // The first round warms up and is left out.
    for round in 0..=rounds {
        let note = |samples: &mut Vec<u64>, spent: u64| {
            if round > 0 {
                samples.push(spent);
            }
        };
        note(&mut null, batch(|| tell("null", sys::null()))?);
        for (samples, &vh) in by_locks.iter_mut().zip(&handles) {
            note(samples, in_and_out(vh)?);
        }
        note(&mut without_tag, in_and_out(untagged)?);
        let in_turns = || {
            for vh in [reads, writes] {
                tell("vas_switch", enter(vh))?;
                go_home()?;
            }
            Ok(())
        };
        note(&mut turns, batch(in_turns)? / 4);
        // A batch of writers to warm up, and one that counts.
        in_and_out(writes)?;
        note(&mut after_a_reader, in_and_out(writes)?);
        let there_and_back = || {
            tell("vas_switch", enter(plain))?;
            tell("vas_switch", enter(other))
        };
        note(&mut direct, batch(there_and_back)? / 2);
        go_home()?;
        // These cost most and reveal least.
        if round % 8 <= 1 {
            note(&mut hyper_null, batch(|| tell("hyper_null", sys::hyper_null()))?);
            let pair = || {
                tell("vas_switch", enter_by_hypercall(plain))?;
                tell("vas_switch", enter_by_hypercall(VasHandle::HOME))
            };
            note(&mut by_hypercall, batch(pair)? / 2);
        }
    }

    for vh in handles.into_iter().chain([other, untagged, writes, reads]) {
        tell("vas_detach", sys::vas_detach(vh))?;
    }
    for (vid, sids) in made {
        unmake(vid, sids)?;
    }
    let mut object = Object::new("switch")
        .number("rounds", rounds)
        .number("null", median(null))
        .number("hyper_null", median(hyper_null))
        .number("hypercall", median(by_hypercall))
        .number("direct", median(direct))
        .number("untagged", median(without_tag))
        .number("turns", median(turns))
        .number("after_a_reader", median(after_a_reader));
    for ((_, name), samples) in LOCKS.iter().zip(by_locks) {
        object = object.number(name, median(samples));
    }
    Ok(object)
}

/// Cycles of one call of `work`, averaged over a batch.
fn batch(mut work: impl FnMut() -> Result<(), String>) -> Result<u64, String> {
    let began = cycles();
    for _ in 0..BATCH {
        work()?;
    }
    Ok((cycles() - began) / BATCH)
}

/// Cycles of one switch, half of them in, half of them home.
fn in_and_out(vh: VasHandle) -> Result<u64, String> {
    let pair = || {
        tell("vas_switch", enter(vh))?;
        go_home()
    };
    Ok(batch(pair)? / 2)
}

fn go_home() -> Result<(), String> {
    tell("vas_switch home", enter(VasHandle::HOME))
}
