//! Looking keys up. A key whose time has passed is not there, whether or not somebody has removed it.

use spacejmp::{At, Mode};

use super::{Database, Entry, Fail, Fields, Kv, List, Members, Root, Sorted, Value, WRONG_TYPE};

/// One database as it is seen in a visit, at one moment.
pub(crate) struct View<'a, 'v, M> {
    pub(crate) root: &'a Root<'v>,
    pub(crate) at: &'a At<Kv<'v>, M>,
    /// In milliseconds since 1970.
    pub(crate) now: u64,
    pub(crate) db: usize,
}

impl<M> Clone for View<'_, '_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for View<'_, '_, M> {}

/// Looks up a value of one kind.
macro_rules! of_kind {
    ($($name:ident, $variant:ident, $type:ty;)*) => {$(
        pub(crate) fn $name(&self, key: &[u8]) -> Result<Option<&'a $type>, Fail> {
            match self.value(key) {
                None => Ok(None),
                Some(Value::$variant(value)) => Ok(Some(value.get(self.at))),
                Some(_) => Err(WRONG_TYPE.into()),
            }
        }
    )*};
}

impl<'a, 'v, M: Mode> View<'a, 'v, M> {
    pub(super) fn database(&self) -> &'a Database<'v> {
        &self.root.databases[self.db]
    }

    pub(crate) fn entry(&self, key: &[u8]) -> Option<&'a Entry<'v>> {
        let entry = self.database().keys.at(self.at).get(key)?;
        (!entry.is_over(self.now)).then_some(entry)
    }

    pub(crate) fn value(&self, key: &[u8]) -> Option<&'a Value<'v>> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub(crate) fn string(&self, key: &[u8]) -> Result<Option<&'a [u8]>, Fail> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value.text(self.at).map(Some).ok_or(WRONG_TYPE.into()),
        }
    }

    of_kind! {
        list, List, List<'v>;
        hash, Hash, Fields<'v>;
        set, Set, Members<'v>;
        sorted, Sorted, Sorted<'v>;
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.database().keys.len() - self.over()
    }

    /// How many keys have a time of expiry.
    pub(crate) fn expiring(&self) -> usize {
        self.database().expiries.len() - self.over()
    }

    /// How many are over, and not removed.
    fn over(&self) -> usize {
        let until = self.now.saturating_add(1).to_be_bytes();
        self.database().expiries.rank(self.at, &until)
    }

    /// Keys and what they have, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a Entry<'v>)> + use<'a, 'v, M> {
        let now = self.now;
        self.database().keys.at(self.at).iter().filter(move |(_, entry)| !entry.is_over(now))
    }

    /// Some of them; as `VLinearMap::scan`.
    pub(crate) fn scan(&self, cursor: u64, mut visit: impl FnMut(&'a [u8], &'a Entry<'v>)) -> u64 {
        let keys = self.database().keys.at(self.at);
        keys.scan(cursor, |key, entry| {
            if !entry.is_over(self.now) {
                visit(key, entry);
            }
        })
    }

    /// Any key.
    pub(crate) fn any(&self, mut random: impl FnMut() -> u64) -> Option<&'a [u8]> {
        // Those that are over are rare; a few attempts, then one after the other.
        let keys = self.database().keys.at(self.at);
        let mut drawn = (0..100).map_while(|_| keys.any(random()));
        let found = drawn.find(|(_, entry)| !entry.is_over(self.now));
        found.or_else(|| self.iter().next()).map(|(key, _)| key)
    }

    /// What `WATCH` compares: the number of the key's last change, if it is there.
    pub(crate) fn state(&self, key: &[u8]) -> Option<u64> {
        self.entry(key).map(|entry| entry.change)
    }
}

impl Entry<'_> {
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.expires != 0 && self.expires <= now
    }
}
