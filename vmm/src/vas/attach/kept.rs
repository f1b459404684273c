//! Address spaces in a snapshot of a process: what it has attached, to be attached again by each process that goes on
//! from there.
//!
//! What is in them is not kept. A thread at home has left them, so it may find there whatever others have done since,
//! in a copy as in the program itself. But one that is inside, to read, sees a version that does not change until it
//! leaves: that version is kept in the store for the snapshot, and in a copy the thread is inside a **stand-in** of the
//! instance, an instance of the kept version that the program cannot name. It goes when nobody is in it any more.
//!
//! An address space is known by its number, which no other one of its store ever gets, and so by its store's, too; its
//! name is for people.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use abi::objects::attach;
use abi::{Right, SegId, VasId};

use super::again::ForChild;
use super::{AttachFlags, Vases};
use crate::process_tree::wire::{Reader, Writer};
use crate::store::{Name, Store};
use crate::vas::error::warn_if_failed;
use crate::vas::kept::keep_at;
use crate::vas::residency::Release;
use crate::vas::state::State;
use crate::vas::{HOME, VasError};
use crate::vm::Vcpu;

/// How long other programs that write are waited for while a version is kept: the program stands meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// All that a process has attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVases {
    /// The number of their store.
    pub store: u64,
    /// By handle; there is one at least.
    pub attached: Vec<KeptVas>,
    /// The threads that are inside one.
    pub visits: Vec<KeptVisit>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVas {
    /// Its name, when the snapshot was made.
    pub name: Name,
    /// What it was attached as.
    pub again: ForChild,
}

/// A thread that is inside, to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVisit {
    /// The thread's number in the snapshot.
    pub tid: u32,
    /// The handle of where it is.
    pub handle: u32,
    /// The version that it sees; `None` where there is only one.
    pub version: Option<KeptVersion>,
}

/// A version of a VAS that is kept for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVersion {
    /// The VAS that it is.
    pub vid: VasId,
    /// That one's name.
    pub name: Name,
}

/// What a thread inside sees.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    handle: u32,
    version: SeenVersion,
}

#[derive(Clone, Debug)]
enum SeenVersion {
    /// What it is in has no others.
    Only,
    /// One that is kept already: it is itself in a stand-in.
    Kept(KeptVersion),
    /// These, of the segments of a VAS.
    These { vas: (VasId, Name), at: Vec<(SegId, u64)> },
}

/// Why address spaces cannot be in a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// Their store goes with the run.
    #[error("its address spaces are in a store that ends with it (--no-store)")]
    PrivateStore,
    /// An instance has a name that is none.
    #[error("an address space of it has a name that no file can have")]
    Name,
    /// A visit is suspended.
    #[error(
        "a thread of it is inside an address space and has left it for a nested visit: ask again when it is back"
    )]
    Suspended,
    /// A thread writes.
    #[error("a thread of it is inside address space '{0}' to write: ask again when it has left")]
    Writes(String),
    /// A thread is where no version is.
    #[error(
        "a thread of it is inside address space '{0}', not all of which has versions: ask again when it has left"
    )]
    Raw(String),
    /// The version cannot be kept.
    #[error("the version of address space '{name}' that a thread of it sees cannot be kept")]
    Version {
        /// Of which.
        name: Name,
        /// Why.
        #[source]
        source: Box<VasError>,
    },
}

impl KeptVases {
    /// As bytes; none for none.
    #[must_use]
    pub fn encode(kept: Option<&KeptVases>) -> Vec<u8> {
        let mut out = Writer::default();
        if let Some(KeptVases { store, attached, visits }) = kept {
            out.words(&[*store]);
            let (names, again): (Vec<_>, Vec<_>) =
                attached.iter().map(|it| (&it.name, it.again.clone())).unzip();
            ForChild::encode(&again, &mut out);
            names.iter().for_each(|name| out.bytes(name.as_str().as_bytes()));
            out.words(&[visits.len() as u64]);
            for KeptVisit { tid, handle, version } in visits {
                let vid = version.as_ref().map_or(0, |version| version.vid.raw());
                out.words(&[u64::from(*tid), u64::from(*handle), vid]);
                let name = version.as_ref().map_or("", |version| version.name.as_str());
                out.bytes(name.as_bytes());
            }
        }
        out.finish()
    }

