//! The expected content of a region, page by page, independent of how it is stored.

use std::collections::BTreeMap;

use abi::PAGE_SIZE;

/// Pages of the file that areas map.
pub(crate) const FILE_PAGES: u64 = 700;

/// What a page maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Memory of the VM, with its first and last word.
    Memory([u64; 2]),
    /// This page of the file, writes kept in the VM; `Some` once it has been written.
    Private(u64, Option<[u64; 2]>),
    /// This page of the file itself.
    Shared(u64),
    /// As `Shared`, never writable.
    SharedReadOnly(u64),
}

/// One page of the program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// `mmap`'s bits.
    pub(crate) prot: u8,
    pub(crate) source: Source,
    /// Adjacent pages with the same number are certainly one mapping.
    pub(crate) mapping: u64,
}

/// Words at both ends of a file's page; `None` beyond its end.
pub(crate) type FileModel = Vec<[u64; 2]>;

/// The whole region.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) pages: BTreeMap<u64, Page>,
    pub(crate) file: FileModel,
    pub(crate) heap: (u64, u64),
    pub(crate) mappings: u64,
}

impl Model {
    pub(crate) fn new_mapping(&mut self) -> u64 {
        self.mappings += 1;
        self.mappings
    }

    pub(crate) fn covered(&self, from: u64, count: u64) -> bool {
        self.pages.range(from..from + count).count() as u64 == count
    }

    pub(crate) fn is_free(&self, from: u64, count: u64) -> bool {
        self.pages.range(from..from + count).next().is_none()
    }

    /// Whether the pages certainly belong to one mapping.
    pub(crate) fn is_one_mapping(&self, from: u64, count: u64) -> bool {
        let first = self.pages.get(&from).map(|page| page.mapping);
        self.covered(from, count)
            && self.pages.range(from..from + count).all(|(_, page)| Some(page.mapping) == first)
    }

    pub(crate) fn unmap(&mut self, from: u64, count: u64) {
        let gone: Vec<u64> = self.pages.range(from..from + count).map(|(&at, _)| at).collect();
        for at in gone {
            self.pages.remove(&at);
        }
    }

    pub(crate) fn map(&mut self, from: u64, count: u64, prot: u8, source: impl Fn(u64) -> Source) {
        let mapping = self.new_mapping();
        for n in 0..count {
            self.pages.insert(from + n, Page { prot, source: source(n), mapping });
        }
    }

    pub(crate) fn protect(&mut self, from: u64, count: u64, prot: u8) {
        let mut renamed = BTreeMap::new();
        for at in from..from + count {
            let Some(mapping) = self.pages.get(&at).map(|page| page.mapping) else { continue };
            let fresh = match renamed.get(&mapping) {
                Some(&fresh) => fresh,
                None => {
                    let fresh = self.new_mapping();
                    renamed.insert(mapping, fresh);
                    fresh
                }
            };
            if let Some(page) = self.pages.get_mut(&at) {
                page.prot = prot;
                page.mapping = fresh;
            }
        }
    }

    /// The words at both ends of a page, or `None` where the file has ended.
    pub(crate) fn words(&self, page: &Page) -> Option<[u64; 2]> {
        match page.source {
            Source::Memory(words) => Some(words),
            Source::Private(at, own) => {
                let file = self.file.get(at as usize).copied()?;
                Some(own.unwrap_or(file))
            }
            Source::Shared(at) | Source::SharedReadOnly(at) => self.file.get(at as usize).copied(),
        }
    }

    /// Writes both words of the page at `at`, whose existence and rights have been checked.
    pub(crate) fn write(&mut self, at: u64, words: [u64; 2]) {
        let Some(page) = self.pages.get_mut(&at) else { return };
        match &mut page.source {
            Source::Memory(own) => *own = words,
            Source::Private(_, own) => *own = Some(words),
            Source::Shared(n) | Source::SharedReadOnly(n) => {
                if let Some(slot) = self.file.get_mut(*n as usize) {
                    *slot = words;
                }
            }
        }
    }

    /// `MADV_DONTNEED`.
    pub(crate) fn drop_pages(&mut self, from: u64, count: u64) {
        for (_, page) in self.pages.range_mut(from..from + count) {
            match &mut page.source {
                Source::Memory(words) => *words = [0; 2],
                Source::Private(_, own) => *own = None,
                Source::Shared(_) | Source::SharedReadOnly(_) => {}
            }
        }
    }

    /// The file gets another length; private copies beyond it are lost, as on Linux.
    pub(crate) fn truncate(&mut self, pages: u64) {
        self.file.resize(pages as usize, [0; 2]);
        for page in self.pages.values_mut() {
            if let Source::Private(at, own) = &mut page.source
                && *at >= pages
            {
                *own = None;
            }
        }
    }

    /// Moves `count` pages; the rest of the target continues the same mapping.
    pub(crate) fn remap(&mut self, from: u64, old: u64, to: u64, new: u64) {
        let Some(&first) = self.pages.get(&from) else { return };
        let moved: Vec<Page> =
            self.pages.range(from..from + old.min(new)).map(|(_, page)| *page).collect();
        self.unmap(from, old);
        self.unmap(to, new);
        let mapping = self.new_mapping();
        for n in 0..new {
            let mut page = moved.get(n as usize).copied().unwrap_or(Page {
                source: match first.source {
                    Source::Memory(_) => Source::Memory([0; 2]),
                    Source::Private(at, _) => Source::Private(at + n, None),
                    Source::Shared(at) => Source::Shared(at + n),
                    Source::SharedReadOnly(at) => Source::SharedReadOnly(at + n),
                },
                ..first
            });
            page.mapping = mapping;
            self.pages.insert(to + n, page);
        }
    }
}

/// Address of a page.
pub(crate) const fn at(page: u64) -> u64 {
    page * PAGE_SIZE
}
