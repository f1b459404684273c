//! From a path to the one directory and last component a call acts on.
//!
//! The usual path is inside one grant and is resolved by a single `cap-std` call
//! ([`Namespace::within`]). What that call cannot resolve (a `..` that climbs out of the
//! directory it started from, an absolute link) goes to the slower walk in `walk`.
//! A last component is never followed here: [`Files::lookup`] does that, one link at a
//! time, for calls that want it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use abi::Errno;
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Stat};

use super::files::Files;
use super::memory_dir::{MemoryAt, MemoryDir};
use super::namespace::Namespace;
use super::off_limits::Around;
use super::tree::{Child, GrantRoot, Leaf, Link, Mount, NodeId};
use super::{PATH_MAX, confined, host};

/// Linux follows this many links in one path and then returns `ELOOP`.
pub(super) const MAX_LINKS: usize = 40;

/// A directory a relative path starts from.
#[derive(Clone, Debug)]
pub(super) enum Base {
    Host(Arc<GrantRoot>, Arc<Dir>),
    Node(NodeId),
}

/// The last component of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// An entry that may or may not exist. `slash`: the path requires a directory.
    Name { name: Vec<u8>, slash: bool },
    /// The directory itself, through `.`.
    Dot,
    /// The directory itself, through `..`.
    DotDot,
    /// The directory itself, because it is the root of a grant.
    Root,
}

/// One entry of one open host directory: what a call acts on.
#[derive(Clone, Debug)]
pub(super) struct HostAt {
    pub(super) grant: Arc<GrantRoot>,
    pub(super) dir: Arc<Dir>,
    pub(super) last: Last,
    /// The host's `stat` of the entry, if the off-limits check has called it.
    seen: Option<Result<Stat, Errno>>,
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Host(HostAt),
    Node(NodeId),
    Leaf(Leaf),
    /// A name in a directory in memory, which is never a link.
    Memory(MemoryAt),
    /// No such entry, in a directory where none can be made.
    Absent,
}

/// How far the name space alone can follow a path.
#[derive(Clone, Debug)]
pub(super) enum Resolved {
    At(Target),
    /// Into a link of ours: the process may have to resolve its target. The rest of the path
    /// continues from there.
    Through(Link, Vec<u8>),
}

impl Resolved {
    /// The path goes through `link` and on by `rest`, which may be empty if a slash is all
    /// that follows.
    pub(super) fn through(link: Link, rest: &[&[u8]], slash: bool) -> Resolved {
        let mut text = if rest.is_empty() { b".".to_vec() } else { rest.join(&b'/') };
        if slash && !rest.is_empty() {
            text.push(b'/');
        }
        Resolved::Through(link, text)
    }
}

/// Where a link of ours leads.
enum Leads {
    /// To a path, from the root.
    Path(Vec<u8>),
    /// To a directory, by whatever name.
    Directory(Base),
    /// To something that is no directory and need not have a name.
    File,
}

/// The result of an operation on one entry.
pub(super) enum Step<T> {
    Done(T),
    /// The entry is a link: follow it and try again there.
    Link,
}

impl<T> Step<T> {
    /// Goes on with what is there, if it is no link to follow.
    pub(super) fn try_map<U>(
        self,
        then: impl FnOnce(T) -> Result<U, Errno>,
    ) -> Result<Step<U>, Errno> {
        match self {
            Step::Done(found) => then(found).map(Step::Done),
            Step::Link => Ok(Step::Link),
        }
    }
}

/// What a lookup found, and for host files what the operation returned.
pub(super) enum Found<T> {
    Host(T),
    Node(NodeId),
    Leaf(Leaf),
    Absent,
}

impl HostAt {
    pub(super) fn new(grant: Arc<GrantRoot>, dir: Arc<Dir>, last: Last) -> HostAt {
        HostAt { grant, dir, last, seen: None }
    }

    /// The directory's identity and that of the two above it.
    pub(super) fn around(&self) -> Result<Around, Errno> {
        // A grant's own directory stays where it is: the program cannot move it into a store, and a
        // process that can does not need to.
        match Arc::ptr_eq(&self.dir, &self.grant.dir) {
            true => self.grant.around(),
            false => Around::of(self.dir()),
        }
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The name to give to a host call together with [`HostAt::dir`]: always one plain
    /// component. Host calls must be told not to follow it.
    pub(super) fn name(&self) -> &OsStr {
        match &self.last {
            Last::Name { name, .. } => OsStr::from_bytes(name),
            Last::Dot | Last::DotDot | Last::Root => OsStr::new("."),
        }
    }

    /// Whether the path ends in a slash after a name.
    pub(super) fn slash(&self) -> bool {
        matches!(self.last, Last::Name { slash: true, .. })
    }

    /// The entry's own attributes; for a link, those of the link itself.
    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::statat(self.dir(), self.name(), AtFlags::SYMLINK_NOFOLLOW).map_err(host)
    }

