//! What pages have in the version that a writer's changes are to, as far as it is in memory: of those that
//! it has copies of. A commit compares each copy with it, and asks the host for the rest only.
//!
//! It is this process's own memory: nobody else can write it or take it away.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use spacejmp_versions::PageIndex;
use spacejmp_versions::page::{PAGE_BYTES, Page};

use super::append::Contents;
use super::visits::KEPT_COPIES_MAX;

/// Pages whose memory is kept for a later commit, at most: 1 MiB.
const SPARE_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Originals {
    pages: BTreeMap<PageIndex, Box<Page>>,
    /// What pages had before: memory for what they will have, which the host has given already.
    spare: Vec<Box<Page>>,
}

impl Originals {
    /// What a page has in the version, if that is known.
    pub(super) fn get(&self, page: PageIndex) -> Option<&Page> {
        self.pages.get(&page).map(|content| &**content)
    }

    /// Memory for a page, whatever is in it.
    pub(super) fn spare(&mut self) -> Box<Page> {
        self.spare.pop().unwrap_or_else(|| Box::new([0; PAGE_BYTES]))
    }

    /// Takes in what a page has in the version. Of more pages than copies are kept of, nothing is: who
    /// changes so many does not change the same ones again.
    pub(super) fn keep(&mut self, page: PageIndex, content: Box<Page>) {
        let is_full = self.pages.len() >= KEPT_COPIES_MAX;
        let unused = match self.pages.entry(page) {
            Entry::Occupied(mut known) => known.insert(content),
            Entry::Vacant(_) if is_full => content,
            Entry::Vacant(place) => {
                place.insert(content);
                return;
            }
        };
        if self.spare.len() < SPARE_MAX {
            self.spare.push(unused);
        }
    }

    /// The version is the next one, which differs in these pages. Without them, in any.
    pub(super) fn follow(&mut self, changed: Option<Contents>) {
        match changed {
            Some(changed) => {
                changed.into_iter().for_each(|(page, content)| self.keep(page, content))
            }
            None => self.pages.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u64, byte: u8) -> (PageIndex, Box<Page>) {
        (PageIndex(number), Box::new([byte; PAGE_BYTES]))
    }

    #[test]
    fn the_next_version_has_what_was_changed_and_the_rest_as_before() {
        let mut originals = Originals::default();
        originals.follow(Some(vec![page(1, 1), page(2, 2)]));
        originals.follow(Some(vec![page(2, 3), page(3, 4)]));
        let first = |number| originals.get(PageIndex(number)).map(|content| content[0]);
        assert_eq!([0, 1, 2, 3].map(first), [None, Some(1), Some(3), Some(4)]);
        originals.follow(None);
        assert!((0..4).all(|number| originals.get(PageIndex(number)).is_none()));
    }

    #[test]
    fn memory_of_what_a_page_had_before_is_used_again_and_that_of_no_other() {
        let mut originals = Originals::default();
        originals.follow(Some(vec![page(1, 1), page(2, 2)]));
        originals.follow(Some(vec![page(1, 3)]));
        let used: Vec<u8> = (0..2).map(|_| originals.spare()[0]).collect();
        assert_eq!(used, [1, 0], "what page 1 had, and new memory");
        let first = |number| originals.get(PageIndex(number)).map(|content| content[0]);
        assert_eq!([1, 2].map(first), [Some(3), Some(2)]);
        (0..2 * SPARE_MAX).for_each(|_| originals.follow(Some(vec![page(1, 4)])));
        assert_eq!(originals.spare.len(), SPARE_MAX);
    }

    #[test]
    fn a_page_beyond_the_most_is_unknown_and_never_what_it_was_before() {
        let mut originals = Originals::default();
        let most = KEPT_COPIES_MAX as u64;
        originals.follow(Some((0..=most).map(|number| page(number, 1)).collect()));
        assert!(originals.get(PageIndex(most)).is_none());
        originals.follow(Some(vec![page(0, 2), page(most, 2)]));
        assert_eq!(originals.get(PageIndex(0)).map(|content| content[0]), Some(2));
        assert!(originals.get(PageIndex(most)).is_none());
    }
}
