//! The files of a versioned segment on any bytes: record, log header, root records, map of pages.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tests::fuzz::versions_files(bytes);
});
