//! A versioned segment in whose files any bytes were changed: refused, or it can be gone on with.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tests::fuzz::versions_segment(bytes);
});
