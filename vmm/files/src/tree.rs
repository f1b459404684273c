//! The part of the guest's tree that is synthetic: where grants are mounted, the
//! directories above them, `/dev` with `/dev/shm`, `/proc` and `/sys`.
//!
//! A tree is built once and never changes, so a [`NodeId`] stays valid. Directories that appear and
//! disappear with a process or a thread are one node each, a template; the id says which thread's
//! directory it is. `namespace` decides what they are called and whether they exist. Nothing here
//! touches the host.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use abi::Errno;
use cap_std::fs::Dir;

use super::grant::GrantAccess;
use super::memory_dir::MemoryDir;
use super::off_limits::Around;
use super::view::Whose;

/// A granted directory, opened.
#[derive(Debug)]
pub(super) struct GrantRoot {
    /// Where it is mounted.
    pub(super) node: NodeId,
    /// The directory itself, opened with `O_PATH`.
    pub(super) dir: Arc<Dir>,
    pub(super) read_only: bool,
    around: OnceLock<Around>,
}

impl GrantRoot {
    pub(super) fn new(node: NodeId, dir: Dir, access: GrantAccess) -> GrantRoot {
        let read_only = access == GrantAccess::ReadOnly;
        GrantRoot { node, dir: Arc::new(dir), read_only, around: OnceLock::new() }
    }

    /// The directory's identity and that of the two above it, as of the first use.
    pub(super) fn around(&self) -> Result<Around, Errno> {
        match self.around.get() {
            Some(around) => Ok(*around),
            None => Around::of(self.dir.as_fd()).map(|now| *self.around.get_or_init(|| now)),
        }
    }

    /// # Errors
    /// `EROFS` if the grant is read-only.
    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::EROFS) } else { Ok(()) }
    }
}

/// A directory of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId {
    index: u32,
    /// Whose it is, for another process's directory and what is below; else 0.
    process: i32,
    /// Whose it is, for a directory at or below `task/TID`; else 0.
    thread: i32,
}

impl NodeId {
    pub(super) const ROOT: NodeId = NodeId::at(0);
    /// The directory of the process in `/proc`.
    pub(super) const PROCESS: NodeId = NodeId::at(1);
    /// The template of a thread's directory.
    const TASK: NodeId = NodeId::at(2);
    /// The template of another process's directory.
    const OTHER: NodeId = NodeId::at(3);
    /// That of one of its threads.
    const OTHER_TASK: NodeId = NodeId::at(4);

    const fn at(index: u32) -> NodeId {
        NodeId { index, process: 0, thread: 0 }
    }

    /// The directory of a thread.
    pub(super) fn task(tid: i32) -> NodeId {
        NodeId { thread: tid, ..NodeId::TASK }
    }

    /// The directory of another process.
    pub(super) fn other(pid: i32) -> NodeId {
        NodeId { process: pid, ..NodeId::OTHER }
    }

    /// The directory of a thread of another process.
    pub(super) fn other_task(pid: i32, tid: i32) -> NodeId {
        NodeId { process: pid, thread: tid, ..NodeId::OTHER_TASK }
    }

    /// It as numbers, for [`Tree::known`].
    pub(super) fn numbers(self) -> (u32, u64) {
        let [process, thread] = [self.process, self.thread].map(|n| u64::from(n.cast_unsigned()));
        (self.index, process | thread << 32)
    }

    /// Whether it is the directory of a thread, and not one below it.
    fn is_task(self) -> bool {
        self.index == NodeId::TASK.index || self.index == NodeId::OTHER_TASK.index
    }

    /// Whether it is the directory of another process.
    fn is_other(self) -> bool {
        self.index == NodeId::OTHER.index
    }

    /// Its name, if that is the number of a thread or of another process.
    pub(super) fn number(self) -> Option<i32> {
        match (self.is_task(), self.is_other()) {
            (true, _) => Some(self.thread),
            (_, true) => Some(self.process),
            _ => None,
        }
    }

    /// The other process whose directory it is, or is in; 0 for none.
    pub(super) fn process(self) -> i32 {
        self.process
    }

    /// Whom the files in it describe.
    pub(super) fn whose(self) -> Whose {
        match (self.process, self.thread) {
            (0, 0) => Whose::Process,
            (0, tid) => Whose::Thread(tid),
            (pid, 0) => Whose::Other(pid),
            (pid, tid) => Whose::ThreadOf(pid, tid),
        }
    }

