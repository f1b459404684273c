//! The tour's data as programs keep it without address spaces: a file of text, parsed at every start
//! and written anew, as a whole, for every change that has to last.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Accounts by number.
type Accounts = BTreeMap<u64, u64>;

/// What takes how long with a file.
#[derive(Debug)]
pub(super) struct Times {
    /// To make the accounts and write them, durably.
    pub(super) fill: Duration,
    /// To read them and look at one.
    pub(super) find: Duration,
    /// To change two and write all, durably.
    pub(super) change: Duration,
}

/// Does all three in `folder`.
pub(super) fn measure(folder: &Path, count: u64, amount: u64) -> io::Result<Times> {
    let (file, unfinished) = (folder.join("accounts"), folder.join("accounts.new"));
    let began = Instant::now();
    save(&(0..count).map(|account| (account, amount)).collect(), &file, &unfinished)?;
    let fill = began.elapsed();
    let began = Instant::now();
    let mut accounts = load(&file)?;
    let found = accounts.get(&(count / 2)).copied();
    let find = began.elapsed();
    if found != Some(amount) {
        return Err(io::Error::other(format!("an account had {amount}, and has {found:?}")));
    }
    let began = Instant::now();
    for (account, balance) in [(0, amount - 1), (count - 1, amount + 1)] {
        accounts.insert(account, balance);
    }
    save(&accounts, &file, &unfinished)?;
    Ok(Times { fill, find, change: began.elapsed() })
}

/// The old content, or the new: the only way that a kill does not leave half of.
fn save(accounts: &Accounts, file: &Path, unfinished: &Path) -> io::Result<()> {
    let mut to = BufWriter::new(File::create(unfinished)?);
    for (account, balance) in accounts {
        writeln!(to, "{account} {balance}")?;
    }
    to.into_inner()?.sync_all()?;
    fs::rename(unfinished, file)
}

fn load(file: &Path) -> io::Result<Accounts> {
    let parse = |line: &str| {
        let (account, balance) = line.split_once(' ')?;
        Some((account.parse().ok()?, balance.parse().ok()?))
    };
    let text = fs::read_to_string(file)?;
    let all: Option<Accounts> = text.lines().map(parse).collect();
    all.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let accounts = Accounts::from([(0, 7), (1, u64::MAX), (u64::MAX, 0)]);
        save(&accounts, &path("a"), &path("b")).unwrap();
        assert_eq!(load(&path("a")).unwrap(), accounts);
        assert!(!path("b").exists());
        measure(folder.path(), 10, 5).unwrap();
        let changed = load(&path("accounts")).unwrap();
        assert_eq!((changed[&0], changed[&9], changed.values().sum::<u64>()), (4, 6, 50));
    }
}
