//! A program that copies are started from, in Rust: `ready ARGS` prints who it is, its arguments and its variable
//! COLOUR. Status 0, or 101 with what is wrong.

use std::ffi::OsString;

use guests::findings::require_vm;
use spacejmp::Ready;

fn main() {
    require_vm();
    // Dropped as they should be in a copy, too.
    let warm: Vec<String> = (0..1000).map(|number| format!("{number}")).collect();
    let (who, args, env): (_, Vec<OsString>, Vec<_>) = match spacejmp::ready().expect("ready") {
        Ready::Original => {
            ("original", std::env::args_os().collect(), std::env::vars_os().collect())
        }
        Ready::Copy { args, env } => ("copy", args, env),
    };
    let colour = env.iter().find(|(name, _)| name == "COLOUR").map(|(_, value)| value);
    println!("{who} {:?} {colour:?} {}", args.get(1..).unwrap_or_default(), warm.join("").len());
}
