//! Tags and versions on the command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use abi::objects::{SegId, VasId};
use clap::builder::{OsStringValueParser, TypedValueParser};
use vmm::store::{Chosen, Name, NameError, Store, StoreError, TagName, VersionChoice};

/// The name of a new tag.
pub(crate) fn tag_parser() -> impl TypedValueParser<Value = TagName> {
    OsStringValueParser::new().try_map(|text: OsString| TagName::new(text.as_bytes()))
}

/// A number or a tag.
pub(crate) fn version_parser() -> impl TypedValueParser<Value = VersionChoice> {
    OsStringValueParser::new().try_map(|text: OsString| -> Result<VersionChoice, NameError> {
        Name::new(text.as_bytes())?.as_str().parse()
    })
}

/// The segment that a name means, and the number of the version if it has one behind an `@`.
pub(crate) fn chosen_segment(
    store: &Store,
    name: &Name,
) -> Result<(SegId, Option<u64>), StoreError> {
    Ok(match store.choose_segment(name)? {
        Chosen::Whole(sid) => (sid, None),
        Chosen::Number(sid, number) => (sid, Some(number)),
    })
}

/// The same for a VAS.
pub(crate) fn chosen_vas(store: &Store, name: &Name) -> Result<(VasId, Option<u64>), StoreError> {
    Ok(match store.choose_vas(name)? {
        Chosen::Whole(vid) => (vid, None),
        Chosen::Number(vid, number) => (vid, Some(number)),
    })
}

/// What a name means beside another segment: `@VERSION` alone is a version of that one.
pub(super) fn of_segment(
    store: &Store,
    name: &Name,
    beside: &Chosen<SegId>,
) -> Result<Chosen<SegId>, StoreError> {
    let missing = match store.choose_segment(name) {
        Err(error @ StoreError::NotFound(_)) if name.as_str().starts_with('@') => error,
        found => return found,
    };
    let (Chosen::Whole(sid) | Chosen::Number(sid, _)) = *beside;
    let segment = store.open_segment(sid)?;
    let original = match segment.header().kept {
        Some(kept) => store.open_segment(kept.of).map_err(|_| missing)?.name().clone(),
        None => segment.name().clone(),
    };
    store.choose_segment(&joined(&original, name)?)
}

/// The same for a VAS.
pub(super) fn of_vas(
    store: &Store,
    name: &Name,
    beside: &Chosen<VasId>,
) -> Result<Chosen<VasId>, StoreError> {
    match store.choose_vas(name) {
        Err(StoreError::NotFound(_)) if name.as_str().starts_with('@') => {}
        found => return found,
    }
    let (Chosen::Whole(vid) | Chosen::Number(vid, _)) = *beside;
    let vas = store.vas(vid)?.name;
    // A tag's name says whose it is.
    let original = vas.as_str().rsplit_once('@').map_or(vas.as_str(), |(original, _)| original);
    store.choose_vas(&joined(&Name::new(original.as_bytes())?, name)?)
}

fn joined(name: &Name, version: &Name) -> Result<Name, StoreError> {
    Ok(Name::new(format!("{}{}", name.as_str(), version.as_str()).as_bytes())?)
}
