//! What each call must return, and what it changes.
//!
//! Where several things are wrong with a call, the model names the one the system checks
//! first: ids, then the requested operation.

use abi::layout::{VAS_END, VAS_START};
use abi::{Errno, PAGE_SIZE, PAGE_SIZE_2M};

use super::call::{Call, How, Params};
use super::inside::Found;
use super::state::{Instance, Model, Segment, Vas, WRITE};

/// The result of a call: text as `vas_model` prints it, or an error.
pub(super) type Answer = Result<String, Errno>;

/// The largest possible id.
const MAX_ID: u64 = i64::MAX as u64;

/// Execute bits mean nothing, and are not stored.
const NOT_EXECUTE: u64 = 0o666;

fn done() -> Answer {
    Ok(String::new())
}

impl Model {
    /// The answer to a call, which is also applied. `said` is what the system answered: the
    /// model takes new ids and default bases from it, if they are possible.
    pub(super) fn answer(&mut self, vm: usize, thread: usize, call: &Call, said: &str) -> Answer {
        match *call {
            Call::Switch { how, vh } => {
                let switched = self.switch(vm, thread, vh);
                match (switched, how) {
                    (Err(Errno::EAGAIN), How::Within) => Err(Errno::ETIMEDOUT),
                    (switched, _) => switched.and_then(|()| done()),
                }
            }
            Call::Current => Ok(self.vms[vm].threads[thread].to_string()),
            Call::Read { at } => Ok(match self.touch(vm, thread, at, false) {
                Found::Word { sid, offset } => self.word(sid, offset).to_string(),
                Found::Forbidden => "Forbidden".to_owned(),
                Found::Nothing => "NotMapped".to_owned(),
            }),
            Call::Write { at, value } => Ok(match self.touch(vm, thread, at, true) {
                Found::Word { sid, offset } => {
                    self.set_word(sid, offset, value);
                    "0".to_owned()
                }
                Found::Forbidden => "Forbidden".to_owned(),
                Found::Nothing => "NotMapped".to_owned(),
            }),
            Call::Out { at } => match self.reach(vm, thread, at, false) {
                Found::Word { sid, offset } => Ok(self.word(sid, offset).to_string()),
                Found::Forbidden | Found::Nothing => Err(Errno::EFAULT),
            },
            Call::In { at, value } => match self.reach(vm, thread, at, true) {
                Found::Word { sid, offset } => {
                    self.set_word(sid, offset, value);
                    done()
                }
                Found::Forbidden | Found::Nothing => Err(Errno::EFAULT),
            },
            _ => self.answer_vas(vm, call, said).unwrap_or_else(|| {
                self.answer_segment(vm, thread, call, said)
                    .unwrap_or_else(|| unreachable!("{call}"))
            }),
        }
    }

    fn word(&self, sid: u64, offset: u64) -> u64 {
        self.segments[&sid].words.get(&offset).copied().unwrap_or(0)
    }

    fn set_word(&mut self, sid: u64, offset: u64, value: u64) {
        if let Some(segment) = self.segments.get_mut(&sid) {
            segment.words.insert(offset, value);
        }
    }

    /// The id the system chose for a new object; 0, never a valid answer, if it is impossible.
    fn fresh(&self, said: &str) -> u64 {
        let id: u64 = said.strip_prefix("= ").and_then(|id| id.parse().ok()).unwrap_or(0);
        let is_new = !self.vids.contains(&id) && !self.sids.contains(&id);
        if is_new && id <= MAX_ID { id } else { 0 }
    }

    fn vas(&mut self, vid: u64) -> Result<&mut Vas, Errno> {
        self.vases.get_mut(&vid).ok_or(Errno::ENOENT)
    }

    fn segment(&mut self, sid: u64) -> Result<&mut Segment, Errno> {
        self.segments.get_mut(&sid).ok_or(Errno::ENOENT)
    }

    fn handle(&self, vm: usize, vh: u64) -> Result<&Instance, Errno> {
        if vh == 0 {
            return Err(Errno::EINVAL);
        }
        self.instance(vm, vh).ok_or(Errno::EBADF)
    }

