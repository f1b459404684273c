//! The private region of a process that forks, for its child.
//!
//! Areas are copied; of the memory behind them, the pages that have content of the program's go into
//! an image (`vm::images`), of which the child maps what it needs. What the parent itself has from an
//! image and has not changed is passed on as it is.
//!
//! Threads that run meanwhile may change pages before or after they are copied: as on Linux, which
//! copies page tables while they run, the child has of each page some content that it had during the
//! call.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use abi::layout::{MMAP_TOP, PRIVATE_START};
use abi::{Errno, PAGE_SIZE};

use super::copying::{Copied, Copying};
use super::held::MAX_AREAS;
use super::inspect::{SEGMENT_LABEL, SHARED_LABEL};
use super::region::{EAGER_BYTES, PROGRAM_END, PrivateRegion};
use super::vma::{Backing, MemoryLock, OnFork, Prot, Vma};
use crate::files::{FileCharge, MemoryAccount};
use crate::process_tree::Member;
use crate::process_tree::images::ImagePlace;
use crate::process_tree::wire::{Reader, Writer};
use crate::vm::images::{Image, ImagePart};
use crate::vm::memory::FileMapping;

/// What copying can fail of. The message is the program's memory: it names nothing of it.
const BAD: Errno = Errno::from_raw(libc::EPROTO);
/// A child whose images show no more than this may write there from the start.
const HELD_AT_ONCE: u64 = 1 << 20;

/// An area, where it ends, and for a file which one of [`RegionCopy::files`].
#[derive(Debug)]
pub(super) struct AreaCopy {
    pub(super) start: u64,
    pub(super) vma: Vma,
    pub(super) file: Option<usize>,
}

/// Memory whose content is in an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) image: usize,
    pub(super) offset: u64,
}

impl Piece {
    /// Whether another one is its continuation.
    pub(super) fn continues_in(&self, next: &Piece) -> bool {
        let Piece { at, len, image, offset } = *self;
        (at + len, image, offset + len) == (next.at, next.image, next.offset)
    }
}

/// A private region on the way to another VMM.
#[derive(Debug, Default)]
pub struct RegionCopy {
    pub(super) areas: Vec<AreaCopy>,
    pub(super) heap: [u64; 2],
    pub(super) mmap_top: u64,
    pub(super) files: Vec<Arc<File>>,
    pub(super) images: Vec<ImageCopy>,
    pub(super) pieces: Vec<Piece>,
    /// It was in a snapshot.
    pub(super) is_snapshot: bool,
}

/// An image on the way, and how it is charged: to the run, at this place, or to the child alone.
#[derive(Debug)]
pub(super) struct ImageCopy {
    pub(super) file: Arc<File>,
    pub(super) place: Option<ImagePlace>,
    /// Where it is sent from: had until it has arrived.
    pub(super) _from: Option<Arc<Image>>,
}