    /// The entry's own attributes, from the off-limits check if there was one: within this call.
    pub(super) fn seen_or_stat(&self) -> Result<Stat, Errno> {
        self.seen.unwrap_or_else(|| self.stat())
    }

    /// The entry's attributes, or a request to follow it. A slash after something that is
    /// not a directory gives `ENOTDIR`.
    pub(super) fn stat_step(&self, follow: bool) -> Result<Step<Stat>, Errno> {
        let stat = self.seen_or_stat()?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if follow && kind == FileType::Symlink {
            return Ok(Step::Link);
        }
        if self.slash() && kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(Step::Done(stat))
    }

    pub(super) fn is_link(&self) -> bool {
        self.stat().is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    fn link_text(&self) -> Result<Option<Vec<u8>>, Errno> {
        match rustix::fs::readlinkat(self.dir(), self.name(), Vec::new()) {
            Ok(text) => Ok(Some(text.into_bytes())),
            Err(rustix::io::Errno::INVAL) => Ok(None),
            Err(error) => Err(host(error)),
        }
    }
}

/// The components of a path and whether it ends in a slash.
pub(super) fn components(path: &[u8]) -> (Vec<&[u8]>, bool) {
    let parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty());
    (parts.collect(), path.ends_with(b"/"))
}

/// The limits of a path a program gives.
pub(super) fn check(path: &[u8]) -> Result<(), Errno> {
    match path {
        [] => Err(Errno::ENOENT),
        _ if path.len() > PATH_MAX => Err(Errno::ENAMETOOLONG),
        _ if path.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

impl Namespace {
    /// Resolves as far as the name space alone can.
    fn resolve_text(&self, base: &Base, path: &[u8]) -> Result<Resolved, Errno> {
        let mut resolved = match self.resolve_anywhere(base, path) {
            Err(_) if self.leads_off_limits(base, path) => return Err(Errno::EACCES),
            result => result?,
        };
        if let Resolved::At(Target::Host(at)) = &mut resolved {
            at.seen = self.off_limits.check(at)?;
        }
        Ok(resolved)
    }

    /// Whether a path that cannot be resolved fails inside a store: what exists there is not
    /// revealed.
    fn leads_off_limits(&self, base: &Base, path: &[u8]) -> bool {
        if self.off_limits.is_none() {
            return false;
        }
        let start: &[u8] = if path.starts_with(b"/") { b"/" } else { b"" };
        let (parts, _) = components(path);
        for count in (1..parts.len()).rev() {
            let way = parts.get(..count).unwrap_or_default().join(&b'/');
            match self.resolve_anywhere(base, &[start, &way, b"/."].concat()) {
                Ok(Resolved::At(Target::Host(at))) => return self.off_limits.check(&at).is_err(),
                Ok(_) => return false,
                // A shorter prefix may resolve.
                Err(_) => {}
            }
        }
        false
    }

    /// Resolves without checking what is off limits.
    fn resolve_anywhere(&self, base: &Base, path: &[u8]) -> Result<Resolved, Errno> {
        let (parts, slash) = components(path);
        let root = Base::Node(NodeId::ROOT);
        let start = if path.starts_with(b"/") { &root } else { base };
        let (grant, dir, rest) = match start {
            Base::Host(grant, dir) => (grant.clone(), dir.clone(), parts.as_slice()),
            Base::Node(id) => match self.through_tree(*id, &parts, slash)? {
                TreeWalk::End(end) => return Ok(end),
                TreeWalk::Grant(grant, rest) => (grant.clone(), grant.dir.clone(), rest),
            },
        };
        if !self.tree.has_overlay(&grant)
            && let Some(at) = self.within(&grant, &dir, rest, slash)?
        {
            return Ok(Resolved::At(Target::Host(at)));
        }
        self.walk(start, &parts, slash)
    }

    /// Where a path leads that stays in the tree: to a name in a directory in memory, or into a
    /// link of ours. `None` for all others, which are looked up in full.
    fn within_tree(&self, base: &Base, path: &[u8]) -> Option<Resolved> {
        let (parts, slash) = components(path);
        let mut at = match base {
            _ if path.starts_with(b"/") => NodeId::ROOT,
            Base::Node(id) => *id,
            Base::Host(..) => return None,
        };
        let mut rest = parts.as_slice();
        while let Some((name, after)) = rest.split_first() {
            match *name {
                b"." => {}
                b".." => at = self.tree.parent(at),
                name => match self.child(at, name) {
                    Some(Child::Dir(id)) => at = id,
                    Some(Child::Leaf(Leaf::Link(link))) => {
                        return Some(Resolved::through(link, after, slash));
                    }
                    Some(Child::Leaf(_)) => return None,
                    None => {
                        let end = after.is_empty() && !slash && name.len() <= 255;
                        return self.tree.memory(at).and_then(|dir| in_memory(dir, name, end).ok());
                    }
                },
            }
            rest = after;
        }
        None
    }

    /// Walks the synthetic part of the tree up to its end or to the first grant.
    fn through_tree<'p>(
        &self,
        mut at: NodeId,
        mut rest: &'p [&'p [u8]],
        slash: bool,
    ) -> Result<TreeWalk<'p>, Errno> {
        loop {
            if let Mount::Grant(grant) = &self.tree.node(at).mount {
                return Ok(TreeWalk::Grant(grant.clone(), rest));
            }
            let Some((name, after)) = rest.split_first() else {
                return Ok(TreeWalk::End(Resolved::At(Target::Node(at))));
            };
            match *name {
                b"." => {}
                b".." => at = self.tree.parent(at),
                name if name.len() > 255 => return Err(Errno::ENAMETOOLONG),
                name => match self.child(at, name) {
                    Some(Child::Dir(id)) => at = id,
                    Some(Child::Leaf(leaf)) if after.is_empty() && !slash => {
                        return Ok(TreeWalk::End(Resolved::At(Target::Leaf(leaf))));
                    }
                    Some(Child::Leaf(Leaf::Link(link))) => {
                        return Ok(TreeWalk::End(Resolved::through(link, after, slash)));
                    }
                    Some(Child::Leaf(_)) => return Err(Errno::ENOTDIR),
                    None if let Some(dir) = self.tree.memory(at) => {
                        let end = after.is_empty() && !slash;
                        return Ok(TreeWalk::End(in_memory(dir, name, end)?));
                    }
                    None => match self.without(at) {
                        Errno::ENOENT if after.is_empty() => {
                            return Ok(TreeWalk::End(Resolved::At(Target::Absent)));
                        }
                        errno => return Err(errno),
                    },
                },
            }
            rest = after;
        }
    }

    /// Resolves components inside one grant with one `cap-std` call. `None` if they lead,
    /// or might lead, out of `dir`.
    fn within(
        &self,
        grant: &Arc<GrantRoot>,
        dir: &Arc<Dir>,
        parts: &[&[u8]],
        slash: bool,
    ) -> Result<Option<HostAt>, Errno> {
        let (last, above) = match parts.split_last() {
            None => (Last::Root, parts),
            Some((&b".", _)) => (Last::Dot, parts),
            Some((&b"..", _)) => (Last::DotDot, parts),
            Some((name, above)) => {
                let name = name.to_vec();
                (Last::Name { name, slash }, above)
            }
        };
        let dir = if above.iter().all(|part| *part == b".") {
            dir.clone()
        } else {
            match dir.open_dir(OsStr::from_bytes(&above.join(&b'/'))) {
                Ok(dir) => Arc::new(dir),
                Err(error) => match confined(&error) {
                    Errno::EXDEV => return Ok(None),
                    errno => return Err(errno),
                },
            }
        };
        let grant = grant.clone();
        Ok(Some(HostAt::new(grant, dir, last)))
    }
}

