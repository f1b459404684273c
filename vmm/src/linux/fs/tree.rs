//! The part of the guest's tree that exists only in our heads: where grants hang, the
//! directories above them, `/dev` with `/dev/shm`, and `/proc/self/exe`.
//!
//! A tree is built once and never changes, so a [`NodeId`] stays good for ever. Nothing
//! here touches the host.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::Errno;
use cap_std::fs::Dir;

use super::memory_dir::MemoryDir;

/// A granted directory, opened.
#[derive(Debug)]
pub(super) struct GrantRoot {
    /// Where it hangs.
    pub(super) node: NodeId,
    /// The directory itself, opened with `O_PATH`.
    pub(super) dir: Arc<Dir>,
    pub(super) read_only: bool,
}

impl GrantRoot {
    /// # Errors
    /// `EROFS` if the grant is read-only.
    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::EROFS) } else { Ok(()) }
    }
}

/// A directory of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(u32);

impl NodeId {
    pub(super) const ROOT: NodeId = NodeId(0);

    /// The inode number shown to the program; never zero, which would mean "deleted".
    pub(super) fn ino(self) -> u64 {
        u64::from(self.0) + 1
    }
}

/// What a directory of the tree shows.
#[derive(Clone, Debug)]
pub(super) enum Mount {
    /// Its children and nothing else.
    Synthetic,
    /// A directory between a grant and another one inside it: the host's directory of that
    /// name if there is one, with our children on top.
    Through,
    /// A granted directory, with our children on top.
    Grant(Arc<GrantRoot>),
    /// `/dev/fd`: the open descriptors.
    Descriptors,
    /// `/dev/shm`: files in memory, unless a grant takes the place.
    Memory(Arc<MemoryDir>),
}

/// A host device every program may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Null,
    Zero,
    Full,
    Random,
    Urandom,
    Tty,
}

impl Device {
    pub(super) fn host_path(self) -> &'static str {
        match self {
            Device::Null => "/dev/null",
            Device::Zero => "/dev/zero",
            Device::Full => "/dev/full",
            Device::Random => "/dev/random",
            Device::Urandom => "/dev/urandom",
            Device::Tty => "/dev/tty",
        }
    }
}

/// Something in the tree that is not a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    Device(Device),
    /// `/proc/self/exe`.
    Exe,
    /// `/dev/stdin`, `/dev/fd/7`: whatever that descriptor refers to.
    Descriptor(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Dir(NodeId),
    Leaf(Leaf),
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: NodeId,
    /// The absolute guest path; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) children: BTreeMap<Vec<u8>, Child>,
    pub(super) mount: Mount,
}

#[derive(Debug)]
pub(super) struct Tree {
    root: Node,
    /// Node n+1.
    others: Vec<Node>,
}

impl Tree {
    /// The tree without grants.
    pub(super) fn new() -> Tree {
        let mut tree = Tree {
            root: Node {
                parent: NodeId::ROOT,
                path: Vec::new(),
                children: BTreeMap::new(),
                mount: Mount::Synthetic,
            },
            others: Vec::new(),
        };
        let dev = tree.child_or_new(NodeId::ROOT, b"dev");
        for (name, device) in [
            ("null", Device::Null),
            ("zero", Device::Zero),
            ("full", Device::Full),
            ("random", Device::Random),
            ("urandom", Device::Urandom),
            ("tty", Device::Tty),
        ] {
            tree.add_leaf(dev, name, Leaf::Device(device));
        }
        for (fd, name) in (0..).zip(["stdin", "stdout", "stderr"]) {
            tree.add_leaf(dev, name, Leaf::Descriptor(fd));
        }
        let fds = tree.child_or_new(dev, b"fd");
        tree.node_mut(fds).mount = Mount::Descriptors;
        let shm = tree.child_or_new(dev, b"shm");
        tree.node_mut(shm).mount = Mount::Memory(Arc::default());
        let proc = tree.child_or_new(NodeId::ROOT, b"proc");
        let this = tree.child_or_new(proc, b"self");
        tree.add_leaf(this, "exe", Leaf::Exe);
        tree
    }

    /// The node of an absolute guest path, made with the nodes above it where missing.
    /// `None` if something that is not a directory is in the way.
    pub(super) fn make(&mut self, path: &[u8]) -> Option<NodeId> {
        let mut at = NodeId::ROOT;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            if let Some(Child::Leaf(_)) = self.child(at, name) {
                return None;
            }
            at = self.child_or_new(at, name);
        }
        Some(at)
    }

    /// Hangs a grant at its node.
    ///
    /// Returns whether the place was free.
    pub(super) fn hang(&mut self, grant: Arc<GrantRoot>) -> bool {
        let node = self.node_mut(grant.node);
        let free = matches!(node.mount, Mount::Synthetic | Mount::Through | Mount::Memory(_));
        if free {
            node.mount = Mount::Grant(grant);
        }
        free
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        // Ids come from this tree only, and no node is ever removed; the root stands in
        // for the impossible, so that nothing here can panic.
        id.0.checked_sub(1).and_then(|index| self.others.get(index as usize)).unwrap_or(&self.root)
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        id.0.checked_sub(1)
            .and_then(|index| self.others.get_mut(index as usize))
            .unwrap_or(&mut self.root)
    }

    /// The child of that name, `.` and `..` excepted.
    pub(super) fn child(&self, id: NodeId, name: &[u8]) -> Option<Child> {
        let node = self.node(id);
        if let Mount::Descriptors = node.mount {
            return descriptor(name).map(|fd| Child::Leaf(Leaf::Descriptor(fd)));
        }
        node.children.get(name).copied()
    }

    /// The directory in memory that hangs at a node.
    pub(super) fn memory(&self, id: NodeId) -> Option<&Arc<MemoryDir>> {
        match &self.node(id).mount {
            Mount::Memory(dir) => Some(dir),
            _ => None,
        }
    }

    /// Whether something of ours lies inside the grant, so that its host directory alone
    /// does not decide what a path in it means.
    pub(super) fn has_overlay(&self, grant: &GrantRoot) -> bool {
        !self.node(grant.node).children.is_empty()
    }

    fn child_or_new(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        if let Some(Child::Dir(id)) = self.child(parent, name) {
            return id;
        }
        let above = self.node(parent);
        let mount = match above.mount {
            Mount::Grant(_) | Mount::Through => Mount::Through,
            Mount::Synthetic | Mount::Descriptors | Mount::Memory(_) => Mount::Synthetic,
        };
        let mut path = above.path.clone();
        path.push(b'/');
        path.extend_from_slice(name);
        self.others.push(Node { parent, path, children: BTreeMap::new(), mount });
        let id = NodeId(u32::try_from(self.others.len()).unwrap_or(0));
        let children = &mut self.node_mut(parent).children;
        children.insert(name.to_vec(), Child::Dir(id));
        id
    }

    fn add_leaf(&mut self, parent: NodeId, name: &str, leaf: Leaf) {
        let children = &mut self.node_mut(parent).children;
        children.insert(name.as_bytes().to_vec(), Child::Leaf(leaf));
    }
}

/// The descriptor a name in `/dev/fd` stands for: decimal without sign or leading zeros.
fn descriptor(name: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(name).ok()?;
    let fd: u32 = text.parse().ok()?;
    (fd.to_string() == text).then_some(fd)
}
