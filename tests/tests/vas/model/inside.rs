//! Threads inside: following changes, locks, touching.

use std::collections::BTreeMap;

use abi::Errno;

use super::state::{Member, Model, READ, WRITE};

/// What an access of a thread finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A word of a segment.
    Word { sid: u64, offset: u64 },
    /// A segment that does not allow the access.
    Forbidden,
    /// Nothing.
    Nothing,
}

impl Model {
    /// The lockable segments of an instance with the right it has on them.
    pub(super) fn needs(&self, vm: usize, vh: u64) -> BTreeMap<u64, u64> {
        let members = self.instance(vm, vh).map(|one| one.members.clone()).unwrap_or_default();
        let lockable = |sid: &u64| self.segments.get(sid).is_some_and(|one| one.lockable);
        members
            .into_iter()
            .filter(|(sid, _)| lockable(sid))
            .map(|(sid, member)| (sid, member.right))
            .collect()
    }

    /// The locks a thread holds: those of the instance it is in.
    pub(super) fn held(&self, vm: usize, thread: usize) -> BTreeMap<u64, u64> {
        self.needs(vm, self.vms[vm].threads[thread])
    }

    /// Whether others hold a lock in a way that the thread cannot acquire it.
    fn in_the_way(&self, vm: usize, thread: usize, sid: u64, right: u64) -> bool {
        (0..self.vms.len()).any(|other_vm| {
            (0..self.vms[other_vm].threads.len()).any(|other| {
                let held = self.held(other_vm, other).get(&sid).copied();
                (other_vm, other) != (vm, thread)
                    && held.is_some_and(|held| held == WRITE || right == WRITE)
            })
        })
    }

    /// Whether a thread that goes to an instance would have to wait.
    pub(super) fn would_wait(&self, vm: usize, thread: usize, vh: u64) -> bool {
        self.new_locks(vm, thread, vh)
            .into_iter()
            .any(|(sid, right)| self.in_the_way(vm, thread, sid, right))
    }

    /// Whether a thread that copies a segment would have to wait for its lock.
    pub(super) fn clone_would_wait(&self, vm: usize, thread: usize, sid: u64) -> bool {
        let has_it = self.held(vm, thread).contains_key(&sid);
        !has_it && self.in_the_way(vm, thread, sid, READ)
    }

    /// Locks that a thread going to an instance does not hold yet, or only in a weaker mode.
    fn new_locks(&self, vm: usize, thread: usize, vh: u64) -> Vec<(u64, u64)> {
        let held = self.held(vm, thread);
        let needed = self.needs(vm, vh).into_iter();
        needed.filter(|(sid, right)| held.get(sid).is_none_or(|held| held < right)).collect()
    }

    /// A switch that does not wait.
    pub(super) fn switch(&mut self, vm: usize, thread: usize, vh: u64) -> Result<(), Errno> {
        if vh == self.vms[vm].threads[thread] {
            return Ok(());
        }
        if vh != 0 && self.instance(vm, vh).is_none() {
            return Err(Errno::EBADF);
        }
        self.catch_up(vm, vh);
        if self.would_wait(vm, thread, vh) {
            return Err(Errno::EAGAIN);
        }
        let inconsistent = |(sid, _): &(u64, u64)| self.segments[sid].inconsistent;
        let owner_died = self.new_locks(vm, thread, vh).iter().any(inconsistent);
        self.vms[vm].threads[thread] = vh;
        if owner_died { Err(Errno::EOWNERDEAD) } else { Ok(()) }
    }

    /// Whether the instance has not yet seen everything that it could see now.
    pub(super) fn is_behind(&self, vm: usize, vh: u64) -> bool {
        let mut later = self.clone();
        later.catch_up(vm, vh);
        later != *self
    }

