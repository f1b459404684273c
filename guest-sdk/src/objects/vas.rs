//! Address spaces.

use abi::Errno;

use super::attached::{AttachOptions, Attached};
use super::segment::{Segment, SegmentInfo};
use super::{failed, name};
use crate::error::{ObjectKind, Result};
use crate::sys::{self, Attachment, EMPTY_VAS_STAT, Right, SegId, VasId, VasStat, vas_command};

/// A VAS: an address space with a name, which exists until it is deleted.
///
/// ```no_run
/// use spacejmp::{Right, Segment, Vas};
///
/// let vas = Vas::options().mode(0o640).open_or_create("genome")?;
/// let reads = Segment::options(1 << 30).create("reads")?;
/// vas.attach_segment(&reads, Right::Write)?;
/// # Ok::<_, spacejmp::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Vas {
    id: VasId,
    name: String,
}

/// How a VAS is made.
#[derive(Debug, Clone)]
#[must_use]
pub struct VasOptions {
    mode: u32,
}

/// What is known of a VAS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VasInfo {
    /// Its id.
    pub id: VasId,
    /// Its name.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    /// How many segments it has.
    pub segments: u32,
    /// Live VMs that have it attached.
    pub attachers: u32,
    /// Whether instances get TLB tags.
    pub tagged: bool,
    /// What the caller may do with it; `None`: nothing.
    pub access: Option<Right>,
}

impl VasInfo {
    fn new(stat: &VasStat) -> Option<VasInfo> {
        Some(VasInfo {
            id: VasId::new(stat.vid)?,
            name: name(&stat.name),
            mode: stat.mode,
            segments: stat.segments,
            attachers: stat.attachers,
            tagged: stat.tagged != 0,
            access: Right::from_raw(stat.access.into()),
        })
    }
}

impl VasOptions {
    /// Permission bits, as for a file; `umask` applies. Without it `0o600`.
    pub fn mode(mut self, mode: u32) -> VasOptions {
        self.mode = mode;
        self
    }

    /// Makes an empty VAS.
    ///
    /// # Errors
    /// As [`vas_create`](sys::vas_create): `EEXIST` if there is one of that name.
    pub fn create(&self, name: &str) -> Result<Vas> {
        let id =
            sys::vas_create(name, self.mode).map_err(failed("create", ObjectKind::Vas, name))?;
        Ok(Vas { id, name: name.to_owned() })
    }

    /// Finds the VAS, or makes it if there is none.
    ///
    /// # Errors
    /// As [`create`](VasOptions::create) and [`Vas::find`].
    pub fn open_or_create(&self, name: &str) -> Result<Vas> {
        match self.create(name) {
            Err(err) if err.errno() == Some(Errno::EEXIST) => Vas::find(name),
            other => other,
        }
    }
}

impl Vas {
    /// How to make a VAS.
    pub fn options() -> VasOptions {
        VasOptions { mode: 0o600 }
    }

    /// Makes an empty VAS that only its owner may use.
    ///
    /// # Errors
    /// As [`VasOptions::create`].
    pub fn create(name: &str) -> Result<Vas> {
        Vas::options().create(name)
    }

    /// The VAS of that name; also a tag (`NAME@TAG`), or a version that its log still has
    /// (`NAME@NUMBER`).
    ///
    /// # Errors
    /// As [`vas_find`](sys::vas_find): `ENOENT` if there is none.
    pub fn find(name: &str) -> Result<Vas> {
        let id = sys::vas_find(name).map_err(failed("find", ObjectKind::Vas, name))?;
        Ok(Vas { id, name: name.to_owned() })
    }

