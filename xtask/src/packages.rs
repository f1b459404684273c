//! Our packages: how many crates a user's `cargo run --release -- demo` compiles, which must not grow
//! unnoticed; that those for others build outside this checkout; and that the command can be installed from them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::machine::interpreter_is_needed;
use crate::workspace::{TARGET, Workspace, output_of, read, succeed};

/// Packages with a command for users; every user builds the first.
const COMMANDS: [&str; 2] = ["spacejmp-cli", "spacejmp-bench"];
/// The most crates that the command may need, in the checkout: a number, and the reason for each rise.
const LIMIT: &str = "xtask/crates.txt";
/// Settings of cargo's that a user of the packages does not have.
const SETTINGS: [&str; 4] =
    ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"];

/// Compares the number of crates that the command needs with the recorded one. A lower number must
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

/// Packages what is for others, unpacks it elsewhere and checks the commands there: everything that their
/// build scripts and sources read has to be in the packages. What comes from a registry is compiled
/// in the checkout's target folder, where it has been already.
///
/// # Errors
/// When a crate does not package, lacks what a registry asks for, or does not build.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for the packages")?;
    let own = unpack(workspace, folder.path())?;
    let root = read(&workspace.file("Cargo.toml"))?;
    let mut manifest = String::from("[workspace]\nresolver = \"3\"\nmembers = [\"*-*\"]\n");
    // Otherwise what comes from a registry would be compiled again.
    manifest.push_str(profile(&root));
    manifest.push_str("[patch.crates-io]\n");
    for one in &own {
        manifest.push_str(&format!("{} = {{ path = \"{}\" }}\n", one.name, one.folder()));
    }
    write(&folder.path().join("Cargo.toml"), &manifest)?;
    copy_lock(workspace, folder.path())?;
    let mut build = workspace.cargo(&["check", "--quiet", "--offline", "--target", TARGET]);
    build.current_dir(folder.path()).arg("--config").arg(workspace.file(".cargo/config.toml"));
    build.args(COMMANDS.iter().flat_map(|name| ["--package", name]));
    succeed(build.arg("--target-dir").arg(workspace.root().join(workspace.target())))
}

/// Installs the command as its users get it.
///
/// # Errors
/// As [`installed`].
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    installed(workspace, "release", &[])
}

/// The same without optimisation, which takes a third of the time: whether it builds, is static and runs is no different.
///
/// # Errors
/// As [`installed`].
pub(crate) fn install_quickly(workspace: &Workspace) -> Result<()> {
    let profile =
        ["--debug", "--config=profile.dev.opt-level=0", "--config=profile.dev.debug=false"];
    installed(workspace, "debug", &profile)
}

/// Installs the command as somebody who has no checkout: from the packages, without network, in a folder
/// with no settings for cargo but where the packages are, which a registry would say. Then the installed
/// file runs itself in a VM: it has to be static, and to have the guest kernel in it.
///
/// # Errors
/// When it cannot be installed, is not static, or does not run.
fn installed(workspace: &Workspace, profile: &str, options: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for the packages")?;
    unpack(workspace, folder.path())?;
    let needed = crates(workspace, &COMMANDS[..1])?;
    let (command, others): (Vec<_>, Vec<_>) =
        needed.iter().filter(|one| one.is_ours).partition(|one| one.name == COMMANDS[0]);
    let command = command.first().context("cargo tree does not name the command")?;
    let package = folder.path().join(command.folder());
    let manifest = read(&package.join("Cargo.toml"))?;
    let mut settings = String::from("[patch.crates-io]\n");
    for one in others {
        ensure!(
            one.is_macro || has_checks(&manifest, &one.name),
            "numbers in {} are not checked in an installed command: Cargo.toml has no overflow-checks = \
             true for it in [profile.release.package]",
            one.name
        );
        let path = folder.path().join(one.folder());
        settings.push_str(&format!("{} = {{ path = \"{}\" }}\n", one.name, path.display()));
    }
    fs::create_dir(folder.path().join(".cargo")).context("cannot make a folder for settings")?;
    write(&folder.path().join(".cargo/config.toml"), &settings)?;
    copy_lock(workspace, &package)?;
    let cargo = |arguments: &[&str]| {
        let mut cargo = workspace.cargo(arguments);
        for name in SETTINGS {
            cargo.env_remove(name);
        }
        cargo.current_dir(&package).arg("--offline");
        cargo
    };
    // Takes out of the lock what the command does not need: `--locked` wants it exact.
    output_of(&mut cargo(&["metadata", "--format-version", "1"]))?;
    let root = folder.path().join("installed");
    let mut install = cargo(&["install", "--quiet", "--locked", "--no-track", "--path", "."]);
    install.args(options).arg("--root").arg(&root);
    install.arg("--target-dir").arg(workspace.root().join(workspace.target()).join("installed"));
    succeed(&mut install)?;

    let installed = root.join("bin/spacejmp");
    let data = fs::read(&installed).with_context(|| format!("no {}", installed.display()))?;
    ensure!(interpreter_is_needed(&data) == Some(false), "what cargo installs is not static");
    let mut run = Command::new(&installed);
    run.current_dir(folder.path()).args(["run", "--no-store", "--timeout", "300"]);
    let said = output_of(run.arg(&installed).arg("version"))?;
    let expected = format!("spacejmp {} ({profile}, ", command.version);
    ensure!(said.starts_with(&expected), "in a VM it says {said:?} instead of {expected:?}...");
    println!("installed: {} bytes, static; in a VM it is {}", data.len(), said.trim_end());
    Ok(())
}

