//! What the commands `vas`, `seg` and `store` have in common: the store, names, sizes, errors.
//!
//! Commands that only read open a store that must exist; only `create` and `import` create one.

use std::cell::Cell;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use abi::objects::{Durability, SyncInterval};
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::Serialize;
use vmm::error::Remedy;
use vmm::exit_code::ExitCode;
use vmm::store::{CheckReport, HeapView, Mode, Name, Store, StoreError, counted};

use crate::errors::{self, Failure};
pub(crate) use crate::run_options::parse_timeout;
use crate::style::{Colour, Look};

/// The store to work on.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StoreArgs {
    /// The directory where address spaces and segments are kept
    ///
    /// Default: spacejmp in the user's data directory ($XDG_DATA_HOME or ~/.local/share).
    #[arg(long, value_name = "DIR", env = "SPACEJMP_STORE", global = true)]
    store: Option<PathBuf>,
}

// These have no description of their own: clap would show it as that of the command.

#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Waits {
    /// Give up when programs that write have not left after so long; without it, wait for them
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    #[arg(value_parser = name_parser())]
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Names {
    #[arg(required = true, value_parser = name_parser())]
    pub(crate) names: Vec<Name>,
}

impl StoreArgs {
    /// As if `--store` had been given, or not.
    pub(crate) fn of(store: Option<PathBuf>) -> StoreArgs {
        StoreArgs { store: store.or_else(|| std::env::var_os("SPACEJMP_STORE").map(Into::into)) }
    }

    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        match &self.store {
            Some(path) if !path.as_os_str().is_empty() => Ok(path.clone()),
            _ => Store::default_path().map_err(failed("find the store")),
        }
    }

    /// Opens a store that exists.
    pub(crate) fn open(&self) -> Result<Store, Failure> {
        Store::open(&self.path()?).map_err(failed("open the store"))
    }

    /// Opens a store that exists and does something with it; an error says what.
    pub(crate) fn with<T>(
        &self,
        doing: String,
        work: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, Failure> {
        work(&self.open()?).map_err(failed(doing))
    }

    /// Opens it, after creating it if it does not exist.
    pub(crate) fn open_or_create(&self) -> Result<Store, Failure> {
        Store::open_or_create(&self.path()?).map_err(failed("open the store"))
    }
}

/// For `map_err`: adds what could not be done.
pub(crate) fn failed<E: Remedy + 'static>(doing: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |error| Failure::with_remedy(doing, error)
}

/// For waiting for locks: prints a note after a second, on a terminal, and never gives up.
pub(crate) fn waiting_note() -> impl Fn() -> bool {
    let began = Instant::now();
    let said = Cell::new(!io::stderr().is_terminal());
    move || {
        if !said.get() && began.elapsed() > Duration::from_secs(1) {
            said.set(true);
            eprintln!("spacejmp: waiting until programs that write have left; Ctrl-C gives up");
        }
        false
    }
}

/// A name on the command line.
pub(crate) fn name_parser() -> impl TypedValueParser<Value = Name> {
    OsStringValueParser::new().try_map(|text: OsString| Name::new(text.as_bytes()))
}

/// `4G`, `512M`, `0x1000`, `10T`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size: give bytes, or a number with K, M, G or T");
    if text.starts_with("0x") {
        return parse_address(text).map_err(|_| bad());
    }
    crate::size::bytes(text).filter(|&bytes| bytes < u64::MAX).ok_or_else(bad)
}

/// An address in hexadecimal, with or without `0x` and `_`.
pub(crate) fn parse_address(text: &str) -> Result<u64, String> {
    let digits: String =
        text.strip_prefix("0x").unwrap_or(text).chars().filter(|c| *c != '_').collect();
    u64::from_str_radix(&digits, 16).map_err(|_| {
        format!("`{text}` is no address: give it in hexadecimal, as in 0x100040000000")
    })
}

/// Permission bits as for `chmod`: three octal digits.
pub(crate) fn parse_mode(text: &str) -> Result<Mode, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .and_then(Mode::new)
        .ok_or_else(|| format!("`{text}` is no mode: give octal digits, as in 660"))
}

/// `each`, `every:MS` or `manual`.
pub(crate) fn parse_durability(text: &str) -> Result<Durability, String> {
    let every = |ms: &str| SyncInterval::new(ms.parse().ok()?).map(Durability::Every);
    let known = match text {
        "each" => Some(Durability::Each),
        "manual" => Some(Durability::Manual),
        _ => text.strip_prefix("every:").and_then(every),
    };
    let most = SyncInterval::MAX_MS;
    let bad = || {
        format!(
            "`{text}` is no durability: give each, manual, or every: and 1 to {most} milliseconds"
        )
    };
    known.ok_or_else(bad)
}

