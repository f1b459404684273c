//! The commands. Each is one visit: what it changes has happened as a whole, or not at all.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;

use genome::data::{Genome, Reads};
use genome::flagstat::Flagstat;
use genome::region::Region;
use genome::{generate, index, input, save, sort};
use spacejmp::{In, Mode, Segment, Space, Vas};

use crate::options::Options;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.command[..] {
        "load" => load(options),
        "flagstat" => flagstat(options),
        "sort" => change(options, |space| {
            space.write(|v| Ok::<_, spacejmp::Error>(sort::sort(v, options.by)?))?;
            Ok(())
        }),
        "index" => change(options, |space| {
            space.write(index::index)?;
            Ok(())
        }),
        "view" => view(options),
        "save" => save_as(options),
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
        input::open(Path::new(file), options.threads).map_err(|problem| about(file, problem))?;
    let made = Space::<Reads<'_>>::options().create(vas, |_| Ok(Genome::new()));
    let space = made.map_err(|error| match error.errno() {
        Some(spacejmp::sys::Errno::EEXIST) => about(
            vas,
            format!("there is such an address space: name another with --vas, or delete it with `spacejmp vas delete {vas}`"),
        ),
        _ => error.into(),
    })?;
    let filled: Result<()> = space.write(|v| {
        let (root, at) = v.root_mut();
        root.set_header(at, &header)?;
        for batch in batches {
            root.append(at, &batch.map_err(|problem| about(file, problem))?)?;
        }
        Ok(())
    });
    if filled.is_err() {
        // Nothing attached can be deleted. The first error is the one reported.
        drop(space);
        let _ = Vas::find(vas).and_then(|vas| vas.delete());
        let _ = Segment::find(vas).and_then(|segment| segment.delete());
    }
    filled
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
    let counts = read(options, |v| {
        let mut counts = Flagstat::default();
        v.root().reads(v).for_each(|read| counts.add(&read.core));
        counts
    })?;
    Ok(write!(io::stdout(), "{counts}")?)
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
            let reads = index::overlapping(v, &region)
                .ok_or("there is no index, which regions need: make one with `genome index`")?;
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
