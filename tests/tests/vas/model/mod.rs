//! Random sequences of all calls, by several threads of several VMs one after the other,
//! against a model.
//!
//! The VMs run `vas_model`, which makes one call on request and prints its result. After each
//! step the model must agree: same error, same ids, same content, same statistics. Locks that
//! are held are tried, not waited for. VMs are killed, or end, in the middle.
//!
//! - [`state`], [`inside`], [`judge`]: the model; [`call`]: what a step is
//! - [`draw`]: random numbers become steps; [`lockstep`]: a model and its VMs side by side
//!
//! A failing sequence is shrunk by leaving out steps as long as it still fails; the test prints
//! the seed and the conversation.

mod call;
mod draw;
mod inside;
mod judge;
mod lockstep;
mod state;

use std::time::{Duration, Instant};

use tests::{pace, skip_without_kvm};

use draw::Raw;
use lockstep::{Disagreement, Lockstep, Seen};

/// How long a failing sequence is shrunk.
const SHORTEN: Duration = Duration::from_secs(60);

/// The raw material of a seed's sequence.
fn raw(seed: u64, steps: usize) -> Vec<Raw> {
    let mut state = seed;
    // SplitMix64.
    let mut number = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) as u32
    };
    (0..steps).map(|_| std::array::from_fn(|_| number())).collect()
}

/// One seed: a sequence for `vms` VMs of `threads` threads.
fn sequence(seed: u64, vms: usize, threads: usize, steps: usize, seen: &mut Seen) {
    let raw = raw(seed, steps);
    let start = || Lockstep::start(vms, threads);
    let Err(first) = start().run(&raw, seen) else { return };
    let run = |raw: &[Raw]| start().run(raw, &mut Seen::default());
    let (left, shortest) = shortened(raw, first, run);
    let count = left.len();
    panic!("seed {seed}, {vms} VMs, {threads} threads, {count} of {steps} steps left:\n{shortest}");
}

/// Leaves out steps that a disagreement does not need: halves, quarters, and so on.
fn shortened(
    mut raw: Vec<Raw>,
    mut shortest: Disagreement,
    run: impl Fn(&[Raw]) -> Result<(), Disagreement>,
) -> (Vec<Raw>, Disagreement) {
    let began = Instant::now();
    raw.truncate(shortest.after);
    let mut chunk = raw.len() / 2;
    while chunk > 0 && began.elapsed() < pace::limit(SHORTEN) {
        let mut at = 0;
        while at < raw.len() && began.elapsed() < pace::limit(SHORTEN) {
            let mut shorter = raw.clone();
            shorter.drain(at..raw.len().min(at + chunk));
            match run(&shorter) {
                Err(still) => {
                    shorter.truncate(still.after);
                    (raw, shortest) = (shorter, still);
                }
                Ok(()) => at += chunk,
            }
        }
        chunk /= 2;
    }
    (raw, shortest)
}

#[test]
fn calls_of_many_threads_and_vms_answer_as_the_model_does() {
    skip_without_kvm!();
    let mut seen = Seen::default();
    for seed in 1..=u64::from(pace::times(12)) {
        sequence(seed, 3, 2, 400, &mut seen);
    }
    // Not refusals alone: they would show nothing.
    assert!(seen.states() as u64 * 10 > seen.steps, "{seen:?}");
}

#[test]
#[ignore = "looks for rare disagreements for as long as one likes: SPACEJMP_MODEL_SEEDS=FROM..TO"]
fn calls_answer_as_the_model_does_for_many_seeds() {
    skip_without_kvm!();
    let range = std::env::var("SPACEJMP_MODEL_SEEDS").unwrap_or_else(|_| "100..140".to_owned());
    let (from, to) = range.split_once("..").expect("FROM..TO");
    let number = |text: &str| text.parse::<u64>().expect("FROM..TO are numbers");
    let mut seen = Seen::default();
    for seed in number(from)..number(to) {
        sequence(seed, 2 + seed as usize % 2, 1 + seed as usize / 2 % 3, 600, &mut seen);
    }
    // For `cargo xtask fuzz --model`.
    println!("model: {} sequences, {} steps, {} states", seen.sequences, seen.steps, seen.states());
}