/// The version that all packages have.
///
/// # Errors
/// When cargo cannot tell.
pub(crate) fn version(workspace: &Workspace) -> Result<String> {
    let all = published(workspace)?;
    let command = all.into_iter().find(|one| one.name == COMMANDS[0]);
    Ok(command.context("cargo metadata does not name the command")?.version)
}

/// Makes the packages that are for others, and unpacks them into `folder`.
fn unpack(workspace: &Workspace, folder: &Path) -> Result<Vec<Crate>> {
    let own = published(workspace)?;
    for needed in crates(workspace, &COMMANDS)?.into_iter().filter(|one| one.is_ours) {
        ensure!(
            own.iter().any(|one| one.name == needed.name),
            "{} is part of a command and must not be published",
            needed.name
        );
    }
    // The lock file would be made from a registry, which does not have our crates.
    let mut package = workspace.cargo(&["package", "--quiet", "--no-verify", "--exclude-lockfile"]);
    package.arg("--allow-dirty");
    package.args(own.iter().flat_map(|one| ["--package", &one.name]));
    output_of(&mut package)?;
    for one in &own {
        let made = workspace.root().join(workspace.target()).join("package");
        let file = made.join(format!("{}.crate", one.folder()));
        // Times of now: those in a package are the same for every content, and cargo would take what
        // it compiled of an earlier one.
        output_of(Command::new("tar").arg("-xmzf").arg(&file).arg("-C").arg(folder))?;
        is_described(&folder.join(one.folder()))?;
    }
    Ok(own)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The versions that are tested here, for a build without network.
fn copy_lock(workspace: &Workspace, to: &Path) -> Result<()> {
    let copied = fs::copy(workspace.file("Cargo.lock"), to.join("Cargo.lock"));
    copied.map(drop).context("cannot copy Cargo.lock")
}

/// A crate as `cargo tree` names it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    is_ours: bool,
    is_macro: bool,
}

impl Crate {
    /// The name of its package's folder, once unpacked.
    fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }
}

/// Our packages that may be published.
fn published(workspace: &Workspace) -> Result<Vec<Crate>> {
    let mut cargo = workspace.cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let told = output_of(&mut cargo)?;
    published_in(&told).context("cargo metadata prints something else than expected")
}

fn published_in(told: &str) -> Option<Vec<Crate>> {
    let told: serde_json::Value = serde_json::from_str(told).ok()?;
    let packages = told.get("packages")?.as_array()?.iter();
    // `null` is any registry, a list those that are allowed.
    let published = packages.filter(|package| package["publish"].is_null());
    let one = |package: &serde_json::Value| {
        let text = |key: &str| package.get(key)?.as_str().map(str::to_owned);
        let is_macro = package["targets"][0]["kind"][0] == "proc-macro";
        Some(Crate { name: text("name")?, version: text("version")?, is_ours: true, is_macro })
    };
    published.map(one).collect()
}

