//! placeholder
use crate::workspace::Workspace;
pub(crate) fn list() {}
pub(crate) fn run(_w: &Workspace, _j: &[String]) -> anyhow::Result<bool> {
    anyhow::bail!("")
}
