//! Requests to a VM's control socket on any bytes, in any pieces: a question that is answered, or the end of the connection.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = tests::fuzz::control_requests(bytes);
});
