//! The fuzz targets' entry points with a few thousand random inputs, on any toolchain.
//!
//! `fuzz/` feeds the same functions from libFuzzer; the ELF loader's share is in `elf.rs`.

use std::collections::BTreeMap;

use tests::skip_without_kvm;
use tests::{fuzz, guests};
use vmm::process::Outcome;

/// Random bytes that are the same in every run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn random_system_calls_never_harm_the_vmm() {
    skip_without_kvm!();
    let program = guests::rust("fuzz_calls");
    let seeds =
        std::env::var("SPACEJMP_FUZZ_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..seeds {
        // About 25 bytes a call.
        let ended = fuzz::calls(&program, &noise(seed, 2000));
        let name = match ended.outcome {
            Outcome::Exited(status) => format!("exited {status}"),
            Outcome::Killed { signal, .. } => format!("signal {signal}"),
            other => format!("{other:?}"),
        };
        *outcomes.entry(name).or_default() += 1;
    }
    println!("{outcomes:?}");
    let whole = outcomes.get("exited 0").copied().unwrap_or(0);
    assert!(whole * 4 > seeds as u32, "too few came to the end of their input: {outcomes:?}");
}
