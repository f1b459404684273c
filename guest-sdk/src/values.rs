//! What is stored in place of types of the standard library whose bytes are not promised: another
//! compiler may lay them out differently, and these must mean the same to all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use spacejmp_derive::Storable;

/// A point in time, in place of a [`SystemTime`]. It is a key of maps, too, in the order of time.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use spacejmp::Timestamp;
///
/// let (noon, later) = (SystemTime::now(), SystemTime::now() + Duration::from_secs(60));
/// assert!(Timestamp::from(noon) < Timestamp::from(later));
/// assert_eq!(Timestamp::from(noon).to_system_time(), Some(noon));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Storable)]
#[repr(C)]
pub struct Timestamp {
    /// Whole seconds since the beginning of 1970, rounded down.
    seconds: i64,
    /// Nanoseconds after that.
    nanoseconds: u32,
}

impl Timestamp {
    /// The current time.
    #[must_use]
    pub fn now() -> Timestamp {
        SystemTime::now().into()
    }

    /// Seconds since the beginning of 1970, rounded down, and nanoseconds after that, less than 10^9.
    #[cfg(any(feature = "chrono", feature = "jiff"))]
    pub(crate) const fn from_parts(seconds: i64, nanoseconds: u32) -> Timestamp {
        Timestamp { seconds, nanoseconds }
    }

    /// What `from_parts` takes.
    #[cfg(any(feature = "chrono", feature = "jiff"))]
    pub(crate) const fn parts(self) -> (i64, u32) {
        (self.seconds, self.nanoseconds)
    }

    /// As a time of the standard library, which has all that it gave.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let whole = Duration::from_secs(self.seconds.unsigned_abs());
        let whole = match self.seconds < 0 {
            true => SystemTime::UNIX_EPOCH.checked_sub(whole),
            false => SystemTime::UNIX_EPOCH.checked_add(whole),
        };
        whole?.checked_add(Duration::from_nanos(self.nanoseconds.into()))
    }
}

/// Times that are more than 2^63 seconds away, which no clock gives, become the first or last one.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let seconds = |time: Duration| i64::try_from(time.as_secs());
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Timestamp {
                seconds: seconds(after).unwrap_or(i64::MAX),
                nanoseconds: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let down = i64::from(before.subsec_nanos() > 0);
                Timestamp {
                    seconds: seconds(before).map_or(i64::MIN, |seconds| -seconds - down),
                    nanoseconds: (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000,
                }
            }
        }
    }
}

/// An address of either version of the Internet Protocol, in place of an [`IpAddr`]. It is a key of maps, too, in
/// the same order.
///
/// ```
/// use std::net::IpAddr;
///
/// use spacejmp::StoredIp;
///
/// let address: IpAddr = "2001:db8::1".parse()?;
/// let stored = StoredIp::from(address);
/// assert_eq!((IpAddr::from(stored), stored.to_string()), (address, address.to_string()));
/// # Ok::<_, std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Storable)]
#[repr(u8)]
pub enum StoredIp {
    /// Of version 4.
    V4(Ipv4Addr),
    /// Of version 6.
    V6(Ipv6Addr),
}

impl From<IpAddr> for StoredIp {
    fn from(address: IpAddr) -> StoredIp {
        match address {
            IpAddr::V4(address) => StoredIp::V4(address),
            IpAddr::V6(address) => StoredIp::V6(address),
        }
    }
}

impl From<StoredIp> for IpAddr {
    fn from(address: StoredIp) -> IpAddr {
        match address {
            StoredIp::V4(address) => IpAddr::V4(address),
            StoredIp::V6(address) => IpAddr::V6(address),
        }
    }
}

impl fmt::Display for StoredIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// What came of something, in place of a [`Result`].
///
/// ```
/// use spacejmp::StoredResult;
///
/// let stored = StoredResult::from("7".parse::<u32>().map_err(|_| ()));
/// assert_eq!(stored.as_ref(), Ok(&7));
/// assert_eq!(Result::from(stored), Ok(7));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Storable)]
#[repr(u8)]
pub enum StoredResult<T, E> {
    /// What it was to be.
    Ok(T),
    /// Why it is not.
    Err(E),
}

