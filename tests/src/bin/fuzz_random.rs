//! `fuzz_random TARGET SECONDS SEED`: a fuzz target on random inputs for so much processor time. Prints how many, and the
//! nanoseconds that they took, and the number of an input before a check of it that fails.

use std::process::ExitCode;
use std::time::Duration;

use tests::fuzz_random::{TARGETS, input, run};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, seconds, seed] = &args[..] else {
        eprintln!("usage: fuzz_random TARGET SECONDS SEED");
        return ExitCode::from(2);
    };
    let target = TARGETS.iter().find(|target| target.name == name);
    let (Some(target), Ok(seconds), Ok(seed)) = (target, seconds.parse(), seed.parse()) else {
        eprintln!("fuzz_random: no such target, or no number");
        return ExitCode::from(2);
    };
    if !target.can_run() {
        println!("skipped");
        return ExitCode::SUCCESS;
    }
    let mut number = 0;
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(target, seed, Duration::from_secs(seconds), &mut |at| number = at)
    }));
    match ran {
        Ok(ran) => {
            println!("{} {}", ran.inputs, ran.processor_time.as_nanos());
            ExitCode::SUCCESS
        }
        Err(_) => {
            let bytes = input(target, seed, number);
            eprintln!("{name}: input {number} of seed {seed} fails: {bytes:02x?}");
            ExitCode::FAILURE
        }
    }
}
