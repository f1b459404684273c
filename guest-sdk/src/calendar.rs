//! Dates, times of day and differences between times, in place of those of other crates: their layouts are not promised, and
//! two versions of a crate may have two. The conversions are in `foreign`, by the crates' names as features.

use std::time::Duration;

use spacejmp_derive::Storable;

/// Nanoseconds of a second.
const SECOND: u32 = 1_000_000_000;

/// A day of the Gregorian calendar, before its time, too; in place of a `NaiveDate` of `chrono`, a `civil::Date` of `jiff`.
///
/// With the features `chrono` and `jiff` it becomes these, and is made from them.
///
/// ```
/// use spacejmp::StoredDate;
///
/// let before = StoredDate::from_days(-1);
/// assert!(before < StoredDate::from_days(0), "1969-12-31 is before 1970-01-01");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Storable)]
#[repr(C)]
pub struct StoredDate {
    days: i32,
}

/// A time of day, of no time zone; in place of a `NaiveTime` of `chrono`, a `civil::Time` of `jiff`. It may be in a leap second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Storable)]
#[repr(C)]
pub struct StoredTime {
    seconds: u32,
    /// Of a leap second from 10^9 on, as `chrono` has it.
    nanoseconds: u32,
}

/// A day and a time of it, of no time zone; in place of a `NaiveDateTime` of `chrono`, a `civil::DateTime` of `jiff`. A point
/// in time is a [`Timestamp`](crate::Timestamp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Storable)]
#[repr(C)]
pub struct StoredDateTime {
    /// The day.
    pub date: StoredDate,
    /// The time of that day.
    pub time: StoredTime,
}

/// A difference between two times, which may be negative; in place of a `TimeDelta` of `chrono`, a `SignedDuration` of
/// `jiff`. One that is not is a [`Duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Storable)]
#[repr(C)]
pub struct StoredSpan {
    /// Whole seconds, rounded down.
    seconds: i64,
    /// Nanoseconds after that.
    nanoseconds: u32,
}

/// How far local time is ahead of UTC; in place of a `FixedOffset` of `chrono`, an `Offset` of `jiff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Storable)]
#[repr(C)]
pub struct StoredOffset {
    seconds: i32,
}

/// A value that is stored has no equal in the type that it is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} has no equal in a {wanted}: it is out of its range")]
pub struct OutOfRange {
    /// What is stored.
    pub what: &'static str,
    /// The type.
    pub wanted: &'static str,
}

impl StoredDate {
    /// The day so many days after 1970-01-01, or before it.
    #[must_use]
    pub const fn from_days(days: i32) -> StoredDate {
        StoredDate { days }
    }

    /// How many days it is after 1970-01-01.
    #[must_use]
    pub const fn days(self) -> i32 {
        self.days
    }
}

impl StoredTime {
    /// So many seconds after midnight, and nanoseconds after those: 10^9 and more, up to twice that, in the leap second that
    /// follows. `None` for what no day has.
    #[must_use]
    pub const fn new(seconds: u32, nanoseconds: u32) -> Option<StoredTime> {
        match seconds < 86_400 && nanoseconds < 2 * SECOND {
            true => Some(StoredTime { seconds, nanoseconds }),
            false => None,
        }
    }

    /// Whole seconds after midnight.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.seconds
    }

    /// Nanoseconds after those.
    #[must_use]
    pub const fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }
}

impl StoredSpan {
    /// So many seconds, and nanoseconds after those: half a second less than nothing is -1 s and 500,000,000 ns. `None` from
    /// 10^9 nanoseconds on.
    #[must_use]
    pub const fn new(seconds: i64, nanoseconds: u32) -> Option<StoredSpan> {
        match nanoseconds < SECOND {
            true => Some(StoredSpan { seconds, nanoseconds }),
            false => None,
        }
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after those.
    #[must_use]
    pub const fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }

    /// From seconds, rounded towards zero, and nanoseconds with the same sign; the least span for what is less.
    #[cfg(any(feature = "chrono", feature = "jiff"))]
    pub(crate) const fn from_towards_zero(seconds: i64, nanoseconds: i32) -> StoredSpan {
        match (nanoseconds < 0, seconds.checked_sub(1)) {
            (true, Some(down)) => {
                StoredSpan { seconds: down, nanoseconds: SECOND - nanoseconds.unsigned_abs() }
            }
            // Below the least there is.
            (true, None) => StoredSpan { seconds, nanoseconds: 0 },
            (false, _) => StoredSpan { seconds, nanoseconds: nanoseconds.unsigned_abs() },
        }
    }
}

