//! A space, opened: which VAS and segment it is, and this process's instances of it.

use std::sync::{Mutex, PoisonError};

use spacejmp::layout::Fingerprint;
use spacejmp::sys::{
    self, Attachment, Durability, Errno, Lifetime, Right, SegId, SegParams, SegRoot, VasHandle,
    VasId, attach,
};

use crate::error::Failure;
use crate::stored::TEXT;

/// Bytes of address space that a new space has: addresses, not memory.
const RESERVE: u64 = 1 << 40;
const FIRST_BYTES: u64 = 2 << 20;

/// A space.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) name: String,
    pub(crate) vid: VasId,
    pub(crate) sid: SegId,
    /// Where the segment begins, and how many bytes of addresses it has.
    pub(crate) base: u64,
    pub(crate) reserve: u64,
    /// The root object that visits rely on.
    pub(crate) root: SegRoot,
    may_write: bool,
    instances: Mutex<Instances>,
}

/// Instances in this process, attached when they are first needed.
#[derive(Debug, Default)]
struct Instances {
    is_closed: bool,
    reading: Option<VasHandle>,
    writing: Option<VasHandle>,
}

/// An instance of a VAS, read-only or not, whose segments stay as they are.
pub(crate) fn attach(vid: VasId, writes: bool) -> Result<VasHandle, Errno> {
    let right = if writes { 0 } else { attach::READ_ONLY };
    sys::vas_attach(vid, attach::PINNED | right)
}

/// What kind of root object a segment has, if any.
enum Found {
    Ours(SegId, SegRoot),
    Another,
    None,
}

fn segments(vid: VasId) -> Result<Vec<Attachment>, Errno> {
    sys::all(Attachment::default(), |buffer, cursor| sys::vas_segments(vid, buffer, cursor))
}

fn find_root(vid: VasId) -> Result<Found, Errno> {
    let mut found = Found::None;
    for attachment in segments(vid)? {
        let sid = SegId::new(attachment.sid).ok_or(Errno::EIO)?;
        let root = sys::seg_root_get(sid)?;
        if root.fingerprint == Fingerprint::of(TEXT).0 && root.address != 0 {
            return Ok(Found::Ours(sid, root));
        }
        if root.address != 0 {
            found = Found::Another;
        }
    }
    Ok(found)
}

impl Opened {
    /// The space `name`, or a version of one: `NAME@TAG`, `NAME@NUMBER`.
    pub(crate) fn find(name: &str, writes: bool) -> Result<Opened, Failure> {
        let vid = sys::vas_find(name).map_err(Failure::call("open", name))?;
        match find_root(vid).map_err(Failure::call("open", name))? {
            Found::Ours(sid, root) => Opened::of(name, vid, sid, root, writes),
            Found::Another => Err(Failure::WrongType { space: name.to_owned() }),
            Found::None => Err(Failure::NoRoot { space: name.to_owned() }),
        }
    }

    /// A VAS and a segment of this name, as far as they are not there yet; without a root object.
    pub(crate) fn make(name: &str, mode: u32, durability: Durability) -> Result<Opened, Failure> {
        let failed = || Failure::call("make", name);
        let vid = match sys::vas_create(name, mode) {
            Err(Errno::EEXIST) => sys::vas_find(name),
            made => made,
        };
        let vid = vid.map_err(failed())?;
        let params = SegParams {
            size_bytes: FIRST_BYTES,
            reserve_bytes: RESERVE,
            mode,
            lifetime: Lifetime::Versioned as u8,
            lockable: 1,
            durability: durability.raw(),
            ..SegParams::default()
        };
        let sid = match sys::seg_find(name) {
            Err(Errno::ENOENT) => match sys::seg_alloc(name, &params) {
                Err(Errno::EEXIST) => sys::seg_find(name),
                made => made,
            },
            found => found,
        };
        let sid = sid.map_err(failed())?;
        match sys::seg_attach(vid, sid, Right::Write) {
            Err(Errno::EEXIST) | Ok(()) => {}
            Err(errno) => return Err(failed()(errno)),
        }
        Opened::of(name, vid, sid, SegRoot::default(), true)
    }

    fn of(
        name: &str,
        vid: VasId,
        sid: SegId,
        root: SegRoot,
        writes: bool,
    ) -> Result<Opened, Failure> {
        let failed = || Failure::call("open", name);
        let stat = sys::seg_stat(sid).map_err(failed())?;
        if stat.lifetime != Lifetime::Versioned as u8 {
            return Err(Failure::NotVersioned { space: name.to_owned() });
        }
        let listed = segments(vid).map_err(failed())?;
        let right = listed.iter().find(|it| it.sid == sid.raw()).map(|it| it.right);
        let may_write = writes && right == Some(Right::Write.raw());
        Ok(Opened {
            name: name.to_owned(),
            vid,
            sid,
            base: stat.base,
            reserve: stat.reserve_bytes,
            root,
            may_write,
            instances: Mutex::default(),
        })
    }

    /// Whether it is a tag, or a version by its number: it never changes.
    pub(crate) fn is_one_version(&self) -> bool {
        self.name.contains('@')
    }

    pub(crate) fn may_write(&self) -> bool {
        self.may_write
    }

    /// The instance to enter.
    pub(crate) fn instance(&self, writes: bool) -> Result<VasHandle, Failure> {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if instances.is_closed {
            return Err(Failure::Visit(format!("space `{}` is closed", self.name)));
        }
        let place = if writes { &mut instances.writing } else { &mut instances.reading };
        if let Some(vh) = *place {
            return Ok(vh);
        }
        let vh = attach(self.vid, writes).map_err(Failure::call("attach", &self.name))?;
        *place = Some(vh);
        Ok(vh)
    }

    /// Detaches it, unless a thread is inside.
    pub(crate) fn close(&self) -> Result<(), Failure> {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        let Instances { is_closed, reading, writing } = &mut *instances;
        for place in [reading, writing] {
            if let Some(vh) = *place {
                match sys::vas_detach(vh) {
                    // A child that was forked has it no more, if the VAS is gone.
                    Ok(()) | Err(Errno::EBADF) => *place = None,
                    Err(errno) => return Err(Failure::call("close", &self.name)(errno)),
                }
            }
        }
        *is_closed = true;
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // With a thread inside it stays until the process ends.
        let _ = self.close();
    }
}