/// `4 GiB`, or the exact number of bytes if that is not a round number.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes.is_multiple_of(*unit) => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// Rows under a heading, in columns; without rows nothing.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>], colour: Colour) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = heading.iter().map(|text| width(text)).collect();
    for row in rows {
        for (most, cell) in widths.iter_mut().zip(row) {
            *most = (*most).max(width(cell));
        }
    }
    let line = |cells: &[&str]| {
        let mut line = String::new();
        for (cell, most) in cells.iter().zip(&widths) {
            let _ = write!(line, "{cell}{:1$}", "", most - width(cell) + 2);
        }
        line.trim_end().to_owned()
    };
    let mut text = colour.paint(Look::Bold, &line(heading)) + "\n";
    for row in rows {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        text += &(line(&cells) + "\n");
    }
    text
}

/// Prints what a check found; status 1 if an object is unusable.
pub(crate) fn print_check(json: bool, report: &CheckReport) -> Result<ExitCode, Failure> {
    #[derive(Serialize)]
    struct Shown<'a> {
        sound: bool,
        #[serde(flatten)]
        report: &'a CheckReport,
    }
    let sound = report.sound();
    let written = errors::output(json, &Shown { sound, report }, |colour| {
        let mut text = String::new();
        for finding in &report.findings {
            let (look, word) = match finding.severity {
                vmm::store::Severity::Error => (Look::Bad, "error"),
                vmm::store::Severity::Warning => (Look::Warn, "warning"),
            };
            let word = colour.paint(look, &format!("{word:<8}"));
            let _ = writeln!(text, "{word}{}", errors::one_line(&finding.to_string()));
        }
        if let Some(heap) = &report.heap {
            text += &heap_lines(heap);
        }
        if report.heap_in_use {
            text += "heap     not checked: a live program may be writing to it\n";
        }
        let _ = writeln!(
            text,
            "{} and {} checked: {}",
            counted(report.vases.into(), "VAS"),
            counted(report.segments.into(), "segment"),
            if sound { "all can be used" } else { "not all can be used" }
        );
        text
    })?;
    Ok(if sound { written } else { ExitCode::Program(1) })
}

/// What is in a segment's heap.
fn heap_lines(heap: &HeapView) -> String {
    let mut text = format!(
        "heap     {}, {} in all, {} free, of {}\n",
        counted(heap.blocks, "block"),
        size(heap.allocated_bytes),
        size(heap.free_bytes),
        size(heap.size_bytes),
    );
    if heap.damages > 0 {
        let _ = writeln!(text, "damages  {}", heap.damages);
    }
    let leaks = match (heap.leaked_blocks, heap.leaked_bytes) {
        (Some(blocks), Some(bytes)) => format!("{}, {}", counted(blocks, "block"), size(bytes)),
        _ if heap.damages > 0 => "not looked for: the heap is damaged".to_owned(),
        _ => "not looked for: there is no root object".to_owned(),
    };
    let _ = writeln!(text, "leaks    {leaks}");
    for leak in &heap.leaks {
        let _ = writeln!(text, "         {:#x}, {}", leak.address, counted(leak.bytes, "byte"));
    }
    text +=
        "content  not looked at: the program that knows the types checks it with `Space::check`\n";
    text
}

#[cfg(test)]
mod tests {
    use super::{Colour, parse_address, parse_mode, parse_size, size, table};

    #[test]
    fn sizes_are_numbers_with_a_unit_of_1024s() {
        assert_eq!(parse_size("4G"), Ok(4 << 30));
        assert_eq!(parse_size("100t"), Ok(100 << 40));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("0x2000"), Ok(8192));
        for bad in ["", "G", "4X", "-1", "99999999T", "4.5G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(size(4 << 30), "4 GiB");
        assert_eq!(size((4 << 30) + (1 << 29)), "4.5 GiB");
        assert_eq!(size(12), "12 B");
    }

    #[test]
    fn addresses_are_hexadecimal_and_modes_octal() {
        assert_eq!(parse_address("0x1000_4000_0000"), Ok(0x1000_4000_0000));
        assert!(parse_address("lots").is_err());
        assert_eq!(parse_mode("660").unwrap().bits(), 0o660);
        assert!(parse_mode("1777").is_err() && parse_mode("9").is_err());
    }

    #[test]
    fn a_table_has_columns_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "b".into()], vec!["long".into(), String::new()]];
        assert_eq!(table(&["x", "y"], &rows, Colour::Plain), "x     y\na     b\nlong\n");
        assert_eq!(table(&["x"], &[], Colour::Plain), "");
    }
}