    /// The inode number shown to the program; never zero, which would mean "deleted".
    pub(super) fn ino(self) -> u64 {
        // No thread has the number of another one, or of another process.
        let number = if self.thread == 0 { self.process } else { self.thread };
        (u64::from(number.unsigned_abs()) << 16) | (u64::from(self.index) + 1)
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
    /// `/proc`: its children, and the directory of the process.
    Processes,
    /// `/proc/self/task`: the threads.
    Tasks,
    /// `/proc/PID/task`: the threads of another process.
    TasksOf,
    /// `/proc/PID/fd`: the open descriptors of another process.
    DescriptorsOf,
    /// What of another process only that one may see.
    Withheld,
    /// `/proc/self/fd`: the open descriptors.
    Descriptors,
    /// `/proc/self/fdinfo`: a file on each of them.
    DescriptorInfo,
    /// `/dev/pts`: the terminals that the program has open.
    Terminals,
    /// `/dev/shm`: files in memory, unless a grant replaces it.
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
    /// Each opening makes a pseudo-terminal.
    Ptmx,
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
            Device::Ptmx => "/dev/ptmx",
        }
    }
}

/// Something in the tree that is not a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    Device(Device),
    Link(Link),
    Text(Text),
    /// `/dev/pts/7`: a terminal that the program has open, at either end.
    Terminal(u32),
    /// A file of the host that is shown by itself, at its own path, where no grant shows it: the
    /// program, for one. Its number is the name space's.
    Shown(u16),
}

/// A symbolic link of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// `/proc/self/exe`: the program's file, whether or not its path leads anywhere.
    Exe,
    /// `/proc/self/cwd`.
    Cwd,
    /// `exe` of another process.
    ExeOf(i32),
    /// Its `cwd`.
    CwdOf(i32),
    /// A descriptor in its `fd`. It leads nowhere: what is open there is that process's.
    DescriptorOf(i32, u32),
    /// `/proc/self/root`.
    Root,
    /// `/proc/self/fd/7`: whatever that descriptor refers to.
    Descriptor(u32),
    /// `/proc/self`.
    ProcSelf,
    /// `/proc/thread-self`.
    ThreadSelf,
    /// `/proc/mounts`.
    Mounts,
    /// `/dev/fd`.
    DevFd,
    /// `/dev/stdin` and its like.
    Standard(u32),
}

/// A file whose content is generated when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// A row of the table of such files, and whom it describes.
    Row(u16, Whose),
    /// `fdinfo` of a descriptor.
    DescriptorInfo(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Dir(NodeId),
    Leaf(Leaf),
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    parent: u32,
    /// Its name in its parent; empty for templates.
    pub(super) name: Vec<u8>,
    children: BTreeMap<Vec<u8>, Child>,
    pub(super) mount: Mount,
}

#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Node,
    /// Node n+1.
    others: Vec<Node>,
}

