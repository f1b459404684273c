//! What a snapshot says, on any bytes: refused, or written back with the same meaning.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    tests::fuzz_snapshot::snapshot(input);
});