impl Files {
    /// The entry a path names, its last component not followed.
    ///
    /// # Errors
    /// `ENOENT` for an empty path, `ENAMETOOLONG`, and Linux's errors of path resolution.
    pub(super) fn resolve(&self, base: &Base, path: &[u8]) -> Result<Target, Errno> {
        check(path)?;
        self.resolve_text(base, path)
    }

    /// Resolves without the limits that hold for a program's own paths.
    pub(super) fn resolve_text(&self, base: &Base, path: &[u8]) -> Result<Target, Errno> {
        let mut resolved = self.namespace.resolve_text(base, path)?;
        for _ in 0..=MAX_LINKS {
            let (link, rest) = match resolved {
                Resolved::At(target) => return Ok(target),
                Resolved::Through(link, rest) => (link, rest),
            };
            resolved = match self.leads(link)? {
                Leads::Path(text) => {
                    let text = [text.as_slice(), b"/", &rest].concat();
                    self.namespace.resolve_text(&Base::Node(NodeId::ROOT), &text)?
                }
                Leads::Directory(base) => self.namespace.resolve_text(&base, &rest)?,
                Leads::File => return Err(Errno::ENOTDIR),
            };
        }
        Err(Errno::ELOOP)
    }

    /// The place in a directory in memory named by a path through the tree alone.
    ///
    /// # Errors
    /// `ENOENT` for an empty path, `ENAMETOOLONG`. The call itself finds the others, in its own
    /// order.
    pub(super) fn memory_at(&self, base: &Base, path: &[u8]) -> Result<Option<MemoryAt>, Errno> {
        check(path)?;
        let mut way = self.namespace.within_tree(base, path);
        for _ in 0..=MAX_LINKS {
            let (link, rest) = match way {
                Some(Resolved::At(Target::Memory(at))) => return Ok(Some(at)),
                Some(Resolved::Through(link, rest)) => (link, rest),
                _ => return Ok(None),
            };
            way = match self.leads(link) {
                Ok(Leads::Path(text)) => {
                    let text = [text.as_slice(), b"/", &rest].concat();
                    self.namespace.within_tree(&Base::Node(NodeId::ROOT), &text)
                }
                Ok(Leads::Directory(base)) => self.namespace.within_tree(&base, &rest),
                Ok(Leads::File) | Err(_) => return Ok(None),
            };
        }
        Ok(None)
    }

