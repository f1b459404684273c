//! Changing what keys have. Times of expiry are kept in two places, which only this file writes: with the key, and
//! in order.

use spacejmp::{AllocError, At, Mode, VBox, VLinearMap, Write};

use super::{
    Bytes, DATABASES, Database, Entry, Fail, Fields, Kv, List, Members, Ordered, Root, Sorted,
    Value, View, WRONG_TYPE,
};

/// One database that is being changed in a visit.
#[derive(Debug)]
pub(crate) struct Change<'a, 'v> {
    pub(crate) root: &'a mut Root<'v>,
    pub(crate) at: &'a At<Kv<'v>, Write>,
    /// In milliseconds since 1970.
    pub(crate) now: u64,
    pub(crate) db: usize,
    /// It is for who waits already: what is not of the kind that a command waits for is no mistake then, but not yet it.
    pub(crate) is_retry: bool,
}

/// What becomes of a key's time of expiry when it gets another value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It has none.
    Forever,
    /// It stays.
    Keep,
    /// It is this one, in milliseconds since 1970.
    Until(u64),
}

/// Looks up a value of one kind to change it, or makes an empty one.
macro_rules! of_kind {
    ($($name:ident, $or_new:ident, $variant:ident, $type:ty, $empty:expr;)*) => {$(
        pub(crate) fn $name(&mut self, key: &[u8]) -> Result<Option<&mut $type>, Fail> {
            let (at, now) = (self.at, self.now);
            let Root { databases, changes, .. } = &mut *self.root;
            let entry = databases[self.db].keys.at_mut(at).into_mut(key);
            let Some(Entry { expires, change, value }) = entry else { return Ok(None) };
            if *expires != 0 && *expires <= now {
                return Ok(None);
            }
            let Value::$variant(value) = value else { return Err(WRONG_TYPE.into()) };
            *changes += 1;
            *change = *changes;
            Ok(Some(value.get_mut(at)))
        }

        pub(crate) fn $or_new(&mut self, key: &[u8]) -> Result<&mut $type, Fail> {
            if self.view().entry(key).is_none() {
                let value = Value::$variant(VBox::new(self.at, $empty)?);
                self.put(key, value, Put::Forever)?;
            }
            self.$name(key)?.ok_or(Fail::Full)
        }
    )*};
}

