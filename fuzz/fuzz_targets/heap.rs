//! The heap check on a heap with any words changed: it ends, and does not contradict itself.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tests::fuzz::heap(bytes);
});
