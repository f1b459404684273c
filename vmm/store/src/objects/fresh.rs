//! Values that are new each time: random ids, and the time of day.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::format::error::StoreError;

/// A random positive number.
pub(crate) fn random_id() -> Result<u64, StoreError> {
    let mut bytes = [0; 8];
    loop {
        let got = rustix::io::retry_on_intr(|| {
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        })
        .map_err(|e| StoreError::Io {
            doing: "read",
            path: "getrandom".into(),
            source: e.into(),
        })?;
        let id = u64::from_le_bytes(bytes) >> 1;
        if got == bytes.len() && id != 0 {
            return Ok(id);
        }
    }
}

/// A random id of the kind that `accept` makes of a number, among those that it takes.
pub(crate) fn random<T>(accept: impl Fn(u64) -> Option<T>) -> Result<T, StoreError> {
    loop {
        if let Some(id) = accept(random_id()?) {
            return Ok(id);
        }
    }
}

/// An id of the kind that `accept` makes of a number, unlike all others as far as chance goes: without asking the
/// host, which has given this process, `pid`, the keys of its hash maps. One that was forked has the same, and
/// another number.
pub(crate) fn scattered<T>(pid: u32, accept: impl Fn(u64) -> Option<T>) -> T {
    loop {
        let id = RandomState::new().hash_one((now_ns(), pid)) >> 1;
        if let Some(id) = accept(id) {
            return id;
        }
    }
}

pub(crate) fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
