//! How long tests wait and how often they repeat on a machine unlike the developer's.
//!
//! An emulated machine (resources/machines) is some hundred times slower. There the time
//! limits are multiplied, and tests that repeat something do so less often. The assertions
//! stay the same.

use std::time::Duration;

/// A whole number; every limit is multiplied by it.
pub const SLOWDOWN: &str = "SPACEJMP_TEST_SLOWDOWN";
/// A whole number; repetitions and random cases are divided by it.
pub const FEWER: &str = "SPACEJMP_TEST_FEWER";

/// `limit` on this machine.
///
/// # Panics
/// When [`SLOWDOWN`] is not a number, or is zero.
#[must_use]
pub fn limit(limit: Duration) -> Duration {
    limit * number(SLOWDOWN)
}

/// `count` repetitions on this machine; at least one.
///
/// # Panics
/// When [`FEWER`] is not a number, or is zero.
#[must_use]
pub fn times(count: u32) -> u32 {
    (count / number(FEWER)).max(1)
}

fn number(variable: &str) -> u32 {
    let Ok(text) = std::env::var(variable) else { return 1 };
    match text.parse() {
        Ok(number) if number > 0 => number,
        _ => panic!("{variable} is {text:?}, should be a whole number above zero"),
    }
}
