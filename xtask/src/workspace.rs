//! Paths in this workspace, and running its tools. Nothing about what is checked or
//! booted: every module of xtask uses this one instead of building its own paths.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The target all our programs are built for; `.cargo/config.toml` names it, too.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs of `spacejmp bench`.
const BENCH: &[&str] = &["spacejmp-bench", "spacejmp-bench-hello", "spacejmp-bench-payload"];
/// The programs that `bench kv` measures.
const KV: &[&str] = &["kv", "kv-benchmark"];

/// The checkout this xtask was built from, or a copy of it.
pub(crate) struct Workspace {
    root: PathBuf,
    /// Cargo's output folder, if it is not cargo's default.
    target: Option<PathBuf>,
}

impl Workspace {
    /// The workspace that holds the source of this program.
    pub(crate) fn here() -> Self {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: xtask.parent().unwrap_or(xtask).to_path_buf(), target: None }
    }

    /// Another checkout, whose cargo builds into `target`.
    pub(crate) fn at(root: PathBuf, target: PathBuf) -> Self {
        Self { root, target: Some(target) }
    }

    /// The workspace's own folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's output folder, which a contributor may have moved.
    pub(crate) fn target(&self) -> PathBuf {
        if let Some(target) = &self.target {
            return target.clone();
        }
        let name = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| OsString::from("target"));
        self.root.join(name)
    }

    /// The static `spacejmp` of the release build, whether or not it has been built.
    pub(crate) fn spacejmp(&self) -> PathBuf {
        self.target().join(TARGET).join("release/spacejmp")
    }

    /// A program of a debug build.
    pub(crate) fn debug(&self, name: &str) -> PathBuf {
        self.target().join(TARGET).join("debug").join(name)
    }

    /// Makes the release build of `spacejmp` and, if it is separate in this revision, of the
    /// program that runs `spacejmp bench`.
    ///
    /// # Errors
    /// When one does not build.
    pub(crate) fn build_bench(&self) -> Result<()> {
        self.build_release(&[])
    }

    /// Makes the release build of `spacejmp` alone: of the same packages as [`Workspace::build_bench`]. Its
    /// dependencies would have other features without the rest, and all would be compiled twice.
    ///
    /// # Errors
    /// When it does not build.
    pub(crate) fn build_command(&self) -> Result<()> {
        self.build_release(&["--bin", "spacejmp"])
    }

    fn build_release(&self, which: &[&str]) -> Result<()> {
        let mut cargo = self.cargo(&["build", "--release", "--quiet", "--package"]);
        cargo.arg(self.command_package()).args(which);
        if self.has_bench() {
            cargo.args(["--package", "spacejmp-bench"]);
        }
        if self.has_kv() {
            cargo.args(["--package", "kv"]);
        }
        succeed(&mut cargo)
    }

    /// What [`Workspace::build_bench`] makes, all in one folder.
    pub(crate) fn bench_programs(&self) -> Vec<PathBuf> {
        let beside = if self.has_bench() { BENCH } else { &[] };
        let kv: &[&str] = if self.has_kv() { KV } else { &[] };
        let beside = beside.iter().chain(kv).map(|name| self.spacejmp().with_file_name(name));
        iter::once(self.spacejmp()).chain(beside).collect()
    }

    /// Older revisions have the command in the package of the library.
    fn command_package(&self) -> &'static str {
        if self.file("cli").is_dir() { "spacejmp-cli" } else { "vmm" }
    }

    /// Older revisions have the benchmarks in `spacejmp` itself.
    fn has_bench(&self) -> bool {
        self.file("vmm/bench").is_dir()
    }

    /// Older revisions measure no key-value store.
    fn has_kv(&self) -> bool {
        self.file("examples/kv/src/bin/kv-benchmark").is_dir()
    }

    /// A file of the source, by its path in the checkout.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A cargo command in the workspace, with the same toolchain that runs us.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(arguments).current_dir(&self.root);
        if let Some(target) = &self.target {
            cargo.env("CARGO_TARGET_DIR", target);
        }
        cargo
    }
}

/// The text of a file.
///
/// # Errors
/// When it cannot be read or is not UTF-8; the text names the file.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// All files below `root`, in no particular order, except what cargo or a tool made: nothing in
/// folders named `target`, nothing hidden. Symbolic links are not followed.
///
/// # Errors
/// When a folder cannot be read.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let context = || format!("cannot read {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(context)? {
            let entry = entry.with_context(context)?;
            let kind = entry.file_type().with_context(context)?;
            let name = entry.file_name();
            if name == "target" || name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Runs `command` with our own standard streams.
///
/// # Errors
/// When it cannot be started or does not end with status 0; the text names the command.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` quietly and returns what it printed on stdout.
///
/// # Errors
/// As [`succeed`]; the text ends with what the command printed on stderr.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let line = line_of(command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}\n{}", output.status, said.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of `{line}` is not UTF-8"))
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
