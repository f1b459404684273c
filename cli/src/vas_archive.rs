//! `spacejmp vas export` and `import`: files, progress, what is printed.
//!
//! An export is written beside its destination and renamed when it is complete.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abi::objects::VasId;
use serde::Serialize;
use vmm::exit_code::ExitCode;
use vmm::files::take_over_umask;
use vmm::store::{Chosen, Name, Progress, Store, StoreError, counted, survey_archive};
use vmm::vas::{VasError, snapshot};

use crate::errors::{self, Failure};
use crate::store_options::{failed, size, waiting_note};

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);

pub(crate) fn export(
    store: &Store,
    name: &Name,
    file: &Path,
    force: bool,
    timeout: Option<Duration>,
) -> Result<ExitCode, Failure> {
    let doing = || format!("export VAS '{name}'");
    let chosen = store.choose_vas(name).map_err(failed(doing()))?;
    note_left_out(store, &chosen).map_err(failed(doing()))?;
    let mut meter = Meter::new();
    if file == Path::new("-") {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            let error = io::Error::other("the standard output is a terminal");
            let help = Some("name a file, or send the output elsewhere".into());
            return Err(Failure::new(doing(), error).help(help));
        }
        let mut to = BufWriter::new(stdout.lock());
        let path = Path::new("standard output");
        let mut tell = |now: &Progress| meter.tell(now);
        snapshot::export(store, &chosen, &mut to, path, timeout, &waiting_note(), &mut tell)
            .map_err(failed(doing()))?;
        return Ok(ExitCode::Program(0));
    }
    let io_failed =
        |doing, path: &Path, source| StoreError::Io { doing, path: path.into(), source };
    if !force && fs::symlink_metadata(file).is_ok() {
        let error = io_failed("create", file, io::ErrorKind::AlreadyExists.into());
        let help = Some("take another file, or replace it with --force".into());
        return Err(Failure::new(doing(), error).help(help));
    }
    let part = Part(beside(file));
    let mut write = || -> Result<(), VasError> {
        let made = File::options().write(true).create_new(true).open(&part.0);
        let made = made.map_err(|e| io_failed("create", &part.0, e))?;
        let mut to = BufWriter::new(made);
        let mut tell = |now: &Progress| meter.tell(now);
        snapshot::export(store, &chosen, &mut to, file, timeout, &waiting_note(), &mut tell)?;
        let made = to.into_inner().map_err(|e| io_failed("write", file, e.into_error()))?;
        made.sync_all().map_err(|e| io_failed("write", file, e))?;
        fs::rename(&part.0, file).map_err(|e| io_failed("create", file, e))?;
        Ok(())
    };
    write().map_err(failed(doing()))?;
    Ok(ExitCode::Program(0))
}

pub(crate) fn import(
    file: &Path,
    store: impl FnOnce() -> Result<Store, Failure>,
    as_name: Option<&Name>,
    json: bool,
) -> Result<ExitCode, Failure> {
    #[derive(Serialize)]
    struct Segment {
        name: String,
        sid: String,
    }
    #[derive(Serialize)]
    struct Shown {
        name: String,
        vid: String,
        segments: Vec<Segment>,
        data_bytes: u64,
    }
    let doing = || format!("import {}", file.display());
    let mut meter = Meter::new();
    let _span = tracing::debug_span!("import", archive = %file.display()).entered();
    // The archive first: no store is created for a file that does not exist.
    let (mut from, path): (Box<dyn io::Read>, _) = if file == Path::new("-") {
        (Box::new(io::stdin().lock()), Path::new("standard input"))
    } else {
        let opened = File::open(file).map_err(|source| {
            let path = file.to_owned();
            failed(doing())(StoreError::Io { doing: "open", path, source })
        })?;
        (Box::new(BufReader::new(opened)), file)
    };
    if !json && file != Path::new("-") {
        announce(file)?;
    }
    let store = store()?;
    let umask = own_umask();
    let imported = store
        .import_vas(&mut from, path, as_name, umask, &mut |now| meter.tell(now))
        .map_err(|error| {
            let taken = matches!(error, StoreError::Exists(_)) && as_name.is_none();
            let failure = failed(doing())(error);
            let help = "choose a name with --as NAME";
            if taken { failure.help(Some(help.into())) } else { failure }
        })?;
    drop(meter);
    if !json {
        return Ok(ExitCode::Program(0));
    }
    let segment = |(name, sid): &(Name, abi::objects::SegId)| Segment {
        name: name.as_str().to_owned(),
        sid: sid.to_string(),
    };
    let shown = Shown {
        name: imported.name.as_str().to_owned(),
        vid: imported.vid.to_string(),
        segments: imported.segments.iter().map(segment).collect(),
        data_bytes: imported.data_bytes,
    };
    errors::output(true, &shown, |_| String::new())
}

/// Prints what is about to be imported. An archive that can be read only once, such as a pipe,
/// cannot be examined beforehand.
fn announce(file: &Path) -> Result<(), Failure> {
    let doing = || format!("import {}", file.display());
    let failed_to_read =
        |source| failed(doing())(StoreError::Io { doing: "read", path: file.to_owned(), source });
    let opened = File::open(file).map_err(failed_to_read)?;
    if !opened.metadata().map_err(failed_to_read)?.is_file() {
        return Ok(());
    }
    let found = survey_archive(&mut BufReader::new(opened), file).map_err(failed(doing()))?;
    let text = format!(
        "importing VAS '{}': {} with {} of content in {} of addresses\n",
        errors::one_line(&found.name.to_string()),
        counted(found.segments.into(), "segment"),
        size(found.data_bytes),
        size(found.size_bytes)
    );
    errors::write_all(&mut io::stdout(), text.as_bytes()).map(drop)
}

/// The process's umask, which can only be read by setting another one. No other thread of this
/// command creates files.
fn own_umask() -> u32 {
    let umask = take_over_umask();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    umask
}

/// A file that is removed unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn beside(file: &Path) -> PathBuf {
    file.with_file_name(format!(".spacejmp-export-{}", std::process::id()))
}

/// Says which segments a version has not.
fn note_left_out(store: &Store, chosen: &Chosen<VasId>) -> Result<(), StoreError> {
    let Chosen::Number(vid, _) = *chosen else { return Ok(()) };
    crate::versions::note_raw(store, &store.vas(vid)?.name)
}

/// One progress line on a terminal; nothing elsewhere.
pub(crate) struct Meter {
    told: Option<Instant>,
    terminal: bool,
}

impl Meter {
    pub(crate) fn new() -> Meter {
        Meter { told: None, terminal: io::stderr().is_terminal() }
    }

    pub(crate) fn tell(&mut self, now: &Progress) {
        if !self.terminal || self.told.is_some_and(|told| told.elapsed() < TICK) {
            return;
        }
        self.told = Some(Instant::now());
        let (done, all) = (size(now.done_bytes), size(now.size_bytes));
        let _ = write!(io::stderr(), "\r\x1b[K{}: {done} of {all}", now.segment);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
