//! `spacejmp doctor PROGRAM`: what a program needs, before it is run.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use vmm::confine::Confine;
use vmm::exit_code::ExitCode;
use vmm::files::{Grant, Tty};
use vmm::host::{Check, Level};
use vmm::linux::net::NetGrants;
use vmm::process::needs::{Library, Needs};
use vmm::process::{Command, Libraries, RunConfig};
use vmm::vas::VasGrants;

use crate::doctor::{Args, line};
use crate::errors::{self, Failure};
use crate::run::bad_grant;
use crate::run_options::environment;
use crate::search;
use crate::start_error::start_failure;
use crate::style::{Colour, Look};

pub(crate) fn run(args: &Args, named: &OsString, json: bool) -> Result<ExitCode, Failure> {
    let root = args.root.as_deref().map(Grant::root).transpose();
    let root = root.map_err(|error| bad_grant(named, error))?;
    let dir = |text: &String| text.parse().map_err(|error| bad_grant(named, error));
    let grants: Vec<Grant> = args.dir.iter().map(dir).collect::<Result<_, _>>()?;
    let program = match root {
        None => search::on_host(named)?,
        Some(_) => PathBuf::from(named),
    };
    let config = RunConfig {
        command: Command { program: program.clone(), argv0: None, args: Vec::new() },
        env: environment(std::env::vars_os(), &args.env, 0),
        memory_bytes: 0,
        limits: Vec::new(),
        grants,
        root,
        tmp: None,
        libraries: if args.no_libs { Libraries::Withheld } else { Libraries::Shown },
        net: NetGrants::default(),
        cwd: None,
        store: None,
        vases: VasGrants::of(Vec::new()),
        tty: Tty::Withheld,
        umask: 0o022,
        stdio: [nothing()?, nothing()?, nothing()?],
        tracer: None,
        profiler: None,
        core: None,
        backtraces: false,
        disk: None,
        debug: None,
        at_ready: None,
        socket: None,
        tree: None,
        inherited: Vec::new(),
        confine: Confine::Off,
        confine_files: None,
    };
    let needs = Needs::of(config).map_err(|error| start_failure(&program, error))?;
    let written = errors::output(json, &needs, |colour| render(&needs, colour))?;
    Ok(if needs.are_met() { written } else { ExitCode::CannotExecute })
}

/// A program that is not run reads and writes nothing.
fn nothing() -> Result<OwnedFd, Failure> {
    let file = File::open("/dev/null");
    file.map(OwnedFd::from).map_err(|error| Failure::new("open /dev/null", error))
}

fn render(needs: &Needs, colour: Colour) -> String {
    let checks = checks(needs);
    let mut text: String = checks.iter().map(|check| line(check, colour)).collect();
    let calls = needs.calls_not_served.is_empty();
    let summary = match (needs.are_met(), calls) {
        (true, true) => "It has all it needs to start.",
        (true, false) => "It has all it needs to start; some of what it can do is not served.",
        (false, _) => "It cannot start like this.",
    };
    text += &format!("\n{}\n", colour.paint(Look::Bold, summary));
    text
}

fn ok(subject: &'static str, found: String) -> Check {
    Check { level: Level::Ok, subject, found, remedy: None }
}

fn checks(needs: &Needs) -> Vec<Check> {
    let mut checks = vec![ok("executable", needs.executable.clone())];
    if let Some(script) = &needs.script {
        checks.push(ok("script", script.join(" ")));
    }
    match &needs.loader {
        Some(loader) => checks.push(ok("loader", loader.clone())),
        None => checks.push(ok("loader", "none: it is linked statically".to_owned())),
    }
    if let Some(sanitizer) = &needs.sanitizer {
        checks.push(Check {
            level: Level::Problem,
            subject: "sanitizer",
            found: format!("it was built with {sanitizer}, which needs addresses above 16 TiB"),
            remedy: Some("build it without, or run it natively".to_owned()),
        });
    }
    let (visible, hidden): (Vec<&Library>, Vec<&Library>) =
        needs.libraries.iter().partition(|library| library.visible);
    if !visible.is_empty() {
        let names: Vec<&str> = visible.iter().map(|library| library.name.as_str()).collect();
        checks.push(ok("libraries", names.join(" ")));
    }
    for library in hidden {
        let (name, by) = (&library.name, &library.needed_by);
        let (found, remedy) = match (&library.path, library.grant()) {
            (Some(path), Some(grant)) => (
                format!("{name}, which {by} needs, is at {path}, where it may not look"),
                format!("grant it: {grant}"),
            ),
            _ => (
                format!("{name}, which {by} needs, is nowhere"),
                "install it, or name its directory: --dir DIR:ro --env LD_LIBRARY_PATH=DIR".into(),
            ),
        };
        let (level, subject) = (Level::Problem, "library");
        checks.push(Check { level, subject, found, remedy: Some(remedy) });
    }
    let calls = &needs.calls_not_served;
    match calls.is_empty() {
        true => checks.push(ok("calls", "none that is known not to be served".to_owned())),
        false => checks.push(Check {
            level: Level::Note,
            subject: "calls",
            found: format!("not served, if it makes them: {}", calls.join(" ")),
            remedy: Some("run it with --strace to see whether it does".to_owned()),
        }),
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::{Colour, Library, Needs, render};

    fn needs(libraries: Vec<Library>, calls: &[&str]) -> Needs {
        Needs {
            executable: "/bin/x".to_owned(),
            script: None,
            loader: Some("/lib64/ld.so".to_owned()),
            libraries,
            calls_not_served: calls.iter().map(|call| (*call).to_owned()).collect(),
            sanitizer: None,
        }
    }

    #[test]
    fn a_library_out_of_sight_is_a_problem_with_the_option_that_grants_it() {
        let library = |path: Option<&str>, visible| Library {
            name: "liba.so".to_owned(),
            needed_by: "/bin/x".to_owned(),
            path: path.map(str::to_owned),
            visible,
        };
        let shown = |library| render(&needs(vec![library], &[]), Colour::Plain);
        let text = shown(library(Some("/opt/a/liba.so"), false));
        assert!(text.contains("problem ") && text.contains("--dir /opt/a:ro"), "{text}");
        assert!(text.ends_with("cannot start like this.\n"), "{text}");
        let text = shown(library(None, false));
        assert!(text.contains("is nowhere") && text.contains("LD_LIBRARY_PATH=DIR"), "{text}");
        let text = shown(library(Some("/lib/liba.so"), true));
        assert!(!text.contains("problem") && text.contains("all it needs"), "{text}");
    }

    #[test]
    fn calls_that_are_not_served_are_a_note() {
        let text = render(&needs(Vec::new(), &["ptrace"]), Colour::Plain);
        assert!(text.contains("note ") && text.contains("ptrace"), "{text}");
        assert!(text.ends_with("is not served.\n"), "{text}");
    }
}
