//! `chrono`: its dates and times become ours, and ours become its.

use chrono::{
    DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc,
};

use crate::calendar::{
    OutOfRange, StoredDate, StoredDateTime, StoredOffset, StoredSpan, StoredTime,
};
use crate::values::Timestamp;

/// 1970-01-01, as `chrono` counts days.
const EPOCH: i32 = 719_163;

fn out_of<T>(value: Option<T>, what: &'static str, wanted: &'static str) -> Result<T, OutOfRange> {
    value.ok_or(OutOfRange { what, wanted })
}

impl From<NaiveDate> for StoredDate {
    fn from(date: NaiveDate) -> StoredDate {
        use chrono::Datelike as _;
        StoredDate::from_days(date.num_days_from_ce() - EPOCH)
    }
}

impl TryFrom<StoredDate> for NaiveDate {
    type Error = OutOfRange;

    fn try_from(date: StoredDate) -> Result<NaiveDate, OutOfRange> {
        let days = date.days().checked_add(EPOCH);
        out_of(days.and_then(NaiveDate::from_num_days_from_ce_opt), "a date", "chrono::NaiveDate")
    }
}

impl From<NaiveTime> for StoredTime {
    fn from(time: NaiveTime) -> StoredTime {
        use chrono::Timelike as _;
        let (seconds, nanoseconds) = (time.num_seconds_from_midnight(), time.nanosecond());
        StoredTime::new(seconds, nanoseconds).expect("chrono has no other times")
    }
}

impl TryFrom<StoredTime> for NaiveTime {
    type Error = OutOfRange;

    fn try_from(time: StoredTime) -> Result<NaiveTime, OutOfRange> {
        let made =
            NaiveTime::from_num_seconds_from_midnight_opt(time.seconds(), time.nanoseconds());
        out_of(made, "a time of day", "chrono::NaiveTime")
    }
}

impl From<NaiveDateTime> for StoredDateTime {
    fn from(time: NaiveDateTime) -> StoredDateTime {
        StoredDateTime { date: time.date().into(), time: time.time().into() }
    }
}

impl TryFrom<StoredDateTime> for NaiveDateTime {
    type Error = OutOfRange;

    fn try_from(time: StoredDateTime) -> Result<NaiveDateTime, OutOfRange> {
        Ok(NaiveDateTime::new(time.date.try_into()?, time.time.try_into()?))
    }
}

/// The point in time, without the time zone. A time in a leap second is as long after the second that follows.
impl<Z: TimeZone> From<DateTime<Z>> for Timestamp {
    fn from(time: DateTime<Z>) -> Timestamp {
        let nanoseconds = time.timestamp_subsec_nanos();
        let seconds = time.timestamp() + i64::from(nanoseconds / 1_000_000_000);
        Timestamp::from_parts(seconds, nanoseconds % 1_000_000_000)
    }
}

impl TryFrom<Timestamp> for DateTime<Utc> {
    type Error = OutOfRange;

    fn try_from(time: Timestamp) -> Result<DateTime<Utc>, OutOfRange> {
        let (seconds, nanoseconds) = time.parts();
        out_of(DateTime::from_timestamp(seconds, nanoseconds), "a time", "chrono::DateTime")
    }
}

impl From<TimeDelta> for StoredSpan {
    fn from(delta: TimeDelta) -> StoredSpan {
        StoredSpan::from_towards_zero(delta.num_seconds(), delta.subsec_nanos())
    }
}

impl TryFrom<StoredSpan> for TimeDelta {
    type Error = OutOfRange;

    fn try_from(span: StoredSpan) -> Result<TimeDelta, OutOfRange> {
        out_of(TimeDelta::new(span.seconds(), span.nanoseconds()), "a span", "chrono::TimeDelta")
    }
}

impl From<FixedOffset> for StoredOffset {
    fn from(offset: FixedOffset) -> StoredOffset {
        StoredOffset::from_seconds(offset.local_minus_utc())
    }
}

impl TryFrom<StoredOffset> for FixedOffset {
    type Error = OutOfRange;

    fn try_from(offset: StoredOffset) -> Result<FixedOffset, OutOfRange> {
        out_of(FixedOffset::east_opt(offset.seconds()), "an offset", "chrono::FixedOffset")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_come_back_and_keep_their_order() {
        let dates = [NaiveDate::MIN, NaiveDate::from_ymd_opt(-1, 2, 28).unwrap()];
        let dates =
            [dates[0], dates[1], NaiveDate::from_ymd_opt(2024, 2, 29).unwrap(), NaiveDate::MAX];
        let leap = NaiveTime::from_hms_nano_opt(23, 59, 59, 1_500_000_000).unwrap();
        let times = [NaiveTime::MIN, NaiveTime::from_hms_opt(23, 59, 59).unwrap(), leap];
        let all: Vec<_> =
            dates.iter().flat_map(|date| times.map(|time| date.and_time(time))).collect();
        let stored: Vec<StoredDateTime> = all.iter().map(|time| (*time).into()).collect();
        assert!(stored.is_sorted());
        let back: Result<Vec<NaiveDateTime>, _> =
            stored.into_iter().map(NaiveDateTime::try_from).collect();
        assert_eq!(back, Ok(all));
        assert_eq!(StoredDate::from(NaiveDate::from_ymd_opt(1970, 1, 2).unwrap()).days(), 1);
    }

    #[test]
    fn points_in_time_come_back_and_those_before_1970_too() {
        for time in [
            DateTime::<Utc>::MIN_UTC,
            DateTime::from_timestamp(-1, 7).unwrap(),
            DateTime::<Utc>::MAX_UTC,
        ] {
            let back = DateTime::<Utc>::try_from(Timestamp::from(time));
            // The last one that there is, is in a leap second.
            let expected = time - TimeDelta::nanoseconds(0);
            assert_eq!(back, Ok(expected));
        }
        let leap = NaiveDate::from_ymd_opt(2016, 12, 31).unwrap();
        let leap = leap.and_hms_nano_opt(23, 59, 59, 1_250_000_000).unwrap().and_utc();
        assert_eq!(Timestamp::from(leap).parts(), (1_483_228_800, 250_000_000));
    }

    #[test]
    fn spans_and_offsets_come_back_and_what_is_beyond_is_an_error() {
        for delta in
            [TimeDelta::MIN, TimeDelta::milliseconds(-1500), TimeDelta::zero(), TimeDelta::MAX]
        {
            assert_eq!(TimeDelta::try_from(StoredSpan::from(delta)), Ok(delta));
        }
        assert_eq!(
            StoredSpan::from(TimeDelta::milliseconds(-1500)),
            StoredSpan::new(-2, 500_000_000).unwrap()
        );
        let west = FixedOffset::west_opt(3600).unwrap();
        assert_eq!(FixedOffset::try_from(StoredOffset::from(west)), Ok(west));
        assert!(NaiveDate::try_from(StoredDate::from_days(i32::MAX)).is_err());
        assert!(TimeDelta::try_from(StoredSpan::new(i64::MIN, 0).unwrap()).is_err());
        assert!(FixedOffset::try_from(StoredOffset::from_seconds(86_400)).is_err());
        assert!(DateTime::<Utc>::try_from(Timestamp::from_parts(i64::MAX, 0)).is_err());
    }
}
