//! The log: what goes to stderr besides errors, and how much of it.
//!
//! `--log` takes a level, or levels by module: `info` or `warn,vmm::host=debug`. The filter is
//! `tracing-subscriber`'s simple one; its regular-expression filter would add 0.7 MiB to this
//! command (measured). A program can cause warnings as often as it likes: only a limited number of
//! each kind is printed, with the number left out (`allow`). Lines have no time unless `--log-time`
//! asks for it, so that two runs can be compared. `--log-format json` is in `json_lines`.
//!
//! What lasts is a span: its name and fields precede the lines that are written meanwhile, and at level
//! `debug` a line says how long it took.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FmtSpan, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::errors::Failure;
use super::json_lines::{self, JsonLines};
use super::style::{Colour, Look};

/// Options of every command.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace or off, also by module
    /// (`warn,vmm::host=debug`)
    #[arg(long, global = true, env = "SPACEJMP_LOG", value_name = "LEVEL", default_value = "warn")]
    log: Filter,
    /// Begin each log line with the seconds since the start
    #[arg(long, global = true)]
    log_time: bool,
    /// How lines on stderr are written, errors included: text, or a JSON object each
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: Format,
}

/// How what goes to stderr is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Lines to read.
    Text,
    /// JSON objects, one a line.
    Json,
}

/// A checked `--log` value.
#[derive(Debug, Clone)]
struct Filter(Targets);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An empty SPACEJMP_LOG counts as none.
        if text.is_empty() {
            return Ok(Self(Targets::new().with_default(LevelFilter::WARN)));
        }
        let mut targets = Targets::new();
        for part in text.split(',').map(str::trim) {
            let (target, level) = match part.split_once('=') {
                Some((target, level)) => (Some(target), level),
                None => (None, part),
            };
            let level = named(level).ok_or_else(|| {
                format!("`{level}` is no level: error, warn, info, debug, trace or off")
            })?;
            targets = match target {
                None => targets.with_default(level),
                Some("") => return Err(format!("`{part}` names no module")),
                Some(target) => targets.with_target(target, level),
            };
        }
        Ok(Self(targets))
    }
}

