//! The book's page of what was checked: made from the last recorded run, never written by hand.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::ledger::whole;
use crate::workspace::{Workspace, read};

/// The recorded run, and the page made of it.
const RESULTS: &str = "resources/crashes.json";
const REVISION: &str = "revision";
const PAGE: &str = "docs/src/crash-results.md";

const HEAD: &str = "# What kills and power cuts left

Made by `cargo xtask crashtest --record`, which ends at the first loss: a campaign that is shown here has lost
nothing. Each has the revision of the software that it was run with. How it is done: [Versioned segments on disk](internals/versions.md#how-it-is-shown).

- *States* are what a simulated disk may have after a power cut, one after another of its operations, by workload.
- *Kills*: SIGKILL of a VM that makes changes, at random moments, while another VM looks at every version; of one or both of
  two VMs that write the same segment, or the same two segments by one commit each time, while a third looks; before
  calls to the host by which files change, evenly spread over all that it makes, while it recovers, commits, brings logs to the
  home file or merges them; and before those of the commands that tag, clone, untag and roll back. *The longest wait* is how long
  the other writer took at most, from the death of the first, until it had made a change more, on a machine that does other things, too.
- *Cuts*: a file system is shut down under a writing VM, without its journal, and mounted again. What the program was told before
  that has to be there. *Told too late* is a commit whose sync was under way and then succeeded, for a program that a real cut would have ended:
  the file system reports success though it has given up its journal (ext4 does so to a native program that appends and syncs, in 68 of
  300 such cuts; to one that overwrites in none).
- *Block log*: every write to a block device is recorded, and replayed to flushes: what is there then is mounted.

After each, all that was committed has to be there, whole, and nothing else; under durability `each`, or of two segments, which
is the same. What two writers have committed has to be one history, without a gap and with nothing made twice.

";

/// The revision of the software: asked for before a run, since it may be another one afterwards.
///
/// # Errors
/// Without git.
pub(super) fn revision(workspace: &Workspace) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--exclude=*", "--abbrev=8", "--dirty"])
        .current_dir(workspace.file("."));
    Ok(whole(&git.output()?, "asking for the revision")?.trim().to_owned())
}

/// Keeps a run, and makes the page. Campaigns that were not run again stay as they are.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn record(
    workspace: &Workspace,
    run: &Map<String, Value>,
    revision: &str,
) -> Result<()> {
    let mut kept: Map<String, Value> = serde_json::from_str(&read(&workspace.file(RESULTS))?)?;
    for (name, done) in run {
        let mut done = done.clone();
        done[REVISION] = revision.into();
        kept.insert(name.clone(), done);
    }
    let kept = Value::Object(kept);
    let text = format!("{kept:#}\n");
    for (file, text) in [(RESULTS, text), (PAGE, page(&kept)?)] {
        let path = workspace.file(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn page(run: &Value) -> Result<String> {
    let run = run.as_object().context("a run is an object")?;
    let mut text = HEAD.to_owned();
    text.push_str("| campaign | checked | lost | revision |\n|---|---|---|---|\n");
    for (name, done) in run {
        let done = done.as_object().with_context(|| format!("{name} is no object"))?;
        let _ = writeln!(text, "| `{name}` | {} |", row(done)?);
    }
    Ok(text)
}

fn row(done: &Map<String, Value>) -> Result<String> {
    let revision =
        done.get(REVISION).and_then(Value::as_str).context("a campaign has a revision")?;
    if let Some(why) = done.get("skipped") {
        return Ok(format!("not run: {} | - | {revision}", why.as_str().unwrap_or_default()));
    }
    ensure!(done.get("lost") == Some(&Value::from(0)), "a run that lost something is recorded");
    let counts = done.iter().filter(|(what, _)| !["lost", REVISION].contains(&what.as_str()));
    let counts: Vec<_> = counts.map(|(what, count)| format!("{count} {what}")).collect();
    Ok(format!("{} | 0 | {revision}", counts.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_is_made_of_the_recorded_run() {
        let workspace = Workspace::here();
        let run = read(&workspace.file(RESULTS)).unwrap();
        let made = page(&serde_json::from_str(&run).unwrap()).unwrap();
        let kept = read(&workspace.file(PAGE)).unwrap();
        assert!(kept == made, "{PAGE} is not what {RESULTS} makes: cargo xtask crashtest --record");
    }

    #[test]
    fn what_was_skipped_is_told_and_a_loss_is_never_recorded() {
        let run = json!({
            "each": { "cuts": 3, "states": 30, "lost": 0, "revision": "1a" },
            "cuts-xfs": { "skipped": "no mount", "revision": "1b" },
        });
        let page = page(&run).unwrap();
        assert!(page.contains("| `each` | 3 cuts, 30 states | 0 | 1a |"), "{page}");
        assert!(page.contains("| `cuts-xfs` | not run: no mount | - | 1b |"), "{page}");
        let lost = json!({ "each": { "states": 30, "lost": 1, "revision": "1a" } });
        assert!(super::page(&lost).is_err());
    }
}
