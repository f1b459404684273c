//! Questions about System V objects, of any bytes and in any order: refused, or answered once, and nothing is released
//! that was not charged.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    tests::fuzz_sysv::questions(input);
});
