//! Spaces in a VM: the VAS, its data segment, and two instances, one to read and one to write.

use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use abi::Errno;

use super::segment_heap::SegmentHeap;
use super::visit::Target;
use crate::block_owners;
use crate::error::{Error, ObjectKind, Result};
use crate::location::Location;
use crate::location::occupancy::{Occupancy, SegmentRange};
use crate::location::wait::LockMode;
use crate::objects::attached::{AttachOptions, Attached};
use crate::objects::failed;
use crate::objects::segment::{Segment, SegmentInfo};
use crate::objects::vas::Vas;
use crate::space_heap::SpaceHeap;
use crate::sys::{Lifetime, Right, SegRoot};

/// A VAS with its data segment.
#[derive(Debug)]
pub(crate) struct VmSpace {
    pub(crate) vas: Vas,
    pub(crate) segment: Segment,
    pub(crate) heap: SegmentHeap,
    /// Where the segment begins.
    pub(crate) base: u64,
    /// Bytes that it had when it was found.
    size: u64,
    pub(crate) is_versioned: bool,
    /// The root object that the space was opened or made with, once it was.
    root: Option<SegRoot>,
    pub(super) may_write: bool,
    /// Made at the first visit of the kind: a reader needs no right to write.
    shared: OnceLock<Instance>,
    exclusive: OnceLock<Instance>,
}

/// The VAS attached one way.
#[derive(Debug)]
struct Instance {
    attached: Attached,
    occupancy: Arc<Occupancy>,
}

/// Whether a segment is the data segment of a VAS by its name: that of the VAS, or what it is called in a copy
/// of the VAS (`COPY.NAME`, of a copy's copy `COPY.COPY.NAME`), or in one of its versions (`NAME@NAME@TAG`).
fn is_data_of(vas: &str, segment: &str) -> bool {
    let of_copy = |vas: &str, segment: &str| {
        segment
            .strip_prefix(vas)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|rest| !rest.is_empty())
    };
    let is_data = |vas: &str, segment: &str| segment == vas || of_copy(vas, segment);
    // A name that has the sign itself is tried first.
    is_data(vas, segment)
        || vas.rsplit_once('@').is_some_and(|(of, _)| {
            let rest = segment.strip_suffix(vas).and_then(|rest| rest.strip_suffix('@'));
            rest.is_some_and(|name| is_data_of(of, name))
                // A version of a version lists the same segment.
                || (of.contains('@') && is_data_of(of, segment))
        })
}

impl VmSpace {
    /// The VAS `vas` with the segment of the same name, which must be in it.
    pub(crate) fn new(vas: Vas, may_write: bool) -> Result<VmSpace> {
        let (segments, missing) = vas.segment_infos()?;
        let data = segments
            .iter()
            .position(|(it, _)| it.name == vas.name())
            .or_else(|| segments.iter().position(|(it, _)| is_data_of(vas.name(), &it.name)));
        let Some((info, _)) = data.and_then(|place| segments.into_iter().nth(place)) else {
            let space = vas.name().to_owned();
            return Err(match missing.first() {
                Some(&sid) => Error::SegmentLost { space, sid },
                // The program that creates it has not got that far, or never did.
                None => Error::NoRoot { space },
            });
        };
        block_owners::note(block_owners::SEGMENTS);
        let SegmentInfo { base, size, reserve, .. } = info;
        let is_versioned = info.lifetime == Some(Lifetime::Versioned);
        let segment = Segment::from_info(info);
        let heap = SegmentHeap::new(segment.clone(), base, reserve, is_versioned);
        Ok(VmSpace {
            vas,
            segment,
            heap,
            base,
            size,
            is_versioned,
            root: None,
            may_write,
            shared: OnceLock::new(),
            exclusive: OnceLock::new(),
        })
    }

    /// Whether `bytes` bytes from `address` on are inside the segment. What is in a raw one stays in it; a
    /// versioned one is as small again as it was when an old version becomes the newest, and its root object
    /// is an old one then, too ([`check_root`](VmSpace::check_root)).
    ///
    /// # Errors
    /// As [`Segment::stat`].
    pub(crate) fn holds(&self, address: u64, bytes: u64) -> Result<bool> {
        let Some(offset) = address.checked_sub(self.base) else { return Ok(false) };
        let Some(end) = offset.checked_add(bytes) else { return Ok(false) };
        // It may have grown since.
        Ok(end <= self.size || end <= self.segment.stat()?.size)
    }

    /// The same with the root object that visits from now on rely on.
    pub(crate) fn with_root(self, root: SegRoot) -> VmSpace {
        VmSpace { root: Some(root), ..self }
    }

