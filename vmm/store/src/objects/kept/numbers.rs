//! The numbers of a VAS: each commit through it has one, and says which versions its segments were at then.
//!
//! A VAS that never had any other versioned segment than one, which no other VAS shares, so has the numbers of that
//! one. Versions of it that were made in another way (a rollback of the segment, a commit through another VAS)
//! count under their own numbers.

use std::collections::BTreeMap;

use abi::objects::{SegId, VasId};
use serde::Serialize;
use spacejmp_versions::VersionNumber;
use spacejmp_versions::log::entry::Member;
use spacejmp_versions::log::record::VersionFacts;

use crate::format::error::StoreError;
use crate::format::record::VasRecord;
use crate::objects::kept::find::Kept;
use crate::objects::newest::Newest;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// A segment at a number of a VAS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MemberVersion {
    /// The segment.
    #[serde(skip)]
    pub sid: Option<SegId>,
    /// Its name, or its id if the VAS does not list it any more.
    pub segment: String,
    /// Its version.
    pub number: u64,
    /// Whether it was part of the commit.
    pub changed: bool,
    /// How many pages that has changed in it, if this is known.
    pub pages: u64,
    /// Whether its log has the version.
    #[serde(skip)]
    pub opens: bool,
}

/// A commit of a VAS, as its history has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VasVersion {
    /// Its number.
    pub number: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The process that made it.
    pub pid: u32,
    /// The name of its program, or what is noted instead.
    pub program: String,
    /// What that said that it is for; empty if it said nothing.
    pub message: String,
    /// How many pages it has changed.
    pub pages: u64,
    /// Bytes of the segments that it has changed.
    pub size_bytes: u64,
    /// Whether it can still be opened, by its number or a tag.
    pub opens: bool,
    /// The tags of the VAS that keep just these versions.
    pub tags: Vec<String>,
    /// What the versioned segments of the VAS were at.
    pub segments: Vec<MemberVersion>,
}

/// Where to find what a VAS had at a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VasAt {
    /// In versions of its segments.
    Versions(Vec<(SegId, u64)>),
    /// In this tag of it.
    Tag(String),
}

/// A versioned segment that a VAS lists.
struct Listed {
    segment: SegmentFile,
    newest: Newest,
    kept: Vec<Kept>,
}

impl Listed {
    fn name(&self) -> &str {
        self.segment.name().as_str()
    }

    fn has(&self, member: &Member) -> bool {
        let facts = self.newest.facts_of(member.version.0);
        facts.is_some_and(|facts| facts.time_ns == member.time_ns)
    }

    /// Tags of the VAS with this version, without the VAS's name.
    fn tags<'a>(&'a self, version: u64, own: &'a str) -> impl Iterator<Item = &'a str> {
        let kept = self.kept.iter().filter(move |kept| kept.number == version && !kept.is_passing);
        kept.filter_map(move |kept| kept.tag.strip_prefix(own))
    }
}

impl Store {
    /// The commits through a VAS that the logs of its segments have, or its tags, the newest first.
    ///
    /// # Errors
    /// [`StoreError::NoVersions`] for a VAS without versioned segments; those of opening them.
    pub fn vas_history(&self, vid: VasId) -> Result<Vec<VasVersion>, StoreError> {
        let vas = self.vas(vid)?;
        let listed = self.listed(&vas)?;
        let own = format!("{}@", vas.name.as_str());
        let mut found = BTreeMap::new();
        for it in &listed {
            for (version, facts, pages) in it.newest.content().history() {
                note(&mut found, &listed, it, &vas, (version, facts, pages));
            }
            for kept in &it.kept {
                // One that cannot be read says nothing.
                let Ok(newest) = self.open_segment(kept.sid).and_then(|it| self.newest(&it)) else {
                    continue;
                };
                if let Some(facts) = newest.facts().filter(|_| newest.number() == kept.number) {
                    note(&mut found, &listed, it, &vas, (VersionNumber(kept.number), facts, 0));
                }
            }
        }
        for version in found.values_mut() {
            let mut of_each = version.segments.iter().map(|at| {
                let it = listed.iter().find(|it| Some(it.segment.sid()) == at.sid);
                it.map_or(Vec::new(), |it| it.tags(at.number, &own).map(str::to_owned).collect())
            });
            let mut tags: Vec<String> = of_each.next().unwrap_or_default();
            of_each.for_each(|other| tags.retain(|tag| other.contains(tag)));
            version.opens = !tags.is_empty() || version.segments.iter().all(|at| at.opens);
            version.tags = tags;
        }
        Ok(found.into_values().rev().collect())
    }

    /// The number of the newest commit through a VAS, if it has one.
    ///
    /// # Errors
    /// Those of opening its segments.
    pub fn vas_number(&self, vas: &VasRecord) -> Result<Option<u64>, StoreError> {
        let listed = match self.listed(vas) {
            Err(StoreError::NoVersions(_)) => return Ok(None),
            listed => listed?,
        };
        if let [only] = &listed[..]
            && has_its_numbers(&listed, vas)
        {
            return Ok(Some(only.newest.number()));
        }
        let last = listed.iter().map(|it| it.newest.content().last_number(vas.vid.raw())).max();
        Ok(last.filter(|number| *number > vas.numbers_after))
    }

