//! The model's state, as simple as possible: no page tables, no files, no lock words. Which threads
//! hold a lock follows from where they are.

use std::collections::BTreeMap;

use abi::PAGE_SIZE;

/// Rights as the calls encode them.
pub(super) const READ: u64 = 1;
pub(super) const WRITE: u64 = 3;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Vas {
    pub(super) name: char,
    pub(super) mode: u64,
    pub(super) tagged: bool,
    /// Segments and rights in the order they were attached.
    pub(super) segments: Vec<(u64, u64)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub(super) name: char,
    pub(super) base: u64,
    pub(super) size: u64,
    pub(super) reserve: u64,
    pub(super) mode: u64,
    pub(super) volatile: bool,
    pub(super) pages: u64,
    pub(super) lockable: bool,
    pub(super) root: [u64; 3],
    /// Words that are not 0, by offset.
    pub(super) words: BTreeMap<u64, u64>,
    /// A program has had it attached.
    pub(super) used: bool,
    /// Its last writer did not leave it properly.
    pub(super) dirty: bool,
    /// A holder of its lock died.
    pub(super) inconsistent: bool,
}

impl Segment {
    pub(super) fn overlaps(&self, other: &Segment) -> bool {
        self.base < other.base + other.reserve && other.base < self.base + self.reserve
    }

