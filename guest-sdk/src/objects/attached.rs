//! Instances of address spaces in this process.

use super::failed;
use super::segment::Segment;
use crate::error::{ObjectKind, Result};
use crate::sys::{self, Right, VasHandle, attach, vas_command};

/// How a VAS is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct AttachOptions {
    flags: u64,
}

impl AttachOptions {
    /// Every segment with its right in the VAS, with a TLB tag, tables as they are needed.
    pub fn new() -> AttachOptions {
        AttachOptions::default()
    }

    /// Every segment read-only, whatever the VAS says: shared locks.
    pub fn read_only(self) -> AttachOptions {
        AttachOptions { flags: self.flags | attach::READ_ONLY }
    }

    /// Without a TLB tag: every switch into the instance empties the TLB.
    pub fn without_tag(self) -> AttachOptions {
        AttachOptions { flags: self.flags | attach::NO_TAG }
    }

    /// Page tables for the whole of every segment are built immediately.
    pub fn populate(self) -> AttachOptions {
        AttachOptions { flags: self.flags | attach::POPULATE }
    }

    /// With the segments that the VAS has now, for good: when it loses one, or has it with another
    /// right, a switch into the instance is `ESTALE`.
    pub(crate) fn pinned(self) -> AttachOptions {
        AttachOptions { flags: self.flags | attach::PINNED }
    }

    /// Its number is reused when it is detached, so only its owner may do that.
    pub(crate) fn flags(self) -> u64 {
        self.flags | attach::OWNED
    }
}

/// An instance of a VAS in this process, detached when it is dropped.
///
/// A thread that is inside while it is dropped keeps it attached, until the process ends; nothing
/// is unmapped under any thread. Switching into it is [`vas_switch`](sys::vas_switch), which is
/// `unsafe`; [`crate::Space`] has instances of its own.
#[derive(Debug)]
pub struct Attached {
    vh: VasHandle,
    name: String,
}

impl Attached {
    pub(crate) fn new(vh: VasHandle, name: String) -> Attached {
        Attached { vh, name }
    }

    /// The handle, for as long as this lives: no other part of the program can detach it.
    #[must_use]
    pub fn handle(&self) -> VasHandle {
        self.vh
    }

    /// Puts a segment into this instance only.
    ///
    /// # Errors
    /// As [`seg_attach_local`](sys::seg_attach_local).
    pub fn attach_segment(&self, segment: &Segment, right: Right) -> Result<()> {
        let attached = sys::seg_attach_local(self.vh, segment.id(), right);
        attached.map_err(failed("attach", ObjectKind::Segment, segment.name()))
    }

    /// Takes a segment out that was put into this instance only.
    ///
    /// # Errors
    /// As [`seg_detach_local`](sys::seg_detach_local): `EBUSY` while a thread is inside.
    pub fn detach_segment(&self, segment: &Segment) -> Result<()> {
        let detached = sys::seg_detach_local(self.vh, segment.id());
        detached.map_err(failed("detach", ObjectKind::Segment, segment.name()))
    }

    /// Sets whether this instance has a TLB tag, from now on.
    ///
    /// # Errors
    /// As [`vas_ctl`](sys::vas_ctl): `EBUSY` while a thread is inside.
    pub fn set_tagged(&self, tagged: bool) -> Result<()> {
        let set = sys::vas_ctl(vas_command::SET_INSTANCE_TAGGED, self.vh.raw(), tagged.into());
        set.map_err(failed("set the tag of", ObjectKind::Vas, &self.name))
    }

    /// Detaches it now and returns whether that worked.
    ///
    /// # Errors
    /// As [`vas_detach`](sys::vas_detach): `EBUSY` while a thread is inside. It stays attached
    /// until the process ends then.
    pub fn detach(self) -> Result<()> {
        let mut this = std::mem::ManuallyDrop::new(self);
        let name = std::mem::take(&mut this.name);
        sys::vas_detach_owned(this.vh).map_err(failed("detach", ObjectKind::Vas, name))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // With a thread inside (`EBUSY`) it stays, as documented. Nothing else can go wrong.
        let _ = sys::vas_detach_owned(self.vh);
    }
}
