//! Which VASes and segments of the store a program may use at all: what `--vas` says.
//!
//! The host's permissions apply as well; a grant only ever restricts. The rights on a segment
//! follow from the VASes that list it: of several granted ones, the least counts, so that what was
//! granted for reading cannot be written by another way in. A segment that the program has made, or
//! that was in a VAS it may change, stays its own unless a granted VAS gives less.
//!
//! What a process has attached, it uses by handle; this file is about names and ids.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::{Right, SegId, VasId};

use crate::store::{Name, NameError, Object, Store};
use crate::vas::VasError;

/// One `--vas`: a VAS and what may be done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VasGrant {
    /// Its name; it need not exist yet.
    pub name: Name,
    /// [`Right::Write`] also permits creating, changing and deleting it.
    pub right: Right,
}

impl FromStr for VasGrant {
    type Err = NameError;

    /// `NAME`, `NAME:ro` or `NAME:rw`; the last for names that themselves end in `:ro`.
    fn from_str(text: &str) -> Result<VasGrant, NameError> {
        let (name, right) = match text.rsplit_once(':') {
            Some((name, "ro")) => (name, Right::Read),
            Some((name, "rw")) => (name, Right::Write),
            _ => (text, Right::Write),
        };
        Ok(VasGrant { name: Name::new(name.as_bytes())?, right })
    }
}

/// VASes of the store that a program may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VasGrants {
    /// Everything the host permits the user.
    #[default]
    All,
    /// These, and the segments in them.
    Only(BTreeMap<Name, Right>),
}

impl VasGrants {
    /// These; of one that is given twice, the lesser right counts. All, if there are none.
    #[must_use]
    pub fn of(list: Vec<VasGrant>) -> VasGrants {
        if list.is_empty() {
            return VasGrants::All;
        }
        let mut only = BTreeMap::new();
        for grant in list {
            let right = only.entry(grant.name).or_insert(grant.right);
            *right = grant.right.min(*right);
        }
        VasGrants::Only(only)
    }
}

type Stamp = (u64, u64);
type Rights = HashMap<SegId, Right>;

/// The grants of a process that runs.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    vases: VasGrants,
    /// Segments that are the program's own.
    own: Mutex<HashSet<SegId>>,
    /// What the granted VASes list, and when that was looked up.
    listed: Mutex<Option<(Stamp, Arc<Rights>)>>,
}

impl Grants {
    pub(crate) fn new(vases: VasGrants) -> Grants {
        Grants { vases, ..Grants::default() }
    }

    /// Whether nothing is held back.
    pub(crate) fn is_all(&self) -> bool {
        self.vases == VasGrants::All
    }

    /// The right on a VAS, existing or not; on a kept version of one that is granted, to read it.
    pub(crate) fn on_name(&self, name: &Name) -> Option<Right> {
        match &self.vases {
            VasGrants::All => Some(Right::Write),
            VasGrants::Only(only) => only.get(name).copied().or_else(|| {
                // Whoever may read a VAS may read its older versions.
                let is_of = |(granted, _): &(&Name, &Right)| is_version_of(name, granted);
                only.iter().find(is_of).map(|_| Right::Read)
            }),
        }
    }

    pub(crate) fn check_name(&self, name: &Name, right: Right) -> Result<(), VasError> {
        match self.on_name(name) {
            Some(granted) if granted >= right => Ok(()),
            _ => Err(VasError::NotGranted { object: Object::VasName(name.clone()), right }),
        }
    }

    pub(crate) fn check_vas(
        &self,
        store: &Store,
        vid: VasId,
        right: Right,
    ) -> Result<(), VasError> {
        if self.is_all() {
            return Ok(());
        }
        match self.on_name(&store.vas(vid)?.name) {
            Some(granted) if granted >= right => Ok(()),
            _ => Err(VasError::NotGranted { object: Object::Vas(vid), right }),
        }
    }

    /// Whether the program may make segments: it needs a VAS to put them in.
    pub(crate) fn check_makes_segments(&self, name: &Name) -> Result<(), VasError> {
        match &self.vases {
            VasGrants::Only(only) if only.values().all(|right| *right == Right::Read) => {
                let object = Object::SegmentName(name.clone());
                Err(VasError::NotGranted { object, right: Right::Write })
            }
            _ => Ok(()),
        }
    }