    /// The offset of an address, if it is within the segment's current size.
    pub(super) fn offset(&self, at: u64) -> Option<u64> {
        let end = self.base + self.size.next_multiple_of(PAGE_SIZE);
        (self.base..end).contains(&at).then(|| at - self.base)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Member {
    pub(super) right: u64,
    pub(super) local: bool,
}

/// A VAS attached in a VM, with the segments the VM has seen there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Instance {
    pub(super) vid: u64,
    pub(super) read_only: bool,
    pub(super) members: BTreeMap<u64, Member>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Vm {
    pub(super) instances: BTreeMap<u64, Instance>,
    /// Where each thread is.
    pub(super) threads: Vec<u64>,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Model {
    pub(super) vases: BTreeMap<u64, Vas>,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) vms: Vec<Vm>,
    /// Every id that ever existed.
    pub(super) vids: Vec<u64>,
    pub(super) sids: Vec<u64>,
}

impl Model {
    pub(super) fn new(vms: usize, threads: usize) -> Model {
        let vm = Vm { instances: BTreeMap::new(), threads: vec![0; threads] };
        Model {
            vases: BTreeMap::new(),
            segments: BTreeMap::new(),
            vms: vec![vm; vms],
            vids: Vec::new(),
            sids: Vec::new(),
        }
    }

    /// The ids of all existing VASes, the oldest first.
    pub(super) fn live_vids(&self) -> Vec<u64> {
        self.vids.iter().copied().filter(|vid| self.vases.contains_key(vid)).collect()
    }

    /// The ids of all existing segments, the oldest first.
    pub(super) fn live_sids(&self) -> Vec<u64> {
        self.sids.iter().copied().filter(|sid| self.segments.contains_key(sid)).collect()
    }

    pub(super) fn vas_named(&self, name: char) -> Option<u64> {
        self.vases.iter().find(|(_, vas)| vas.name == name).map(|(&vid, _)| vid)
    }

    pub(super) fn segment_named(&self, name: char) -> Option<u64> {
        self.segments.iter().find(|(_, segment)| segment.name == name).map(|(&sid, _)| sid)
    }

    pub(super) fn instance(&self, vm: usize, vh: u64) -> Option<&Instance> {
        self.vms[vm].instances.get(&vh)
    }

    /// The greatest right that an instance of a VM has on a segment.
    pub(super) fn attached(&self, vm: usize, sid: u64) -> Option<u64> {
        let members = self.vms[vm].instances.values().filter_map(|one| one.members.get(&sid));
        members.map(|member| member.right).max()
    }

    /// VMs that have a segment attached.
    pub(super) fn attachers(&self, sid: u64) -> usize {
        (0..self.vms.len()).filter(|&vm| self.attached(vm, sid).is_some()).count()
    }

    /// VMs that have a VAS attached.
    pub(super) fn vas_attachers(&self, vid: u64) -> usize {
        let has = |vm: &&Vm| vm.instances.values().any(|one| one.vid == vid);
        self.vms.iter().filter(has).count()
    }

    pub(super) fn has_writer(&self, sid: u64) -> bool {
        (0..self.vms.len()).any(|vm| self.attached(vm, sid) == Some(WRITE))
    }

    /// Whether a VM other than `vm` has a segment attached for writing.
    pub(super) fn has_other_writer(&self, vm: usize, sid: u64) -> bool {
        (0..self.vms.len()).any(|other| other != vm && self.attached(other, sid) == Some(WRITE))
    }

    /// Whether a thread of the VM other than `but` is inside an instance.
    pub(super) fn occupied(&self, vm: usize, vh: u64, but: Option<usize>) -> bool {
        let threads = self.vms[vm].threads.iter().enumerate();
        threads.into_iter().any(|(thread, &at)| at == vh && Some(thread) != but)
    }

    /// Whether a thread of any VM is inside a VAS.
    pub(super) fn anybody_in(&self, vid: u64) -> bool {
        self.vms.iter().any(|vm| {
            vm.threads.iter().any(|at| vm.instances.get(at).is_some_and(|one| one.vid == vid))
        })
    }

    /// Adds a member to an instance.
    pub(super) fn join(&mut self, vm: usize, vh: u64, sid: u64, member: Member) {
        let Some(one) = self.vms[vm].instances.get_mut(&vh) else { return };
        one.members.insert(sid, member);
        let Some(segment) = self.segments.get_mut(&sid) else { return };
        segment.used = true;
        segment.dirty |= member.right == WRITE;
    }

    /// Removes a member from an instance.
    pub(super) fn part(&mut self, vm: usize, vh: u64, sid: u64) {
        let had = self.attached(vm, sid);
        if let Some(one) = self.vms[vm].instances.get_mut(&vh) {
            one.members.remove(&sid);
        }
        let stopped_writing = had == Some(WRITE) && self.attached(vm, sid) != Some(WRITE);
        if stopped_writing && !self.has_writer(sid) {
            let segment = self.segments.get_mut(&sid);
            segment.into_iter().for_each(|segment| segment.dirty = false);
        }
        self.reap();
    }

    /// Drops an instance.
    pub(super) fn drop_instance(&mut self, vm: usize, vh: u64) {
        let members = self.instance(vm, vh).map(|one| one.members.clone()).unwrap_or_default();
        members.into_keys().for_each(|sid| self.part(vm, vh, sid));
        self.vms[vm].instances.remove(&vh);
    }

    /// Volatile segments that no VM has attached any more are deleted.
    pub(super) fn reap(&mut self) {
        let gone = |(&sid, one): (&u64, &Segment)| {
            (one.volatile && one.used && self.attachers(sid) == 0).then_some(sid)
        };
        let gone: Vec<u64> = self.segments.iter().filter_map(gone).collect();
        gone.iter().for_each(|sid| drop(self.segments.remove(sid)));
    }

    /// The VM's program ends by itself: locks are released, and what it wrote is clean. What its
    /// threads hold exclusively at that moment is as inconsistent as after a kill: they may not
    /// have finished.
    pub(super) fn exit(&mut self, vm: usize) {
        self.holders_end(vm);
        let handles: Vec<u64> = self.vms[vm].instances.keys().copied().collect();
        handles.into_iter().for_each(|vh| self.drop_instance(vm, vh));
    }

    /// The VM is killed: what its threads held exclusively is inconsistent, and what it could
    /// write stays dirty.
    pub(super) fn kill(&mut self, vm: usize) {
        self.holders_end(vm);
        self.vms[vm].instances.clear();
        self.reap();
    }

    /// A VM's threads end where they are.
    fn holders_end(&mut self, vm: usize) {
        for thread in 0..self.vms[vm].threads.len() {
            for (sid, right) in self.held(vm, thread) {
                let segment = self.segments.get_mut(&sid).filter(|_| right == WRITE);
                segment.into_iter().for_each(|segment| segment.inconsistent = true);
            }
        }
        self.vms[vm].threads.fill(0);
    }
}
