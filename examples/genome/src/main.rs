//! `genome`: reads of genomes, kept in an address space: `genome load FILE`, `genome flagstat`.

#![forbid(unsafe_code)]

mod options;
mod work;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use options::{Options, USAGE};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if matches!(args.first().map(String::as_str), Some("--help" | "-h" | "help")) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("genome: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let begin = Instant::now();
    match work::run(&options) {
        Ok(()) => {
            if options.time {
                eprintln!("{}: {:.6} s", options.command, begin.elapsed().as_secs_f64());
            }
            ExitCode::SUCCESS
        }
        Err(problem) if is_closed_pipe(&*problem) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("genome: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever has read enough does not want to hear about it.
fn is_closed_pipe(problem: &(dyn Error + 'static)) -> bool {
    let error = problem.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
