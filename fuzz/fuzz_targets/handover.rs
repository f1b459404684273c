//! What one VMM of a run sends to another, on any bytes: refused, or written back as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    tests::fuzz_handover::handover(input.1, input.0);
});
