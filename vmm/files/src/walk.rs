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
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use abi::Errno;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

use super::attr::by_number;
use super::namespace::Namespace;
use super::resolve::{Base, HostAt, Last, MAX_LINKS, Resolved, Target, components, in_memory};
use super::tree::{Child, GrantRoot, Leaf, Mount, NodeId};
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
                        (None, None) if end => return Ok(Resolved::At(Target::Absent)),
                        (None, None) => return Err(Errno::ENOENT),
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
        let path = match base {
            Base::Node(id) => self.path(*id),
            Base::Host(grant, dir) => self.path_of(grant, dir)?,
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
        if let Base::Host(_, dir) = base {
            // The path was the kernel's answer a moment ago; what it leads to now decides.
            match stack.last() {
                Some(Position { host: Some((_, there)), .. }) if same(there, dir)? => {}
                _ => return Err(Errno::ENOENT),
            }
        }
        Ok(stack)
    }

    /// The guest path of an open directory of a grant, as of now.
    ///
    /// The host kernel is queried for its name, because the directory may have been renamed
    /// since it was opened.
    ///
    /// # Errors
    /// `ENOENT` if the directory was removed or is no longer below its grant.
    pub(super) fn path_of(&self, grant: &GrantRoot, dir: &Dir) -> Result<Vec<u8>, Errno> {
        let root = host_path(&grant.dir)?;
        let path = host_path(dir)?;
        let rest = path.strip_prefix(root.as_slice()).ok_or(Errno::ENOENT)?;
        let inside = root == b"/" || rest.is_empty() || rest.starts_with(b"/");
        if !inside {
            return Err(Errno::ENOENT);
        }
        let rest: Vec<&[u8]> = components(rest).0;
        if !rest.is_empty() {
            // A removed directory's name ends in " (deleted)": it does not resolve.
            let text = rest.join(&b'/');
            let there = grant.dir.open_dir(OsStr::from_bytes(&text)).map_err(|e| confined(&e))?;
            if !same(&there, dir)? {
                return Err(Errno::ENOENT);
            }
        }
        let mut out = self.path(grant.node);
        for name in rest {
            out.push(b'/');
            out.extend_from_slice(name);
        }
        if out.is_empty() {
            out.push(b'/');
        }
        Ok(out)
    }
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

/// Whether two open directories are the same one.
fn same(a: &Dir, b: &Dir) -> Result<bool, Errno> {
    let a = rustix::fs::fstat(a).map_err(host)?;
    let b = rustix::fs::fstat(b).map_err(host)?;
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// The host path of an open directory, as the host kernel names it now.
pub(super) fn host_path(dir: &Dir) -> Result<Vec<u8>, Errno> {
    let text = std::fs::read_link(by_number(dir.as_fd())).map_err(|error| confined(&error))?;
    Ok(text.into_os_string().into_vec())
}
