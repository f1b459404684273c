//! Putting a graph into a segment, and going in to use it.
//!
//! One VAS and one segment of the same name hold one graph; the segment's root object is the
//! graph's header. Everything that `unsafe` promises about switching is kept by one rule:
//! references into the segment exist only in closures that run between the switch in and the
//! switch home, and nothing they return borrows.

use std::mem::MaybeUninit;

use anyhow::{Context, Result, bail};
use spacejmp::sys::{
    self, Attachment, Right, SegId, SegParams, SegRoot, SegStat, VasHandle, VasId, attach,
};

use crate::edges::EdgeList;
use crate::pointers::{self, FINGERPRINT, Graph};

/// Whether queries may run beside each other, or a lock is taken that keeps others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `READ_ONLY`: any number of programs at a time.
    ReadOnly,
    /// With the right the segment has in the VAS.
    AsAttached,
}

/// How the segment is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Permission bits of both objects.
    pub mode: u32,
    /// Whether going in takes the segment's lock.
    pub is_lockable: bool,
}

/// Builds the graph in a new VAS and segment `name`. When that fails neither is left.
///
/// # Errors
/// What the calls say; `EEXIST` if there is one of that name.
pub fn store(name: &str, list: &EdgeList, options: Options) -> Result<()> {
    let params = SegParams {
        size_bytes: pointers::bytes_needed(list),
        mode: options.mode,
        lockable: u8::from(options.is_lockable),
        ..SegParams::default()
    };
    let vid =
        sys::vas_create(name, options.mode).with_context(|| format!("cannot make VAS {name}"))?;
    let made = sys::seg_alloc(name, &params).with_context(|| format!("cannot make segment {name}"));
    let result = made.as_ref().map_or(Ok(()), |&sid| fill(vid, sid, list));
    if let (Ok(_), Ok(())) = (&made, &result) {
        return Ok(());
    }
    // What went wrong first is what is reported; the next build would say what is left over.
    let _ = sys::vas_delete(vid);
    let _ = made.map(sys::seg_delete)?;
    result
}

fn fill(vid: VasId, sid: SegId, list: &EdgeList) -> Result<()> {
    sys::seg_attach(vid, sid, Right::Write).context("cannot put the segment into the VAS")?;
    let stat = sys::seg_stat(sid).context("cannot look at the segment")?;
    let vh = sys::vas_attach(vid, 0).context("cannot attach the VAS")?;
    let built = inside(vh, || {
        let start = std::ptr::with_exposed_provenance_mut::<MaybeUninit<u8>>(stat.base as usize);
        // SAFETY: inside the VAS the segment is mapped there, writable, with that many bytes, and
        // nobody else knows of it yet. The slice does not leave the closure.
        let memory = unsafe { std::slice::from_raw_parts_mut(start, stat.size_bytes as usize) };
        pointers::build(memory, list).map(|header| (&raw const *header).expose_provenance() as u64)
    });
    // Whatever came of it: what is attached cannot be deleted.
    sys::vas_detach(vh).context("cannot detach the VAS")?;
    let root = SegRoot { address: built??, fingerprint: FINGERPRINT };
    // The root last: who finds it finds a whole graph.
    sys::seg_sync(sid).context("cannot write the segment to its file")?;
    sys::seg_root_set(sid, &root).context("cannot set the root object")
}

/// Runs `work` with the graph in VAS `name`, inside it.
///
/// # Errors
/// What the calls say; if there is no graph in the VAS.
pub fn with_graph<T: 'static>(
    name: &str,
    access: Access,
    work: impl FnOnce(&Graph<'_>) -> T,
) -> Result<T> {
    let vid = sys::vas_find(name).with_context(|| format!("cannot find VAS {name}"))?;
    let (stat, root) = find_root(vid).with_context(|| format!("cannot use VAS {name}"))?;
    let flags = match access {
        Access::ReadOnly => attach::READ_ONLY,
        Access::AsAttached => 0,
    };
    let vh = sys::vas_attach(vid, flags).with_context(|| format!("cannot attach VAS {name}"))?;
    let memory = stat.base..stat.base + stat.size_bytes;
    let result = inside(vh, || {
        // SAFETY: inside the VAS the segment is mapped. A graph is not changed once it has its root
        // object, which the fingerprint says to be ours; the graph does not leave the closure.
        let graph = unsafe { Graph::open(memory, root.address) }?;
        anyhow::Ok(work(&graph))
    })??;
    sys::vas_detach(vh).context("cannot detach the VAS")?;
    Ok(result)
}

/// The first segment of the VAS whose root object is a graph.
fn find_root(vid: VasId) -> Result<(SegStat, SegRoot)> {
    let mut attachments = [Attachment::default(); 16];
    let mut cursor = 0;
    loop {
        let count =
            sys::vas_segments(vid, &mut attachments, cursor).context("cannot list its segments")?;
        if count == 0 {
            bail!("no segment of it holds a graph of this version");
        }
        for attachment in &attachments[..count] {
            let sid = SegId::new(attachment.sid).context("a segment without an id")?;
            let root = sys::seg_root_get(sid).context("cannot read a root object")?;
            if root.fingerprint == FINGERPRINT && root.address != 0 {
                let stat = sys::seg_stat(sid).context("cannot look at a segment")?;
                return Ok((stat, root));
            }
        }
        cursor += count as u64;
    }
}

/// Switches in, works, and switches home. The result owns what it holds.
fn inside<T: 'static>(vh: VasHandle, work: impl FnOnce() -> T) -> Result<T> {
    // SAFETY: the thread comes from home, where no reference into a segment exists (module
    // documentation).
    unsafe { sys::vas_switch(vh) }.context("cannot switch into the VAS")?;
    let result = work();
    // SAFETY: what `work` borrowed from the segment ended with it: its result is `'static`, and
    // its callers here return nothing that points there.
    unsafe { sys::vas_switch(VasHandle::HOME) }.context("cannot switch home")?;
    Ok(result)
}
