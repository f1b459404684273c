//! For tests: a segment and views of it, and what each page of its newest version has.

use std::sync::Arc;

use abi::pte::PTE_A;
use abi::table::EntryMem;
use abi::{Entry, PAGE_SIZE, PAGE_SIZE_2M, Pte, Right, SegId};
use spacejmp_versions::PageIndex;
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::page::{PAGE_BYTES, Page};
use spacejmp_versions::segment::{Commit, Limits};

use super::copies::Copies;
use super::segment::{Log, News, VersionedSegment};
use super::view::{Trigger, View};
use crate::kernel::Kernel;
use crate::vas::tables::TableFrames;
use crate::vm::{MemoryKind, MemoryLedger};

pub(super) const BASE: u64 = 40 << 39;
/// Three times 2 MiB, and a bit.
pub(super) const PAGES: u64 = 3 * 512 + 40;

fn value_of(content: &Page) -> u64 {
    content.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// A segment, its tables' memory, and what each page of the newest version has.
pub(super) struct World {
    pub(super) segment: VersionedSegment,
    pub(super) frames: TableFrames,
    pub(super) copies: Copies,
    pub(super) newest: Vec<u64>,
    ledger: Arc<MemoryLedger>,
    random: u64,
    _dir: tempfile::TempDir,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let dir = tempfile::tempdir().unwrap();
        let folder = HostFolder::open(dir.path()).unwrap();
        let facts = VersionFacts { size_bytes: PAGES * PAGE_SIZE, ..VersionFacts::default() };
        let log = Log::create(folder, 1, facts, Limits::default()).unwrap();
        let segment = VersionedSegment::new(log, News::default());
        let frames = TableFrames::new(Kernel::load().unwrap().machine().clone());
        let ledger = Arc::<MemoryLedger>::default();
        let (copies, newest) = (Copies::new(ledger.clone()), vec![0; PAGES as usize]);
        let mut world = World { segment, frames, copies, newest, ledger, random: seed, _dir: dir };
        let all: Vec<u64> = (0..PAGES).collect();
        world.commit(&all);
        world
    }

    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % below
    }

    pub(super) fn commit(&mut self, pages: &[u64]) {
        let value = self.segment.log().appended().0 + 1;
        let mut content: Page = [0; PAGE_BYTES];
        content[..8].copy_from_slice(&value.to_le_bytes());
        let mut pages = pages.to_vec();
        pages.sort_unstable();
        pages.dedup();
        pages.iter().for_each(|&page| self.newest[page as usize] = value);
        let pages = pages.into_iter().map(|page| (PageIndex(page), &content)).collect();
        let mut log = self.segment.log();
        let commit = Commit { facts: log.next_facts(), pages };
        log.append(&commit).unwrap();
        log.sync().unwrap();
    }

    pub(super) fn view(&mut self, older: Option<&View>) -> View {
        let version = self.segment.log().appended();
        let facts = self.segment.log().facts(version).cloned().unwrap();
        let range = BASE..BASE + (16 << 20);
        let sid = SegId::new(1).unwrap();
        let mut view = View::new(sid, range, Right::Read, version, facts);
        if let Some(older) = older {
            let changed = self.segment.log().changed_between(older.version, version).unwrap();
            view.share(older, &changed, &mut self.segment, &mut self.frames).unwrap();
        }
        view
    }

    /// As a thread does that reads a page.
    pub(super) fn touch(&mut self, view: &mut View, page: u64) {
        let World { segment, frames, copies, .. } = self;
        let gva = BASE + page * PAGE_SIZE;
        view.touch(gva, false, Trigger::OwnFault, segment, copies, frames).unwrap();
        let table = view.leaves.get(&(gva / PAGE_SIZE_2M)).and_then(|leaf| leaf.table());
        if let Some(table) = table {
            let entry = table.get(frames.mem(), gva).unwrap();
            assert!(entry.is_present());
            EntryMem::write(frames.mem(), table.place(gva), Pte::from_raw(entry.raw() | PTE_A))
                .unwrap();
        }
    }

    /// Nobody has the view any more.
    pub(super) fn drop_view(&mut self, view: View) {
        let (tables, copies, _) = view.into_parts();
        self.frames.park(tables);
        self.copies.give_back(copies);
    }

    /// Bytes of copies.
    pub(super) fn held(&self) -> u64 {
        self.ledger.held(MemoryKind::Versioned)
    }

    /// What an entry leads to, if there is one.
    pub(super) fn shown(&self, view: &View, page: u64) -> Option<u64> {
        let gva = BASE + page * PAGE_SIZE;
        let leaf = view.leaves.get(&(gva / PAGE_SIZE_2M))?;
        if let Some(&frame) = leaf.gathered.get((gva % PAGE_SIZE_2M / PAGE_SIZE) as usize) {
            return Some(value_of(&self.copies.read(frame)));
        }
        let at = match leaf.entry {
            Entry::Page(first, _) => first.raw() + gva % PAGE_SIZE_2M,
            _ => {
                let entry = leaf.table()?.get(self.frames.mem(), gva).unwrap();
                entry.is_present().then(|| entry.target().raw())?
            }
        };
        let mut windows = self.segment.windows();
        let has = |start: u64, bytes: u64| (start..start + bytes).contains(&at);
        let window = windows.find(|it| has(it.gpa().raw(), it.bytes())).expect("mapped");
        let mut word = [0; 8];
        window.pin(at - window.gpa().raw(), 8).range().read(&mut word).unwrap();
        Some(u64::from_le_bytes(word))
    }

    pub(super) fn assert_shows(&self, view: &View, content: &[u64], when: &str) {
        for (page, &value) in (0..).zip(content) {
            if let Some(shown) = self.shown(view, page) {
                assert_eq!(shown, value, "{when}, page {page}");
            }
        }
    }
}
