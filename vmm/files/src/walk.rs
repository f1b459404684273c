//! The slow walk: one component at a time through the guest's entire tree.
//!
//! Needed where a path crosses from a grant into another part of the tree: `..` above the
//! directory it started from, absolute links, grants inside grants. `..` is never opened;
//! the walk keeps open the directories it has passed and steps back to them, so renaming
//! a directory meanwhile cannot lead it out of a grant. Each step down is a `cap-std` open
//! of one plain name that must not be a link.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use abi::Errno;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use rustix::fs::Mode;

use super::namespace::Namespace;
use super::resolve::{Base, HostAt, Last, MAX_LINKS, Resolved, Target, components, in_memory};
use super::tree::{Child, GrantRoot, Leaf, Mount, NodeId};
use super::way::{UP, names_below, same};
use super::{confined, host};

/// One directory the walk came through.
#[derive(Clone)]
struct Position {
    /// Set where the tree has an entry for this directory.
    node: Option<NodeId>,
    /// Set inside a grant.
    host: Option<(Arc<GrantRoot>, Arc<Dir>)>,
}

enum Down {
    Dir(Dir),
    Link(Vec<u8>),
}

impl Namespace {
    /// Resolves `parts` from `start`; the last component is not followed.
    pub(super) fn walk(
        &self,
        start: &Base,
        parts: &[&[u8]],
        slash: bool,
    ) -> Result<Resolved, Errno> {
        let mut stack = self.stack_of(start)?;
        let mut todo: VecDeque<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let mut links = 0;
        let mut last = Last::Dot;
        while let Some(part) = todo.pop_front() {
            let end = todo.is_empty();
            last = match part.as_slice() {
                b"." => Last::Dot,
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    Last::DotDot
                }
                name => {
                    let here = stack.last().ok_or(Errno::EIO)?;
                    let child = here.node.and_then(|id| self.child(id, name));
                    let next = match child {
                        Some(Child::Leaf(leaf)) if end && !slash => {
                            return Ok(Resolved::At(Target::Leaf(leaf)));
                        }
                        Some(Child::Leaf(Leaf::Link(link))) => {
                            let rest: Vec<&[u8]> = todo.iter().map(Vec::as_slice).collect();
                            return Ok(Resolved::through(link, &rest, slash));
                        }
                        Some(Child::Leaf(_)) => return Err(Errno::ENOTDIR),
                        Some(Child::Dir(id)) => Some(self.enter(here, id, name)?),
                        None => None,
                    };
                    match (next, &here.host) {
                        (Some(next), _) => {
                            stack.push(next);
                            Last::Root
                        }
                        (None, Some((grant, dir))) if end => {
                            return Ok(Resolved::At(Target::Host(HostAt::new(
                                grant.clone(),
                                dir.clone(),
                                Last::Name { name: part, slash },
                            ))));
                        }
                        (None, Some((grant, dir))) => {
                            match down(dir, name)? {
                                Down::Dir(child) => stack.push(Position {
                                    node: None,
                                    host: Some((grant.clone(), Arc::new(child))),
                                }),
                                Down::Link(text) => {
                                    links += 1;
                                    if links > MAX_LINKS {
                                        return Err(Errno::ELOOP);
                                    }
                                    if text.starts_with(b"/") {
                                        stack.truncate(1);
                                    }
                                    for part in components(&text).0.into_iter().rev() {
                                        todo.push_front(part.to_vec());
                                    }
                                }
                            }
                            Last::Dot
                        }
                        (None, None) if name.len() > 255 => return Err(Errno::ENAMETOOLONG),
                        (None, None)
                            if let Some(dir) = here.node.and_then(|id| self.tree.memory(id)) =>
                        {
                            return in_memory(dir, name, end && !slash);
                        }
                        (None, None) => {
                            match here.node.map_or(Errno::ENOENT, |id| self.without(id)) {
                                Errno::ENOENT if end => return Ok(Resolved::At(Target::Absent)),
                                errno => return Err(errno),
                            }
                        }
                    }
                }
            };
        }
        let here = stack.pop().ok_or(Errno::EIO)?;
        Ok(Resolved::At(match here {
            Position { host: Some((grant, dir)), .. } => {
                Target::Host(HostAt::new(grant, dir, last))
            }
            Position { node, .. } => Target::Node(node.unwrap_or(NodeId::ROOT)),
        }))
    }

    /// The position of a child node of the tree, seen from `here`.
    fn enter(&self, here: &Position, id: NodeId, name: &[u8]) -> Result<Position, Errno> {
        let host = match (&self.tree.node(id).mount, &here.host) {
            (Mount::Grant(grant), _) => Some((grant.clone(), grant.dir.clone())),
            (Mount::Through, Some((grant, dir))) => match down(dir, name) {
                Ok(Down::Dir(child)) => Some((grant.clone(), Arc::new(child))),
                // The way to an inner grant must exist whatever the outer one has there.
                Ok(Down::Link(_)) | Err(Errno::ENOENT | Errno::ENOTDIR) => None,
                Err(errno) => return Err(errno),
            },
            _ => None,
        };
        let node = Some(id);
        Ok(Position { node, host })
    }

    /// The directories from the guest's root down to `base`, all open.
    fn stack_of(&self, base: &Base) -> Result<Vec<Position>, Errno> {
        let root = match &self.tree.node(NodeId::ROOT).mount {
            Mount::Grant(grant) => Some((grant.clone(), grant.dir.clone())),
            _ => None,
        };
        let mut stack = vec![Position { node: Some(NodeId::ROOT), host: root }];
        // A directory that was removed has no name, but on Linux the one it was in is still `..`.
        let mut removed = Vec::new();
        let (path, bottom) = match base {
            Base::Node(id) => (self.path(*id), None),
            Base::Host(grant, dir) => {
                let mut dir = dir.clone();
                loop {
                    match self.path_of(grant, &dir) {
                        Err(Errno::ENOENT) if let Some(above) = above_removed(&dir)? => {
                            let host = Some((grant.clone(), std::mem::replace(&mut dir, above)));
                            removed.push(Position { node: None, host });
                        }
                        path => break (path?, Some(dir)),
                    }
                }
            }
        };
        for name in components(&path).0 {
            let here = stack.last().ok_or(Errno::EIO)?;
            let child = here.node.and_then(|id| self.child(id, name));
            let next = match (child, &here.host) {
                (Some(Child::Dir(id)), _) => self.enter(here, id, name)?,
                (None, Some((grant, dir))) => match down(dir, name)? {
                    Down::Dir(child) => {
                        Position { node: None, host: Some((grant.clone(), Arc::new(child))) }
                    }
                    Down::Link(_) => return Err(Errno::ENOENT),
                },
                _ => return Err(Errno::ENOENT),
            };
            stack.push(next);
        }
        if let Some(dir) = bottom {
            // The path was the kernel's answer a moment ago; what it leads to now decides.
            match stack.last() {
                Some(Position { host: Some((_, there)), .. }) if same(there, &dir)? => {}
                _ => return Err(Errno::ENOENT),
            }
        }
        stack.extend(removed.into_iter().rev());
        Ok(stack)
    }

    /// The guest path of an open directory of a grant, as of now. It may be longer than a program's paths.
    ///
    /// # Errors
    /// As [`names_below`].
    pub(super) fn path_of(&self, grant: &GrantRoot, dir: &Dir) -> Result<Vec<u8>, Errno> {
        let rest = names_below(grant, dir)?;
        let mut out = self.path(grant.node);
        for name in rest {
            out.push(b'/');
            out.extend_from_slice(&name);
        }
        if out.is_empty() {
            out.push(b'/');
        }
        Ok(out)
    }
}

