//! SQLite, by `rusqlite`, its own version of it built in: a write-ahead log, `synchronous = FULL` so
//! that every commit is durable when it returns, prepared statements, integer primary keys. The cache
//! and what may be mapped are large enough for everything, as its users set them for data that fits
//! into memory. A connection belongs to one thread at a time, so each thread has one.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};

use crate::Result;
use crate::keys::Keys;
use crate::workload::Peer;

const GET: &str = "SELECT value FROM numbers WHERE key = ?1";
const PUT: &str = "INSERT INTO numbers (key, value) VALUES (?1, ?2) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const PAGE: &str = "INSERT INTO pages (page, content) VALUES (?1, ?2) \
                    ON CONFLICT (page) DO UPDATE SET content = excluded.content";

thread_local! {
    static CONNECTION: RefCell<Option<(PathBuf, Connection)>> = const { RefCell::new(None) };
}

/// Where the database is.
pub(crate) struct Sqlite(PathBuf);

impl Sqlite {
    /// # Errors
    /// SQLite's.
    pub(crate) fn open(dir: &Path) -> Result<Sqlite> {
        let peer = Sqlite(dir.join("peer.sqlite"));
        peer.with(|connection| {
            Ok(connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS numbers (key INTEGER PRIMARY KEY, value INTEGER);
                 CREATE TABLE IF NOT EXISTS pages (page INTEGER PRIMARY KEY, content BLOB);",
            )?)
        })?;
        Ok(peer)
    }

    /// Lends the thread's connection.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        CONNECTION.with_borrow_mut(|slot| {
            if slot.as_ref().is_none_or(|(path, _)| *path != self.0) {
                let connection = Connection::open(&self.0)?;
                connection.execute_batch(
                    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                     PRAGMA cache_size = -1048576; PRAGMA mmap_size = 4294967296;",
                )?;
                connection.busy_timeout(std::time::Duration::from_secs(60))?;
                *slot = Some((self.0.clone(), connection));
            }
            match slot {
                Some((_, connection)) => work(connection),
                None => Err("no connection".into()),
            }
        })
    }
}

/// Keys are signed for SQLite, which changes their order and nothing else.
fn signed(key: u64) -> i64 {
    key.cast_signed()
}

impl Peer for Sqlite {
    fn load(&self, keys: &Keys) -> Result<()> {
        self.with(|connection| {
            let txn = connection.transaction()?;
            let mut put = txn.prepare_cached(PUT)?;
            keys.insert_all(|key, value| {
                put.execute(params![signed(key), signed(value)]).map(drop)
            })?;
            drop(put);
            Ok(txn.commit()?)
        })
    }

    fn get_all(&self, keys: &Keys) -> Result<(u64, u64)> {
        self.with(|connection| {
            let txn = connection.transaction()?;
            let (mut get, mut failed) = (txn.prepare_cached(GET)?, None);
            let done = keys.get_all(|key| {
                match get.query_row([signed(*key)], |row| row.get::<_, i64>(0)).optional() {
                    Ok(value) => value.map(i64::cast_unsigned),
                    Err(error) => {
                        failed = Some(error);
                        None
                    }
                }
            });
            failed.map_or(Ok(done), |error| Err(error.into()))
        })
    }

    fn get_some(&self, keys: &mut dyn Iterator<Item = u64>) -> Result<u64> {
        self.with(|connection| {
            let txn = connection.transaction()?;
            let (mut get, mut found) = (txn.prepare_cached(GET)?, 0);
            for key in keys {
                let value = get.query_row([signed(key)], |row| row.get::<_, i64>(0)).optional()?;
                found += u64::from(value.is_some());
            }
            Ok(found)
        })
    }

    fn scan(&self) -> Result<(u64, u64)> {
        self.with(|connection| {
            let mut all = connection.prepare_cached("SELECT value FROM numbers ORDER BY key")?;
            let (mut rows, mut count, mut sum) = (all.query([])?, 0, 0_u64);
            while let Some(row) = rows.next()? {
                count += 1;
                sum = sum.wrapping_add(row.get::<_, i64>(0)?.cast_unsigned());
            }
            Ok((count, sum))
        })
    }

    fn put(&self, key: u64, value: u64) -> Result<()> {
        self.with(|connection| {
            connection.prepare_cached(PUT)?.execute(params![signed(key), signed(value)])?;
            Ok(())
        })
    }

    fn commit(&self, pages: &[u64], content: &[u8]) -> Result<()> {
        self.with(|connection| {
            let txn = connection.transaction()?;
            let mut put = txn.prepare_cached(PAGE)?;
            for page in pages {
                put.execute(params![signed(*page), content])?;
            }
            drop(put);
            Ok(txn.commit()?)
        })
    }
}
