//! Whether a commit of several segments is one, when nobody who made it lives.
//!
//! Each of its records names the other segments, and the commit counts if all of them have theirs. It
//! is undecided only while its record is the last one of the last log: nobody appends behind it, closes
//! its log or drops it before it was decided. Everybody who decides finds the same: a record is whole or
//! it is not, and who finds that one is not begins a new log without their own.

use std::collections::BTreeSet;
use std::io::{ErrorKind, IoSlice};

use super::failed;
use super::files::Known;
use super::refresh::with_root;
use super::stack::Stack;
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::log::scan::Content;
use crate::page::VersionNumber;
use crate::root::FILE_NAME;

/// Takes the newest version back if it is part of a commit that is not whole in all its segments.
/// Otherwise what the others have of it is durable when this returns.
pub(super) fn decide<D: Folder>(folder: &D, stack: &mut Stack<D::File>) -> Result<()> {
    let Some(before) = stack.tail.take().filter(|_| stack.is_at_last()) else { return Ok(()) };
    let Some(joint) = stack.joints.of(stack.end.version).cloned() else { return Ok(()) };
    stack.asked = joint.others.iter().map(|(segment, _)| *segment).collect();
    // Each is read once, however often a record names it.
    let others: BTreeSet<_> = joint.others.into_iter().collect();
    for (segment, version) in others {
        let found = look(folder, segment, version, joint.id);
        // One that was deleted has no say: nobody will ever see it beside this one.
        if matches!(found, Ok(Companion::HasIt | Companion::Gone)) {
            continue;
        }
        // Also if it could not be looked at: whoever tries again reads the record again, and asks again.
        stack.end = before;
        stack.forget_behind(before.version);
        return found.map(drop);
    }
    Ok(())
}

/// What another segment has of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Companion {
    /// Its record, whole, or had it.
    HasIt,
    /// No record, or another one in its place.
    LacksIt,
    /// There is no such segment.
    Gone,
}

fn look<D: Folder>(folder: &D, segment: u64, version: VersionNumber, id: u64) -> Result<Companion> {
    let unreadable = |error| VersionsError::Companion { segment, source: Box::new(error) };
    let opened = folder.companion(segment);
    let opened = opened.map_err(|source| unreadable(failed("open", ".", source)))?;
    let Some(other) = opened else { return Ok(Companion::Gone) };
    let root_file = match other.open(FILE_NAME) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Companion::Gone),
        opened => opened.map_err(|source| unreadable(failed("open", FILE_NAME, source)))?,
    };
    let has_it = with_root(&root_file, |root| {
        let mut stack = Stack::open(&other, root, &Known(Vec::new()), Content::Trusted)?;
        stack.read_on(None, Content::Verified)?;
        stack.check_reached(None)?;
        if !stack.joints.has(version, id) {
            // While it was read its logs may have gone: then there is a memo by now.
            stack.joints.read_memos(&other)?;
            return Ok(stack.joints.has(version, id));
        }
        // It may be in the page cache and nowhere else.
        root_file.sync().map_err(|source| failed("sync", FILE_NAME, source))?;
        let is_decided = stack.end.version > version;
        let again = match is_decided {
            // Whoever has appended behind it has done so.
            true => Ok(None),
            false => folder.companion_to_repair(segment),
        };
        make_durable(again.map_err(|source| failed("open", ".", source))?, &stack)?;
        Ok(true)
    });
    let has_it = has_it.map_err(unreadable)?;
    Ok(if has_it { Companion::HasIt } else { Companion::LacksIt })
}

/// Syncs the last log of another segment. A sync of it may have failed before: then the host takes what it
/// has not written for written, and this one would prove nothing. So what the log has is written over itself
/// first, which changes nothing for anybody, whatever is being done to it meanwhile. (The logs before it, the
/// root record that names it and its own header were durable before the record was written.)
fn make_durable<D: Folder>(again: Option<D>, stack: &Stack<D::File>) -> Result<()> {
    let log = stack.current();
    let name = log.header.id.file_name();
    let sync = |file: &D::File| file.sync().map_err(|source| failed("sync", &name, source));
    let Some(folder) = again else { return sync(&log.file.file) };
    let file = match folder.open(&name) {
        // Who may not write it can only hope that no sync has failed.
        Err(error) if is_forbidden(error.kind()) => return sync(&log.file.file),
        opened => opened.map_err(|source| failed("open", &name, source))?,
    };
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = log.first.offset;
    while at < stack.end.offset {
        let bytes = (stack.end.offset - at).min(piece.len() as u64);
        let piece = &mut piece[..bytes as usize];
        file.read_at(piece, at).map_err(|source| failed("read", &name, source))?;
        let written = file.write_at(&[IoSlice::new(piece)], at);
        written.map_err(|source| failed("write", &name, source))?;
        at += bytes;
    }
    sync(&file)
}

/// How much is in memory at once.
const PIECE_BYTES: usize = 1 << 20;

fn is_forbidden(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}
