//! `cargo xtask dist`: the files of a release. One archive has the command and what is timed by `spacejmp bench`, with
//! manual pages and completions; another the library and the headers for C and C++; and there are checksums.
//! Packages go to a registry by `cargo publish`, not by this.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages;
use crate::workspace::{TARGET, Workspace, files, output_of, read, succeed};

const SUMS: &str = "SHA256SUMS";
/// What goes with each archive.
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
/// Scripts for shells, where distributions have them below `share`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/spacejmp"),
    ("fish", "fish/vendor_completions.d/spacejmp.fish"),
    ("zsh", "zsh/site-functions/_spacejmp"),
];

/// Builds all of it into `out`, which must not be there yet. With a tag, it has to be the version's.
///
/// # Errors
/// When something does not build, the tag is of another version, or the changelog has nothing about it.
pub(crate) fn run(workspace: &Workspace, out: &Path, tag: Option<&str>) -> Result<()> {
    let version = packages::version(workspace)?;
    if let Some(tag) = tag {
        ensure!(tag == format!("v{version}"), "the tag {tag} is not that of version {version}");
        let heading = format!("\n## {version}");
        let is_there = read(&workspace.file("CHANGELOG.md"))?.contains(&heading);
        ensure!(is_there, "CHANGELOG.md has no section {version}");
    }
    fs::create_dir(out).with_context(|| format!("cannot make {}", out.display()))?;
    workspace.build_bench()?;
    let library = ["build", "--release", "--quiet", "--package", "spacejmp-c"];
    succeed(&mut workspace.cargo(&library))?;

    let command = Archive::new(workspace, out, format!("spacejmp-{version}-x86_64-linux"))?;
    for program in workspace.bench_programs() {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The key-value store is an example, and not part of a release.
        if name.starts_with("spacejmp") {
            command.add(&program, &format!("bin/{name}"))?;
        }
    }
    for name in LICENCES.into_iter().chain(["README.md", "CHANGELOG.md"]) {
        command.add(&workspace.file(name), &format!("share/doc/spacejmp/{name}"))?;
    }
    let spacejmp = workspace.spacejmp();
    let pages = command.place("share/man/man1")?;
    output_of(Command::new(&spacejmp).args(["man", "--out"]).arg(pages))?;
    for (shell, path) in COMPLETIONS {
        let script = output_of(Command::new(&spacejmp).args(["completions", shell]))?;
        let path = command.place(&format!("share/{path}"))?;
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    }
    command.pack()?;

    let c = Archive::new(workspace, out, format!("spacejmp-c-{version}-x86_64-linux"))?;
    let archive = workspace.target().join(TARGET).join("release/libspacejmp.a");
    c.add(&workspace.root().join(archive), "lib/libspacejmp.a")?;
    let headers = workspace.file("guest-sdk/include");
    for header in files(&headers)? {
        let inside = header.strip_prefix(&headers).unwrap_or(&header);
        c.add(&header, &format!("include/{}", inside.display()))?;
    }
    for name in LICENCES {
        c.add(&workspace.file(name), name)?;
    }
    c.pack()?;

    let mut names: Vec<_> = files(out)?;
    names.sort();
    let names = names.iter().filter_map(|path| path.file_name());
    let sums = output_of(Command::new("sha256sum").args(names).current_dir(out))?;
    fs::write(out.join(SUMS), &sums).with_context(|| format!("cannot write {SUMS}"))?;
    print!("{sums}");
    Ok(())
}

/// Makes the files of a release, unpacks them elsewhere, and uses what is there: checksums, the command, and the
/// library, for a project of `spacejmp new`.
///
/// # Errors
/// When a file is missing or does not do what it is for.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for the release")?;
    let out = folder.path().join("dist");
    run(workspace, &out, None)?;
    let version = packages::version(workspace)?;
    succeed(Command::new("sha256sum").args(["--check", "--quiet", SUMS]).current_dir(&out))?;
    let names = ["spacejmp", "spacejmp-c"].map(|name| format!("{name}-{version}-x86_64-linux"));
    for name in &names {
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(out.join(format!("{name}.tar.gz"))).arg("-C").arg(folder.path());
        output_of(&mut tar)?;
    }
    let [command, c] = names.map(|name| folder.path().join(name));
    for file in ["share/man/man1/spacejmp-run.1", "share/zsh/site-functions/_spacejmp"] {
        ensure!(command.join(file).is_file(), "the archive has no {file}");
    }
    let spacejmp = command.join("bin/spacejmp");
    let said = output_of(Command::new(&spacejmp).arg("version"))?;
    ensure!(said.contains(&version), "the command of version {version} says {said:?}");
    for language in ["--c", "--cxx"] {
        let project = format!("project{language}");
        let mut new = Command::new(&spacejmp);
        new.current_dir(folder.path()).args(["new", &project, language]);
        output_of(&mut new)?;
        let mut make = Command::new("make");
        make.current_dir(folder.path().join(&project)).arg(format!("SDK={}", c.display()));
        make.arg(format!("SPACEJMP={}", spacejmp.display())).arg("test");
        let said = output_of(&mut make)?;
        ensure!(said.contains("texts stay: ok"), "the project's own test says {said:?}");
    }
    Ok(())
}

/// A folder that becomes an archive with the same name.
struct Archive {
    out: PathBuf,
    name: String,
    /// The time of all that is in it: that of the last commit.
    time: String,
}

impl Archive {
    fn new(workspace: &Workspace, out: &Path, name: String) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(workspace.root()).args(["log", "-1", "--format=%ct"]);
        let time = output_of(&mut git)?.trim().to_owned();
        Ok(Self { out: out.to_owned(), name, time })
    }

    /// The path of something in it, whose folder is made.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let to = self.out.join(&self.name).join(path);
        let parent = to.parent().unwrap_or(&to);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        Ok(to)
    }

    fn add(&self, from: &Path, path: &str) -> Result<()> {
        let to = self.place(path)?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    /// The same content gives the same archive.
    fn pack(self) -> Result<()> {
        let Self { out, name, time } = self;
        let mut tar = Command::new("tar");
        tar.current_dir(&out).args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.arg(format!("--mtime=@{time}")).args(["--mode=u=rwX,go=rX", "-czf"]);
        output_of(tar.arg(format!("{name}.tar.gz")).arg(&name))?;
        let folder = out.join(name);
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
    }
}