    /// Brings an instance up to its VAS as far as that is possible with the threads where they
    /// are. What overlaps a segment attached to the instance itself is left out.
    pub(super) fn catch_up(&mut self, vm: usize, vh: u64) {
        let Some(one) = self.instance(vm, vh) else { return };
        let read_only = one.read_only;
        let listed: Vec<(u64, u64)> = self.vases[&one.vid]
            .segments
            .iter()
            .map(|&(sid, right)| (sid, if read_only { READ } else { right }))
            .collect();
        if !self.occupied(vm, vh, None) {
            let stays = |sid: &u64, member: &Member| {
                member.local || listed.iter().any(|&(s, right)| s == *sid && right == member.right)
            };
            let gone = one.members.iter().filter(|(sid, member)| !stays(sid, member));
            let gone: Vec<u64> = gone.map(|(&sid, _)| sid).collect();
            gone.into_iter().for_each(|sid| self.part(vm, vh, sid));
        }
        for (sid, right) in listed {
            let lockable = self.segments.get(&sid).is_some_and(|segment| segment.lockable);
            if self.can_join(vm, vh, sid) && !(lockable && self.occupied(vm, vh, None)) {
                self.join(vm, vh, sid, Member { right, local: false });
            }
        }
    }

    /// Whether a segment exists, and its place in the instance is free.
    pub(super) fn can_join(&self, vm: usize, vh: u64, sid: u64) -> bool {
        let (Some(one), Some(segment)) = (self.instance(vm, vh), self.segments.get(&sid)) else {
            return false;
        };
        one.members.keys().all(|other| {
            *other != sid && self.segments.get(other).is_none_or(|other| !other.overlaps(segment))
        })
    }

    /// What a thread finds at an address in the instance as it has seen it.
    pub(super) fn look(&self, vm: usize, thread: usize, at: u64, write: bool) -> Found {
        let Some(one) = self.instance(vm, self.vms[vm].threads[thread]) else {
            return Found::Nothing;
        };
        for (&sid, member) in &one.members {
            let segment = &self.segments[&sid];
            if !(segment.base..segment.base + segment.reserve).contains(&at) {
                continue;
            }
            return match segment.offset(at) {
                _ if write && member.right != WRITE => Found::Forbidden,
                Some(offset) => Found::Word { sid, offset },
                None => Found::Nothing,
            };
        }
        Found::Nothing
    }

    /// Lockable segments of the VAS that the instance lacks, because the thread is inside:
    /// a touch by a thread that is alone inside attaches them. With their rights.
    pub(super) fn waiting_outside(&self, vm: usize, thread: usize) -> Vec<(u64, u64)> {
        let vh = self.vms[vm].threads[thread];
        let Some(one) = self.instance(vm, vh) else { return Vec::new() };
        if self.occupied(vm, vh, Some(thread)) {
            return Vec::new();
        }
        let listed = self.vases[&one.vid].segments.iter();
        listed
            .filter(|(sid, _)| self.can_join(vm, vh, *sid) && self.segments[sid].lockable)
            .map(|&(sid, right)| (sid, if one.read_only { READ } else { right }))
            .collect()
    }

    /// Whether a touch that finds nothing would wait for a lock.
    pub(super) fn touch_would_wait(&self, vm: usize, thread: usize) -> bool {
        let waiting = self.waiting_outside(vm, thread);
        waiting.into_iter().any(|(sid, right)| self.in_the_way(vm, thread, sid, right))
    }

    /// An access by an instruction.
    pub(super) fn touch(&mut self, vm: usize, thread: usize, at: u64, write: bool) -> Found {
        let vh = self.vms[vm].threads[thread];
        if let found @ Found::Word { .. } = self.look(vm, thread, at, write) {
            return found;
        }
        self.catch_up(vm, vh);
        let found = self.look(vm, thread, at, write);
        if found != Found::Nothing {
            return found;
        }
        for (sid, right) in self.waiting_outside(vm, thread) {
            // A touch cannot report a dead holder: that needs a switch.
            if self.can_join(vm, vh, sid) && !self.segments[&sid].inconsistent {
                self.join(vm, vh, sid, Member { right, local: false });
            }
        }
        self.look(vm, thread, at, write)
    }

    /// An access by a system call.
    pub(super) fn reach(&mut self, vm: usize, thread: usize, at: u64, write: bool) -> Found {
        if self.look(vm, thread, at, write) == Found::Nothing {
            self.catch_up(vm, self.vms[vm].threads[thread]);
        }
        self.look(vm, thread, at, write)
    }
}
