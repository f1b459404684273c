//! Packets of gdb on any bytes, and on any lines: each is answered by a packet that it can take.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = tests::fuzz::gdb_packets(bytes);
});
