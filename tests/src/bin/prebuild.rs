//! `prebuild FOLDER`: fills FOLDER with every program that tests run, for machines that cannot
//! build any, and prints their paths, one per line. `tests::guests` says how they are named.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = &arguments[..] else {
        eprintln!("usage: prebuild FOLDER");
        return ExitCode::from(2);
    };
    for path in tests::guests::prebuild(Path::new(folder)) {
        println!("{}", path.display());
    }
    ExitCode::SUCCESS
}
