//! LMDB as one of the sides of `spacejmp bench kv`: each client is a process of its own that has the
//! environment open, does the work itself, and obeys line by line. The orders and the loop are those of
//! `kv-benchmark`.

use std::io::{BufRead, Write};
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use crate::Result;
use crate::orders::{Request, Side, fill, obey};

/// Address space, not memory or disk.
const MAP_BYTES: usize = 64 << 30;

struct Client {
    env: Env,
    map: Database<'static, Bytes, Bytes>,
}

impl Client {
    fn open(dir: &Path, is_durable: bool) -> Result<Client> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_dbs(1).max_readers(1000);
        if !is_durable {
            // SAFETY: what is lost by it when the machine stops is the benchmark's own.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: the folder is this benchmark's alone, so that nobody changes the file while it is
        // mapped except by LMDB.
        let env = unsafe { options.open(dir) }?;
        let made = env.create_databases_and_commit(env.write_txn()?, |maps, txn| {
            let map = maps.create_database(txn, Some("kv"))?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(map))
        })?;
        Ok(Client { map: made.unwrap_commit(), env })
    }
}

impl Side for Client {
    fn carry_out(&mut self, requests: &[Request<'_>]) -> Result<usize> {
        let mut found = 0;
        if requests.iter().all(|request| request.value.is_none()) {
            let txn = self.env.read_txn()?;
            for request in requests {
                found += self.map.get(&txn, &request.key)?.map_or(0, <[u8]>::len);
            }
            return Ok(found);
        }
        let mut txn = self.env.write_txn()?;
        for request in requests {
            match request.value {
                Some(value) => self.map.put(&mut txn, &request.key, value)?,
                None => found += self.map.get(&txn, &request.key)?.map_or(0, <[u8]>::len),
            }
        }
        txn.commit()?;
        Ok(found)
    }
}

/// Obeys orders from standard input.
pub(crate) fn serve(dir: &Path, is_durable: bool) -> Result<()> {
    let (mut client, mut output) = (Client::open(dir, is_durable)?, std::io::stdout().lock());
    writeln!(output, "ready")?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        writeln!(output, "{}", obey(&mut client, &line?)?)?;
        output.flush()?;
    }
    Ok(())
}

/// Gives every key a value.
pub(crate) fn fill_all(dir: &Path, keys: u64, value: usize) -> Result<()> {
    fill(&mut Client::open(dir, false)?, keys, value, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_finds_what_another_has_set() {
        let dir = tempfile::tempdir().expect("a folder");
        fill_all(dir.path(), 100, 4).expect("it fills");
        let mut client = Client::open(dir.path(), true).expect("it opens");
        for sets in [0, 50, 100] {
            let order = format!("100 {sets} 4 3 0 60 0 1");
            let answer = obey(&mut client, &order).expect("all keys are there");
            assert!(answer.starts_with("{\"requests\":60,"), "{answer}");
        }
        assert!(obey(&mut client, "101 0 4 1 0 2000 0 1").is_err(), "a key that is missing");
    }
}