impl<T, E> StoredResult<T, E> {
    /// To be read as a result.
    ///
    /// # Errors
    /// The error that is stored.
    pub const fn as_ref(&self) -> Result<&T, &E> {
        match self {
            StoredResult::Ok(value) => Ok(value),
            StoredResult::Err(error) => Err(error),
        }
    }

    /// To be changed as a result.
    ///
    /// # Errors
    /// The error that is stored.
    pub const fn as_mut(&mut self) -> Result<&mut T, &mut E> {
        match self {
            StoredResult::Ok(value) => Ok(value),
            StoredResult::Err(error) => Err(error),
        }
    }
}

impl<T, E> From<Result<T, E>> for StoredResult<T, E> {
    fn from(result: Result<T, E>) -> StoredResult<T, E> {
        match result {
            Ok(value) => StoredResult::Ok(value),
            Err(error) => StoredResult::Err(error),
        }
    }
}

impl<T, E> From<StoredResult<T, E>> for Result<T, E> {
    fn from(result: StoredResult<T, E>) -> Result<T, E> {
        match result {
            StoredResult::Ok(value) => Ok(value),
            StoredResult::Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::TypeLayout;
    use crate::{CloneIn, Error, Space, VBTreeMap, VHashMap, VString, brand};

    #[test]
    fn times_keep_their_order_and_come_back_from_both_sides_of_1970() {
        let nanos = [0, 1, 999_999_999, 1_000_000_000, 1_000_000_001, 7_500_000_000];
        let mut times: Vec<SystemTime> = Vec::new();
        for nanos in nanos.map(Duration::from_nanos) {
            times.push(SystemTime::UNIX_EPOCH - nanos);
            times.push(SystemTime::UNIX_EPOCH + nanos);
        }
        times.sort();
        let stored: Vec<Timestamp> = times.iter().map(|time| Timestamp::from(*time)).collect();
        assert!(stored.is_sorted());
        let back: Vec<_> = stored.iter().map(|time| time.to_system_time()).collect();
        assert_eq!(back, times.into_iter().map(Some).collect::<Vec<_>>());
        let wrong = Timestamp { seconds: i64::MAX, nanoseconds: u32::MAX };
        assert_eq!(wrong.to_system_time(), None);
    }

    type Values = (
        VHashMap<StoredIp, Timestamp, Here>,
        VBTreeMap<Timestamp, StoredResult<u8, VString<Here>>, Here>,
    );
    brand! { Here => Values }

    #[test]
    fn they_are_stored_as_keys_and_values_and_look_the_same_to_every_compiler() {
        let space = Space::<Here>::in_memory(1 << 20, |_| Ok(Default::default())).expect("a space");
        let done = space.write(|v| {
            let ((seen, log), at) = v.root_mut();
            let address = StoredIp::from(IpAddr::from(Ipv4Addr::LOCALHOST));
            let time = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
            seen.at_mut(at).insert(address, time)?;
            log.at_mut(at).insert(time, StoredResult::Err(VString::new(at, "late")?))?;
            let copy = log.at(at).get(&seen.at(at)[&address]).map(|it| it.clone_in(at));
            let text =
                copy.transpose()?.map(|it| it.as_ref().map_err(|it| it.at(at).to_owned()).copied());
            assert_eq!(text, Some(Err("late".to_owned())));
            Ok::<_, Error>(())
        });
        assert_eq!(done, Ok(()));
        let text = |layout: TypeLayout| layout.text().to_owned();
        assert_eq!(
            text(TypeLayout::of::<Timestamp, Here>()),
            "struct Timestamp (16 bytes, align 8)\n  seconds +0: i64 (8 bytes, align 8)\n  \
             nanoseconds +8: u32 (4 bytes, align 4)\n"
        );
        assert_eq!(
            text(TypeLayout::of::<StoredIp, Here>()),
            "enum StoredIp (17 bytes, align 1)\n  V4 = 0\n    0 +1: Ipv4Addr (4 bytes, align 1)\n  \
             V6 = 1\n    0 +1: Ipv6Addr (16 bytes, align 1)\n"
        );
        assert_eq!(
            text(TypeLayout::of::<StoredResult<u8, u32>, Here>()),
            "enum StoredResult (8 bytes, align 4)\n  Ok = 0\n    0 +1: u8 (1 bytes, align 1)\n  \
             Err = 1\n    0 +4: u32 (4 bytes, align 4)\n"
        );
    }
}
