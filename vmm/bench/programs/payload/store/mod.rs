//! What `bench store` measures: versioned segments in a VM, beside databases that run natively
//! (`bench-peers`).
//!
//! - [`pages`]: commits of so many pages, by the raw calls
//! - [`numbers`]: maps of the SDK: loading, reading, single puts, reading beside a writer
//! - [`floor`]: the least that a commit can cost
//! - [`whole`]: a segment whose pages are all in use, and its copies; [`cached`]: what of it the host
//!   has in memory
//! - [`marks`], [`trace`]: what the host is asked for between two points of a program

mod cached;
mod floor;
mod marks;
mod numbers;
mod pages;
pub(crate) mod trace;
mod whole;

use std::path::Path;

use spacejmp::sys::Lifetime;

use crate::json::Object;
use crate::options::Options;
use crate::{Failure, Misuse};

/// The subcommand `store-KIND`.
///
/// # Errors
/// A call's error, or wrong arguments.
pub(crate) fn run(kind: &str, options: &Options) -> Result<Object, Failure> {
    let name = options.positional()?;
    let (count, rounds) = (options.number("count", 100_000)?, options.number("rounds", 100)?);
    let seed = options.number("seed", 1)?;
    let pages = options.small_number("pages", 1)?;
    if !(1..=pages::PAGES).contains(&pages) {
        return Err(Misuse(format!("--pages is one of 1 to {}", pages::PAGES)).into());
    }
    let load = numbers::Load {
        count,
        batch: options.number("batch", 0)?,
        is_hashed: options.has("hash"),
        is_one_by_one: options.has("one-by-one"),
        lifetime: match options.has("persistent") {
            true => Lifetime::Persistent,
            false => Lifetime::Versioned,
        },
    };
    if load.is_hashed && load.lifetime != Lifetime::Versioned {
        return Err(Misuse("--persistent is not of a map with --hash".into()).into());
    }
    Ok(match kind {
        "store-floor" => floor::commit(Path::new(name), pages, rounds, options.has("compared")),
        "store-commit" => {
            let bytes = options.number("bytes", 1 << 20)?;
            let place = pages::Pages::find_or_make(name, bytes)?;
            if options.has("marked") {
                pages::marked(&place, pages, rounds, seed)
            } else {
                pages::commit(&place, pages, rounds, seed)
            }
        }
        "store-fill" => pages::fill(name, options.number("bytes", 1 << 20)?, rounds),
        "store-open" => pages::open(name, options.has("marked")),
        "store-view" => pages::view(name),
        "store-enter" => crate::paths::entering(name, count),
        "store-whole" => whole::fill(name, options.number("bytes", 1 << 20)?),
        "store-change" => whole::change(name, count, options.number("commits", 1)?, seed),
        "store-hold" => whole::hold(name),
        "store-scan" => whole::scan(name, options.number("windows", 0)?, options.has("marked")),
        "store-cached" => cached::count(Path::new(name), options.has("checked")),
        "store-load" => numbers::load(name, &load),
        "store-update" => numbers::update(name, &load, rounds),
        "store-read" => numbers::read(name, count, options.has("hash")),
        "store-put" => numbers::put(name, count, rounds, seed),
        "store-beside" => numbers::beside(name, count, options.number("millis", 1000)?),
        other => return Err(Misuse(format!("no subcommand {other:?}")).into()),
    }?)
}
