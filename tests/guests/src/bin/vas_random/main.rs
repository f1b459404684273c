//! A random sequence of calls, each printed with its result, for a test that has a model of
//! the system: `vas_random SEED STEPS [lockstep]`. With `lockstep` it waits for a line on standard
//! input before every step, so that a test can run several VMs against one model.
//!
//! A line is `STEP CALL ARGUMENTS = RESULT`. Ids are 16 hexadecimal digits, handles and other
//! numbers decimal, rights `r` or `w`, modes octal, names as they are (`a` to `e`; the two name
//! spaces are apart). RESULT is `ok`, an id, a handle, a value, a list, or an errno's name. Before
//! the first step come lines `base N ADDRESS`: where the bases `N` lie, 2 MiB apart, so that
//! larger segments overlap. After the last one comes `done`; status 0.
//!
//! What a step may be is in `steps.rs`; the state it draws from in `state.rs`.

mod state;
mod steps;

use std::io::BufRead;
use std::process::ExitCode;

use guests::findings::require_vm;
use state::State;

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (seed, count, lockstep) = match &args[..] {
        [seed, count] => (number(seed), number(count), false),
        [seed, count, word] if word == "lockstep" => (number(seed), number(count), true),
        _ => {
            eprintln!("usage: vas_random SEED STEPS [lockstep]");
            return ExitCode::from(2);
        }
    };
    for n in 0..state::BASES {
        println!("base {n} {}", state::base(n));
    }
    let mut state = State::new(seed);
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    for step in 0..count {
        line.clear();
        if lockstep && input.read_line(&mut line).expect("standard input can be read") == 0 {
            break;
        }
        println!("{step} {}", steps::step(&mut state));
    }
    guests::place::go_home();
    println!("done");
    ExitCode::SUCCESS
}
