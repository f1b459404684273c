//! A random sequence of calls, each printed with its result: `vas_random SEED STEPS [others]`.
//! With `others`, other VMs do the same in the same store at the same time, and what the program
//! is about to touch may no longer be there: then it may fault.
//!
//! A line is `STEP CALL ARGUMENTS = RESULT`. Ids are 16 hexadecimal digits, handles and other
//! numbers decimal, rights `r` or `w`, modes octal, names as they are (`a` to `e`; the two name
//! spaces are separate). RESULT is `ok`, an id, a handle, a value, a list, or an errno's name.
//! Before the first step come lines `base N ADDRESS`: where the bases `N` lie, 2 MiB apart, so
//! that larger segments overlap. After the last one comes `done`; status 0.
//!
//! What a step may be is in `steps.rs`; the state it draws from in `state.rs`.

mod state;
mod steps;

use std::process::ExitCode;

use guests::findings::require_vm;
use state::State;

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (seed, count, is_alone) = match &args[..] {
        [seed, count] => (number(seed), number(count), true),
        [seed, count, word] if word == "others" => (number(seed), number(count), false),
        _ => {
            eprintln!("usage: vas_random SEED STEPS [others]");
            return ExitCode::from(2);
        }
    };
    for n in 0..state::BASES {
        println!("base {n} {}", state::base(n));
    }
    guests::touch::prepare(0..0);
    let mut state = State::new(seed, is_alone);
    for step in 0..count {
        println!("{step} {}", steps::step(&mut state));
    }
    guests::place::go_home();
    println!("done");
    ExitCode::SUCCESS
}