    fn answer_vas(&mut self, vm: usize, call: &Call, said: &str) -> Option<Answer> {
        Some(match *call {
            Call::VasCreate { name } => {
                let vas = Vas { name, mode: 0o600, tagged: true, segments: Vec::new() };
                self.make_vas(vas, said)
            }
            Call::VasFind { name } => {
                self.vas_named(name).map(|vid| vid.to_string()).ok_or(Errno::ENOENT)
            }
            Call::VasClone { vid, name } => {
                let original = self.vas(vid).map(|vas| vas.clone());
                original.and_then(|vas| self.make_vas(Vas { name, ..vas }, said))
            }
            Call::VasAttach { vid, flags } => self.attach(vm, vid, flags),
            Call::VasDetach { vh } => self.handle(vm, vh).map(drop).and_then(|()| {
                if self.occupied(vm, vh, None) {
                    return Err(Errno::EBUSY);
                }
                self.drop_instance(vm, vh);
                done()
            }),
            Call::VasDelete { vid } => self.vas(vid).map(drop).and_then(|()| {
                if self.vas_attachers(vid) > 0 {
                    return Err(Errno::EBUSY);
                }
                self.vases.remove(&vid);
                done()
            }),
            Call::VasMode { vid, mode } => {
                self.vas(vid).map(|vas| vas.mode = mode & NOT_EXECUTE).and_then(|()| done())
            }
            Call::VasTagged { vid, tagged } => {
                self.vas(vid).map(|vas| vas.tagged = tagged).and_then(|()| done())
            }
            Call::InstanceTagged { vh, .. } => match self.handle(vm, vh) {
                // Home has no tag that could be set.
                Err(_) => Err(Errno::EBADF),
                Ok(_) if self.occupied(vm, vh, None) => Err(Errno::EBUSY),
                Ok(_) => done(),
            },
            Call::VasStat { vid } => {
                if self.vases.contains_key(&vid) {
                    Ok(self.vas_stat(vid))
                } else {
                    Err(Errno::ENOENT)
                }
            }
            Call::VasList => {
                let mut all: Vec<u64> = self.vases.keys().copied().collect();
                all.sort_by_key(|vid| self.vases[vid].name);
                Ok(joined(all.into_iter().map(|vid| self.vas_stat(vid))))
            }
            Call::VasSegments { vid } => {
                self.vas(vid).map(|vas| vas.segments.clone()).map(|mut all| {
                    // Deleted ones last.
                    all.sort_by_key(|(sid, _)| {
                        self.segments.get(sid).map_or(u64::MAX, |one| one.base)
                    });
                    joined(all.into_iter().map(|(sid, right)| format!("{sid}:{right}")))
                })
            }
            _ => return None,
        })
    }

    fn make_vas(&mut self, vas: Vas, said: &str) -> Answer {
        if self.vas_named(vas.name).is_some() {
            return Err(Errno::EEXIST);
        }
        let vid = self.fresh(said);
        self.vids.push(vid);
        self.vases.insert(vid, vas);
        Ok(vid.to_string())
    }

    fn attach(&mut self, vm: usize, vid: u64, flags: u64) -> Answer {
        let segments = self.vas(vid)?.segments.clone();
        if segments.iter().any(|(sid, _)| !self.segments.contains_key(sid)) {
            return Err(Errno::ENODATA);
        }
        let taken = &self.vms[vm].instances;
        let vh = (1..).find(|vh| !taken.contains_key(vh)).unwrap_or(0);
        let read_only = flags & abi::objects::attach::READ_ONLY != 0;
        let instance = Instance { vid, read_only, members: std::collections::BTreeMap::new() };
        self.vms[vm].instances.insert(vh, instance);
        self.catch_up(vm, vh);
        Ok(vh.to_string())
    }

    fn vas_stat(&self, vid: u64) -> String {
        let Vas { name, mode, tagged, segments } = &self.vases[&vid];
        let (count, attachers) = (segments.len(), self.vas_attachers(vid));
        format!("{vid},{name},{mode:o},{count},{attachers},{},3", u8::from(*tagged))
    }