impl<'v> Change<'_, 'v> {
    pub(crate) fn view(&self) -> View<'_, 'v, Write> {
        View { root: self.root, at: self.at, now: self.now, db: self.db }
    }

    /// Whether there is something to take where a command looks that may wait.
    pub(crate) fn is_there<T>(&self, found: Result<Option<T>, Fail>) -> Result<bool, Fail> {
        match found {
            Err(_) if self.is_retry => Ok(false),
            found => Ok(found?.is_some()),
        }
    }

    fn database(&mut self) -> &mut Database<'v> {
        &mut self.root.databases[self.db]
    }

    of_kind! {
        list, list_or_new, List, List<'v>, List::new();
        hash, hash_or_new, Hash, Fields<'v>, VLinearMap::new();
        set, set_or_new, Set, Members<'v>, VLinearMap::new();
        sorted, sorted_or_new, Sorted, Sorted<'v>, Sorted::new();
    }

    /// The bytes of a string, to be changed.
    pub(crate) fn string(&mut self, key: &[u8]) -> Result<Option<&mut Bytes<'v>>, Fail> {
        let (at, now) = (self.at, self.now);
        let Root { databases, changes, .. } = &mut *self.root;
        let entry = databases[self.db].keys.at_mut(at).into_mut(key);
        let Some(Entry { expires, change, value }) = entry else { return Ok(None) };
        if *expires != 0 && *expires <= now {
            return Ok(None);
        }
        if let Value::Short(..) = value {
            let bytes = Bytes::from_slice(at, value.text(at).unwrap_or_default())?;
            *value = Value::String(bytes);
        }
        let Value::String(bytes) = value else { return Err(WRONG_TYPE.into()) };
        *changes += 1;
        *change = *changes;
        Ok(Some(bytes))
    }

    /// Bytes in the address space.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<Bytes<'v>, AllocError> {
        Bytes::from_slice(self.at, bytes)
    }

    /// Gives a key a value, whatever it had.
    pub(crate) fn put(&mut self, key: &[u8], value: Value<'v>, put: Put) -> Result<(), AllocError> {
        let before = self.view().entry(key).map_or(0, |entry| entry.expires);
        let expires = match put {
            Put::Forever => 0,
            Put::Keep => before,
            Put::Until(time) => time,
        };
        // One that is over goes with its time.
        let listed = self.listed(key);
        if listed != expires {
            self.list_expiry(key, listed, expires)?;
        }
        let (at, db) = (self.at, self.db);
        let Root { databases, changes, .. } = &mut *self.root;
        *changes += 1;
        let entry = Entry { expires, change: *changes, value };
        let mut keys = databases[db].keys.at_mut(at);
        if let Some(held) = keys.get_mut(key) {
            *held = entry;
            return Ok(());
        }
        keys.insert(Bytes::from_slice(at, key)?, entry)?;
        Ok(())
    }

    /// Gives a key these bytes.
    pub(crate) fn put_bytes(
        &mut self,
        key: &[u8],
        bytes: &[u8],
        put: Put,
    ) -> Result<(), AllocError> {
        let value = Value::string(self.at, bytes)?;
        self.put(key, value, put)
    }

    /// Removes a key; whether it was there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        self.take(key).is_some()
    }

    /// Takes a key out with what it has.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<Entry<'v>> {
        let (at, now) = (self.at, self.now);
        let database = self.database();
        let entry = database.keys.at_mut(at).remove(key)?;
        if entry.expires != 0 {
            database.expiries.remove(at, &timed(entry.expires, key));
        }
        self.root.changes += 1;
        (!entry.is_over(now)).then_some(entry)
    }

    /// Removes a key whose list, set or the like has become empty.
    pub(crate) fn remove_if(&mut self, key: &[u8], is_empty: bool) {
        if is_empty {
            self.take(key);
        }
    }

    /// Sets when a key expires, 0 for never. A time that has passed removes it. Whether the key is there.
    pub(crate) fn expire(&mut self, key: &[u8], time: u64) -> Result<bool, AllocError> {
        let Some(before) = self.view().entry(key).map(|entry| entry.expires) else {
            return Ok(false);
        };
        if time != 0 && time <= self.now {
            return Ok(self.remove(key));
        }
        if before != time {
            self.list_expiry(key, before, time)?;
        }
        let (at, db) = (self.at, self.db);
        let Root { databases, changes, .. } = &mut *self.root;
        if let Some(entry) = databases[db].keys.at_mut(at).into_mut(key) {
            *changes += 1;
            (entry.expires, entry.change) = (time, *changes);
        }
        Ok(true)
    }

    /// The time a key is listed with, also if that is over.
    fn listed(&self, key: &[u8]) -> u64 {
        let keys = self.root.databases[self.db].keys.at(self.at);
        keys.get(key).map_or(0, |entry| entry.expires)
    }

    fn list_expiry(&mut self, key: &[u8], before: u64, time: u64) -> Result<(), AllocError> {
        let at = self.at;
        let expiries = &mut self.database().expiries;
        if time != 0 {
            expiries.insert(at, &timed(time, key))?;
        }
        if before != 0 {
            expiries.remove(at, &timed(before, key));
        }
        Ok(())
    }

    /// Removes keys that are over, of all databases, up to a number of them. How many.
    pub(crate) fn purge(&mut self, most: usize) -> usize {
        let (mut purged, db) = (0, self.db);
        for number in 0..DATABASES {
            self.db = number;
            while purged < most
                && let Some(key) = self.first_over()
            {
                self.take(&key);
                purged += 1;
            }
        }
        self.db = db;
        purged
    }

    fn first_over(&self) -> Option<Vec<u8>> {
        let database = &self.root.databases[self.db];
        let timed = database.expiries.first(self.at)?;
        let (time, key) = timed.split_first_chunk::<8>()?;
        (u64::from_be_bytes(*time) <= self.now).then(|| key.to_vec())
    }

    /// Removes all keys.
    pub(crate) fn clear(&mut self) {
        let database = self.database();
        if !database.keys.is_empty() {
            database.keys = VLinearMap::new();
            database.expiries = Ordered::new();
            self.root.changes += 1;
        }
    }

    /// Two databases change places.
    pub(crate) fn swap(&mut self, one: usize, other: usize) {
        self.root.databases.swap(one, other);
        self.root.changes += 1;
    }
}

impl<'v> Root<'v> {
    /// When the next key expires, of any database.
    pub(crate) fn next_expiry<M: Mode>(&self, at: &At<Kv<'v>, M>) -> Option<u64> {
        let first = |database: &Database<'v>| {
            let timed = database.expiries.first(at)?;
            Some(u64::from_be_bytes(*timed.first_chunk()?))
        };
        self.databases.iter().filter_map(first).min()
    }
}

/// A time and a key, in the order of times.
fn timed(time: u64, key: &[u8]) -> Vec<u8> {
    [&time.to_be_bytes(), key].concat()
}