impl PrivateRegion {
    /// Copies the region for `child`, which is charged for what it has alone.
    ///
    /// # Errors
    /// `ENOMEM`, and the host's.
    pub fn copy(&self, child: &Member) -> Result<RegionCopy, Errno> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut copy = RegionCopy {
            heap: [inner.heap_start, inner.heap_end],
            mmap_top: inner.mmap_top,
            ..RegionCopy::default()
        };
        let host = |error: io::Error| {
            tracing::warn!(%error, "the program's memory cannot be copied for a child");
            Errno::ENOMEM
        };
        let mut copying = Copying::new(self);
        for (range, vma) in inner.areas.iter() {
            if vma.on_fork == OnFork::LeftOut {
                continue;
            }
            if matches!(vma.backing, Backing::Anonymous) && vma.label == SHARED_LABEL {
                tracing::warn!(
                    bytes = range.end - range.start,
                    "the program cannot fork: for memory to be shared, --memory must allow for all of it"
                );
                return Err(Errno::ENOMEM);
            }
            let file = match &vma.backing {
                Backing::File { file, .. } => {
                    let known = copy.files.iter().position(|other| Arc::ptr_eq(other, file));
                    Some(known.unwrap_or_else(|| {
                        copy.files.push(file.clone());
                        copy.files.len() - 1
                    }))
                }
                Backing::Anonymous => None,
            };
            if vma.backing.is_counted() && vma.on_fork == OnFork::Copied {
                copying.area(inner, &range, vma).map_err(host)?;
            }
            // Locks are not inherited.
            let vma = Vma { lock: MemoryLock::Unlocked, ..vma.clone() };
            copy.areas.push(AreaCopy { start: range.start, vma, file });
        }
        let Copied { images, pieces } = copying.copy(inner).map_err(host)?;
        let limit_bytes = self.mem().ledger().limit_bytes();
        let give = |image: Arc<Image>| {
            let place = image.place().filter(|place| child.give_image(*place));
            if place.is_none() && !child.charge(image.bytes(), limit_bytes) {
                return Err(Errno::ENOMEM);
            }
            Ok(ImageCopy { file: image.file().clone(), place, _from: Some(image) })
        };
        copy.images = images.into_iter().map(give).collect::<Result<_, _>>()?;
        copy.pieces = pieces;
        // Until here: nothing of what was found moves, and nothing of ours is stored there.
        drop(guard);
        Ok(copy)
    }

    /// Makes this region, which is empty, one that another VMM has copied.
    ///
    /// # Errors
    /// `EPROTO` for what no VMM sends; `ENOMEM`, and the host's.
    pub fn take_over(&self, copy: RegionCopy) -> Result<(), Errno> {
        let RegionCopy { areas, heap: [heap_start, heap_end], mmap_top, images, pieces, .. } = copy;
        let is_snapshot = copy.is_snapshot;
        let ledger = self.mem().ledger();
        let images: Vec<Arc<Image>> = images
            .into_iter()
            .map(|image| match is_snapshot {
                true => Image::on_disk(image.file, ledger.clone()),
                false => Image::of_other(image.file, image.place, ledger.clone()),
            })
            .collect::<io::Result<_>>()
            .map_err(|_| BAD)?;
        let is_small = pieces.iter().map(|piece| piece.len).sum::<u64>() <= HELD_AT_ONCE;
        self.edit(|inner| {
            inner.heap_start = heap_start;
            inner.heap_end = heap_end;
            inner.heap_ahead = super::vma::page_up(heap_end).ok_or(BAD)?;
            inner.mmap_top = mmap_top;
            for area in areas {
                let range = area.start..area.vma.end;
                if !inner.areas.is_free(range.clone()) {
                    return Err(BAD);
                }
                // What is the child's own is made present at the first access, as what is an image's below.
                match area.vma.backing.is_counted() {
                    true => self.insert_absent(inner, range, area.vma)?,
                    false => self.insert(inner, range, area.vma)?,
                }
            }
            for piece in pieces {
                let range = piece.at..piece.at.checked_add(piece.len).ok_or(BAD)?;
                let image = images.get(piece.image).ok_or(BAD)?;
                let is_there = inner.areas.covers(range.clone())
                    && inner
                        .areas
                        .overlapping(range.clone())
                        .all(|(_, vma)| vma.backing.is_counted());
                let in_image = piece.offset.checked_add(piece.len);
                if !is_there || in_image.is_none_or(|end| end > image.bytes()) {
                    return Err(BAD);
                }
                self.bind(inner, range.clone())?;
                Self::each_run(inner, range.clone(), |run, gpa| {
                    let offset = piece.offset + (run.start - piece.at);
                    let part = ImagePart { image: image.clone(), offset };
                    self.mem().map_image(gpa, run.end - run.start, part).map_err(Errno::from)
                })?;
                self.note_image(inner, range.clone())?;
                if is_small {
                    self.hold_range(inner, range.clone())?;
                }
                if range.end - range.start <= EAGER_BYTES {
                    let areas: Vec<_> =
                        inner.areas.overlapping(range).map(|(r, vma)| (r, vma.clone())).collect();
                    for (range, vma) in areas {
                        // Best effort: what does not fit now is left to the first access.
                        let _ = self.populate(inner, range, &vma);
                    }
                }
            }
            Ok(())
        })
    }
}

/// What areas are called; a name travels as its number.
const LABELS: [&str; 11] = [
    "mapping",
    "mapping (not reserved)",
    "mapped file",
    SHARED_LABEL,
    "heap",
    super::stack::LABEL,
    "vdso",
    "program code",
    "program data",
    SEGMENT_LABEL,
    "",
];
const KINDS: [FileMapping; 3] =
    [FileMapping::Private, FileMapping::Shared, FileMapping::SharedReadOnly];
const NO_FILE: u64 = u64::MAX;
const NO_PLACE: u64 = u64::MAX;
const AREA_BYTES: usize = 7 * 8;
const PIECE_BYTES: usize = 4 * 8;

impl RegionCopy {
    /// Whether something in it is shared with other processes.
    #[must_use]
    pub fn has_shared(&self) -> bool {
        self.areas.iter().any(|area| !area.vma.backing.is_counted())
    }

    /// Writes it for another VMM; its files are appended to `fds`.
    pub fn encode(&self, out: &mut Writer, fds: &mut Vec<Arc<File>>) {
        out.words(&[self.heap[0], self.heap[1], self.mmap_top]);
        out.words(&[self.files.len() as u64, self.images.len() as u64]);
        for image in &self.images {
            out.words(&[image.place.map_or(NO_PLACE, |place| u64::from(place.number()))]);
        }
        fds.extend(self.files.iter().chain(self.images.iter().map(|image| &image.file)).cloned());
        out.words(&[self.areas.len() as u64]);
        for area in &self.areas {
            let AreaCopy { start, vma, file } = area;
            let label = LABELS.iter().position(|label| *label == vma.label).unwrap_or_default();
            let (kind, offset, charged) = match &vma.backing {
                Backing::Anonymous => (0, 0, false),
                Backing::File { kind, offset, charge, .. } => {
                    let kind = KINDS.iter().position(|other| other == kind);
                    (kind.unwrap_or_default(), *offset, charge.is_some())
                }
            };
            let file = file.map_or(NO_FILE, |file| file as u64);
            let kind = kind as u64 | u64::from(charged) << 8;
            let on_fork = match vma.on_fork {
                OnFork::Copied => 0,
                OnFork::Emptied => 1,
                OnFork::LeftOut => 2,
            };
            let kind = kind | on_fork << 16;
            out.words(&[*start, vma.end, vma.prot.bits(), label as u64, file, kind, offset]);
        }
        out.words(&[self.pieces.len() as u64]);
        for Piece { at, len, image, offset } in &self.pieces {
            out.words(&[*at, *len, *image as u64, *offset]);
        }
    }