    fn answer_segment(
        &mut self,
        vm: usize,
        thread: usize,
        call: &Call,
        said: &str,
    ) -> Option<Answer> {
        Some(match *call {
            Call::SegAlloc { name, params } => self.alloc(name, params, said),
            Call::SegFind { name } => {
                self.segment_named(name).map(|sid| sid.to_string()).ok_or(Errno::ENOENT)
            }
            Call::SegClone { sid, name } => {
                let original = self.segment(sid).map(|one| one.clone());
                original.and_then(|one| {
                    // Without a lock, no other program may be able to write it during the copy.
                    if !one.lockable && self.has_other_writer(vm, sid) {
                        return Err(Errno::EBUSY);
                    }
                    // Not attached yet; the copy keeps the marks the dead left on the original.
                    let dirty = one.dirty && !self.has_writer(sid);
                    let copy = Segment { name, used: false, dirty, ..one };
                    self.make_segment(copy, said)
                })
            }
            Call::SegAttach { vid, sid, right } => self.seg_attach(vm, vid, sid, right),
            Call::SegAttachLocal { vh, sid, right } => self.attach_local(vm, vh, sid, right),
            Call::SegDetach { vid, sid } => self.seg_detach(vm, vid, sid),
            Call::SegDetachLocal { vh, sid } => self.handle(vm, vh).cloned().and_then(|one| {
                match one.members.get(&sid) {
                    Some(member) if member.local => {}
                    _ => return Err(Errno::ENOENT),
                }
                if self.occupied(vm, vh, None) {
                    return Err(Errno::EBUSY);
                }
                self.part(vm, vh, sid);
                done()
            }),
            Call::SegMode { sid, mode } => {
                self.segment(sid).map(|one| one.mode = mode & NOT_EXECUTE).and_then(|()| done())
            }
            Call::SegLockable { sid, lockable } => self.segment(sid).map(drop).and_then(|()| {
                if self.attachers(sid) > 0 {
                    return Err(Errno::EBUSY);
                }
                self.segment(sid).map(|one| one.lockable = lockable).and_then(|()| done())
            }),
            Call::SegPages { sid, pages } => {
                self.segment(sid).map(|one| one.pages = pages).and_then(|()| done())
            }
            Call::SegRecover { sid } => {
                if self.held(vm, thread).get(&sid) != Some(&WRITE) {
                    return Some(Err(Errno::EPERM));
                }
                self.segment(sid).map(|one| one.inconsistent = false).and_then(|()| done())
            }
            Call::SegLifetime { sid, volatile } => self.segment(sid).and_then(|one| {
                if one.volatile == volatile { done() } else { Err(Errno::EOPNOTSUPP) }
            }),
            Call::SegDelete { sid } => self.segment(sid).map(drop).and_then(|()| {
                let listed = |vas: &Vas| vas.segments.iter().any(|(one, _)| *one == sid);
                if self.attachers(sid) > 0 || self.vases.values().any(listed) {
                    return Err(Errno::EBUSY);
                }
                self.segments.remove(&sid);
                done()
            }),
            Call::SegStat { sid } => {
                if self.segments.contains_key(&sid) {
                    Ok(self.seg_stat(sid))
                } else {
                    Err(Errno::ENOENT)
                }
            }
            Call::SegList => {
                let mut all: Vec<u64> = self.segments.keys().copied().collect();
                all.sort_by_key(|sid| self.segments[sid].name);
                Ok(joined(all.into_iter().map(|sid| self.seg_stat(sid))))
            }
            Call::SegGrow { sid, size } => self.segment(sid).and_then(|one| {
                let rounded = size.next_multiple_of(PAGE_SIZE);
                if size > one.reserve {
                    return Err(Errno::EFBIG);
                }
                if rounded < one.size {
                    return Err(Errno::EINVAL);
                }
                one.size = rounded;
                done()
            }),
            Call::SegSync { sid } => self.segment(sid).map(drop).and_then(|()| done()),
            Call::RootGet { sid } => self.segment(sid).map(|one| joined(one.root.iter())),
            Call::RootSet { sid, root } => self.segment(sid).and_then(|one| {
                let inside = one.base..one.base + one.size;
                if root[0] != 0 && !inside.contains(&root[0]) {
                    return Err(Errno::EINVAL);
                }
                one.root = root;
                done()
            }),
            _ => return None,
        })
    }

    fn alloc(&mut self, name: char, params: Params, said: &str) -> Answer {
        let Params { base, size, reserve, volatile, pages, lockable } = params;
        let size = size.next_multiple_of(PAGE_SIZE);
        let reserve = if reserve == 0 { size } else { reserve }.next_multiple_of(PAGE_SIZE_2M);
        let region = VAS_START.raw()..VAS_END.raw() - reserve;
        let odd = base != 0 && !(region.contains(&base) && base.is_multiple_of(PAGE_SIZE_2M));
        if size == 0 || reserve < size || odd {
            return Err(Errno::EINVAL);
        }
        let segment = Segment {
            name,
            base,
            size,
            reserve,
            mode: 0o600,
            volatile,
            pages,
            lockable,
            root: [0; 3],
            words: std::collections::BTreeMap::new(),
            used: false,
            dirty: false,
            inconsistent: false,
        };
        self.make_segment(segment, said)
    }

