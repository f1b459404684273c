//! An index that two programs share, `sdk_fill` and `sdk_find`: collections of collections.

use spacejmp::{Error, Space, Storable, VHashMap, VString, VVec, brand};

/// The root object.
#[derive(Storable)]
#[storable(vas = Shelf)]
pub struct Index {
    /// Text.
    pub title: VString<Shelf>,
    /// The pages that contain a word.
    pub pages: VHashMap<VString<Shelf>, VVec<u32, Shelf>, Shelf>,
    /// All pages.
    pub order: VVec<u32, Shelf>,
    /// Stored without an entry.
    pub notes: VHashMap<u32, u64, Shelf>,
}

brand! {
    /// The index `shelf`.
    pub Shelf => Index
}

/// The index, created empty if there is none.
///
/// # Errors
/// The errors of opening a space.
pub fn open() -> Result<Space<Shelf>, Error> {
    let options = Space::options().size(1 << 20).reserve(256 << 20);
    options.open_or_create("shelf", |at| {
        Ok(Index {
            title: VString::new(at, "empty")?,
            pages: VHashMap::new(),
            order: VVec::new(),
            notes: VHashMap::new(),
        })
    })
}

/// The text of a page: a quarter of the pages share a word with another one.
#[must_use]
pub fn word(page: u32) -> String {
    format!("word {}", if page.is_multiple_of(4) { page / 8 * 8 } else { page })
}