    fn leads(&self, link: Link) -> Result<Leads, Errno> {
        Ok(match link {
            Link::Root => Leads::Directory(Base::Node(NodeId::ROOT)),
            Link::Cwd => Leads::Directory(self.cwd()),
            Link::Exe => Leads::File,
            Link::DescriptorOf(..) => return Err(Errno::EACCES),
            Link::Descriptor(fd) => match self.descriptor(fd)?.base() {
                Ok(base) => Leads::Directory(base),
                Err(_) => Leads::File,
            },
            Link::ProcSelf | Link::ThreadSelf | Link::Mounts => {
                Leads::Path([b"/proc/".as_slice(), &self.link_text(link)?].concat())
            }
            Link::DevFd | Link::Standard(_) | Link::ExeOf(_) | Link::CwdOf(_) => {
                Leads::Path(self.link_text(link)?)
            }
        })
    }

    /// Runs `operation` on the entry a path names, following links at its end as long as the
    /// operation asks for it. The operation is told whether to follow links: `follow`, or a slash
    /// at the end of the path. A link of ours to something without a name is itself the result.
    ///
    /// # Errors
    /// Those of resolution and of the operation; `ELOOP` after too many links.
    pub(super) fn lookup<T>(
        &self,
        base: &Base,
        path: &[u8],
        follow: bool,
        mut operation: impl FnMut(&HostAt, bool) -> Result<Step<T>, Errno>,
    ) -> Result<Found<T>, Errno> {
        let mut target = self.resolve(base, path)?;
        for _ in 0..=MAX_LINKS {
            let at = match target {
                Target::Leaf(Leaf::Link(link)) if follow => {
                    target = match self.leads(link)? {
                        Leads::Path(text) => self.resolve_text(&Base::Node(NodeId::ROOT), &text)?,
                        Leads::Directory(Base::Node(id)) => Target::Node(id),
                        Leads::Directory(Base::Host(grant, dir)) => {
                            let at = HostAt::new(grant, dir, Last::Dot);
                            self.namespace.off_limits.check(&at)?;
                            Target::Host(at)
                        }
                        Leads::File => return Ok(Found::Leaf(Leaf::Link(link))),
                    };
                    continue;
                }
                Target::Leaf(leaf) => return Ok(Found::Leaf(leaf)),
                Target::Node(id) => return Ok(Found::Node(id)),
                // Calls look for these themselves (`Files::memory`); a link leads to none.
                Target::Memory(_) | Target::Absent => return Ok(Found::Absent),
                Target::Host(at) => at,
            };
            if let Step::Done(done) = operation(&at, follow || at.slash())? {
                return Ok(Found::Host(done));
            }
            target = match at.link_text()? {
                Some(mut text) => {
                    if at.slash() {
                        text.push(b'/');
                    }
                    let here = Base::Host(at.grant.clone(), at.dir.clone());
                    self.resolve_text(&here, &text)?
                }
                // Replaced in the meantime: look it up again.
                None => Target::Host(HostAt { seen: None, ..at }),
            };
        }
        Err(Errno::ELOOP)
    }
}

/// A name in a directory in memory; only where it is the `end` of a path can it be a file.
pub(super) fn in_memory(dir: &Arc<MemoryDir>, name: &[u8], end: bool) -> Result<Resolved, Errno> {
    let there = MemoryAt { dir: dir.clone(), name: name.to_vec() };
    match (end, there.exists()) {
        (true, _) => Ok(Resolved::At(Target::Memory(there))),
        (false, true) => Err(Errno::ENOTDIR),
        (false, false) => Err(Errno::ENOENT),
    }
}

/// How far the synthetic tree leads.
enum TreeWalk<'p> {
    End(Resolved),
    /// Into a grant, with these components left.
    Grant(Arc<GrantRoot>, &'p [&'p [u8]]),
}
