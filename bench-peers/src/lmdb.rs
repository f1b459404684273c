//! LMDB, by `heed`. Every commit is synced, the default. The map is as large as LMDB's
//! documentation recommends: larger than the data will ever be. Keys are big-endian, so that LMDB's
//! own comparison puts them in order, as `heed`'s documentation does it.

use std::path::Path;

use heed::byteorder::{BigEndian, NativeEndian};
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};

use crate::Result;
use crate::keys::Keys;
use crate::workload::Peer;

/// Address space, not memory or disk.
const MAP_BYTES: usize = 64 << 30;

type Key = U64<BigEndian>;

/// An environment with both maps.
pub(crate) struct Lmdb {
    env: Env,
    numbers: Database<'static, Key, U64<NativeEndian>>,
    pages: Database<'static, Key, Bytes>,
}

impl Lmdb {
    /// # Errors
    /// LMDB's.
    pub(crate) fn open(dir: &Path) -> Result<Lmdb> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_dbs(2);
        // SAFETY: the folder is this benchmark's alone, so that nobody changes the file while it is
        // mapped except by LMDB.
        let env = unsafe { options.open(dir) }?;
        let made = env.create_databases_and_commit(env.write_txn()?, |maps, txn| {
            let numbers = maps.create_database(txn, Some("numbers"))?;
            let pages = maps.create_database(txn, Some("pages"))?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((numbers, pages)))
        })?;
        let (numbers, pages) = made.unwrap_commit();
        Ok(Lmdb { env, numbers, pages })
    }
}

impl Peer for Lmdb {
    fn load(&self, keys: &Keys) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        keys.insert_all(|key, value| self.numbers.put(&mut txn, &key, &value))?;
        Ok(txn.commit()?)
    }

    fn get_all(&self, keys: &Keys) -> Result<(u64, u64)> {
        let (txn, mut failed) = (self.env.read_txn()?, None);
        let done = keys.get_all(|key| match self.numbers.get(&txn, key) {
            Ok(value) => value,
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        failed.map_or(Ok(done), |error| Err(error.into()))
    }

    fn get_some(&self, keys: &mut dyn Iterator<Item = u64>) -> Result<u64> {
        let (txn, mut found) = (self.env.read_txn()?, 0);
        for key in keys {
            found += u64::from(self.numbers.get(&txn, &key)?.is_some());
        }
        Ok(found)
    }

    fn scan(&self) -> Result<(u64, u64)> {
        let (txn, mut count, mut sum) = (self.env.read_txn()?, 0, 0_u64);
        for entry in self.numbers.iter(&txn)? {
            let (_, value) = entry?;
            count += 1;
            sum = sum.wrapping_add(value);
        }
        Ok((count, sum))
    }

    fn put(&self, key: u64, value: u64) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        self.numbers.put(&mut txn, &key, &value)?;
        Ok(txn.commit()?)
    }

    fn commit(&self, pages: &[u64], content: &[u8]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        for page in pages {
            self.pages.put(&mut txn, page, content)?;
        }
        Ok(txn.commit()?)
    }
}
