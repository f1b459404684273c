//! When a checkpoint is worthwhile: logs that have become long, and layers in which pages lie several times.

use super::Segment;
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::layer::Presence;
use crate::page::PAGE_BYTES;
use crate::root::GENERATIONS_MAX;
use crate::segment::failed;

/// From so many logs on a checkpoint is due however short they are: each program that writes begins one.
const LOGS_WORTH_READING: usize = 16;
/// Of the most that a log may have, so much is left when nobody has the segment: one eighth.
const LEFT_AT_REST: u64 = 8;
/// How many times the logs' bytes a checkpoint may copy from layers then.
const COPIED_AT_REST: u64 = 8;
/// From so many generations on: there is room for a few only.
const DEPTH_WORTH_MERGING: usize = GENERATIONS_MAX - 4;

/// What the layers have that a checkpoint can make one of, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Layered {
    /// How many it would copy.
    copied: u64,
    /// How many lie there more than once.
    wasted: u64,
}

impl<D: Folder> Segment<D> {
    /// Whether the logs have become long enough for a checkpoint to be worthwhile: opening reads all
    /// of them, and a root record names only so many. So it is when large commits, the last one among them,
    /// have left layers that take more than twice what the segment has: each page is then copied once for
    /// about each time that it was written.
    #[must_use]
    pub fn checkpoint_is_due(&self) -> bool {
        let bytes = self.log_bytes();
        let depth = self.stack.root.generations.len();
        bytes > self.limits.log_bytes
            || self.stack.open.len() >= LOGS_WORTH_READING
            || depth >= DEPTH_WORTH_MERGING
            || self.is_a_large_commit_too_many()
    }

    /// Whether a checkpoint is worthwhile when nobody has the segment any more: what the logs and layers take is
    /// taken for as long as nobody comes back. Less is due than while it is written to; but nothing
    /// that would copy much more than the logs have, or than it gives back.
    #[must_use]
    pub fn checkpoint_is_due_at_rest(&self) -> bool {
        let bytes = self.log_bytes();
        let layers = self.stack.layers.iter().flatten().skip(1);
        let above: u64 = layers.map(|layer| layer.pages.count() * PAGE_BYTES as u64).sum();
        let is_cheap = above <= bytes.saturating_mul(COPIED_AT_REST);
        let least = self.limits.log_bytes / LEFT_AT_REST;
        self.checkpoint_is_due()
            || (bytes > least && is_cheap)
            || (above > least && self.gives_back_at_rest(least))
    }

    fn gives_back_at_rest(&self, least: u64) -> bool {
        // What cannot be looked at is left as it is.
        let Layered { copied, wasted } = self.layered().unwrap_or_default();
        wasted > least / PAGE_BYTES as u64 && wasted >= copied / 2
    }

    fn is_a_large_commit_too_many(&self) -> bool {
        let newest = self.appended();
        let is_layer = self.stack.root.generations.last().is_some_and(|top| top.base == newest);
        if !is_layer {
            return false;
        }
        let size = self.facts(newest).map_or(0, |facts| facts.size_bytes);
        let layers = self.stack.layers.iter().flatten();
        let all: u64 = layers.map(|layer| layer.pages.count() * PAGE_BYTES as u64).sum();
        let most = size.saturating_mul(2).saturating_add(self.limits.log_bytes);
        // Which of them are this segment's alone is asked only if it matters.
        all > most
            && self.layered().is_ok_and(|Layered { copied, wasted }| {
                wasted * PAGE_BYTES as u64 > self.limits.log_bytes && wasted >= copied
            })
    }

    /// Of the layers that the newest version is made of, from the top down to the first that another segment has,
    /// too: what that has, nobody gives back.
    fn layered(&self) -> Result<Layered> {
        let (mut pages, mut all, mut copied) = (Presence::default(), 0, 0);
        for (generation, _) in self.path_of(self.appended())? {
            let Some(layer) = self.stack.layer(generation) else { continue };
            let links = layer.file.links();
            if links.map_err(|source| failed("look at", &layer.name(), source))? != 1 {
                break;
            }
            copied = pages.count();
            let mut own = Presence::default();
            self.stack.add_layer(generation, &mut own)?;
            all += own.count();
            pages.add_all(&own);
        }
        Ok(Layered { copied, wasted: all - pages.count() })
    }
}