    /// What [`KeptVases::encode`] has written; `None` for what is not that.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Option<KeptVases>> {
        if bytes.is_empty() {
            return Some(None);
        }
        let input = &mut Reader(bytes);
        let [store] = input.words()?;
        let again = ForChild::decode(input)?;
        let is_sorted = again.is_sorted_by(|a, b| a.handle() < b.handle());
        let name = |again| Some(KeptVas { name: Name::new(input.bytes()?).ok()?, again });
        let attached = again.into_iter().map(name).collect::<Option<Vec<_>>>()?;
        let count = input.count(32)?;
        let visits = (0..count).map(|_| KeptVisit::decode(input)).collect::<Option<Vec<_>>>()?;
        let is_attached =
            |visit: &KeptVisit| attached.iter().any(|it| it.again.handle() == visit.handle);
        let are_sorted = visits.is_sorted_by(|a, b| a.tid < b.tid);
        let is_right = is_sorted && are_sorted && visits.iter().all(is_attached);
        let is_whole = input.0.is_empty() && is_right && !attached.is_empty();
        is_whole.then_some(Some(KeptVases { store, attached, visits }))
    }

    /// The versions that are kept for it, each once.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<VasId, &Name> {
        let versions = self.visits.iter().filter_map(|visit| visit.version.as_ref());
        versions.map(|version| (version.vid, &version.name)).collect()
    }
}

impl KeptVisit {
    fn decode(input: &mut Reader<'_>) -> Option<KeptVisit> {
        let [tid, handle, vid] = input.words()?;
        let (tid, handle) = (u32::try_from(tid).ok()?, u32::try_from(handle).ok()?);
        let name = input.bytes()?;
        // Zero alone is none: a number that no VAS can have is nothing that was written.
        let version = match vid {
            0 if name.is_empty() => None,
            vid => Some(KeptVersion { vid: VasId::new(vid)?, name: Name::new(name).ok()? }),
        };
        Some(KeptVisit { tid, handle, version })
    }
}

impl Vases {
    /// What the thread that runs `vcpu` sees where it is; `None` at home.
    ///
    /// # Errors
    /// [`NotKept`]: it is where no copy of it could be.
    pub(crate) fn seen_by(&self, vcpu: &Vcpu) -> Result<Option<Seen>, NotKept> {
        let (handle, index) = (vcpu.instance(), vcpu.index());
        if !self.is_active() {
            return Ok(None);
        }
        let state = self.lock();
        if !state.visits.suspended(index).is_empty() {
            return Err(NotKept::Suspended);
        }
        if handle == HOME {
            return Ok(None);
        }
        // Where it is the guest says.
        let Some(instance) = state.instances.get(handle) else {
            return Err(NotKept::Raw(handle.to_string()));
        };
        let raw = || NotKept::Raw(instance.name.clone());
        let visit = state.visits.of(index).zip(state.visits.tables_of(index));
        let (visit, tables) = visit.filter(|(_, tables)| tables.vh == handle).ok_or_else(raw)?;
        if tables.writes() {
            return Err(NotKept::Writes(instance.name.clone()));
        }
        let is_listed = instance
            .members
            .iter()
            .all(|(sid, member)| !member.local && tables.views.contains_key(&sid));
        if !is_listed || !visit.locks.is_empty() {
            return Err(raw());
        }
        let name = Name::new(instance.name.as_bytes()).map_err(|_| NotKept::Name)?;
        if let Some(handle) = instance.stands_for {
            let version = SeenVersion::Kept(KeptVersion { vid: instance.vid, name });
            return Ok(Some(Seen { handle, version }));
        }
        let is_kept = |sid| state.residency.of_member(sid).file.header().kept.is_some();
        let version = match instance.members.iter().all(|(sid, _)| is_kept(sid)) {
            true => SeenVersion::Only,
            false => {
                let views = tables.views.iter().filter(|(sid, _)| !is_kept(**sid));
                let at = views.map(|(sid, view)| (*sid, view.version.0)).collect();
                SeenVersion::These { vas: (instance.vid, name), at }
            }
        };
        Ok(Some(Seen { handle, version }))
    }