impl StoredOffset {
    /// So many seconds ahead of UTC: east of Greenwich, mostly; negative behind it.
    #[must_use]
    pub const fn from_seconds(seconds: i32) -> StoredOffset {
        StoredOffset { seconds }
    }

    /// How many seconds it is ahead of UTC.
    #[must_use]
    pub const fn seconds(self) -> i32 {
        self.seconds
    }
}

/// Of more than 2^63 seconds it is as long as it can be.
impl From<Duration> for StoredSpan {
    fn from(duration: Duration) -> StoredSpan {
        match i64::try_from(duration.as_secs()) {
            Ok(seconds) => StoredSpan { seconds, nanoseconds: duration.subsec_nanos() },
            Err(_) => StoredSpan { seconds: i64::MAX, nanoseconds: SECOND - 1 },
        }
    }
}

impl TryFrom<StoredSpan> for Duration {
    type Error = OutOfRange;

    fn try_from(span: StoredSpan) -> Result<Duration, OutOfRange> {
        let seconds = u64::try_from(span.seconds);
        seconds
            .map(|seconds| Duration::new(seconds, span.nanoseconds.min(SECOND - 1)))
            .map_err(|_| OutOfRange { what: "a negative span", wanted: "Duration" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::TypeLayout;
    use crate::{CloneIn, Error, Space, VBTreeMap, VHashMap, brand};

    brand! { Diary<'v> => (
        VBTreeMap<StoredDateTime, StoredSpan, Diary<'v>>,
        VHashMap<StoredDate, StoredOffset, Diary<'v>>,
    ) }

    #[test]
    fn they_are_keys_and_values_in_the_order_of_time() {
        let at = |days, seconds| StoredDateTime {
            date: StoredDate::from_days(days),
            time: StoredTime::new(seconds, 0).unwrap(),
        };
        let space =
            Space::<Diary<'_>>::in_memory(1 << 20, |_| Ok((VBTreeMap::new(), VHashMap::new())))
                .unwrap();
        let times = [at(-1, 86_399), at(0, 0), at(0, 1), at(1, 0)];
        space
            .write(|v| {
                let ((times_of, days), here) = v.root_mut();
                for time in times.iter().rev() {
                    let span = StoredSpan::new(-1, 7).unwrap();
                    times_of.at_mut(here).insert(*time, span.clone_in(here)?)?;
                    days.at_mut(here).insert(time.date, StoredOffset::from_seconds(3600))?;
                }
                Ok::<_, Error>(())
            })
            .unwrap();
        let seen = space.read(|v| {
            let (times, days) = v.root();
            (times.at(v).iter().map(|(time, _)| *time).collect::<Vec<_>>(), days.at(v).len())
        });
        assert_eq!(seen, Ok((times.to_vec(), 3)));
    }

    #[test]
    fn what_no_day_and_no_span_has_is_refused() {
        assert_eq!(StoredTime::new(86_400, 0), None);
        assert_eq!(StoredTime::new(0, 2_000_000_000), None);
        assert!(StoredTime::new(86_399, 1_999_999_999).is_some());
        assert_eq!(StoredSpan::new(0, 1_000_000_000), None);
    }

    #[test]
    fn spans_are_durations_unless_they_are_negative() {
        let long = Duration::new(7, 8);
        assert_eq!(Duration::try_from(StoredSpan::from(long)), Ok(long));
        assert!(StoredSpan::new(-1, 999_999_999).unwrap() < StoredSpan::from(Duration::ZERO));
        assert!(Duration::try_from(StoredSpan::new(-1, 0).unwrap()).is_err());
        assert_eq!(StoredSpan::from(Duration::MAX).seconds(), i64::MAX);
    }

    #[test]
    fn their_layouts_are_written_down_here() {
        let text = TypeLayout::of::<StoredDateTime, Diary<'_>>().text().to_owned();
        let expected = "struct StoredDateTime (12 bytes, align 4)\n  date +0: struct StoredDate (4 bytes, align 4)\n    \
                        days +0: i32 (4 bytes, align 4)\n  time +4: struct StoredTime (8 bytes, align 4)\n    \
                        seconds +0: u32 (4 bytes, align 4)\n    nanoseconds +4: u32, as line 5\n";
        assert_eq!(text, expected);
    }
}
