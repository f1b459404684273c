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
use crate::sys::{Lifetime, Right};

/// A VAS with its data segment.
#[derive(Debug)]
pub(crate) struct VmSpace {
    pub(crate) vas: Vas,
    pub(crate) segment: Segment,
    pub(crate) heap: SegmentHeap,
    /// Where the segment begins.
    pub(crate) base: u64,
    /// Its size when it was found; segments grow, and never shrink.
    size_at_first: u64,
    pub(crate) is_versioned: bool,
    may_write: bool,
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

impl VmSpace {
    /// The VAS `vas` with the segment of the same name, which must be in it.
    pub(crate) fn new(vas: Vas, may_write: bool) -> Result<VmSpace> {
        let (segments, missing) = vas.segment_infos()?;
        let Some((info, _)) = segments.into_iter().find(|(it, _)| it.name == vas.name()) else {
            let space = vas.name().to_owned();
            return Err(match missing.first() {
                Some(&sid) => Error::SegmentLost { space, sid },
                // The program that creates it has not got that far, or never did.
                None => Error::NoRoot { space },
            });
        };
        block_owners::note(block_owners::SEGMENTS);
        let SegmentInfo { base, reserve, size, .. } = info;
        let is_versioned = info.lifetime == Some(Lifetime::Versioned);
        let segment = Segment::from_info(info);
        let heap = SegmentHeap::new(segment.clone(), base, reserve);
        Ok(VmSpace {
            vas,
            segment,
            heap,
            base,
            size_at_first: size,
            is_versioned,
            may_write,
            shared: OnceLock::new(),
            exclusive: OnceLock::new(),
        })
    }

    /// Whether `bytes` bytes from `address` on are inside the segment.
    ///
    /// # Errors
    /// As [`Segment::stat`], which is asked only if the segment was too small at first.
    pub(crate) fn holds(&self, address: u64, bytes: u64) -> Result<bool> {
        let Some(end) = address.checked_add(bytes) else { return Ok(false) };
        let reaches = |size| end <= self.base + size;
        Ok(address >= self.base
            && (reaches(self.size_at_first) || reaches(self.segment.stat()?.size)))
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
        let heap: NonNull<dyn SpaceHeap> = NonNull::from(&self.heap);
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
        let ranges = segments.iter().map(|(info, _)| SegmentRange {
            sid: info.id.raw(),
            addresses: info.base..info.base.saturating_add(info.reserve),
        });
        Ok(Instance { attached, occupancy: Occupancy::new(ranges.collect()) })
    }
}