impl Tree {
    /// The tree without grants. `files` are the paths of the files whose content is generated when
    /// they are opened; one with a component `#` is a file of the process and of each of its
    /// threads, and, if that is said, of other processes.
    pub(super) fn new(files: impl Iterator<Item = (&'static str, bool)>) -> Tree {
        let root = Node {
            parent: NodeId::ROOT.index,
            name: Vec::new(),
            children: BTreeMap::new(),
            mount: Mount::Synthetic,
        };
        let mut tree = Tree { root, others: Vec::new() };
        // In the order of the constants above. Their parents are set right away.
        let process = tree.add(NodeId::ROOT, b"", Mount::Synthetic);
        let task = tree.add(NodeId::ROOT, b"", Mount::Synthetic);
        let other = tree.add(NodeId::ROOT, b"", Mount::Synthetic);
        let other_task = tree.add(NodeId::ROOT, b"", Mount::Synthetic);
        let proc = tree.child_or_new(NodeId::ROOT, b"proc");
        tree.node_mut(proc).mount = Mount::Processes;
        tree.node_mut(process).parent = proc.index;
        tree.node_mut(other).parent = proc.index;
        let tasks_of = tree.child_or_new(other, b"task");
        tree.node_mut(tasks_of).mount = Mount::TasksOf;
        tree.node_mut(other_task).parent = tasks_of.index;
        for of in [other, other_task] {
            tree.add_leaf(of, b"exe", Leaf::Link(Link::ExeOf(0)));
            tree.add_leaf(of, b"cwd", Leaf::Link(Link::CwdOf(0)));
            tree.add_leaf(of, b"root", Leaf::Link(Link::Root));
            let fds = tree.child_or_new(of, b"fd");
            tree.node_mut(fds).mount = Mount::DescriptorsOf;
            let withheld = tree.child_or_new(of, b"fdinfo");
            tree.node_mut(withheld).mount = Mount::Withheld;
        }
        let tasks = tree.child_or_new(process, b"task");
        tree.node_mut(tasks).mount = Mount::Tasks;
        tree.node_mut(task).parent = tasks.index;
        for of in [process, task] {
            let fds = tree.child_or_new(of, b"fd");
            tree.node_mut(fds).mount = Mount::Descriptors;
            let infos = tree.child_or_new(of, b"fdinfo");
            tree.node_mut(infos).mount = Mount::DescriptorInfo;
            for (name, link) in [("exe", Link::Exe), ("cwd", Link::Cwd), ("root", Link::Root)] {
                tree.add_leaf(of, name.as_bytes(), Leaf::Link(link));
            }
        }
        tree.add_leaf(proc, b"self", Leaf::Link(Link::ProcSelf));
        tree.add_leaf(proc, b"thread-self", Leaf::Link(Link::ThreadSelf));
        tree.add_leaf(proc, b"mounts", Leaf::Link(Link::Mounts));
        for (row, (path, of_others)) in (0..).zip(files) {
            let leaf = Leaf::Text(Text::Row(row, Whose::Process));
            match path.strip_prefix("/proc/#/") {
                Some(name) => {
                    tree.add_leaf(process, name.as_bytes(), leaf);
                    tree.add_leaf(task, name.as_bytes(), leaf);
                    if of_others {
                        tree.add_leaf(other, name.as_bytes(), leaf);
                        tree.add_leaf(other_task, name.as_bytes(), leaf);
                    }
                }
                None => tree.add_at(path.as_bytes(), leaf),
            }
        }
        tree.add_devices();
        tree
    }

    fn add_devices(&mut self) {
        let dev = self.child_or_new(NodeId::ROOT, b"dev");
        use Device::{Full, Null, Ptmx, Random, Tty, Urandom, Zero};
        for device in [Null, Zero, Full, Random, Urandom, Tty, Ptmx] {
            self.add_at(device.host_path().as_bytes(), Leaf::Device(device));
        }
        for (fd, name) in (0..).zip(["stdin", "stdout", "stderr"]) {
            self.add_leaf(dev, name.as_bytes(), Leaf::Link(Link::Standard(fd)));
        }
        self.add_leaf(dev, b"fd", Leaf::Link(Link::DevFd));
        let pts = self.child_or_new(dev, b"pts");
        self.node_mut(pts).mount = Mount::Terminals;
        self.add_leaf(pts, b"ptmx", Leaf::Device(Ptmx));
        let shm = self.child_or_new(dev, b"shm");
        self.node_mut(shm).mount = Mount::Memory(Arc::default());
    }

    /// Puts a leaf at an absolute path, with the directories above it.
    fn add_at(&mut self, path: &[u8], leaf: Leaf) {
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (above, name) = path.split_at(slash);
        if let Some(above) = self.make(above) {
            self.add_leaf(above, name.strip_prefix(b"/").unwrap_or(name), leaf);
        }
    }

    /// Puts a file that is shown by itself at its path, unless a grant or an existing entry decides
    /// what is found on the way.
    pub(super) fn add_shown(&mut self, path: &[u8], number: u16) {
        let mut at = NodeId::ROOT;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let free = matches!(self.node(at).mount, Mount::Synthetic);
            match self.child(at, name) {
                _ if !free => return,
                Some(Child::Dir(id)) => at = id,
                Some(Child::Leaf(_)) => return,
                None => return self.add_at(path, Leaf::Shown(number)),
            }
        }
    }

    /// The directories in memory, in the order in which they were made.
    pub(super) fn memory_dirs(&self) -> impl Iterator<Item = &Arc<MemoryDir>> {
        let nodes = std::iter::once(&self.root).chain(&self.others);
        nodes.filter_map(|node| match &node.mount {
            Mount::Memory(dir) => Some(dir),
            _ => None,
        })
    }

    /// Puts a directory in memory at a path, unless a grant is mounted there.
    pub(super) fn add_memory(&mut self, path: &[u8]) {
        if let Some(id) = self.make(path) {
            let node = self.node_mut(id);
            if matches!(node.mount, Mount::Synthetic | Mount::Through) {
                node.mount = Mount::Memory(Arc::default());
            }
        }
    }

    /// The node of an absolute guest path, created, with the nodes above it, where missing.
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

    /// Mounts a grant at its node.
    ///
    /// Returns whether the path was free.
    pub(super) fn mount(&mut self, grant: Arc<GrantRoot>) -> bool {
        let node = self.node_mut(grant.node);
        let free = matches!(node.mount, Mount::Synthetic | Mount::Through | Mount::Memory(_));
        if free {
            let whole = grant.node == NodeId::ROOT;
            node.mount = Mount::Grant(grant);
            if whole && let Some(Child::Dir(sys)) = self.child(NodeId::ROOT, b"sys") {
                self.show_through(sys);
            }
        }
        free
    }