    /// The right on a segment.
    pub(crate) fn on_segment(&self, store: &Store, sid: SegId) -> Result<Option<Right>, VasError> {
        if self.is_all() {
            return Ok(Some(Right::Write));
        }
        if let Some(right) = self.listed(store)?.get(&sid) {
            return Ok(Some(*right));
        }
        Ok(self.own().contains(&sid).then_some(Right::Write))
    }

    pub(crate) fn check_segment(
        &self,
        store: &Store,
        sid: SegId,
        right: Right,
    ) -> Result<(), VasError> {
        match self.on_segment(store, sid)? {
            Some(granted) if granted >= right => Ok(()),
            _ => Err(VasError::NotGranted { object: Object::Segment(sid), right }),
        }
    }

    /// The program has made these, or taken them out of a VAS that it may change.
    pub(crate) fn adopt(&self, sids: impl IntoIterator<Item = SegId>) {
        if !self.is_all() {
            self.own().extend(sids);
        }
    }

    fn own(&self) -> MutexGuard<'_, HashSet<SegId>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rights on all segments in granted VASes.
    fn listed(&self, store: &Store) -> Result<Arc<Rights>, VasError> {
        let VasGrants::Only(only) = &self.vases else { return Ok(Arc::default()) };
        let stamp = store.vas_stamp()?;
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, rights)) = &*listed
            && *then == stamp
        {
            return Ok(rights.clone());
        }
        let mut rights = Rights::new();
        let mut all: Vec<(Name, Right)> = Vec::new();
        for (name, right) in only {
            all.push((name.clone(), *right));
            let versions = store.vas_versions(name).unwrap_or_default();
            all.extend(versions.into_iter().map(|version| (version, Right::Read)));
        }
        for (name, right) in &all {
            // One that is not there or cannot be read grants nothing.
            let Ok(record) = store.vas_named(name) else { continue };
            for segment in record.segments {
                let least = rights.entry(segment.sid).or_insert(*right);
                *least = right.min(least).to_owned();
            }
        }
        let rights = Arc::new(rights);
        *listed = Some((stamp, rights.clone()));
        Ok(rights)
    }
}

/// Whether `name` is that of a version of `object`.
fn is_version_of(name: &Name, object: &Name) -> bool {
    let version = name.as_str().strip_prefix(object.as_str());
    version.and_then(|rest| rest.strip_prefix('@')).is_some_and(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(list: &[&str]) -> VasGrants {
        VasGrants::of(list.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn a_grant_is_a_name_and_perhaps_a_right() {
        let of = |text: &str| {
            text.parse::<VasGrant>().map(|grant| (grant.name.as_str().to_owned(), grant.right))
        };
        assert_eq!(of("a").unwrap(), ("a".to_owned(), Right::Write));
        assert_eq!(of("a:ro").unwrap(), ("a".to_owned(), Right::Read));
        assert_eq!(of("a:ro:rw").unwrap(), ("a:ro".to_owned(), Right::Write));
        assert_eq!(of("a:b").unwrap(), ("a:b".to_owned(), Right::Write));
        for bad in ["", ":ro", "..", "a/b", "a/b:ro"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_a_list_all_is_granted_and_of_two_the_lesser() {
        assert_eq!(grants(&[]), VasGrants::All);
        let grants = Grants::new(grants(&["a", "a:ro", "b"]));
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        assert_eq!(grants.on_name(&name("a")), Some(Right::Read));
        assert_eq!(grants.on_name(&name("b")), Some(Right::Write));
        assert_eq!(grants.on_name(&name("c")), None);
        // Older versions are read.
        assert_eq!(grants.on_name(&name("b@monday")), Some(Right::Read));
        assert_eq!(grants.on_name(&name("b@17")), Some(Right::Read));
        for other in ["b@", "c@b", "ab@x", "bc@x"] {
            assert_eq!(grants.on_name(&name(other)), None, "{other}");
        }
    }
}
