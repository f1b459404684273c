//! System calls with any numbers, arguments and memory, made by a guest program in a VM.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| tests::guests::rust("fuzz_calls"));

fuzz_target!(|bytes: &[u8]| {
    tests::fuzz::calls(&PROGRAM, bytes);
});
