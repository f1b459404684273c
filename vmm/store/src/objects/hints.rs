//! Where objects were found last, by id: looked at there first, and only if they are there no more, in the
//! index of all of them. Finding one so costs the same however many there are.

use std::collections::HashMap;

use abi::objects::{SegId, VasId};

use crate::format::name::Name;

/// Objects of which that is remembered.
const MOST: usize = 256;

/// See the module. Nothing here is believed: who uses a hint reads the object's own file.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    vases: HashMap<VasId, Name>,
    segments: HashMap<SegId, Name>,
}

fn note<Id: std::hash::Hash + Eq>(all: &mut HashMap<Id, Name>, id: Id, name: &Name) {
    if all.len() >= MOST && !all.contains_key(&id) {
        all.clear();
    }
    all.insert(id, name.clone());
}

impl Hints {
    pub(crate) fn vas(&self, vid: VasId) -> Option<Name> {
        self.vases.get(&vid).cloned()
    }

    pub(crate) fn segment(&self, sid: SegId) -> Option<Name> {
        self.segments.get(&sid).cloned()
    }

    pub(crate) fn note_vas(&mut self, vid: VasId, name: &Name) {
        note(&mut self.vases, vid, name);
    }

    pub(crate) fn note_segment(&mut self, sid: SegId, name: &Name) {
        note(&mut self.segments, sid, name);
    }
}