    /// What a snapshot has of all this, with what each thread sees that is inside; `None` if nothing is attached.
    /// Versions are kept for it that others may overwrite: [`Vases::give_up`] if nothing comes of it.
    ///
    /// # Errors
    /// [`NotKept`]; then none is kept.
    pub(crate) fn keep(
        &self,
        seen: &[(u32, Seen)],
        stopping: &dyn Fn() -> bool,
    ) -> Result<Option<KeptVases>, NotKept> {
        let all = self.instances_for_child();
        if all.is_empty() {
            return Ok(None);
        }
        let (store, attached) = {
            let state = self.lock();
            let store = state.attached().store.clone();
            if Store::is_private(store.path()) {
                return Err(NotKept::PrivateStore);
            }
            let kept = |again: ForChild| {
                let name = state.instances.get(again.handle()).map(|it| it.name.as_str());
                let name = name.and_then(|name| Name::new(name.as_bytes()).ok());
                Ok(KeptVas { name: name.ok_or(NotKept::Name)?, again })
            };
            let attached = all.into_iter().map(kept).collect::<Result<_, NotKept>>()?;
            (store, attached)
        };
        let mut kept = KeptVases { store: store.id(), attached, visits: Vec::new() };
        let mut made = BTreeMap::new();
        for (tid, Seen { handle, version }) in seen {
            let version = match version {
                SeenVersion::Only => None,
                SeenVersion::Kept(version) => Some(version.clone()),
                SeenVersion::These { vas, at } => {
                    let known = made.get(&(vas.0, at.clone())).cloned();
                    let version = known.map_or_else(|| keep_version(&store, vas, at, stopping), Ok);
                    let version = version.inspect_err(|_| self.give_up(&kept))?;
                    made.insert((vas.0, at.clone()), version.clone());
                    Some(version)
                }
            };
            kept.visits.push(KeptVisit { tid: *tid, handle: *handle, version });
        }
        kept.visits.sort_by_key(|visit| visit.tid);
        Ok(Some(kept))
    }

    /// Nothing has come of a snapshot: what was kept for it goes, but for what another one has. What cannot be
    /// removed now goes with the garbage.
    pub(crate) fn give_up(&self, kept: &KeptVases) {
        let store = self.lock().attached().store.clone();
        let stand_ins: Vec<_> = {
            let state = self.lock();
            let all = state.instances.iter().filter(|(_, it)| it.stands_for.is_some());
            all.map(|(_, it)| it.vid).collect()
        };
        for vid in kept.versions().into_keys().filter(|vid| !stand_ins.contains(vid)) {
            let gone = store.give_up_for_snapshot(vid).map_err(VasError::from);
            warn_if_failed("give up a version that was kept for a snapshot", gone);
        }
    }

    /// Attaches a version that is kept for a snapshot, in the place of instance `handle`. Returns where.
    ///
    /// # Errors
    /// As [`Vases::attach`].
    pub(crate) fn attach_stand_in(&self, vid: VasId, handle: u32) -> Result<u32, VasError> {
        let vh = self.attach_as(vid, AttachFlags(attach::READ_ONLY), None)?;
        self.lock().instances.known_mut(vh).stands_for = Some(handle);
        Ok(vh)
    }

    /// The thread that will run `vcpu` begins inside instance `vh`, where it only reads.
    ///
    /// # Errors
    /// As [`Vases::switch`]; [`VasError::NotWriting`] where it would need a lock.
    pub(crate) fn begin_inside(&self, vcpu: &mut Vcpu, vh: u32) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let writes = |instance: &crate::vas::state::instances::Instance| {
            let mut members = instance.members.iter();
            members.any(|(sid, member)| {
                member.right == Right::Write || !state.residency.of_member(sid).is_versioned()
            })
        };
        if state.instances.get(vh).is_none_or(writes) {
            return Err(VasError::NotWriting);
        }
        self.switch.announce_instance(vcpu.index(), vh)?;
        self.arrive(state, vcpu, vh)
    }

    /// The handle by which the program knows an instance that a thread of it is in.
    #[must_use]
    pub fn known_as(&self, vh: u32) -> u32 {
        if vh == HOME { HOME } else { self.lock().stood_for(vh).unwrap_or(vh) }
    }

    /// Drops stand-ins that no thread is in: no thread comes back to one.
    pub(crate) fn drop_stand_ins(&self, state: &mut State) {
        let stand_ins = state.instances.iter().filter(|(_, it)| it.stands_for.is_some());
        for vh in stand_ins.map(|(vh, _)| vh).collect::<Vec<_>>() {
            if self.hide_unused(state, vh, None).is_ok()
                && let Some(instance) = state.instances.remove(vh)
            {
                let dropped = self.drop_instance(state, vh, instance, Release::Orderly);
                warn_if_failed("drop a version that a snapshot had", dropped);
            }
        }
    }
}

