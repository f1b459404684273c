//! What is attached, for crash reports and statistics.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use abi::Right;

use crate::vas::residency::segment::VmSegment;
use crate::vas::state::Vases;

/// Where an address lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentAddress {
    /// Handle and name of the VAS.
    pub vas: (u32, String),
    /// Name of the segment.
    pub segment: String,
    /// Bytes from the segment's base.
    pub offset: u64,
    /// Whether the address is beyond the segment's size, in its reserve.
    pub beyond_end: bool,
}

/// A segment as one instance has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Its addresses, as far as it has content.
    pub range: Range<u64>,
    /// Whether the instance may write it.
    pub writable: bool,
    /// Its name.
    pub name: String,
    /// Bytes of it that are mapped in this VM.
    pub mapped_bytes: u64,
}

impl Vases {
    /// The segments of instance `vh`, by address.
    #[must_use]
    pub fn attached(&self, vh: u32) -> Vec<Attached> {
        let state = self.lock();
        // The location of a thread is a value the guest controls: it may name no instance.
        let Some(instance) = state.instances.get(vh) else { return Vec::new() };
        let members = instance.members.iter().map(|(sid, member)| {
            let segment = state.residency.of_member(sid);
            let range = member.range.start..segment.end.min(member.range.end);
            Attached {
                mapped_bytes: segment.mapped_bytes().min(range.end - range.start),
                range,
                writable: member.right != Right::Read,
                name: segment.name.clone(),
            }
        });
        let mut attached: Vec<Attached> = members.collect();
        attached.sort_by_key(|segment| segment.range.start);
        attached
    }

    /// Name of the VAS of instance `vh`; `home` for 0.
    #[must_use]
    pub fn name_of(&self, vh: u32) -> String {
        if vh == 0 {
            return "home".to_owned();
        }
        let state = self.lock();
        state.instances.get(vh).map_or_else(|| format!("handle {vh}"), |i| i.name.clone())
    }

    /// The attached segments that have `gva`, those of instance `first` before others.
    #[must_use]
    pub fn segments_at(&self, gva: u64, first: u32) -> Vec<SegmentAddress> {
        if !self.is_active() {
            return Vec::new();
        }
        let state = self.lock();
        let mut places: Vec<SegmentAddress> = state
            .instances
            .iter()
            .filter_map(|(vh, instance)| {
                let (sid, member) = instance.members.at(gva)?;
                let segment = state.residency.of_member(sid);
                Some(SegmentAddress {
                    vas: (vh, instance.name.clone()),
                    segment: segment.name.clone(),
                    offset: gva - member.range.start,
                    beyond_end: gva >= segment.end,
                })
            })
            .collect();
        places.sort_by_key(|place| (place.vas.0 != first, place.vas.0));
        places
    }

    /// A file of the store that the guest kernel uses and that was truncated: the change counters,
    /// the lease, the lock page of a segment or its words.
    #[must_use]
    pub fn cut_file(&self) -> Option<PathBuf> {
        let state = self.lock();
        let opened = state.opened()?;
        let is_used = |segment: &VmSegment| segment.lock.is_some() || segment.has_versions();
        let mut used = state.residency.iter().filter(|(_, segment)| is_used(segment));
        opened
            .store
            .counters_if_truncated()
            .or_else(|| opened.lease.path_if_truncated())
            .or_else(|| used.find_map(|(_, segment)| segment.file.path_if_truncated()))
    }

    /// Shares of instances that system calls and waiting switches hold now.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.lock().instances.iter().map(|(_, instance)| instance.holds()).sum()
    }

    /// Instances, segments in use, bytes of segments mapped (what several have counts once), frames of their
    /// page tables.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, u64, u64) {
        let state = self.lock();
        let windows = state.residency.iter().flat_map(|(_, segment)| segment.windows());
        let windows: BTreeMap<u64, u64> =
            windows.map(|window| (window.gpa().raw(), window.bytes())).collect();
        let (segments, mapped) = (state.residency.iter().count(), windows.values().sum());
        (state.instances.len(), segments, mapped, state.tables.used())
    }
}
