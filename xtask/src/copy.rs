//! Checkouts of commits next to the contributor's own, with separate build products: to modify, or
//! to build another commit. The callers decide what is done in them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, output_of};

/// A checkout in the target folder, which is kept for the next time.
pub(crate) struct Checkout {
    /// The checkout, built into its own folder: nothing in the contributor's comes from
    /// here.
    pub(crate) workspace: Workspace,
    /// The folder around it, for the caller's use.
    pub(crate) folder: PathBuf,
    /// Locked: two processes in one checkout would mistake each other's files for their own.
    _lock: File,
}

impl Checkout {
    /// The checkout of this name, at whatever commit it was last; waits while it is in use.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(crate) fn named(workspace: &Workspace, name: &str) -> Result<Self> {
        let folder = workspace.target().join(name);
        let tree = folder.join("tree");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let lock = File::create(folder.join("lock")).context("cannot make a lock")?;
        lock.lock().context("cannot lock the copy")?;
        if !tree.exists() {
            let clone = ["clone", "--quiet", "--shared", "--no-checkout"];
            output_of(Command::new("git").args(clone).arg(workspace.root()).arg(&tree))?;
        }
        let workspace = Workspace::at(tree, folder.join("build"));
        Ok(Self { workspace, folder, _lock: lock })
    }

    /// Checks out a commit; a shared clone sees every commit of the original immediately.
    ///
    /// # Errors
    /// When git fails.
    pub(crate) fn move_to(&self, id: &str) -> Result<()> {
        let arguments = ["checkout", "--quiet", "--force", "--detach", id];
        output_of(&mut git(self.workspace.root(), &arguments)).map(drop)
    }
}

/// The id of a commit of the contributor's repository.
///
/// # Errors
/// When there is none of that name, which the text contains.
pub(crate) fn commit_id(workspace: &Workspace, revision: &str) -> Result<String> {
    // Requested as a commit: a branch's name may begin like an option or also name a file.
    let wanted = format!("{revision}^{{commit}}");
    let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
    let id = output_of(&mut git(workspace.root(), &arguments))
        .with_context(|| format!("{revision} is no commit of this repository"))?;
    Ok(id.trim().to_owned())
}

/// git in a folder.
pub(crate) fn git(root: &Path, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(root).args(arguments);
    git
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_commit_is_an_error_that_names_it() {
        for name in ["no-such-revision", "--help", "xtask/src/copy.rs"] {
            let error = commit_id(&Workspace::here(), name).expect_err("none");
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
        assert_eq!(commit_id(&Workspace::here(), "HEAD").expect("there is one").len(), 40);
    }
}
