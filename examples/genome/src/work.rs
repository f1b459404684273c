//! The commands. Each is one visit: what it changes has happened as a whole, or not at all.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use genome::data::{Genome, Loader, Reads};
use genome::depth::Depth;
use genome::flagstat::Flagstat;
use genome::header::Header;
use genome::index::IndexError;
use genome::input::Batches;
use genome::region::Region;
use genome::sort::By;
use genome::stats::Stats;
use genome::{generate, index, input, markdup, save, sort};
use spacejmp::{At, In, Mode, Segment, Space, Vas, Write};

use crate::options::Options;

const NO_INDEX: &str = "there is no index, which regions need: make one with `genome index`";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.command[..] {
        "load" => load(options),
        "flagstat" => flagstat(options),
        "stats" => stats(options),
        "sort" => change(options, |space| {
            space.write(|v| Ok::<_, spacejmp::Error>(sort::sort(v, options.by)?))?;
            Ok(())
        }),
        "index" => change(options, |space| {
            space.write(index::index)?;
            Ok(())
        }),
        "markdup" => change(options, |space| {
            let marked = space.write(markdup::mark)?;
            eprintln!("{marked} reads are duplicates");
            Ok(())
        }),
        "view" => view(options),
        "depth" => depth(options),
        "save" => save_as(options),
        "measure" => measure(options),
        "generate" => {
            let mut out = io::BufWriter::with_capacity(1 << 18, io::stdout().lock());
            generate::generate(&options.plan, &mut out)?;
            Ok(out.flush()?)
        }
        other => unreachable!("`Options::parse` knows no command {other}"),
    }
}

/// A problem with the name of the file or address space in front.
fn about(name: &str, problem: impl std::fmt::Display) -> Box<dyn Error> {
    format!("{name}: {problem}").into()
}

fn load(options: &Options) -> Result<()> {
    let (file, vas) = (&options.words[0], &options.vas);
    // Before anything is made.
    let (header, batches) =
        input::open(Path::new(file), options.reference.as_deref(), options.threads)
            .map_err(|problem| about(file, problem))?;
    let made = Space::<Reads<'_>>::options().create(vas, |_| Ok(Genome::new()));
    let space = made.map_err(|error| match error.errno() {
        Some(spacejmp::sys::Errno::EEXIST) => about(
            vas,
            format!(
                "there is an address space or a segment of this name: name another with --vas, or delete \
                 them with `spacejmp vas rm {vas}` and `spacejmp seg rm {vas}`"
            ),
        ),
        _ => error.into(),
    })?;
    let filled: Result<()> = space.write(|v| {
        let (root, at) = v.root_mut();
        fill(root, at, &header, batches, file)
    });
    if filled.is_err() {
        // Nothing attached can be deleted. The first error is the one reported.
        drop(space);
        let _ = Vas::find(vas).and_then(|vas| vas.delete());
        let _ = Segment::find(vas).and_then(|segment| segment.delete());
    }
    filled
}

fn fill<'v>(
    root: &mut Genome<'v>,
    at: &At<Reads<'v>, Write>,
    header: &Header,
    batches: Batches,
    file: &str,
) -> Result<()> {
    root.set_header(at, header)?;
    let mut loader = Loader::default();
    for batch in batches {
        let batch = batch.map_err(|problem| about(file, problem))?;
        loader.append(root, at, &batch).map_err(|problem| about(file, problem))?;
    }
    Ok(loader.finish(root, at)?)
}

/// Everything at once, without a VM, and how long it took.
fn measure(options: &Options) -> Result<()> {
    let file = &options.words[0];
    // Addresses, not memory; at most as much as a line becomes.
    let limit = std::fs::metadata(file).map_err(|error| about(file, error))?.len() * 16 + (1 << 30);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut seconds = Vec::new();
    let mut begin = Instant::now();
    let mut took = |name: Option<&str>| {
        let spent = begin.elapsed().as_secs_f64();
        seconds.extend(name.map(|name| format!("\"{name}\": {spent:.6}")));
        begin = Instant::now();
    };
    let (header, batches) =
        input::open(Path::new(file), options.reference.as_deref(), options.threads)
            .map_err(|problem| about(file, problem))?;
    let space = Space::<Reads<'_>>::in_memory(limit, |_| Ok(Genome::new()))?;
    space.write(|v| {
        let (root, at) = v.root_mut();
        fill(root, at, &header, batches, file)?;
        took(Some("load"));
        std::hint::black_box(count(v));
        took(Some("flagstat"));
        sort::sort(v, By::Name)?;
        took(Some("name_sort"));
        v.root_mut().0.forget_order();
        took(None);
        sort::sort(v, By::Coordinate)?;
        took(Some("coordinate_sort"));
        index::index(v)?;
        took(Some("index"));
        Ok::<_, Box<dyn Error>>(())
    })?;
    Ok(writeln!(io::stdout(), "{{{}}}", seconds.join(", "))?)
}