    /// All VASes of the store, in the order of their names.
    ///
    /// # Errors
    /// As [`vas_list`](sys::vas_list).
    pub fn list() -> Result<Vec<VasInfo>> {
        let stats = sys::all(EMPTY_VAS_STAT, sys::vas_list);
        let stats = stats.map_err(failed("list", ObjectKind::Store, "address spaces"))?;
        Ok(stats.iter().filter_map(VasInfo::new).collect())
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> VasId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of it.
    ///
    /// # Errors
    /// As [`vas_stat`](sys::vas_stat).
    pub fn stat(&self) -> Result<VasInfo> {
        let stat = sys::vas_stat(self.id).map_err(self.failed("look at"))?;
        VasInfo::new(&stat).ok_or_else(|| self.failed("look at")(Errno::EIO))
    }

    /// A new VAS with copies of the segments, called `name.SEGMENT`: all of them as they are at one
    /// moment between two visits of writers.
    ///
    /// # Errors
    /// As [`vas_clone`](sys::vas_clone).
    pub fn copy_as(&self, name: &str) -> Result<Vas> {
        let id = sys::vas_clone(self.id, name, sys::clone::COPY).map_err(self.failed("copy"))?;
        Ok(Vas { id, name: name.to_owned() })
    }

    /// What was committed last to its versioned segments, of one moment, kept as the VAS `NAME@tag`,
    /// which can be attached to be read.
    ///
    /// # Errors
    /// As [`vas_tag`](sys::vas_tag).
    pub fn tag(&self, tag: &str) -> Result<Vas> {
        let id = sys::vas_tag(self.id, tag).map_err(self.failed("tag"))?;
        Ok(Vas { id, name: format!("{}@{tag}", self.name) })
    }

    /// A new VAS with the same segments, shared, not copied.
    ///
    /// # Errors
    /// As [`vas_clone`](sys::vas_clone).
    pub fn clone_as(&self, name: &str) -> Result<Vas> {
        let id = sys::vas_clone(self.id, name, 0).map_err(self.failed("clone"))?;
        Ok(Vas { id, name: name.to_owned() })
    }

    /// Deletes it; its segments stay.
    ///
    /// # Errors
    /// As [`vas_delete`](sys::vas_delete): `EBUSY` while a process has it attached.
    pub fn delete(self) -> Result<()> {
        sys::vas_delete(self.id).map_err(self.failed("delete"))
    }

    /// Its segments and what may be done with them here, in the order of their addresses. One that
    /// was deleted meanwhile is left out.
    ///
    /// # Errors
    /// As [`vas_segments`](sys::vas_segments) and [`seg_stat`](sys::seg_stat).
    pub fn segments(&self) -> Result<Vec<(Segment, Right)>> {
        let (found, _) = self.segment_infos()?;
        Ok(found.into_iter().map(|(info, right)| (Segment::from_info(info), right)).collect())
    }

    /// As [`Vas::segments`], with all that is known of them, and which are not in the store: lost,
    /// or volatile and freed with their last user.
    pub(crate) fn segment_infos(&self) -> Result<(Vec<(SegmentInfo, Right)>, Vec<SegId>)> {
        let list = |buffer: &mut [Attachment], cursor| sys::vas_segments(self.id, buffer, cursor);
        let found =
            sys::all(Attachment::default(), list).map_err(self.failed("list segments of"))?;
        let (mut infos, mut missing) = (Vec::new(), Vec::new());
        for attachment in found {
            let (id, right) = (SegId::new(attachment.sid), Right::from_raw(attachment.right));
            let (Some(id), Some(right)) = (id, right) else { continue };
            match sys::seg_stat(id) {
                Ok(stat) => infos.extend(SegmentInfo::new(&stat).map(|info| (info, right))),
                Err(Errno::ENOENT) => missing.push(id),
                Err(errno) => return Err(self.failed("list segments of")(errno)),
            }
        }
        Ok((infos, missing))
    }

    /// Takes out what is listed and is not in the store: volatile segments that their last user has freed, for which the
    /// VAS could not be attached. Their ids are not given to others.
    pub(crate) fn forget_missing(&self) -> Result<()> {
        let (_, missing) = self.segment_infos()?;
        for sid in missing {
            match sys::seg_detach(self.id, sid) {
                // Another program was quicker.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(self.failed("take a lost segment out of")(errno)),
            }
        }
        Ok(())
    }

    /// Puts a segment into the VAS, for every process that has it attached or will.
    ///
    /// # Errors
    /// As [`seg_attach`](sys::seg_attach): `EEXIST` if it overlaps another one.
    pub fn attach_segment(&self, segment: &Segment, right: Right) -> Result<()> {
        let attached = sys::seg_attach(self.id, segment.id(), right);
        attached.map_err(failed("attach", ObjectKind::Segment, segment.name()))
    }

    /// Takes a segment out of the VAS, for all processes.
    ///
    /// # Errors
    /// As [`seg_detach`](sys::seg_detach): `EBUSY` while a thread is inside.
    pub fn detach_segment(&self, segment: &Segment) -> Result<()> {
        let detached = sys::seg_detach(self.id, segment.id());
        detached.map_err(failed("detach", ObjectKind::Segment, segment.name()))
    }

    /// Sets the permission bits.
    ///
    /// # Errors
    /// As [`vas_ctl`](sys::vas_ctl): `EPERM` if the caller is not the owner.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        let set = sys::vas_ctl(vas_command::SET_MODE, self.id.raw(), u64::from(mode));
        set.map_err(self.failed("set the mode of"))
    }

    /// Sets whether instances that are made later get TLB tags.
    ///
    /// # Errors
    /// As [`vas_ctl`](sys::vas_ctl).
    pub fn set_tagged(&self, tagged: bool) -> Result<()> {
        let set = sys::vas_ctl(vas_command::SET_TAGGED, self.id.raw(), u64::from(tagged));
        set.map_err(self.failed("set the tags of"))
    }

    /// Makes an instance of it for this process.
    ///
    /// # Errors
    /// As [`vas_attach`](sys::vas_attach).
    pub fn attach(&self, options: &AttachOptions) -> Result<Attached> {
        let vh = sys::vas_attach(self.id, options.flags()).map_err(self.failed("attach"))?;
        Ok(Attached::new(vh, self.name.clone()))
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(Errno) -> crate::Error {
        failed(verb, ObjectKind::Vas, &self.name)
    }
}
