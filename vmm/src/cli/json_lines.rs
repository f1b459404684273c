//! What goes to stderr as JSON, one object a line (`--log-format json`): for programs that collect logs.
//!
//! Lines of the log, how long a span lasted, and what ends a command: its failure, or the report on the
//! program. What the program itself writes to stderr, and the tables that a user asks for there
//! (`--stats`), stay as they are. Not `tracing-subscriber`'s own JSON, which has no place for the
//! last two, and brings crates of its own.

use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::log::{left_out_before, left_out_text};

static CHOSEN: OnceLock<()> = OnceLock::new();

/// From now on, all that this process writes to stderr by itself is such lines.
pub(super) fn choose() {
    // A second time changes nothing.
    let _ = CHOSEN.set(());
}

/// Whether they are what the user asked for.
#[must_use]
pub fn are_chosen() -> bool {
    CHOSEN.get().is_some()
}

/// Writes a line about what ended this command: `message` and what else is known.
pub fn tell_error(message: &str, more: impl IntoIterator<Item = (&'static str, Value)>) {
    tell("error", message, more);
}

/// Writes a line that comes from no event of the log.
pub(super) fn tell(
    level: &str,
    message: &str,
    more: impl IntoIterator<Item = (&'static str, Value)>,
) {
    let mut line = head(level);
    line.insert("message".to_owned(), message.into());
    line.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
    write(line);
}

/// The log, as a layer of the subscriber.
pub(super) struct JsonLines;

/// What is kept of a span.
struct Lasting {
    fields: Fields,
    begin: Instant,
}

/// What is recorded of an event or a span: its message, and the rest by name.
#[derive(Default)]
struct Fields {
    message: Option<String>,
    named: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        self.named.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = Some(value.to_owned()),
            _ => self.add(field, value.into()),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(Lasting { fields, begin: Instant::now() });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(lasting) = span.extensions_mut().get_mut::<Lasting>() {
            values.record(&mut lasting.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let Some(left_out) = left_out_before(metadata) else { return };
        if left_out > 0 {
            let mut line = head(name(*metadata.level()));
            line.insert("message".to_owned(), left_out_text(left_out).into());
            line.insert("left_out".to_owned(), left_out.into());
            write(line);
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let scope = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let spans: Vec<Value> = scope
            .map(|span| {
                let mut shown = Map::new();
                shown.insert("name".to_owned(), span.name().into());
                if let Some(lasting) = span.extensions().get::<Lasting>() {
                    shown.extend(lasting.fields.named.clone());
                }
                Value::Object(shown)
            })
            .collect();
        let mut line = of(metadata, fields);
        if !spans.is_empty() {
            line.insert("spans".to_owned(), spans.into());
        }
        write(line);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(lasting) = span.extensions_mut().remove::<Lasting>() else { return };
        let took = lasting.begin.elapsed();
        let mut line = of(span.metadata(), lasting.fields);
        line.insert("span".to_owned(), span.name().into());
        line.insert("took_s".to_owned(), took.as_secs_f64().into());
        write(line);
    }
}

fn of(metadata: &Metadata<'_>, fields: Fields) -> Map<String, Value> {
    let mut line = head(name(*metadata.level()));
    line.insert("target".to_owned(), metadata.target().into());
    if let Some(message) = fields.message {
        line.insert("message".to_owned(), message.into());
    }
    if !fields.named.is_empty() {
        line.insert("fields".to_owned(), fields.named.into());
    }
    line
}

/// What every line has.
fn head(level: &str) -> Map<String, Value> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut line = Map::new();
    line.insert("time".to_owned(), time(since).into());
    line.insert("level".to_owned(), level.into());
    // Processes of a run write to the same place.
    line.insert("pid".to_owned(), std::process::id().into());
    line
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// At once, so that lines of several threads do not mix.
fn write(line: Map<String, Value>) {
    let mut text = Value::Object(line).to_string();
    text.push('\n');
    // When stderr is closed, nothing can be said.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// A time in UTC as RFC 3339 has it, in microseconds; `since` is since 1970.
fn time(since: Duration) -> String {
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The date of a day since 1970-01-01, in the Gregorian calendar. Years are counted from March, so that the
/// leap day is the last of one.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01; 400 years have as many days as any other 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::{Duration, date, time};

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| time(Duration::new(seconds, 7_000));
        assert_eq!(at(0), "1970-01-01T00:00:00.000007Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000007Z");
        assert_eq!(at(1_709_164_800), "2024-02-29T00:00:00.000007Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59.000007Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000007Z", "no leap year");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let length = |year, month| match month {
            2 => 28 + u64::from(leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for day in 0..200_000 {
            assert_eq!(date(day), expected);
            let (year, month, at) = expected;
            expected = match (at < length(year, month), month) {
                (true, _) => (year, month, at + 1),
                (false, 12) => (year + 1, 1, 1),
                (false, _) => (year, month + 1, 1),
            };
        }
    }
}
