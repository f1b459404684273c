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
