//! Making a layer: pages in any order, then its map; both durable before anything names them.

use std::io::IoSlice;

use super::{LayerId, Presence};
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::page::{PAGE_BYTES, Page, PageIndex};

/// What is written at once, when pages follow each other, up to a multiple of it in the file: the host
/// keeps what it got at once in one piece of memory, which a processor can map as one page.
const RUN_BYTES: usize = 2 << 20;

/// A layer that nothing names yet.
#[derive(Debug)]
pub(crate) struct LayerWriter<F> {
    id: LayerId,
    file: F,
    presence: Presence,
    /// Pages that follow each other and are not written yet, and where the first goes.
    run: Vec<u8>,
    start: u64,
    /// Whether these pages are zeros, which take no space.
    is_zero: bool,
    /// A sync has failed: what was written may be nowhere, and the next sync would succeed.
    is_lost: bool,
}

impl<F: File> LayerWriter<F> {
    pub(crate) fn begin<D: Folder<File = F>>(folder: &D, id: LayerId) -> Result<LayerWriter<F>> {
        let file = folder.create(&id.file_name()).map_err(failed("create", &id.file_name()))?;
        let (presence, run) = Default::default();
        Ok(LayerWriter { id, file, presence, run, start: 0, is_zero: false, is_lost: false })
    }

    pub(crate) fn id(&self) -> LayerId {
        self.id
    }

    pub(crate) fn write(&mut self, page: PageIndex, content: &Page) -> Result<()> {
        self.presence.add(page)?;
        let offset = page.offset().ok_or(VersionsError::NoSuchPage(page))?;
        let is_zero = *content == [0; PAGE_BYTES];
        let follows = self.start + self.run.len() as u64 == offset && self.is_zero == is_zero;
        if !follows || offset.is_multiple_of(RUN_BYTES as u64) {
            self.flush()?;
            (self.start, self.is_zero) = (offset, is_zero);
        }
        self.run.extend_from_slice(content);
        Ok(())
    }

    /// Whether it has a page.
    pub(crate) fn has(&self, page: PageIndex) -> bool {
        self.presence.has(page)
    }

    /// Which pages it has.
    pub(crate) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// What a page has that was written.
    pub(crate) fn read(&mut self, page: PageIndex) -> Result<Page> {
        self.flush()?;
        let (mut content, name) = ([0; PAGE_BYTES], self.id.file_name());
        let offset = page.offset().ok_or(VersionsError::NoSuchPage(page))?;
        self.file.read_at(&mut content, offset).map_err(failed("read", &name))?;
        Ok(content)
    }

    /// Writes to the file what was kept back. After an error it can be tried again.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if !self.run.is_empty() {
            let written = if self.is_zero {
                self.file.clear(self.start..self.start + self.run.len() as u64)
            } else {
                self.file.write_at(&[IoSlice::new(&self.run)], self.start)
            };
            written.map_err(failed("write", &self.id.file_name()))?;
            self.run.clear();
        }
        Ok(())
    }

    /// Writes what is left, and the map. Durable when it returns, but for the folder. After an error it
    /// can be tried again, which is in vain if it was a sync that failed.
    pub(crate) fn finish<D: Folder<File = F>>(&mut self, folder: &D) -> Result<()> {
        if self.is_lost {
            return Err(failed("sync", &self.id.file_name())(std::io::ErrorKind::Other.into()));
        }
        self.flush()?;
        let (name, map_name) = (self.id.file_name(), self.id.map_name());
        if let Err(source) = self.file.sync() {
            self.is_lost = true;
            return Err(failed("sync", &name)(source));
        }
        // What an earlier attempt has left: nothing names it.
        let _ = folder.remove(&map_name);
        let map = folder.create(&map_name).map_err(failed("create", &map_name))?;
        write_map(&self.presence, &map, &map_name)
    }

    /// Puts one together again that was taken apart.
    pub(crate) fn from_parts(id: LayerId, file: F, presence: Presence) -> LayerWriter<F> {
        let (run, start) = Default::default();
        LayerWriter { id, file, presence, run, start, is_zero: false, is_lost: false }
    }

    /// Its file. What was kept back is not in it: [`LayerWriter::flush`].
    pub(crate) fn file(&self) -> &F {
        &self.file
    }

    /// Its file, and what it has.
    pub(crate) fn into_parts(self) -> (F, Presence) {
        (self.file, self.presence)
    }

    /// Removes what there is of it.
    pub(crate) fn abort<D: Folder<File = F>>(&self, folder: &D) {
        remove(folder, self.id);
    }
}

/// Removes a layer's files, as far as there are any. Should that fail, the next opening does it.
pub(crate) fn remove<D: Folder>(folder: &D, id: LayerId) {
    let _ = folder.remove(&id.file_name());
    let _ = folder.remove(&id.map_name());
}

/// Writes a map and makes it durable.
pub(crate) fn write_map<F: File>(presence: &Presence, map: &F, name: &str) -> Result<()> {
    presence.write(map).map_err(failed("write", name))?;
    map.sync().map_err(failed("sync", name))
}

fn failed(action: &'static str, name: &str) -> impl Fn(std::io::Error) -> VersionsError {
    let file = name.to_owned();
    move |source| VersionsError::Io { action, file: file.clone(), source }
}

const _: () = assert!(RUN_BYTES.is_multiple_of(PAGE_BYTES));