impl State {
    /// The handle of the instance in whose place instance `vh` is.
    pub(crate) fn stood_for(&self, vh: u32) -> Option<u32> {
        self.instances.get(vh)?.stands_for
    }

    /// The number of the version of segment `sid` that segment `shown` is, in a stand-in.
    pub(crate) fn version_in_stand_in(&self, vh: u32, shown: SegId, sid: SegId) -> Option<u64> {
        self.stood_for(vh)?;
        let kept = self.residency.get(shown)?.file.header().kept?;
        (kept.of == sid).then_some(kept.number)
    }
}

fn keep_version(
    store: &Store,
    (vid, name): &(VasId, Name),
    at: &[(SegId, u64)],
    stopping: &dyn Fn() -> bool,
) -> Result<KeptVersion, NotKept> {
    let failed = |source| NotKept::Version { name: name.clone(), source: Box::new(source) };
    let kept = keep_at(store, *vid, at, Some(PATIENCE), stopping).map_err(failed)?;
    let name = store.vas(kept).map_err(|error| failed(error.into()))?.name;
    Ok(KeptVersion { vid: kept, name })
}

#[cfg(test)]
mod tests {
    use abi::{Right, SegId, VasId};
    use proptest::prelude::*;

    use super::{ForChild, KeptVas, KeptVases, KeptVersion, KeptVisit, Name};
    use crate::process_tree::wire::Writer;
    use crate::vas::attach::AttachFlags;

    fn kept(handles: &[u32]) -> KeptVases {
        let one = |&vh: &u32| KeptVas {
            name: Name::new(format!("books {vh}").as_bytes()).unwrap(),
            again: ForChild::new(
                vh,
                VasId::new(7).unwrap(),
                AttachFlags::new(1).unwrap(),
                vec![(SegId::new(9).unwrap(), Right::Read)],
            ),
        };
        let visits = handles.iter().zip(1..).map(|(&handle, tid)| {
            let name = Name::new(b"books@@snapshot-0").unwrap();
            let version = KeptVersion { vid: VasId::new(70).unwrap(), name };
            KeptVisit { tid, handle, version: (tid > 1).then_some(version) }
        });
        let visits = visits.collect();
        KeptVases { store: 5, attached: handles.iter().map(one).collect(), visits }
    }

    #[test]
    fn a_thread_is_in_what_is_attached_and_only_there() {
        let mut all = kept(&[1, 4]);
        assert_eq!(all.versions().len(), 1);
        all.visits[1].handle = 3;
        assert_eq!(KeptVases::decode(&KeptVases::encode(Some(&all))), None);
        let mut all = kept(&[1, 4]);
        all.visits[1].tid = 1;
        assert_eq!(KeptVases::decode(&KeptVases::encode(Some(&all))), None, "twice");
    }

    #[test]
    fn what_is_written_is_read_and_whatever_is_cut_off_or_twice_is_refused() {
        let all = kept(&[1, 4, 9]);
        let bytes = KeptVases::encode(Some(&all));
        assert_eq!(KeptVases::decode(&bytes), Some(Some(all)));
        assert_eq!(KeptVases::decode(&KeptVases::encode(None)), Some(None));
        for len in 1..bytes.len() {
            assert_eq!(KeptVases::decode(&bytes[..len]), None, "{len}");
        }
        for bad in [&[][..], &[4, 4], &[4, 1]] {
            assert_eq!(KeptVases::decode(&KeptVases::encode(Some(&kept(bad)))), None, "{bad:?}");
        }
    }

    #[test]
    fn whatever_has_one_bit_changed_is_refused_or_says_something_else() {
        let bytes = KeptVases::encode(Some(&kept(&[1, 4, 9])));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Some(kept) = KeptVases::decode(&changed) {
                assert_eq!(KeptVases::encode(kept.as_ref()), changed, "bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_written_back_as_they_were(
            words in prop::collection::vec(0..5_u64, 0..40),
        ) {
            let mut out = Writer::default();
            out.words(&words);
            let bytes = out.finish();
            if let Some(kept) = KeptVases::decode(&bytes) {
                prop_assert_eq!(KeptVases::encode(kept.as_ref()), bytes);
            }
        }
    }
}