/// Keeps what was before under the tag, if there is one.
fn change(
    options: &Options,
    work: impl FnOnce(&Space<Reads<'static>>) -> Result<()>,
) -> Result<()> {
    let space = Space::<Reads<'_>>::open(&options.vas)?;
    if let Some(tag) = &options.tag {
        space.tag(tag)?;
    }
    work(&space)
}

fn read<T>(
    options: &Options,
    work: impl for<'v> FnOnce(&mut In<Reads<'v>, spacejmp::Read>) -> T,
) -> Result<T> {
    Ok(Space::<Reads<'_>>::open_read_only(&options.vas)?.read(work)?)
}

fn flagstat(options: &Options) -> Result<()> {
    let counts = read(options, |v| count(v))?;
    Ok(write!(io::stdout(), "{counts}")?)
}

fn stats(options: &Options) -> Result<()> {
    let stats = read(options, |v| {
        let v = &*v;
        let mut stats = Stats::default();
        v.root().reads(v).for_each(|read| stats.add(&read.get(v)));
        stats
    })?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    stats.show(&mut out)?;
    Ok(out.flush()?)
}

fn count<M: Mode>(v: &In<Reads<'_>, M>) -> Flagstat {
    Flagstat::count(v.root().columns(v).iter().map(|columns| columns.marks.get(v)))
}

fn view(options: &Options) -> Result<()> {
    let mut out = io::stdout().lock();
    read(options, |v| {
        let v = &*v;
        let root = v.root();
        if options.with_header || options.only_header {
            out.write_all(root.header.at(v))?;
        }
        if options.only_header {
            return Ok(());
        }
        let mut count = 0;
        if options.words.is_empty() {
            match options.only_count {
                true => count = root.count,
                false => save::lines(v, root.reads(v), &mut out)?,
            }
        }
        for word in &options.words {
            let region = region(v, word)?;
            let reads = index::overlapping(v, &region).ok_or(NO_INDEX)?;
            match options.only_count {
                true => count += reads.count() as u64,
                false => save::lines(v, reads, &mut out)?,
            }
        }
        if options.only_count {
            writeln!(out, "{count}")?;
        }
        Ok(out.flush()?)
    })?
}

fn depth(options: &Options) -> Result<()> {
    let out = io::stdout().lock();
    read(options, |v| {
        let v = &*v;
        let root = v.root();
        let region = options.words.first().map(|word| region(v, word)).transpose()?;
        let range = match region {
            Some(Region::On { from, to, .. }) => (from, to),
            _ => (0, i64::MAX),
        };
        let reads: Box<dyn Iterator<Item = &genome::data::Read<'_>>> = match region {
            None => Box::new(root.reads(v)),
            Some(region) => Box::new(index::overlapping(v, &region).ok_or(NO_INDEX)?),
        };
        let mut depth = Depth::new(out, range);
        for read in reads {
            let added = depth.add(&read.get(v), |reference| root.name(v, reference));
            added.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => IndexError::NotSorted.into(),
                _ => Box::<dyn Error>::from(error),
            })?;
        }
        Ok(depth.finish()?)
    })?
}

fn region<M: Mode>(v: &In<Reads<'_>, M>, text: &str) -> Result<Region> {
    let references = v.root().references.at(v);
    let find = |name: &[u8]| references.iter().position(|reference| reference.name.at(v) == name);
    Ok(Region::parse(text, find)?)
}

fn save_as(options: &Options) -> Result<()> {
    let file = &options.words[0];
    let saved = read(options, |v| save::save(v, Path::new(file), options.threads))?;
    saved.map_err(|error| about(file, error))
}
