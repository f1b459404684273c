//! A peer's reader beside its writer: transactions instead of visits.

use std::time::Instant;

use crate::Result;
use crate::beside::{VISIT, beside};
use crate::json::Object;
use crate::keys::Keys;
use crate::random::Random;
use crate::workload::{Peer, other_value};

pub(crate) fn run(peer: &impl Peer, entries: u64, millis: u64) -> Result<Object> {
    let keys = Keys::new(entries)?.inserted;
    let drawn = |random: &mut Random| keys[random.below(keys.len() as u32) as usize];
    let visit = |random: &mut Random| {
        let begin = Instant::now();
        let mut asked = 0_u32;
        let mut chosen = std::iter::from_fn(|| {
            asked += 1;
            // Looking at the clock costs as much as a key.
            if asked.is_multiple_of(64) && begin.elapsed() >= VISIT {
                return None;
            }
            Some(drawn(random))
        });
        peer.get_some(&mut chosen)
    };
    beside("beside", millis, visit, |random, round| {
        let key = drawn(random);
        peer.put(key, other_value(key, round))
    })
}