    /// What the versioned segments of a VAS were at when it had a number. Of a VAS with one that is the
    /// version with that number, if no commit through the VAS says anything else.
    ///
    /// # Errors
    /// [`StoreError::NoVasVersion`]; as [`Store::vas_history`].
    pub fn vas_version(&self, vid: VasId, number: u64) -> Result<Vec<(SegId, u64)>, StoreError> {
        let history = self.vas_history(vid)?;
        let found = history.iter().find(|it| it.number == number);
        let is_there = |it: &&VasVersion| it.segments.iter().all(|at| at.opens);
        if let Some(found) = found.filter(is_there) {
            return Ok(found.segments.iter().filter_map(|at| Some((at.sid?, at.number))).collect());
        }
        let vas = self.vas(vid)?;
        // The error that names what the segment has.
        let listed = self.listed(&vas)?;
        if let [only] = &listed[..]
            && has_its_numbers(&listed, &vas)
        {
            return Ok(vec![(only.segment.sid(), number)]);
        }
        Err(no_version(&vas, &history, number))
    }

    /// The same, or the tag that keeps it if the logs have it no more.
    ///
    /// # Errors
    /// As [`Store::vas_version`].
    pub fn vas_or_tag(&self, vid: VasId, number: u64) -> Result<VasAt, StoreError> {
        match self.tag_of_number(vid, number)? {
            Some((tag, _)) => Ok(VasAt::Tag(tag)),
            None => self.vas_version(vid, number).map(VasAt::Versions),
        }
    }

    /// The tag that keeps what a VAS had at a number, if the logs have it no more.
    pub(crate) fn tag_of_number(
        &self,
        vid: VasId,
        number: u64,
    ) -> Result<Option<(String, VasId)>, StoreError> {
        let history = match self.vas_history(vid) {
            Err(StoreError::NoVersions(_)) => return Ok(None),
            history => history?,
        };
        let found = history.iter().find(|it| it.number == number);
        let Some(found) = found.filter(|it| !it.segments.iter().all(|at| at.opens)) else {
            return Ok(None);
        };
        let tags = self.vas_tags(&self.vas(vid)?.name)?;
        Ok(tags.into_iter().find(|(tag, _)| found.tags.contains(tag)))
    }

    fn listed(&self, vas: &VasRecord) -> Result<Vec<Listed>, StoreError> {
        let mut listed = Vec::new();
        for segment in self.open_listed(vas)? {
            if segment.is_versioned() && segment.header().kept.is_none() {
                let (newest, kept) = (self.newest(&segment)?, self.kept_of(segment.sid())?);
                listed.push(Listed { segment, newest, kept });
            }
        }
        if listed.is_empty() { Err(StoreError::NoVersions(vas.name.clone())) } else { Ok(listed) }
    }
}

/// Whether the versions of the only segment count as those of the VAS, under the same numbers.
fn has_its_numbers(listed: &[Listed], vas: &VasRecord) -> bool {
    listed.len() == 1 && vas.numbers_after == 0
}

/// Takes note of a version of a segment, if it was made through the VAS or has a number of it all the same.
fn note(
    found: &mut BTreeMap<u64, VasVersion>,
    listed: &[Listed],
    it: &Listed,
    vas: &VasRecord,
    (version, facts, pages): (VersionNumber, &VersionFacts, usize),
) {
    let entry = facts.entry.as_ref().filter(|entry| entry.vas == vas.vid.raw());
    let (number, members) = match entry {
        Some(entry) => (entry.number, entry.members.clone()),
        None if has_its_numbers(listed, vas) => {
            let (segment, time_ns) = (it.segment.sid().raw(), facts.time_ns);
            (version.0, vec![Member { segment, version, time_ns }])
        }
        None => return,
    };
    let is_other = |known: &VasVersion| known.time_ns != facts.time_ns && entry.is_none();
    if found.get(&number).is_some_and(is_other) {
        return;
    }
    let known = found.entry(number).or_insert_with(|| VasVersion {
        number,
        time_ns: facts.time_ns,
        pid: facts.pid,
        program: facts.program(),
        message: facts.message(),
        pages: 0,
        size_bytes: 0,
        opens: false,
        tags: Vec::new(),
        segments: members.iter().map(|member| at_member(listed, member)).collect(),
    });
    let here = known.segments.iter_mut().find(|at| at.sid == Some(it.segment.sid()));
    // A log and a tag may both have it.
    if let Some(here) = here.filter(|at| at.number == version.0 && !at.changed) {
        (here.changed, here.pages) = (true, pages as u64);
        known.pages += here.pages;
        known.size_bytes += facts.size_bytes;
    }
}

fn at_member(listed: &[Listed], member: &Member) -> MemberVersion {
    let there = listed.iter().find(|it| it.segment.sid().raw() == member.segment);
    MemberVersion {
        sid: there.map(|it| it.segment.sid()),
        segment: there.map_or(format!("{:016x}", member.segment), |it| it.name().to_owned()),
        number: member.version.0,
        changed: false,
        pages: 0,
        opens: there.is_some_and(|it| it.has(member)),
    }
}

fn no_version(vas: &VasRecord, history: &[VasVersion], number: u64) -> StoreError {
    let opening = history.iter().filter(|it| it.opens);
    let nearest = opening.min_by_key(|it| it.number.abs_diff(number));
    StoreError::NoVasVersion {
        vas: vas.name.clone(),
        number,
        nearest: nearest.map(|it| (it.number, it.tags.first().cloned())),
    }
}
