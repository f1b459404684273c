//! Spaces in a VM: the VAS, its data segment, and two instances, one to read and one to write.

use std::sync::OnceLock;

use abi::Errno;

use super::seat::{Access, Seat};
use super::segment_heap::SegmentHeap;
use super::visit::Target;
use crate::alloc::SpaceHeap;
use crate::error::{Error, Kind, Result};
use crate::objects::attached::{AttachOptions, Attached};
use crate::objects::segment::{Segment, SegmentInfo};
use crate::objects::vas::Vas;
use crate::scope;
use crate::sys::Right;
use std::ptr::NonNull;

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
    right: Right,
    may_write: bool,
    /// Made at the first visit of the kind: a reader needs no right to write.
    shared: OnceLock<Attached>,
    exclusive: OnceLock<Attached>,
}

impl VmSpace {
    /// The VAS `vas` with the segment of the same name, which must be in it.
    pub(crate) fn new(vas: Vas, may_write: bool) -> Result<VmSpace> {
        let segments = vas.segment_infos()?;
        let Some((info, right)) = segments.into_iter().find(|(it, _)| it.name == vas.name()) else {
            // The one who makes it is not that far, or never came that far.
            return Err(Error::NoRoot { space: vas.name().to_owned() });
        };
        scope::note(scope::SEGMENTS);
        let SegmentInfo { base, reserve, size, .. } = info;
        let segment = Segment::from_info(info);
        let heap = SegmentHeap::new(segment.clone(), base, reserve);
        Ok(VmSpace {
            vas,
            segment,
            heap,
            base,
            size_at_first: size,
            right,
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
    pub(crate) fn target(&self, access: Access) -> Result<Target> {
        let attached = match access {
            Access::Shared => &self.shared,
            Access::Exclusive => &self.exclusive,
        };
        let vh = match attached.get() {
            Some(attached) => attached.handle(),
            None => {
                let fresh = self.attach(access)?;
                // Another thread may have been quicker: its instance is as good, and ours goes.
                attached.get_or_init(|| fresh).handle()
            }
        };
        let heap: NonNull<dyn SpaceHeap> = NonNull::from(&self.heap);
        Ok(Target { seat: Seat { vh, plain: None }, heap, sid: Some(self.segment.id()) })
    }

    #[cold]
    fn attach(&self, access: Access) -> Result<Attached> {
        let options = match access {
            Access::Shared => AttachOptions::new().read_only(),
            Access::Exclusive if self.may_write && self.right == Right::Write => {
                AttachOptions::new()
            }
            Access::Exclusive => {
                return Err(Error::Call {
                    verb: "write to",
                    kind: Kind::Vas,
                    name: self.vas.name().to_owned(),
                    errno: Errno::EACCES,
                });
            }
        };
        let attached = self.vas.attach(&options)?;
        // Looked at while it is attached, when it cannot be changed any more.
        if !self.segment.stat()?.lockable {
            return Err(Error::NotLockable { space: self.vas.name().to_owned() });
        }
        Ok(attached)
    }
}