    /// What [`RegionCopy::encode`] has written; memory files are charged to `account`.
    ///
    /// # Errors
    /// `EPROTO` for what no VMM sends.
    pub fn decode(
        input: &mut Reader<'_>,
        fds: &mut impl Iterator<Item = File>,
        account: &Arc<dyn MemoryAccount>,
    ) -> Result<RegionCopy, Errno> {
        let [heap_start, heap_end, mmap_top] = input.words().ok_or(BAD)?;
        let bounds = PRIVATE_START.raw()..=PROGRAM_END.raw();
        let heap = [heap_start, heap_end];
        if heap_start > heap_end || !heap.iter().all(|at| *at == 0 || bounds.contains(at)) {
            return Err(BAD);
        }
        if !(PRIVATE_START.raw()..=MMAP_TOP.raw()).contains(&mmap_top)
            || !mmap_top.is_multiple_of(PAGE_SIZE)
        {
            return Err(BAD);
        }
        let [files, images] = input.words().ok_or(BAD)?;
        let mut places = Vec::new();
        for _ in 0..images {
            let [place] = input.words().ok_or(BAD)?;
            let known = (place != NO_PLACE).then(|| u32::try_from(place).map(ImagePlace::of));
            places.push(known.transpose().map_err(|_| BAD)?);
        }
        let mut take = |count: u64| -> Result<Vec<Arc<File>>, Errno> {
            (0..count).map(|_| fds.next().map(Arc::new).ok_or(BAD)).collect()
        };
        let (files, images) = (take(files)?, take(images)?);
        let of_other = |(file, place)| ImageCopy { file, place, _from: None };
        let images: Vec<_> = images.into_iter().zip(places).map(of_other).collect();
        let mut charges: Vec<Option<Arc<FileCharge>>> = vec![None; files.len()];
        let count = input.count(AREA_BYTES).filter(|count| *count <= MAX_AREAS).ok_or(BAD)?;
        let mut areas = Vec::with_capacity(count);
        for _ in 0..count {
            let [start, end, prot, label, number, kind, offset] = input.words().ok_or(BAD)?;
            let is_whole = [start, end, offset].iter().all(|at| at.is_multiple_of(PAGE_SIZE));
            if !is_whole || start >= end || !bounds.contains(&start) || !bounds.contains(&end) {
                return Err(BAD);
            }
            let prot = Prot::from_bits(prot).ok_or(BAD)?;
            let label = usize::try_from(label).ok().and_then(|label| LABELS.get(label));
            let number = (number != NO_FILE).then_some(number as usize);
            let backing = match number {
                // What only a file's mapping has is refused, as nothing would come of it.
                None if kind & 0xffff != 0 || offset != 0 => return Err(BAD),
                None => Backing::Anonymous,
                Some(number) => {
                    let file = files.get(number).ok_or(BAD)?.clone();
                    let known = KINDS.get((kind & 0xff) as usize).copied().ok_or(BAD)?;
                    if offset.checked_add(end - start).is_none_or(|end| end > i64::MAX as u64) {
                        return Err(BAD);
                    }
                    let charge = match (kind >> 8 & 0xff, charges.get_mut(number)) {
                        (0, _) => None,
                        (1, Some(charge)) => Some(charge.get_or_insert_with(|| {
                            Arc::new(FileCharge::mapped(account.clone(), file.as_fd()))
                        })),
                        _ => return Err(BAD),
                    };
                    let charge = charge.cloned();
                    Backing::File { file, offset, kind: known, charge }
                }
            };
            let lock = MemoryLock::Unlocked;
            let on_fork = match kind >> 16 {
                0 => OnFork::Copied,
                1 => OnFork::Emptied,
                2 => OnFork::LeftOut,
                _ => return Err(BAD),
            };
            let vma = Vma { end, prot, backing, label: label.ok_or(BAD)?, lock, on_fork };
            areas.push(AreaCopy { start, vma, file: number });
        }
        let count = input.count(PIECE_BYTES).ok_or(BAD)?;
        let mut pieces = Vec::with_capacity(count);
        for _ in 0..count {
            let [at, len, image, offset] = input.words().ok_or(BAD)?;
            let is_whole = [at, len, offset].iter().all(|at| at.is_multiple_of(PAGE_SIZE));
            let image = usize::try_from(image).ok().filter(|image| *image < images.len());
            if !is_whole || len == 0 {
                return Err(BAD);
            }
            pieces.push(Piece { at, len, image: image.ok_or(BAD)?, offset });
        }
        Ok(RegionCopy { areas, heap, mmap_top, files, images, pieces, is_snapshot: false })
    }
}
