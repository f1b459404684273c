//! The frame of a program: `--help`, wrong arguments, errors and the exit status.

use std::process::ExitCode;

/// Parses the arguments and runs the program, which says whether all went well.
pub fn start<A>(
    name: &str,
    usage: &str,
    parse: impl FnOnce(Vec<String>) -> Result<A, String>,
    run: impl FnOnce(&A) -> anyhow::Result<bool>,
) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{usage}");
        return ExitCode::SUCCESS;
    }
    let arguments = match parse(args) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprint!("{name}: {problem}\n\n{usage}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{name}: {problem:#}");
            ExitCode::FAILURE
        }
    }
}
