//! What is stored in the address space: a vector of notes.
//!
//! Every function that dereferences a pointer takes `at`, the proof that the thread is inside: with
//! any mode `M` to read, with `Write` to change.

use spacejmp::{AllocError, At, Mode, Storable, VString, VVec, Write};

spacejmp::brand! {
    /// The address space of the notebook.
    pub(crate) Notebook<'v> => Notes<'v>
}

/// All notes: the root object.
#[derive(Storable)]
#[storable(vas = Notebook<'v>)]
pub(crate) struct Notes<'v> {
    last_number: u64,
    notes: VVec<Note<'v>, Notebook<'v>>,
}

/// One note.
#[derive(Storable)]
#[storable(vas = Notebook<'v>)]
pub(crate) struct Note<'v> {
    number: u64,
    text: VString<Notebook<'v>>,
    /// With their plus signs.
    tags: VVec<VString<Notebook<'v>>, Notebook<'v>>,
}

impl<'v> Notes<'v> {
    pub(crate) fn new() -> Notes<'v> {
        Notes { last_number: 0, notes: VVec::new() }
    }

    /// Adds a note and returns its number. Words that begin with a plus sign are tags.
    pub(crate) fn add(
        &mut self,
        at: &At<Notebook<'v>, Write>,
        words: &[&str],
    ) -> Result<u64, AllocError> {
        let (tags, text): (Vec<&str>, Vec<&str>) =
            words.iter().partition(|word| word.starts_with('+'));
        let text = VString::new(at, &text.join(" "))?;
        let mut note = Note { number: self.last_number + 1, text, tags: VVec::new() };
        for tag in tags {
            note.tags.at_mut(at).push(VString::new(at, tag)?)?;
        }
        self.notes.at_mut(at).push(note)?;
        self.last_number += 1;
        Ok(self.last_number)
    }

    /// Removes a note. Returns whether there was one.
    pub(crate) fn remove(&mut self, at: &At<Notebook<'v>, Write>, number: u64) -> bool {
        let found = self.all(at).iter().position(|note| note.number == number);
        // The note is dropped inside, which frees its memory.
        found.map(|place| self.notes.at_mut(at).remove(place)).is_some()
    }

    /// All notes, the oldest first.
    pub(crate) fn all<'a, M: Mode>(&'a self, at: &'a At<Notebook<'v>, M>) -> &'a [Note<'v>] {
        self.notes.at(at)
    }
}

impl<'v> Note<'v> {
    pub(crate) fn text<'a, M: Mode>(&'a self, at: &'a At<Notebook<'v>, M>) -> &'a str {
        self.text.at(at)
    }

    pub(crate) fn has_tag<M: Mode>(&self, at: &At<Notebook<'v>, M>, tag: &str) -> bool {
        self.tags.at(at).iter().any(|own| own.at(at) == tag)
    }

    /// Number, text and tags.
    pub(crate) fn line<M: Mode>(&self, at: &At<Notebook<'v>, M>) -> String {
        let tags = self.tags.at(at).iter().map(|tag| format!(" {}", tag.at(at)));
        format!("{}: {}{}", self.number, self.text(at), tags.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spacejmp::Space;

    /// A space over plain memory: no VM is needed.
    #[test]
    fn notes_are_added_found_by_tag_and_removed() {
        let space = Space::<Notebook<'_>>::in_memory(1 << 20, |_| Ok(Notes::new())).unwrap();
        let seen = space.write(|v| {
            let (notes, at) = v.root_mut();
            notes.add(at, &["buy", "milk", "+home", "+today"])?;
            notes.add(at, &["call", "Ada", "+today"])?;
            notes.add(at, &["sleep"])?;
            assert!(notes.remove(at, 1) && !notes.remove(at, 1));
            assert_eq!(notes.add(at, &["+empty"])?, 4, "numbers are not used again");
            let today = notes.all(at).iter().filter(|note| note.has_tag(at, "+today"));
            let today: Vec<_> = today.map(|note| note.text(at).to_owned()).collect();
            let lines: Vec<_> = notes.all(at).iter().map(|note| note.line(at)).collect();
            Ok::<_, spacejmp::Error>((today, lines))
        });
        let (today, lines) = seen.unwrap();
        assert_eq!(today, ["call Ada"]);
        assert_eq!(lines, ["2: call Ada +today", "3: sleep", "4:  +empty"]);
    }
}
