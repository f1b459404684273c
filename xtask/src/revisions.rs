//! `cargo xtask compare`: two revisions, each built and measured on this machine, side by side.
//! What is compared and how is `spacejmp bench compare`; here is how the two runs come about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, output_of, succeed};

/// What to compare.
#[derive(clap::Args)]
pub(crate) struct CompareArgs {
    /// The older revision: anything git takes for a commit
    old: String,
    /// The newer one; the checkout as it is, if not given
    new: Option<String>,
    /// Experiments to run, as `spacejmp bench` names them
    #[arg(long = "bench", value_name = "NAME", default_value = "all")]
    benches: Vec<String>,
    /// The sizes the figures are defined for, instead of small ones
    #[arg(long)]
    full: bool,
}

/// One of the two, built.
struct Revision {
    /// For people.
    name: String,
    spacejmp: PathBuf,
    /// Where its run is left.
    results: PathBuf,
}

/// Builds both, measures one after the other, prints them side by side.
///
/// # Errors
/// When there is no such revision, something cannot be built or measured, or a count of
/// instructions or exits has grown.
pub(crate) fn run(workspace: &Workspace, args: &CompareArgs) -> Result<()> {
    let folder = workspace.target().join("revisions");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Nothing is measured before both are built: a processor that has just compiled is a warm one.
    let old = commit(workspace, &folder, &args.old)?;
    let new = match &args.new {
        Some(revision) => commit(workspace, &folder, revision)?,
        None => checkout(workspace, &folder)?,
    };
    for revision in [&old, &new] {
        println!("measuring {}", revision.name);
        let mut bench = Command::new(&revision.spacejmp);
        bench.arg("bench").args(&args.benches).arg("--out").arg(&revision.results);
        if !args.full {
            bench.arg("--quick");
        }
        succeed(bench.stdout(std::process::Stdio::null()))?;
    }
    println!("first: {}; second: {}", old.name, new.name);
    // The newer one knows all figures of the older, and perhaps more.
    let mut compare = Command::new(&new.spacejmp);
    succeed(compare.args(["bench", "compare"]).arg(&old.results).arg(&new.results))
}

/// A commit, built in a clone that all share, so that what they have in common is built once.
fn commit(workspace: &Workspace, folder: &Path, revision: &str) -> Result<Revision> {
    // Asked for as a commit: a branch's name may begin like an option or be a file's, too.
    let wanted = format!("{revision}^{{commit}}");
    let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
    let id = output_of(&mut git(workspace.root(), &arguments))
        .with_context(|| format!("{revision} is no commit of this repository"))?;
    let id = id.trim();
    let tree = folder.join("tree");
    if !tree.exists() {
        let clone = ["clone", "--quiet", "--shared", "--no-checkout"];
        output_of(Command::new("git").args(clone).arg(workspace.root()).arg(&tree))?;
    }
    output_of(&mut git(&tree, &["checkout", "--quiet", "--force", "--detach", id]))?;
    let copy = Workspace::at(tree, folder.join("build"));
    build(&copy, folder, revision, id)
}

/// The checkout, with what is not committed.
fn checkout(workspace: &Workspace, folder: &Path) -> Result<Revision> {
    build(workspace, folder, "the checkout as it is", "checkout")
}

fn build(source: &Workspace, folder: &Path, name: &str, id: &str) -> Result<Revision> {
    println!("building {name}");
    succeed(&mut source.cargo(&["build", "--release", "--quiet", "--package", "vmm"]))?;
    // By name of its commit: the next one is built in the same place.
    let own = folder.join(id);
    fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
    let spacejmp = own.join("spacejmp");
    let built = source.spacejmp();
    fs::copy(&built, &spacejmp).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(Revision { name: name.to_owned(), spacejmp, results: own.join("results") })
}

fn git(root: &Path, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(root).args(arguments);
    git
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_commit_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["no-such-revision", "--help", "xtask/src/revisions.rs"] {
            let error = commit(&Workspace::here(), folder.path(), name).err().expect("none");
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
    }
}
