//! Layers: what a generation has below its logs. A layer's file has the segment's layout, page n at
//! n times 4 KiB; a second file says which pages it has.
//!
//! - [`presence`]: which pages
//! - `writer`: making one
//!
//! Here are their names. What a hole in the file means is not asked: a page that was written with
//! zeros may be a hole on one file system and blocks on another.

use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::page::{PAGE_BYTES, PageIndex};

pub mod presence;
mod writer;

pub use presence::Presence;
pub(crate) use writer::{LayerWriter, remove, write_map};

/// The first layer of a segment, which needs no presence: what it has not is zero.
pub const HOME_FILE_NAME: &str = "home";

/// The number of a layer, part of its files' names. Never used again in a segment, nor in one that
/// was linked from it before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LayerId(pub u64);

impl LayerId {
    /// The name of the file with its pages.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("layer.{:016x}", self.0)
    }

    /// The name of the file that says which pages it has.
    #[must_use]
    pub fn map_name(self) -> String {
        format!("layer.{:016x}.map", self.0)
    }

    /// The layer that the name of one of its two files says.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<LayerId> {
        let digits = name.strip_prefix("layer.")?;
        let digits = digits.strip_suffix(".map").unwrap_or(digits);
        let id = LayerId(u64::from_str_radix(digits, 16).ok()?);
        (id.file_name() == name || id.map_name() == name).then_some(id)
    }
}

/// What a generation has below its logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// Nothing: the generation's logs follow the one below.
    Empty,
    /// The segment's first layer, in the file `home`.
    Home,
    /// A layer with a number.
    File(LayerId),
}

/// The pages of a layer.
#[derive(Clone, Debug)]
pub(crate) enum Pages {
    /// All below so many bytes: of `home`.
    Below(u64),
    /// These.
    Listed(Presence),
}

impl Pages {
    pub(crate) fn has(&self, page: PageIndex) -> bool {
        match self {
            Pages::Below(bytes) => {
                let end = page.offset().and_then(|offset| offset.checked_add(PAGE_BYTES as u64));
                end.is_some_and(|end| end <= *bytes)
            }
            Pages::Listed(presence) => presence.has(page),
        }
    }

    /// How many there are, at most.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Pages::Below(bytes) => bytes / PAGE_BYTES as u64,
            Pages::Listed(presence) => presence.count(),
        }
    }
}

/// Opens a layer's file and reads which pages it has.
pub(crate) fn open<D: Folder>(folder: &D, id: LayerId) -> Result<(D::File, Presence)> {
    let (name, map_name) = (id.file_name(), id.map_name());
    let failed = |action, name: &str| {
        let file = name.to_owned();
        move |source| VersionsError::Io { action, file, source }
    };
    let file = folder.open(&name).map_err(failed("open", &name))?;
    let map = folder.open(&map_name).map_err(failed("open", &map_name))?;
    let bytes = file.bytes().map_err(failed("measure", &name))?;
    let presence = Presence::read(&map, &map_name)?;
    if presence.end_bytes() > bytes {
        let what = format!("its map says that it has {} bytes", presence.end_bytes());
        return Err(VersionsError::Damaged { file: name, what });
    }
    Ok((file, presence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_and_numbers_belong_together() {
        let id = LayerId(0xabc);
        for name in [id.file_name(), id.map_name()] {
            assert_eq!(LayerId::of_file_name(&name), Some(id));
        }
        for other in ["layer.", "layer.1", "layer.000000000000000G", "layer.0000000000000001.m"] {
            assert_eq!(LayerId::of_file_name(other), None, "{other}");
        }
    }
}