/// The directory in which a removed one was; `None` for one that is there. Whether it is in the grant is for the
/// caller to find out.
fn above_removed(dir: &Dir) -> Result<Option<Arc<Dir>>, Errno> {
    if rustix::fs::fstat(dir).map_err(host)?.st_nlink > 0 {
        return Ok(None);
    }
    let above = rustix::fs::openat(dir, "..", UP, Mode::empty()).map_err(host)?;
    Ok(Some(Arc::new(Dir::from_std_file(above.into()))))
}

/// Opens one plain component, or reads it if it is a link.
fn down(dir: &Dir, name: &[u8]) -> Result<Down, Errno> {
    let name = OsStr::from_bytes(name);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW);
    let errno = match dir.open_with(name, &options) {
        Ok(file) => return Ok(Down::Dir(Dir::from_std_file(file.into_std()))),
        Err(error) => confined(&error),
    };
    if !matches!(errno, Errno::ENOTDIR | Errno::ELOOP) {
        return Err(errno);
    }
    match rustix::fs::readlinkat(dir.as_fd(), name, Vec::new()) {
        Ok(text) => Ok(Down::Link(text.into_bytes())),
        Err(rustix::io::Errno::INVAL) => Err(Errno::ENOTDIR),
        Err(error) => Err(host(error)),
    }
}
