//! A VAS's manifest on any bytes: refused with a reason, or sound.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tests::fuzz::manifest(bytes));
