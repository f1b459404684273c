//! What is stored in the address space: sixteen databases of keys and values, found by pointers.
//!
//! Here are the types; `view` looks keys up, `change` changes them, `list` and `sorted` are two kinds of
//! values; `ordered` is what finds members by their rank, and the next key to expire.

mod change;
mod list;
mod ordered;
mod sorted;
mod view;

use std::time::{SystemTime, UNIX_EPOCH};

use spacejmp::{AllocError, At, Mode, Storable, VBox, VLinearMap, VVec, Write};

pub(crate) use change::{Change, Put};
pub(crate) use list::List;
use ordered::Ordered;
pub(crate) use sorted::{Bound, Sorted};
pub(crate) use view::View;

spacejmp::brand! {
    /// The address space of a key-value store.
    pub(crate) Kv<'v> => Root<'v>
}

/// Bytes in the address space.
pub(crate) type Bytes<'v> = VVec<u8, Kv<'v>>;
/// The content of a hash.
pub(crate) type Fields<'v> = VLinearMap<Bytes<'v>, Bytes<'v>, Kv<'v>>;
/// The content of a set.
pub(crate) type Members<'v> = VLinearMap<Bytes<'v>, (), Kv<'v>>;

/// The longest string that is kept with its key.
const SHORT: usize = 30;

/// How many databases there are.
pub(crate) const DATABASES: usize = 16;

/// The root object.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
pub(crate) struct Root<'v> {
    databases: [Database<'v>; DATABASES],
    /// How many changes there were.
    changes: u64,
    /// When the last version was kept by `SAVE`, in seconds since 1970.
    pub(crate) saved: u64,
}

/// Keys and their values.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
pub(crate) struct Database<'v> {
    keys: VLinearMap<Bytes<'v>, Entry<'v>, Kv<'v>>,
    /// Times of expiry, each with its key behind it: the first is the next to expire.
    expiries: Ordered<'v>,
}

/// What a key has.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
pub(crate) struct Entry<'v> {
    /// In milliseconds since 1970; 0 for never.
    pub(crate) expires: u64,
    /// The number of the last change.
    pub(crate) change: u64,
    pub(crate) value: Value<'v>,
}

/// A value.
#[derive(Storable)]
#[storable(vas = Kv<'v>)]
#[repr(u8)]
pub(crate) enum Value<'v> {
    /// A string of so many bytes, in the room that the others need anyway: no block of its own has to be
    /// allocated, nor another page be changed.
    Short(u8, [u8; SHORT]),
    String(Bytes<'v>),
    List(VBox<List<'v>, Kv<'v>>),
    Hash(VBox<Fields<'v>, Kv<'v>>),
    Set(VBox<Members<'v>, Kv<'v>>),
    Sorted(VBox<Sorted<'v>, Kv<'v>>),
}

impl Root<'_> {
    /// Databases without keys.
    pub(crate) fn new() -> Self {
        let databases =
            std::array::from_fn(|_| Database { keys: VLinearMap::new(), expiries: Ordered::new() });
        Root { databases, changes: 0, saved: 0 }
    }
}

impl Default for Root<'_> {
    fn default() -> Self {
        Root::new()
    }
}

impl std::fmt::Debug for Root<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<usize> = self.databases.iter().map(|database| database.keys.len()).collect();
        f.debug_struct("Root").field("keys", &keys).field("changes", &self.changes).finish()
    }
}

impl<'v> Value<'v> {
    /// A string.
    pub(crate) fn string(at: &At<Kv<'v>, Write>, text: &[u8]) -> Result<Value<'v>, AllocError> {
        match u8::try_from(text.len()) {
            Ok(len) if text.len() <= SHORT => {
                let mut short = [0; SHORT];
                short[..text.len()].copy_from_slice(text);
                Ok(Value::Short(len, short))
            }
            _ => Ok(Value::String(Bytes::from_slice(at, text)?)),
        }
    }

    /// The bytes of a string.
    pub(crate) fn text<'a, M: Mode>(&'a self, at: &'a At<Kv<'v>, M>) -> Option<&'a [u8]> {
        match self {
            // Who else writes to the space may have put any number there.
            Value::Short(len, short) => Some(&short[..usize::from(*len).min(SHORT)]),
            Value::String(bytes) => Some(bytes.at(at)),
            _ => None,
        }
    }

    /// What `OBJECT ENCODING` says: how it is kept, by the name that Redis has for what is most alike.
    pub(crate) fn encoding(&self) -> &'static str {
        match self {
            Value::Short(len, text) => {
                let text = &text[..usize::from(*len).min(SHORT)];
                if crate::request::integer(text).is_some() { "int" } else { "embstr" }
            }
            Value::String(_) => "raw",
            Value::List(_) => "quicklist",
            Value::Hash(_) | Value::Set(_) => "hashtable",
            Value::Sorted(_) => "skiplist",
        }
    }

    /// Its name in `TYPE`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Short(..) | Value::String(_) => "string",
            Value::List(_) => "list",
            Value::Hash(_) => "hash",
            Value::Set(_) => "set",
            Value::Sorted(_) => "zset",
        }
    }
}

/// The time in milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Why a command has no reply but an error.
#[derive(Debug)]
pub(crate) enum Fail {
    /// It is the caller's mistake, noticed before anything was changed.
    Said(std::borrow::Cow<'static, str>),
    /// There is no room: whatever the visit has changed has to be undone.
    Full,
    /// There is nothing yet of what a blocking command waits for.
    Wait,
}

impl From<spacejmp::AllocError> for Fail {
    fn from(_: spacejmp::AllocError) -> Fail {
        Fail::Full
    }
}

impl From<&'static str> for Fail {
    fn from(text: &'static str) -> Fail {
        Fail::Said(text.into())
    }
}

impl From<String> for Fail {
    fn from(text: String) -> Fail {
        Fail::Said(text.into())
    }
}

pub(crate) type Done = Result<(), Fail>;

pub(crate) const WRONG_TYPE: &str =
    "WRONGTYPE Operation against a key holding the wrong kind of value";

/// The space of all tests in this program, one test after the other: a brand has one.
#[cfg(test)]
pub(crate) fn test_space() -> std::sync::MutexGuard<'static, spacejmp::Space<Kv<'static>>> {
    use std::sync::{LazyLock, Mutex, PoisonError};
    static SPACE: LazyLock<Mutex<spacejmp::Space<Kv<'static>>>> = LazyLock::new(|| {
        let space = spacejmp::Space::in_memory(16 << 20, |_| Ok(Root::new()));
        Mutex::new(space.expect("there is memory"))
    });
    SPACE.lock().unwrap_or_else(PoisonError::into_inner)
}