/// `LevelFilter`'s own parser also takes digits, and the empty string for `error`.
fn named(level: &str) -> Option<LevelFilter> {
    Some(match level.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// Installs the log for the whole process. Called once.
///
/// # Errors
/// When one is already installed.
pub fn install(args: &LogArgs) -> Result<(), Failure> {
    let filter = args.log.0.clone();
    let registry = tracing_subscriber::registry();
    match args.log_format {
        Format::Json => {
            json_lines::choose();
            registry.with(JsonLines.with_filter(filter)).try_init()
        }
        Format::Text => {
            let start = args.log_time.then(Instant::now);
            let lines = Lines { colour: Colour::of(&io::stderr()), start };
            let layer = layer().with_writer(io::stderr).with_span_events(FmtSpan::CLOSE);
            registry.with(layer.event_format(lines).with_filter(filter)).try_init()
        }
    }
    .map_err(|error: TryInitError| Failure::new("set up the log", error))
}

/// `spacejmp: warning: text field=value`, like the errors.
struct Lines {
    colour: Colour,
    start: Option<Instant>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let (look, level) = level(*metadata.level());
        let Some(left_out) = left_out_before(metadata) else { return Ok(()) };
        if left_out > 0 {
            let level = self.colour.paint(look, level);
            writeln!(writer, "spacejmp: {level} {}", left_out_text(left_out))?;
        }
        if let Some(start) = self.start {
            write!(writer, "[{:>10.6}] ", start.elapsed().as_secs_f64())?;
        }
        write!(writer, "spacejmp: {} ", self.colour.paint(look, level))?;
        // The module means little to most users and much to one who asked for details.
        if *event.metadata().level() >= Level::DEBUG {
            write!(writer, "{} ", self.colour.paint(Look::Dim, event.metadata().target()))?;
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |it| &it.fields);
            write!(writer, "{}{{{fields}}}: ", span.name())?;
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// This many lines of one kind are printed in a burst, and one more for each `REFILL` that passes.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(1);

/// Lines of one kind: those from one place in the code.
struct Rate {
    tokens: u32,
    filled: Instant,
    left_out: u64,
}

/// What was printed and left out, by kind.
#[derive(Default)]
struct Limits(HashMap<Identifier, Rate>);

impl Limits {
    /// Whether a line of this kind may be printed now, and then how many were left out before
    /// it.
    fn allow(&mut self, kind: Identifier, now: Instant) -> Option<u64> {
        let kind = self.0.entry(kind).or_insert(Rate { tokens: BURST, filled: now, left_out: 0 });
        let passed = now.saturating_duration_since(kind.filled).as_secs() / REFILL.as_secs();
        if passed > 0 {
            kind.filled = now;
            kind.tokens = BURST.min(kind.tokens.saturating_add(passed.min(BURST.into()) as u32));
        }
        if kind.tokens == 0 {
            kind.left_out += 1;
            return None;
        }
        kind.tokens -= 1;
        Some(std::mem::take(&mut kind.left_out))
    }

    fn take_left_out(&mut self) -> u64 {
        self.0.values_mut().map(|kind| std::mem::take(&mut kind.left_out)).sum()
    }
}

/// Whether a line may be printed, and then how many of its kind were left out before it.
pub(super) fn left_out_before(metadata: &'static Metadata<'static>) -> Option<u64> {
    // A user who asks for details gets them all.
    if *metadata.level() >= Level::DEBUG {
        return Some(0);
    }
    limits().allow(metadata.callsite(), Instant::now())
}

fn limits() -> impl std::ops::DerefMut<Target = Limits> {
    static LIMITS: std::sync::LazyLock<Mutex<Limits>> = std::sync::LazyLock::new(Mutex::default);
    LIMITS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn left_out_text(count: u64) -> String {
    let lines = if count == 1 { "line like it was" } else { "lines like these were" };
    format!("{count} more {lines} left out")
}

/// Prints how many lines were left out and not reported yet: at the end of a run.
pub fn tell_left_out() {
    let count = limits().take_left_out();
    if count > 0 && json_lines::are_chosen() {
        json_lines::tell("warn", &left_out_text(count), [("left_out", count.into())]);
    } else if count > 0 {
        let text = format!("spacejmp: warning: {}\n", left_out_text(count));
        // When stderr is closed, nothing can be printed.
        let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
    }
}

fn level(level: Level) -> (Look, &'static str) {
    match level {
        Level::ERROR => (Look::Bad, "error:"),
        Level::WARN => (Look::Warn, "warning:"),
        Level::INFO => (Look::Good, "info:"),
        Level::DEBUG => (Look::Dim, "debug:"),
        Level::TRACE => (Look::Dim, "trace:"),
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, Duration, Filter, Instant, Level, Limits};

    fn enables(filter: &str, target: &str, level: Level) -> bool {
        filter.parse::<Filter>().unwrap().0.would_enable(target, &level)
    }

    #[test]
    fn a_level_holds_for_every_module() {
        assert!(enables("info", "vmm::host", Level::INFO));
        assert!(!enables("info", "vmm::host", Level::DEBUG));
        assert!(!enables("off", "vmm::host", Level::ERROR));
        assert!(enables("", "vmm::host", Level::WARN), "empty is the default");
    }

    #[test]
    fn a_module_can_have_its_own_level() {
        assert!(enables("warn, vmm::host=debug", "vmm::host::probe", Level::DEBUG));
        assert!(!enables("warn,vmm::host=debug", "vmm::report", Level::INFO));
        assert!(enables("warn,vmm::host=debug", "vmm::report", Level::WARN));
    }

    #[test]
    fn lines_of_one_kind_are_limited_and_those_left_out_are_counted() {
        use tracing::Callsite;
        let kinds = [
            tracing::callsite!(name: "a", kind: tracing::metadata::Kind::EVENT, fields:),
            tracing::callsite!(name: "b", kind: tracing::metadata::Kind::EVENT, fields:),
        ];
        let [one, other] = kinds.map(|kind| kind.metadata().callsite());
        let (mut limits, now) = (Limits::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(limits.allow(one.clone(), now), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(limits.allow(one.clone(), now), None);
        }
        assert_eq!(limits.allow(other.clone(), now), Some(0), "another kind has its own");
        let later = now + Duration::from_secs(2);
        assert_eq!(limits.allow(one.clone(), later), Some(1000));
        assert_eq!(limits.allow(one.clone(), later), Some(0));
        assert_eq!(limits.allow(one, later), None);
        assert_eq!((limits.take_left_out(), limits.take_left_out()), (1, 0));
    }

    #[test]
    fn what_is_no_level_is_refused_and_named() {
        for (filter, named) in [
            ("loud", "`loud`"),
            ("warn,vmm=much", "`much`"),
            ("=debug", "`=debug`"),
            ("warn,", "``"),
            ("3", "`3`"),
        ] {
            let error = filter.parse::<Filter>().unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
