//! The crates that a user's `cargo run --release -- demo` compiles, whose number must not grow
//! unnoticed; and our own among them, which must build as packages, outside this checkout.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::{TARGET, Workspace, output_of, read, succeed};

/// Packages with a command for users; every user builds `vmm`.
const COMMANDS: [&str; 2] = ["vmm", "spacejmp-bench"];
/// The most crates that `vmm` may need, in the checkout: a number, and the reason for each rise.
const LIMIT: &str = "xtask/crates.txt";

/// Compares the number of crates that `vmm` needs with the recorded one. A lower number must
/// be recorded as well, so that the next rise is noticed, too.
///
/// # Errors
/// When there are more or fewer, or cargo cannot tell.
pub(crate) fn count(workspace: &Workspace) -> Result<()> {
    let crates = crates(workspace, &COMMANDS[..1])?;
    let limit = limit(&read(&workspace.file(LIMIT))?)?;
    println!("crates: {}", crates.len());
    ensure!(
        crates.len() == limit,
        "`cargo run --release -- demo` compiles {} crates, {LIMIT} says {limit}: {}",
        crates.len(),
        crates.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(" ")
    );
    Ok(())
}

/// Packages our crates, unpacks them elsewhere and checks the commands there: everything that their
/// build scripts and sources read has to be in the packages. What comes from a registry is compiled
/// in the checkout's target folder, where it has been already.
///
/// # Errors
/// When a crate does not package, lacks what a registry asks for, or does not build.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let own: Vec<Crate> =
        crates(workspace, &COMMANDS)?.into_iter().filter(|one| one.is_ours).collect();
    // The lock file would be made from a registry, which does not have our crates.
    let mut package = workspace.cargo(&["package", "--quiet", "--no-verify", "--exclude-lockfile"]);
    package.arg("--allow-dirty");
    package.args(own.iter().flat_map(|one| ["--package", &one.name]));
    output_of(&mut package)?;

    let folder = tempfile::tempdir().context("cannot make a folder for the packages")?;
    let root = read(&workspace.file("Cargo.toml"))?;
    let mut manifest = String::from("[workspace]\nresolver = \"3\"\nmembers = [\"*-*\"]\n");
    // Otherwise what comes from a registry would be compiled again.
    manifest.push_str(profile(&root));
    manifest.push_str("[patch.crates-io]\n");
    for Crate { name, version, .. } in &own {
        let package = format!("{name}-{version}");
        let file = workspace.target().join("package").join(format!("{package}.crate"));
        // Times of now: those in a package are the same for every content, and cargo would take what
        // it compiled of an earlier one.
        output_of(Command::new("tar").arg("-xmzf").arg(&file).arg("-C").arg(folder.path()))?;
        is_described(&folder.path().join(&package).join("Cargo.toml"))?;
        manifest.push_str(&format!("{name} = {{ path = \"{package}\" }}\n"));
    }
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).with_context(|| format!("cannot write {name}"))
    };
    write("Cargo.toml", &manifest)?;
    fs::copy(workspace.file("Cargo.lock"), folder.path().join("Cargo.lock"))
        .context("cannot copy Cargo.lock")?;
    let mut build = workspace.cargo(&["check", "--quiet", "--offline", "--target", TARGET]);
    build.current_dir(folder.path()).arg("--config").arg(workspace.file(".cargo/config.toml"));
    build.args(COMMANDS.iter().flat_map(|name| ["--package", name]));
    succeed(build.arg("--target-dir").arg(workspace.root().join(workspace.target())))
}

/// A crate as `cargo tree` names it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    is_ours: bool,
}

/// All that is compiled for some packages, each once: build scripts and macros included, tests not.
fn crates(workspace: &Workspace, packages: &[&str]) -> Result<BTreeSet<Crate>> {
    let mut cargo = workspace.cargo(&["tree", "--edges", "normal,build", "--prefix", "none"]);
    cargo.args(packages.iter().flat_map(|name| ["--package", name]));
    Ok(output_of(&mut cargo)?.lines().filter_map(crate_in).collect())
}

/// The crate of a line like `abi v0.1.0 (/path/to/abi) (*)`; empty lines are between packages.
fn crate_in(line: &str) -> Option<Crate> {
    let mut words = line.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let is_ours = words.any(|word| word.starts_with("(/"));
    Some(Crate { name: name.to_owned(), version: version.to_owned(), is_ours })
}

/// The number in the record: the first word of its last line that is not a comment.
fn limit(text: &str) -> Result<usize> {
    let line = text.lines().rfind(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{LIMIT} does not end with a number"))
}

/// The table of the profile used for the check.
fn profile(manifest: &str) -> &str {
    let from = manifest.find("[profile.dev]").unwrap_or(manifest.len());
    let table = &manifest[from..];
    let next = table.get(1..).and_then(|rest| rest.find("\n["));
    &table[..next.map_or(table.len(), |end| end + 2)]
}

/// A registry requires these.
fn is_described(manifest: &Path) -> Result<()> {
    let text = read(manifest)?;
    for key in ["description", "license"] {
        let is_there = text.lines().any(|line| line.starts_with(&format!("{key} = \"")));
        ensure!(is_there, "{} has no {key}", manifest.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tree_are_crates_and_those_with_a_path_are_ours() {
        let found = |line| crate_in(line).map(|one| (one.name, one.version, one.is_ours));
        let one = |name: &str, version: &str, ours| Some((name.into(), version.into(), ours));
        assert_eq!(found("abi v0.1.0 (/w/abi) (*)"), one("abi", "0.1.0", true));
        assert_eq!(found("serde_derive v1.0.2 (proc-macro)"), one("serde_derive", "1.0.2", false));
        assert_eq!(found("libc v0.2.1 (*)"), one("libc", "0.2.1", false));
        assert_eq!(found("x v1.0.0 (proc-macro) (/w/x)"), one("x", "1.0.0", true));
        assert_eq!(found(""), None);
    }

    #[test]
    fn the_limit_is_the_last_number_recorded() {
        let text = "# text\n90 at first\n\n80 less\n# more text\n";
        assert_eq!(limit(text).expect("there is one"), 80);
        assert!(limit("# 80\n").is_err() && limit("").is_err() && limit("many\n").is_err());
    }

    #[test]
    fn the_profile_is_its_own_table_and_nothing_else() {
        let text = "[profile.release]\na = 1\n\n[profile.dev]\nb = 2\nc = 3\n\n[profile.dev.package.x]\nd = 4\n";
        assert_eq!(profile(text), "[profile.dev]\nb = 2\nc = 3\n\n");
        assert_eq!(profile("[profile.dev]\nb = 2\n"), "[profile.dev]\nb = 2\n");
        assert_eq!(profile("x = 1\n"), "");
    }
}
