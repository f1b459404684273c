//! Names and control messages of sockets on any bytes: refused, or with the same meaning.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tests::fuzz::sockets(bytes);
});
