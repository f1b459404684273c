//! Each input that fuzzing has kept, given to its target once more: what was found and mended stays so.

use tests::fuzz_random::TARGETS;
use tests::{fuzz_corpus, kvm, pace};

#[test]
fn every_input_that_fuzzing_has_kept_is_refused_or_sound() {
    for name in fuzz_corpus::targets() {
        let inputs = fuzz_corpus::inputs(&name);
        assert!(!inputs.is_empty(), "{name} has no input");
        let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
            assert_eq!(name, "kv_requests", "inputs without a target");
            continue;
        };
        if !target.can_run() {
            kvm::skip(
                "every_input_that_fuzzing_has_kept_is_refused_or_sound",
                "no KVM for `calls`",
            );
            continue;
        }
        // Each of these boots a VM.
        let most = if name == "calls" { pace::times(60) as usize } else { inputs.len() };
        let few = inputs.len().div_ceil(most.max(1));
        let given: Vec<_> = inputs.iter().step_by(few).collect();
        println!("{name}: {} of {} inputs", given.len(), inputs.len());
        for (number, input) in given.iter().enumerate() {
            println!("{name}, {number}");
            target.check(input);
        }
    }
}
