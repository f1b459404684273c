//! An exported VAS on any bytes: refused with a reason, or read to its end.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tests::fuzz::archive(bytes));