    /// Makes what was granted visible below our own files. For `/sys` alone: it describes hardware,
    /// and a program granted the host's root should see what there is.
    fn show_through(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        if let Mount::Synthetic = node.mount {
            node.mount = Mount::Through;
        }
        let below: Vec<Child> = node.children.values().copied().collect();
        for child in below {
            if let Child::Dir(id) = child {
                self.show_through(id);
            }
        }
    }

    /// How many directories there are, templates included.
    pub(super) fn directories(&self) -> u64 {
        1 + self.others.len() as u64
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        // Ids come from this tree only, and no node is ever removed; the root is returned
        // for the impossible, so that nothing here can panic.
        id.index
            .checked_sub(1)
            .and_then(|index| self.others.get(index as usize))
            .unwrap_or(&self.root)
    }

    /// The node with these [`NodeId::numbers`], if this tree has it.
    pub(super) fn known(&self, index: u32, whose: u64) -> Option<NodeId> {
        let (process, thread) = (whose as u32, (whose >> 32) as u32);
        let id = NodeId { index, process: process.cast_signed(), thread: thread.cast_signed() };
        (index as usize <= self.others.len()).then_some(id)
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        id.index
            .checked_sub(1)
            .and_then(|index| self.others.get_mut(index as usize))
            .unwrap_or(&mut self.root)
    }

    /// The fixed child of that name, `.` and `..` excepted.
    pub(super) fn child(&self, id: NodeId, name: &[u8]) -> Option<Child> {
        self.node(id).children.get(name).map(|child| child.of(id))
    }

    /// All fixed children, by name.
    pub(super) fn children(&self, id: NodeId) -> impl Iterator<Item = (&[u8], Child)> {
        let children = self.node(id).children.iter();
        children.map(move |(name, child)| (name.as_slice(), child.of(id)))
    }

    /// The directory above.
    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        let thread = if id.is_task() { 0 } else { id.thread };
        let process = if id.is_other() { 0 } else { id.process };
        NodeId { index: self.node(id).parent, process, thread }
    }

    /// The granted directories.
    pub(super) fn grants(&self) -> impl Iterator<Item = &Arc<GrantRoot>> {
        let nodes = std::iter::once(&self.root).chain(&self.others);
        nodes.filter_map(|node| match &node.mount {
            Mount::Grant(grant) => Some(grant),
            _ => None,
        })
    }

    /// The directory in memory that is mounted at a node.
    pub(super) fn memory(&self, id: NodeId) -> Option<&Arc<MemoryDir>> {
        match &self.node(id).mount {
            Mount::Memory(dir) => Some(dir),
            _ => None,
        }
    }

    /// Whether something of ours is inside the grant, so that its host directory alone does not
    /// decide what a path in it means.
    pub(super) fn has_overlay(&self, grant: &GrantRoot) -> bool {
        !self.node(grant.node).children.is_empty()
    }

    fn child_or_new(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        if let Some(Child::Dir(id)) = self.child(parent, name) {
            return id;
        }
        let mount = match self.node(parent).mount {
            Mount::Grant(_) | Mount::Through => Mount::Through,
            _ => Mount::Synthetic,
        };
        let id = self.add(parent, name, mount);
        self.node_mut(parent).children.insert(name.to_vec(), Child::Dir(id));
        id
    }

    /// A new node that is not yet the child of another.
    fn add(&mut self, parent: NodeId, name: &[u8], mount: Mount) -> NodeId {
        let name = name.to_vec();
        self.others.push(Node { parent: parent.index, name, children: BTreeMap::new(), mount });
        NodeId::at(u32::try_from(self.others.len()).unwrap_or(0))
    }

    fn add_leaf(&mut self, parent: NodeId, name: &[u8], leaf: Leaf) {
        self.node_mut(parent).children.insert(name.to_vec(), Child::Leaf(leaf));
    }
}

impl Child {
    /// As seen in the directory `parent`: the children of a thread's directory, or another process's, are that one's.
    fn of(self, parent: NodeId) -> Child {
        match self {
            Child::Dir(id) => {
                Child::Dir(NodeId { process: parent.process, thread: parent.thread, ..id })
            }
            Child::Leaf(Leaf::Text(Text::Row(row, _))) => {
                Child::Leaf(Leaf::Text(Text::Row(row, parent.whose())))
            }
            Child::Leaf(Leaf::Link(Link::ExeOf(_))) => {
                Child::Leaf(Leaf::Link(Link::ExeOf(parent.process)))
            }
            Child::Leaf(Leaf::Link(Link::CwdOf(_))) => {
                Child::Leaf(Leaf::Link(Link::CwdOf(parent.process)))
            }
            other => other,
        }
    }
}

/// The number denoted by a name in `/proc` or `/proc/self/fd`: decimal without sign or leading
/// zeros.
pub(super) fn number(name: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(name).ok()?;
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
