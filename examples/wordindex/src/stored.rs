//! The index in an address space, where the next program can use it in place.

use std::io;

use spacejmp::{AllocError, At, Error, Mode, Space, Storable, VHashMap, VString, VVec, Write};

use crate::Result;
use crate::index::{Entry, Index, Lookup, Place, Totals};
use crate::query;

pub(crate) use spacejmp::Lifetime;

spacejmp::brand! {
    /// The address space of an index, whatever its name.
    pub(crate) Shelf<'v> => Stored<'v>
}

/// The root object.
#[derive(Default, Storable)]
#[storable(vas = Shelf<'v>)]
pub(crate) struct Stored<'v> {
    totals: Totals,
    /// The paths, in bytes that need not be UTF-8.
    files: VVec<VVec<u8, Shelf<'v>>, Shelf<'v>>,
    words: VHashMap<VString<Shelf<'v>>, Word<'v>, Shelf<'v>>,
}

/// One word.
#[derive(Storable)]
#[storable(vas = Shelf<'v>)]
struct Word<'v> {
    count: u64,
    files: VVec<u32, Shelf<'v>>,
    places: VVec<Place, Shelf<'v>>,
}

impl<'v> Stored<'v> {
    /// A copy of an index.
    fn new(at: &At<Shelf<'v>, Write>, index: &Index) -> Result<Stored<'v>, AllocError> {
        let paths =
            (0..index.files.len()).map(|file| VVec::from_slice(at, index.path(file as u32)));
        let words = index.words.iter().map(|(text, word)| {
            let files = VVec::from_slice(at, &word.files)?;
            let places = VVec::from_slice(at, &word.places)?;
            Ok((VString::new(at, text)?, Word { count: word.count, files, places }))
        });
        Ok(Stored {
            totals: index.totals,
            files: VVec::try_collect(at, paths)?,
            words: VHashMap::try_collect(at, words)?,
        })
    }
}

/// A stored index, and the witness that the thread is inside.
struct Inside<'a, 'v, M> {
    index: &'a Stored<'v>,
    at: &'a At<Shelf<'v>, M>,
}

impl<M: Mode> Lookup for Inside<'_, '_, M> {
    fn totals(&self) -> Totals {
        self.index.totals
    }

    fn path(&self, file: u32) -> &[u8] {
        self.index.files.at(self.at)[file as usize].at(self.at)
    }

    fn find(&self, word: &str) -> Option<Entry<'_>> {
        let Word { count, files, places } = self.index.words.at(self.at).get(word)?;
        Some(Entry { count: *count, files: files.at(self.at), places: places.at(self.at) })
    }

    fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.index.words.at(self.at).iter().map(|(text, word)| (text, word.count))
    }
}

/// An address space that has an index, or will have one.
pub(crate) struct Kept(Space<Shelf<'static>>);

impl Kept {
    /// The one of this name, as it is.
    pub(crate) fn open(name: &str) -> Result<Kept> {
        Ok(Kept(Space::<Shelf<'_>>::open_read_only(name)?))
    }

    /// The same, to put an index there; made if there is none.
    pub(crate) fn open_or_create(name: &str, lifetime: Lifetime) -> Result<Kept> {
        Ok(Kept(
            Space::<Shelf<'_>>::options()
                .lifetime(lifetime)
                .open_or_create(name, |_| Ok(Stored::default()))?,
        ))
    }

    /// Replaces the index that is there.
    pub(crate) fn replace(&self, index: &Index) -> Result<()> {
        Ok(self.0.write(|v| {
            let (root, at) = v.root_mut();
            *root = Stored::new(at, index)?;
            Ok::<_, Error>(())
        })?)
    }

    /// Answers one query; as [`query::answer`]. Each query is a visit: before the next one another
    /// program may put a newer index there.
    pub(crate) fn answer(&self, line: &[u8], out: &mut impl io::Write) -> Result<bool> {
        Ok(self.0.read(|v| query::answer(&Inside { index: v.root(), at: v }, line, out))??)
    }
}