    /// Whether the root object is the one that visits rely on. A thread inside a versioned space
    /// asks about what it sees there, whatever is committed meanwhile.
    ///
    /// # Errors
    /// [`Error::Changed`]; as [`Segment::root`].
    fn check_root(&self) -> Result<()> {
        match self.root {
            Some(root) if self.segment.root()? != root => {
                Err(Error::Changed { space: self.vas.name().to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Called in each visit. The version that it sees may be a rollback to one before the root object
    /// was made, or one in which another program has made another root object since. The root of
    /// a raw segment is set once; what happens to it while nobody has it attached is found by `attach`.
    ///
    /// The heap has a note of the root object, which is part of each version as the root object is, so
    /// that most visits do not ask the VMM. A number of the version would not save that: every
    /// commit of others changes it.
    ///
    /// # Errors
    /// As `check_root`.
    ///
    /// # Safety
    /// The thread is inside the space.
    #[inline]
    pub(crate) unsafe fn check_root_of_visit(&self) -> Result<()> {
        if !self.is_versioned {
            return Ok(());
        }
        // SAFETY: the caller's promise; a root object is in a heap.
        let is_noted = self.root.is_some_and(|root| unsafe { self.heap.has_noted(&root) });
        if is_noted { Ok(()) } else { self.check_root() }
    }

    /// Where to go for such access.
    pub(crate) fn target(&self, access: LockMode) -> Result<Target> {
        let place = match access {
            LockMode::Shared => &self.shared,
            LockMode::Exclusive => &self.exclusive,
        };
        let instance = match place.get() {
            Some(instance) => instance,
            None => {
                let fresh = self.attach(access)?;
                // Another thread may have been quicker: its instance serves as well, and ours is
                // dropped.
                place.get_or_init(|| fresh)
            }
        };
        let heap: Option<NonNull<dyn SpaceHeap>> = Some(NonNull::from(&self.heap));
        let occupancy = Some(NonNull::from(&*instance.occupancy));
        let location = Location { vh: instance.attached.handle(), plain: None, occupancy };
        let (sid, is_versioned) = (Some(self.segment.id()), self.is_versioned);
        Ok(Target { location, heap, sid, is_versioned })
    }

    /// The content of the instance is checked after attaching it: it is pinned, so that a switch
    /// into it fails as soon as the VAS differs from what is seen here.
    #[cold]
    fn attach(&self, access: LockMode) -> Result<Instance> {
        let space = || self.vas.name().to_owned();
        let no_right = || failed("write to", ObjectKind::Vas, space())(Errno::EACCES);
        let options = AttachOptions::new().pinned();
        let options = match access {
            LockMode::Shared => options.read_only(),
            LockMode::Exclusive if self.may_write => options,
            LockMode::Exclusive => return Err(no_right()),
        };
        let attached = self.vas.attach(&options)?;
        let (segments, _) = self.vas.segment_infos()?;
        let data = segments.iter().find(|(info, _)| info.id == self.segment.id());
        let Some((info, right)) = data else { return Err(Error::Changed { space: space() }) };
        if access == LockMode::Exclusive && *right != Right::Write {
            return Err(no_right());
        }
        if !info.lockable {
            return Err(Error::NotLockable { space: space() });
        }
        // As long as nobody had it attached it could be converted, and rolled back before it was
        // converted back.
        if (info.lifetime == Some(Lifetime::Versioned)) != self.is_versioned {
            return Err(Error::Changed { space: space() });
        }
        // Of a versioned one each visit checks it.
        if !self.is_versioned {
            self.check_root()?;
        }
        let ranges = segments.iter().map(|(info, _)| SegmentRange {
            sid: info.id.raw(),
            addresses: info.base..info.base.saturating_add(info.reserve),
        });
        Ok(Instance { attached, occupancy: Occupancy::new(ranges.collect()) })
    }
}

#[cfg(test)]
mod tests {
    use super::is_data_of;

    #[test]
    fn the_data_segment_has_the_name_of_the_vas_also_in_copies_and_versions() {
        for (vas, segment) in [
            ("bank", "bank"),
            ("copy", "copy.bank"),
            ("third", "third.copy.bank"),
            ("bank@monday", "bank@bank@monday"),
            ("copy@monday", "copy.bank@copy@monday"),
            ("odd@name", "odd@name"),
            ("odd@name@monday", "odd@name@odd@name@monday"),
            ("bank@monday@noon", "bank@bank@monday"),
        ] {
            assert!(is_data_of(vas, segment), "{vas}: {segment}");
        }
        for (vas, segment) in [
            ("bank", "banker"),
            ("copy", "copy."),
            ("copy", "copybank"),
            ("bank", "bank@bank@monday"),
            ("bank@monday", "bank"),
            ("bank@monday", "other@bank@monday"),
            ("bank@monday", "bank@bank@tuesday"),
            ("bank@monday", "@bank@monday"),
            ("bank@monday@noon", "bank@bank@monday@noon"),
        ] {
            assert!(!is_data_of(vas, segment), "{vas}: {segment}");
        }
    }
}
