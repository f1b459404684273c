//! The logs and layers that a root record names, open. What is open already is used again.

use std::ops::Range;
use std::sync::Arc;

use super::stack::Stack;
use super::sync::LogFile;
use super::{damaged, failed};
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::layer::{self, HOME_FILE_NAME, Layer, LayerId, Pages};
use crate::log::header::{LogHeader, LogId};
use crate::log::scan::{Content, Position};
use crate::page::{PAGE_BYTES, VersionNumber};
use crate::root::{Generation, LogRef, Root};

/// A log that is open.
#[derive(Debug)]
pub(super) struct OpenLog<F> {
    pub(super) header: LogHeader,
    /// Its generation, by number in the root record.
    pub(super) generation: usize,
    /// Where its first record goes.
    pub(super) first: Position,
    pub(super) file: Arc<LogFile<F>>,
    /// Which file that is; not looked for if it was made here.
    pub(super) identity: Option<(u64, u64)>,
    /// What it took on the disk when it was opened.
    pub(super) stored_bytes: Option<u64>,
    /// Bytes that the file has, at least; behind the records they are zeros. Never less than where
    /// the records end that are known.
    pub(super) prepared: u64,
    /// Records behind this version do not count; `None` while it is written to.
    pub(super) up_to: Option<VersionNumber>,
    /// What was read with the header, from there on, for who reads the records next; or nothing.
    pub(super) begun: Vec<u8>,
}

/// What is read of a log at once when it is opened: its header and the first records, if they are going to be
/// read.
const BEGUN_BYTES: usize = 17 * PAGE_BYTES;

impl<F: File> OpenLog<F> {
    pub(super) fn open<D: Folder<File = F>>(
        folder: &D,
        root: &Root,
        (generation, log): (usize, LogRef),
        known: &Known<'_, F>,
        content: Content,
    ) -> Result<OpenLog<F>> {
        let (id, name) = (log.id, log.id.file_name());
        let file = match known.log(id) {
            Some(file) => file,
            None => {
                let file = folder.open(&name).map_err(|source| failed("open", &name, source))?;
                Arc::new(LogFile::new(file))
            }
        };
        let about = file.file.about().map_err(|source| failed("measure", &name, source))?;
        let wanted = match content {
            Content::Verified => BEGUN_BYTES,
            Content::Trusted => PAGE_BYTES,
        };
        let has = usize::try_from(about.bytes).unwrap_or(usize::MAX);
        // Of a file without a whole header, the host says that it ends there.
        let mut begun = vec![0; wanted.min(has).max(PAGE_BYTES)];
        file.file.read_at(&mut begun, 0).map_err(|source| failed("read", &name, source))?;
        let page = begun.first_chunk::<PAGE_BYTES>().expect("at least a page");
        let (header, chain) = LogHeader::decode(page).map_err(|what| damaged(&name, what))?;
        if header.id != id {
            return Err(damaged(&name, format!("it says it is {}", header.id.file_name())));
        }
        let origin = root.generations[generation].origin;
        if header.segment != origin {
            let what = format!("it belongs to segment {:016x}", header.segment);
            return Err(damaged(&name, what));
        }
        let (prepared, identity) = (about.bytes, Some(about.identity));
        let (first, stored_bytes) = (Position::first(&header, chain), Some(about.stored_bytes));
        Ok(OpenLog {
            header,
            generation,
            first,
            file,
            identity,
            stored_bytes,
            prepared,
            up_to: log.up_to,
            begun: if content == Content::Verified { begun } else { Vec::new() },
        })
    }
}

/// A layer that is open.
#[derive(Debug)]
pub(super) struct OpenLayer<F> {
    pub(super) layer: Layer,
    pub(super) file: F,
    pub(super) pages: Pages,
    /// What it took on the disk when it was opened, if somebody has asked.
    pub(super) stored_bytes: Option<u64>,
}

impl<F: File> OpenLayer<F> {
    pub(super) fn name(&self) -> String {
        match self.layer {
            Layer::File(id) => id.file_name(),
            Layer::Empty | Layer::Home => HOME_FILE_NAME.to_owned(),
        }
    }

    /// Makes zeros of some of its pages, which take no space then. What the home file has behind its end
    /// are zeros, and it does not become longer.
    pub(super) fn clear(&self, mut range: Range<u64>) -> std::io::Result<()> {
        if self.layer == Layer::Home {
            range.end = range.end.min(self.file.bytes()?);
        }
        if range.is_empty() { Ok(()) } else { self.file.clear(range) }
    }

    pub(super) fn open_home<D: Folder<File = F>>(folder: &D) -> Result<OpenLayer<F>> {
        let name = HOME_FILE_NAME;
        let file = folder.open(name).map_err(|source| failed("open", name, source))?;
        let about = file.about().map_err(|source| failed("measure", name, source))?;
        let (layer, pages) = (Layer::Home, Pages::Below(about.bytes));
        Ok(OpenLayer { layer, file, pages, stored_bytes: Some(about.stored_bytes) })
    }
}

/// A layer, unless it is empty; shared by what was known before and after a change.
pub(super) type SharedLayer<F> = Option<Arc<OpenLayer<F>>>;

/// Files that are open already. Those of a log are to be used again: the host tells a sync's error to
/// each open file once.
pub(super) struct Known<'a, F>(pub(super) Vec<&'a Stack<F>>);

impl<F: File> Known<'_, F> {
    fn log(&self, id: LogId) -> Option<Arc<LogFile<F>>> {
        self.0.iter().find_map(|stack| Some(Arc::clone(&stack.find(id)?.file)))
    }

    /// A layer as it was at version `base`: with another it has other pages.
    fn layer(&self, id: LayerId, base: VersionNumber) -> SharedLayer<F> {
        self.0.iter().find_map(|stack| {
            let mut generations = stack.root.generations.iter().zip(&stack.layers);
            let is_it = |one: &Generation| (one.layer, one.base) == (Layer::File(id), base);
            generations.find(|(one, _)| is_it(one)).and_then(|(_, layer)| layer.clone())
        })
    }
}

/// A generation's layer, open.
pub(super) fn open_layer<D: Folder>(
    folder: &D,
    generation: &Generation,
    known: &Known<'_, D::File>,
) -> Result<SharedLayer<D::File>> {
    let layer = generation.layer;
    match layer {
        Layer::Empty => Ok(None),
        // Measured anew: a checkpoint may have made it longer.
        Layer::Home => Ok(Some(Arc::new(OpenLayer::open_home(folder)?))),
        Layer::File(id) => match known.layer(id, generation.base) {
            Some(layer) => Ok(Some(layer)),
            None => {
                let (file, presence) = layer::open(folder, id)?;
                let (pages, stored_bytes) = (Pages::Listed(presence), None);
                Ok(Some(Arc::new(OpenLayer { layer, file, pages, stored_bytes })))
            }
        },
    }
}
