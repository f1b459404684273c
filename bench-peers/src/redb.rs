//! redb with its defaults: a commit is durable when it returns, the cache is 1 GiB.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::Result;
use crate::keys::Keys;
use crate::workload::Peer;

const NUMBERS: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");
const DATA: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("pages");

/// A database with both tables.
pub(crate) struct Redb(Database);

impl Redb {
    /// # Errors
    /// redb's.
    pub(crate) fn open(dir: &Path) -> Result<Redb> {
        let database = Database::create(dir.join("peer.redb"))?;
        let txn = database.begin_write()?;
        txn.open_table(NUMBERS)?;
        txn.open_table(DATA)?;
        txn.commit()?;
        Ok(Redb(database))
    }
}

impl Peer for Redb {
    fn load(&self, keys: &Keys) -> Result<()> {
        let txn = self.0.begin_write()?;
        let mut table = txn.open_table(NUMBERS)?;
        keys.insert_all(|key, value| table.insert(key, value).map(drop))?;
        drop(table);
        Ok(txn.commit()?)
    }

    fn get_all(&self, keys: &Keys) -> Result<(u64, u64)> {
        let (table, mut failed) = (self.0.begin_read()?.open_table(NUMBERS)?, None);
        let done = keys.get_all(|key| match table.get(key) {
            Ok(value) => value.map(|guard| guard.value()),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        failed.map_or(Ok(done), |error| Err(error.into()))
    }

    fn get_some(&self, keys: &mut dyn Iterator<Item = u64>) -> Result<u64> {
        let (table, mut found) = (self.0.begin_read()?.open_table(NUMBERS)?, 0);
        for key in keys {
            found += u64::from(table.get(key)?.is_some());
        }
        Ok(found)
    }

    fn scan(&self) -> Result<(u64, u64)> {
        let (table, mut count, mut sum) = (self.0.begin_read()?.open_table(NUMBERS)?, 0, 0_u64);
        for entry in table.iter()? {
            let (_, value) = entry?;
            count += 1;
            sum = sum.wrapping_add(value.value());
        }
        Ok((count, sum))
    }

    fn put(&self, key: u64, value: u64) -> Result<()> {
        let txn = self.0.begin_write()?;
        txn.open_table(NUMBERS)?.insert(key, value)?;
        Ok(txn.commit()?)
    }

    fn commit(&self, pages: &[u64], content: &[u8]) -> Result<()> {
        let txn = self.0.begin_write()?;
        let mut table = txn.open_table(DATA)?;
        for page in pages {
            table.insert(page, content)?;
        }
        drop(table);
        Ok(txn.commit()?)
    }
}