    fn make_segment(&mut self, segment: Segment, said: &str) -> Answer {
        if self.segment_named(segment.name).is_some() {
            return Err(Errno::EEXIST);
        }
        let sid = self.fresh(said);
        self.sids.push(sid);
        self.segments.insert(sid, segment);
        Ok(sid.to_string())
    }

    /// Learns the base the system chose for a segment; no other segment may have it.
    pub(super) fn learn_base(&mut self, sid: u64, base: u64) -> Result<(), String> {
        let Some(mut segment) = self.segments.get(&sid).cloned() else { return Ok(()) };
        segment.base = base;
        let clash =
            self.segments.iter().find(|(other, one)| **other != sid && one.overlaps(&segment));
        if let Some((other, _)) = clash {
            return Err(format!("segment {sid} was put at {base:#x}, where {other} is"));
        }
        let region = VAS_START.raw()..VAS_END.raw() - segment.reserve;
        if !region.contains(&base) || !base.is_multiple_of(PAGE_SIZE_2M) {
            return Err(format!("segment {sid} was put at {base:#x}"));
        }
        self.segments.insert(sid, segment);
        Ok(())
    }

    fn seg_attach(&mut self, vm: usize, vid: u64, sid: u64, right: u64) -> Answer {
        let listed = self.vas(vid)?.segments.clone();
        let segment = self.segment(sid)?.clone();
        let overlaps = |(other, _): &(u64, u64)| {
            *other == sid || self.segments.get(other).is_some_and(|one| one.overlaps(&segment))
        };
        if listed.iter().any(overlaps) {
            return Err(Errno::EEXIST);
        }
        self.vas(vid)?.segments.push((sid, right));
        self.own_instances(vm, vid);
        done()
    }

    /// A process's own instances see its own changes immediately.
    fn own_instances(&mut self, vm: usize, vid: u64) {
        let ours = self.vms[vm].instances.iter().filter(|(_, one)| one.vid == vid);
        let ours: Vec<u64> = ours.map(|(&vh, _)| vh).collect();
        ours.into_iter().for_each(|vh| self.catch_up(vm, vh));
    }

    fn seg_detach(&mut self, vm: usize, vid: u64, sid: u64) -> Answer {
        if !self.vas(vid)?.segments.iter().any(|(one, _)| *one == sid) {
            return Err(Errno::ENOENT);
        }
        if self.anybody_in(vid) {
            return Err(Errno::EBUSY);
        }
        self.vas(vid)?.segments.retain(|(one, _)| *one != sid);
        self.own_instances(vm, vid);
        done()
    }

    fn attach_local(&mut self, vm: usize, vh: u64, sid: u64, right: u64) -> Answer {
        let one = self.handle(vm, vh)?.clone();
        if one.members.contains_key(&sid) {
            return Err(Errno::EEXIST);
        }
        let lockable = self.segment(sid)?.lockable;
        if !self.can_join(vm, vh, sid) {
            return Err(Errno::EEXIST);
        }
        if lockable && self.occupied(vm, vh, None) {
            return Err(Errno::EBUSY);
        }
        let right = if one.read_only { super::state::READ } else { right };
        self.join(vm, vh, sid, super::state::Member { right, local: true });
        done()
    }

    fn seg_stat(&self, sid: u64) -> String {
        let Segment { name, base, size, reserve, mode, pages, .. } = &self.segments[&sid];
        let Segment { volatile, lockable, dirty, inconsistent, .. } = self.segments[&sid];
        let dirty = dirty && !self.has_writer(sid);
        let [volatile, lockable, dirty, inconsistent] =
            [volatile, lockable, dirty, inconsistent].map(u8::from);
        let attachers = self.attachers(sid);
        format!(
            "{sid},{name},{base},{size},{reserve},{mode:o},{volatile},{pages},{lockable},{dirty},\
             {inconsistent},3,{attachers}"
        )
    }
}

fn joined<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}
