//! The program with LMDB, redb and SQLite, `bench-peers`. It is built separately: without it the
//! figures that need it are not available, and nothing takes their place.

use std::path::PathBuf;

use super::Round;
use crate::BenchError;
use crate::experiments::Bench;
use crate::sample::Runner;

/// The program's name; beside ours unless `--peers` says otherwise.
pub(crate) const PROGRAM: &str = "spacejmp-bench-peers";
/// What it has.
pub(super) const ALL: [&str; 3] = ["lmdb", "redb", "sqlite"];

/// The program, if it is there.
pub(super) struct Peers<'a> {
    runner: &'a Runner,
    program: Option<PathBuf>,
    why_not: String,
}

impl<'a> Peers<'a> {
    /// Looks for it.
    ///
    /// # Errors
    /// [`BenchError::NoPeers`] when it was named and is not there.
    pub(super) fn find(bench: &Bench<'a>) -> Result<Peers<'a>, BenchError> {
        let named = bench.store.peers.as_ref();
        let path = named.cloned().unwrap_or_else(|| bench.programs.beside(PROGRAM));
        let is_there = path.is_file();
        if !is_there && named.is_some() {
            return Err(BenchError::NoPeers { path: path.display().to_string() });
        }
        let why_not = format!(
            "there is no {PROGRAM}: cargo xtask peers, or cargo build --release --manifest-path \
             bench-peers/Cargo.toml and --peers PATH"
        );
        Ok(Peers { runner: bench.runner, program: is_there.then_some(path), why_not })
    }

    /// Why figures are missing; `None` if it is there.
    pub(super) fn why_not(&self) -> Option<&str> {
        self.program.is_none().then_some(&self.why_not)
    }

    /// Has each do a workload, each in a folder of its own, and adds what they answer.
    ///
    /// # Errors
    /// [`BenchError`] when one fails.
    pub(super) fn each(
        &self,
        round: &mut Round,
        workload: &str,
        options: &[&str],
    ) -> Result<(), BenchError> {
        let Some(program) = &self.program else { return Ok(()) };
        for peer in ALL {
            let folder = self.folder().join(peer).display().to_string();
            let args = [&[peer, workload, "--dir", &folder], options].concat();
            let answer = self.runner.native(program, &args)?.answer;
            merge(round, peer, answer);
        }
        Ok(())
    }

    /// Removes what they have on the disk.
    pub(super) fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.folder());
    }

    fn folder(&self) -> PathBuf {
        self.runner.dir.join("peers")
    }
}

/// Several answers of one subject in a round have different keys.
pub(super) fn merge(round: &mut Round, whose: &'static str, answer: serde_json::Value) {
    use serde_json::Value::Object;
    match (round.0.get_mut(whose), answer) {
        (Some(Object(known)), Object(more)) => known.extend(more),
        (_, answer) => {
            round.0.insert(whose, answer);
        }
    }
}