/// All that is compiled for some packages, each once: build scripts and macros included, tests not.
fn crates(workspace: &Workspace, packages: &[&str]) -> Result<BTreeSet<Crate>> {
    let mut cargo = workspace.cargo(&["tree", "--edges", "normal,build", "--prefix", "none"]);
    cargo.args(packages.iter().flat_map(|name| ["--package", name]));
    Ok(output_of(&mut cargo)?.lines().filter_map(crate_in).collect())
}

/// The crate of a line like `spacejmp-abi v0.1.0 (/path/to/abi) (*)`; empty lines are between packages.
fn crate_in(line: &str) -> Option<Crate> {
    let mut words = line.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let is_macro = line.contains("(proc-macro)");
    let is_ours = words.any(|word| word.starts_with("(/"));
    Some(Crate { name: name.to_owned(), version: version.to_owned(), is_ours, is_macro })
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

/// Whether the manifest of a package has overflow checks for one of its dependencies in a release build.
fn has_checks(manifest: &str, dependency: &str) -> bool {
    let table = format!("[profile.release.package.{dependency}]\n");
    let rest = manifest.split_once(&table).map_or("", |(_, rest)| rest);
    rest.lines()
        .take_while(|line| !line.starts_with('['))
        .any(|line| line == "overflow-checks = true")
}

/// A registry requires the keys, both licences the files.
fn is_described(package: &Path) -> Result<()> {
    let manifest = package.join("Cargo.toml");
    let text = read(&manifest)?;
    for key in ["description", "license", "rust-version"] {
        let is_there = text.lines().any(|line| line.starts_with(&format!("{key} = \"")));
        ensure!(is_there, "{} has no {key}", manifest.display());
    }
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        ensure!(package.join(name).is_file(), "{} has no {name}", package.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tree_are_crates_and_those_with_a_path_are_ours() {
        let one = |name: &str, version: &str, is_ours, is_macro| {
            Some(Crate { name: name.into(), version: version.into(), is_ours, is_macro })
        };
        assert_eq!(crate_in("abi v0.1.0 (/w/abi) (*)"), one("abi", "0.1.0", true, false));
        let derive = crate_in("serde_derive v1.0.2 (proc-macro)");
        assert_eq!(derive, one("serde_derive", "1.0.2", false, true));
        assert_eq!(crate_in("libc v0.2.1 (*)"), one("libc", "0.2.1", false, false));
        assert_eq!(crate_in("x v1.0.0 (proc-macro) (/w/x)"), one("x", "1.0.0", true, true));
        assert_eq!(crate_in(""), None);
    }

    #[test]
    fn what_may_be_published_says_nothing_else() {
        let told = r#"{"packages": [
            {"name": "a", "version": "1.0.0", "publish": null, "targets": [{"kind": ["lib"]}]},
            {"name": "b", "version": "1.0.0", "publish": [], "targets": [{"kind": ["bin"]}]}]}"#;
        let names: Vec<_> = published_in(told).expect("it is understood");
        assert_eq!(names.iter().map(Crate::folder).collect::<Vec<_>>(), ["a-1.0.0"]);
        assert!(published_in("{}").is_none());
    }

    #[test]
    fn checks_of_a_dependency_are_in_its_own_table() {
        let text = "[profile.release.package.a]\nopt-level = 2\n\n\
                    [profile.release.package.ab]\nopt-level = 2\noverflow-checks = true\n";
        assert!(has_checks(text, "ab") && !has_checks(text, "a") && !has_checks(text, "b"));
    }

    #[test]
    fn the_oldest_compiler_that_is_promised_is_the_one_that_everything_is_tested_with() {
        let toolchain = include_str!("../../rust-toolchain.toml");
        let value = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("it is there");
            line.trim_matches(['"', ' ', '=']).to_owned()
        };
        let channel = value(toolchain, "channel");
        let promised = value(include_str!("../../Cargo.toml"), "rust-version =");
        assert_eq!(channel.rsplit_once('.').expect("x.y.z").0, promised);
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
