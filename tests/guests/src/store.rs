//! Setting up what a program needs, and listing everything in the store.

use abi::Errno;
use spacejmp::sys::{
    self, Attachment, EMPTY_SEG_STAT, EMPTY_VAS_STAT, Right, SegId, SegParams, SegStat, VasId,
    VasStat,
};

use crate::findings::must;

/// Parameters of a segment of `size_bytes`, readable and writable by its owner only.
#[must_use]
pub fn sized(size_bytes: u64) -> SegParams {
    SegParams { size_bytes, mode: 0o600, ..SegParams::default() }
}

/// The VAS `name` with one segment `name` as `params` say: found, or created if it does not
/// exist. Several VMs may do this at the same time; all get the same two objects.
///
/// # Panics
/// If it can neither be found nor created.
#[must_use]
pub fn find_or_make(name: &str, params: &SegParams) -> (VasId, SegId) {
    if name.contains('@') {
        // A kept version, which nobody makes by its name.
        return (must("vas_find", sys::vas_find(name)), must("seg_find", sys::seg_find(name)));
    }
    let sid = match sys::seg_alloc(name, params) {
        Err(Errno::EEXIST) => must("seg_find", sys::seg_find(name)),
        made => must("seg_alloc", made),
    };
    let vid = match sys::vas_create(name, 0o600) {
        Err(Errno::EEXIST) => must("vas_find", sys::vas_find(name)),
        made => must("vas_create", made),
    };
    match sys::seg_attach(vid, sid, Right::Write) {
        // Another VM was faster.
        Ok(()) | Err(Errno::EEXIST) => {}
        // It cannot be changed, and has it.
        Err(Errno::EACCES) if has(vid, sid) => {}
        Err(error) => panic!("seg_attach: {error:?}"),
    }
    (vid, sid)
}

fn has(vid: VasId, sid: SegId) -> bool {
    segments_of(vid).is_ok_and(|segments| segments.iter().any(|it| it.sid == sid.raw()))
}

/// Where the segment begins.
///
/// # Panics
/// If there is no such segment.
#[must_use]
pub fn base_of(sid: SegId) -> u64 {
    must("seg_stat", sys::seg_stat(sid)).base
}

/// All VASes, in the order of their names.
///
/// # Errors
/// As `vas_list`.
pub fn all_vases() -> Result<Vec<VasStat>, Errno> {
    all(EMPTY_VAS_STAT, sys::vas_list)
}

/// All segments, in the order of their names.
///
/// # Errors
/// As `seg_list`.
pub fn all_segments() -> Result<Vec<SegStat>, Errno> {
    all(EMPTY_SEG_STAT, sys::seg_list)
}

/// All segments of a VAS.
///
/// # Errors
/// As `vas_segments`.
pub fn segments_of(vid: VasId) -> Result<Vec<Attachment>, Errno> {
    all(Attachment::default(), |buffer, cursor| sys::vas_segments(vid, buffer, cursor))
}

fn all<T: Copy>(
    empty: T,
    mut list: impl FnMut(&mut [T], u64) -> Result<usize, Errno>,
) -> Result<Vec<T>, Errno> {
    // An odd, small buffer: this also tests continuing from a cursor.
    let mut buffer = [empty; 7];
    let mut found = Vec::new();
    loop {
        let count = list(&mut buffer, found.len() as u64)?;
        if count == 0 {
            return Ok(found);
        }
        found.extend_from_slice(&buffer[..count]);
    }
}

/// Everything that calls can change and observe: the store, and where the thread is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    vases: Vec<VasStat>,
    segments: Vec<SegStat>,
    attachments: Vec<Vec<Attachment>>,
    current: sys::VasHandle,
}

impl Picture {
    /// Takes the snapshot. VASes that may not be read count as empty.
    ///
    /// # Panics
    /// If the store cannot be listed.
    #[must_use]
    pub fn take() -> Picture {
        let vases = must("vas_list", all_vases());
        let segments_of = |vas: &VasStat| {
            VasId::new(vas.vid).and_then(|vid| segments_of(vid).ok()).unwrap_or_default()
        };
        let mut segments = must("seg_list", all_segments());
        // Writing to memory changes it, and is not a call.
        segments.iter_mut().for_each(|segment| segment.stored_bytes = 0);
        Picture {
            attachments: vases.iter().map(segments_of).collect(),
            vases,
            segments,
            current: must("vas_current", sys::vas_current()),
        }
    }

    /// The differences, as text; `None` if there are none.
    #[must_use]
    pub fn difference(&self, later: &Picture) -> Option<String> {
        if self == later {
            return None;
        }
        let names = |picture: &Picture| {
            let vases = picture.vases.iter().map(|vas| text(&vas.name));
            let segments = picture.segments.iter().map(|segment| text(&segment.name));
            (vases.collect::<Vec<_>>(), segments.collect::<Vec<_>>())
        };
        let (before, after) = (names(self), names(later));
        Some(match before == after {
            true => format!("same names, other details: {self:?} became {later:?}"),
            false => format!("{before:?} became {after:?}"),
        })
    }
}

/// A name of a `VasStat` or `SegStat` as text.
#[must_use]
pub fn text(name: &[u8; 256]) -> String {
    String::from_utf8_lossy(sys::name_bytes(name)).into_owned()
}
