//! `jiff`: its dates and times become ours, and ours become its.

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;

use crate::calendar::{
    OutOfRange, StoredDate, StoredDateTime, StoredOffset, StoredSpan, StoredTime,
};
use crate::values::Timestamp;

const EPOCH: Date = Date::constant(1970, 1, 1);

fn out_of<T, E>(
    made: Result<T, E>,
    what: &'static str,
    wanted: &'static str,
) -> Result<T, OutOfRange> {
    made.map_err(|_| OutOfRange { what, wanted })
}

impl From<Date> for StoredDate {
    fn from(date: Date) -> StoredDate {
        let days = date.duration_since(EPOCH).as_hours() / 24;
        StoredDate::from_days(i32::try_from(days).expect("twenty thousand years"))
    }
}

impl TryFrom<StoredDate> for Date {
    type Error = OutOfRange;

    fn try_from(date: StoredDate) -> Result<Date, OutOfRange> {
        let after = SignedDuration::from_hours(24 * i64::from(date.days()));
        out_of(EPOCH.checked_add(after), "a date", "jiff::civil::Date")
    }
}

impl From<Time> for StoredTime {
    fn from(time: Time) -> StoredTime {
        let part = |part: i8| u32::from(part.unsigned_abs());
        let seconds = part(time.hour()) * 3600 + part(time.minute()) * 60 + part(time.second());
        StoredTime::new(seconds, time.subsec_nanosecond().unsigned_abs())
            .expect("jiff has no other times")
    }
}

impl TryFrom<StoredTime> for Time {
    type Error = OutOfRange;

    /// `jiff` knows no leap seconds.
    fn try_from(time: StoredTime) -> Result<Time, OutOfRange> {
        let seconds = time.seconds();
        let part = |part: u32| i8::try_from(part).unwrap_or(i8::MAX);
        let nanoseconds = i32::try_from(time.nanoseconds()).unwrap_or(i32::MAX);
        let made = Time::new(
            part(seconds / 3600),
            part(seconds / 60 % 60),
            part(seconds % 60),
            nanoseconds,
        );
        out_of(made, "a time of day", "jiff::civil::Time")
    }
}

impl From<DateTime> for StoredDateTime {
    fn from(time: DateTime) -> StoredDateTime {
        StoredDateTime { date: time.date().into(), time: time.time().into() }
    }
}

impl TryFrom<StoredDateTime> for DateTime {
    type Error = OutOfRange;

    fn try_from(time: StoredDateTime) -> Result<DateTime, OutOfRange> {
        Ok(DateTime::from_parts(time.date.try_into()?, time.time.try_into()?))
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Timestamp {
        let span = StoredSpan::from_towards_zero(time.as_second(), time.subsec_nanosecond());
        Timestamp::from_parts(span.seconds(), span.nanoseconds())
    }
}

impl TryFrom<Timestamp> for jiff::Timestamp {
    type Error = OutOfRange;

    fn try_from(time: Timestamp) -> Result<jiff::Timestamp, OutOfRange> {
        let (seconds, nanoseconds) = time.parts();
        let nanoseconds = i32::try_from(nanoseconds).unwrap_or(i32::MAX);
        out_of(jiff::Timestamp::new(seconds, nanoseconds), "a time", "jiff::Timestamp")
    }
}

/// One of less than -2^63 seconds is as long as it can be.
impl From<SignedDuration> for StoredSpan {
    fn from(duration: SignedDuration) -> StoredSpan {
        StoredSpan::from_towards_zero(duration.as_secs(), duration.subsec_nanos())
    }
}

impl TryFrom<StoredSpan> for SignedDuration {
    type Error = OutOfRange;

    fn try_from(span: StoredSpan) -> Result<SignedDuration, OutOfRange> {
        let nanoseconds = SignedDuration::from_nanos(span.nanoseconds().into());
        let whole = SignedDuration::from_secs(span.seconds()).checked_add(nanoseconds);
        whole.ok_or(OutOfRange { what: "a span", wanted: "jiff::SignedDuration" })
    }
}

impl From<Offset> for StoredOffset {
    fn from(offset: Offset) -> StoredOffset {
        StoredOffset::from_seconds(offset.seconds())
    }
}

impl TryFrom<StoredOffset> for Offset {
    type Error = OutOfRange;

    fn try_from(offset: StoredOffset) -> Result<Offset, OutOfRange> {
        out_of(Offset::from_seconds(offset.seconds()), "an offset", "jiff::tz::Offset")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_come_back_and_keep_their_order() {
        let dates = [Date::MIN, Date::constant(-1, 2, 28), Date::constant(2024, 2, 29), Date::MAX];
        let times = [Time::MIN, Time::constant(12, 34, 56, 789), Time::MAX];
        let all: Vec<_> =
            dates.iter().flat_map(|date| times.map(|time| date.to_datetime(time))).collect();
        let stored: Vec<StoredDateTime> = all.iter().map(|time| (*time).into()).collect();
        assert!(stored.is_sorted());
        for (time, stored) in all.iter().zip(stored) {
            assert_eq!(DateTime::try_from(stored).ok().as_ref(), Some(time));
        }
        assert_eq!(StoredDate::from(Date::constant(1970, 1, 2)).days(), 1);
        assert_eq!(StoredDate::from(Date::constant(1969, 12, 31)).days(), -1);
    }

    #[test]
    fn points_in_time_spans_and_offsets_come_back() {
        use jiff::Timestamp as Point;
        for time in [Point::MIN, Point::new(-1, -7).unwrap(), Point::UNIX_EPOCH, Point::MAX] {
            assert_eq!(Point::try_from(Timestamp::from(time)).ok(), Some(time));
        }
        let least = SignedDuration::from_secs(i64::MIN);
        assert_eq!(StoredSpan::from(SignedDuration::MIN), StoredSpan::from(least));
        for span in [least, SignedDuration::from_millis(-1500), SignedDuration::MAX] {
            assert_eq!(
                SignedDuration::try_from(StoredSpan::from(span)).ok(),
                Some(span),
                "{span:?}"
            );
        }
        for offset in [Offset::MIN, Offset::UTC, Offset::MAX] {
            assert_eq!(Offset::try_from(StoredOffset::from(offset)).ok(), Some(offset));
        }
    }

    #[test]
    fn what_is_beyond_is_an_error_and_so_is_a_leap_second() {
        assert!(Date::try_from(StoredDate::from_days(i32::MAX)).is_err());
        let leap = StoredTime::new(86_399, 1_000_000_000).unwrap();
        let error = Time::try_from(leap).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a time of day has no equal in a jiff::civil::Time: it is out of its range"
        );
        assert!(jiff::Timestamp::try_from(Timestamp::from_parts(i64::MAX, 0)).is_err());
        assert!(Offset::try_from(StoredOffset::from_seconds(i32::MAX)).is_err());
    }
}
