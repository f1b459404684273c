//! The graph as ordinary pointers: nodes that point to an array of pointers to nodes.
//!
//! ```text
//!  Header { nodes, .. } --> [ Node { neighbours, degree, id }, Node, .. ]   ascending by id
//!                                     |                          ^    ^
//!                                     +--> [ *Node, *Node, .. ] -+----+
//! ```
//!
//! Built once in a stretch of memory that is then never moved; used in place by whoever has
//! that memory at the same address. Nothing in here knows about segments: private memory
//! does as well, which is how it is tested, and what it is compared with.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;

use crate::edges::EdgeList;
use crate::query::Adjacency;

/// Says what lies at the root: "sjgraph" and a version, and the sizes of both structures.
pub const FINGERPRINT: [u64; 2] =
    [u64::from_le_bytes(*b"sjgraph1"), (size_of::<Header>() << 32 | size_of::<Node>()) as u64];

/// The root object, at the beginning of the memory.
#[repr(C)]
#[derive(Debug)]
pub struct Header {
    fingerprint: [u64; 2],
    nodes: *const Node,
    node_count: u64,
    edge_count: u64,
    /// The first of the nodes with most edges; null when there are no nodes.
    largest: *const Node,
}

/// One node.
#[repr(C)]
#[derive(Debug)]
pub struct Node {
    neighbours: *const *const Node,
    degree: u32,
    id: u32,
}

impl Node {
    /// The nodes its edges lead to, in the order of the text.
    fn neighbours(&self) -> &[&Node] {
        // SAFETY: nodes come from `build` only (fields are private); it put `degree` pointers to
        // nodes there, none null, in the memory that holds `self` too and lives as long.
        unsafe { std::slice::from_raw_parts(self.neighbours.cast(), self.degree as usize) }
    }
}

/// The memory is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the memory is too small for the graph")
    }
}

impl std::error::Error for Full {}

/// Gives out memory from front to back.
struct Bump<'a> {
    left: &'a mut [MaybeUninit<u8>],
}

impl<'a> Bump<'a> {
    /// Room for `count` values, aligned.
    fn take<T>(&mut self, count: usize) -> Result<&'a mut [MaybeUninit<T>], Full> {
        let padding = self.left.as_ptr().align_offset(align_of::<T>());
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Full)?;
        let end = padding.checked_add(bytes).ok_or(Full)?;
        let (taken, left) = std::mem::take(&mut self.left).split_at_mut_checked(end).ok_or(Full)?;
        self.left = left;
        let start = taken[padding..].as_mut_ptr().cast();
        // SAFETY: `start` is aligned by the padding, `bytes` of the exclusively borrowed `taken`
        // follow it, and uninitialised values may be anything.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, count) })
    }
}

/// Bytes that [`build`] needs for this graph, wherever the memory begins.
#[must_use]
pub fn bytes_needed(list: &EdgeList) -> u64 {
    let parts = [
        size_of::<Header>(),
        size_of_val(list.ids()) / size_of::<u32>() * size_of::<Node>(),
        list.pairs().len() * size_of::<*const Node>(),
    ];
    // Each part may need padding, the first included.
    parts.iter().map(|&bytes| bytes as u64 + 16).sum()
}

/// Builds the graph in `memory` and gives its root, the header.
///
/// # Errors
/// [`Full`].
pub fn build<'a>(memory: &'a mut [MaybeUninit<u8>], list: &EdgeList) -> Result<&'a Header, Full> {
    let mut bump = Bump { left: memory };
    let header = &mut bump.take::<Header>(1)?[0];
    // As cells: pointers into both arrays are taken while both are still being written.
    let nodes = Cell::from_mut(bump.take::<Node>(list.ids().len())?).as_slice_of_cells();
    let pointers = bump.take::<*const Node>(list.pairs().len())?;
    let pointers = Cell::from_mut(pointers).as_slice_of_cells();

    let first = nodes.as_ptr().cast::<Node>();
    // Where each node's next pointer goes; in private memory, needed here only.
    let mut next = list.starts();
    for ((node, id), span) in nodes.iter().zip(list.ids()).zip(next.windows(2)) {
        let neighbours = pointers.as_ptr().wrapping_add(span[0] as usize).cast();
        // At most 2^32 - 2 edges in all: `EdgeList`.
        let degree = (span[1] - span[0]) as u32;
        node.set(MaybeUninit::new(Node { neighbours, degree, id: *id }));
    }
    for &(from, to) in list.pairs() {
        let at = &mut next[from as usize];
        pointers[*at as usize].set(MaybeUninit::new(first.wrapping_add(to as usize)));
        *at += 1;
    }
    let starts = list.starts();
    let degree = |node: usize| starts[node + 1] - starts[node];
    let largest = (0..list.ids().len()).rev().max_by_key(|&node| degree(node));
    Ok(header.write(Header {
        fingerprint: FINGERPRINT,
        nodes: first,
        node_count: list.ids().len() as u64,
        edge_count: list.pairs().len() as u64,
        largest: largest.map_or(std::ptr::null(), |node| first.wrapping_add(node)),
    }))
}

/// Why what lies at a root cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAGraph {
    /// The root is not in the memory, or not aligned.
    Root,
    /// It was written by another program, or by another version of this one.
    Fingerprint,
    /// Its nodes are not in the memory.
    Nodes,
}

impl std::fmt::Display for NotAGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NotAGraph::Root => "the root object is not in the segment",
            NotAGraph::Fingerprint => "the root object is not a graph of this version",
            NotAGraph::Nodes => "the graph's nodes are not in the segment",
        })
    }
}

impl std::error::Error for NotAGraph {}

/// A graph in memory, ready at once.
#[derive(Debug, Clone, Copy)]
pub struct Graph<'a> {
    header: &'a Header,
    nodes: &'a [Node],
}

impl<'a> Graph<'a> {
    /// The graph whose header is at `root`, somewhere in `memory`.
    ///
    /// # Errors
    /// [`NotAGraph`].
    ///
    /// # Safety
    /// `memory` is mapped, and nobody changes it as long as `'a` lasts. If there is a graph of
    /// this fingerprint at `root`, then [`build`] has written it at these addresses.
    pub unsafe fn open(memory: Range<u64>, root: u64) -> Result<Graph<'a>, NotAGraph> {
        let holds = |start: u64, bytes: u64| {
            start >= memory.start && start <= memory.end && memory.end - start >= bytes
        };
        let is_aligned = root.is_multiple_of(align_of::<Header>() as u64);
        if root == 0 || !is_aligned || !holds(root, size_of::<Header>() as u64) {
            return Err(NotAGraph::Root);
        }
        let header = std::ptr::with_exposed_provenance::<Header>(root as usize);
        // SAFETY: aligned and within mapped memory that does not change (checked above, and the
        // caller's promise); any bytes are a valid `Header`.
        let header = unsafe { &*header };
        if header.fingerprint != FINGERPRINT {
            return Err(NotAGraph::Fingerprint);
        }
        let bytes = header.node_count.checked_mul(size_of::<Node>() as u64);
        let is_inside = bytes.is_some_and(|bytes| holds(header.nodes as u64, bytes));
        if !is_inside || !header.nodes.is_aligned() {
            return Err(NotAGraph::Nodes);
        }
        // SAFETY: within the memory and aligned (checked above), written by `build`.
        let nodes = unsafe { std::slice::from_raw_parts(header.nodes, header.node_count as usize) };
        Ok(Graph { header, nodes })
    }

    /// A graph just built.
    #[must_use]
    pub fn new(header: &'a Header) -> Graph<'a> {
        // SAFETY: a `Header` comes from `build` only (fields are private), which wrote the nodes
        // into the memory that `header` borrows.
        let nodes = unsafe { std::slice::from_raw_parts(header.nodes, header.node_count as usize) };
        Graph { header, nodes }
    }

    fn index(&self, node: &Node) -> usize {
        let distance = (&raw const *node).addr() - self.nodes.as_ptr().addr();
        distance / size_of::<Node>()
    }
}

impl Adjacency for Graph<'_> {
    fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn edge_count(&self) -> u64 {
        self.header.edge_count
    }

    fn find(&self, id: u32) -> Option<usize> {
        // Dense numbers are where they say.
        match self.nodes.get(id as usize) {
            Some(node) if node.id == id => Some(id as usize),
            _ => self.nodes.binary_search_by_key(&id, |node| node.id).ok(),
        }
    }

    fn id(&self, index: usize) -> u32 {
        self.nodes[index].id
    }

    fn degree(&self, index: usize) -> u64 {
        u64::from(self.nodes[index].degree)
    }

    fn for_neighbours(&self, index: usize, mut visit: impl FnMut(usize)) {
        for node in self.nodes[index].neighbours() {
            visit(self.index(node));
        }
    }

    fn largest(&self) -> Option<usize> {
        // SAFETY: null, or a node of this graph that `build` has written.
        unsafe { self.header.largest.as_ref() }.map(|node| self.index(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_fits_in_the_memory_it_asks_for_and_not_in_less() {
        let list = EdgeList::parse("1 2\n2 3\n3 1\n1 3\n".as_bytes()).unwrap();
        let mut memory = vec![MaybeUninit::uninit(); bytes_needed(&list) as usize + 16];
        for offset in 0..16 {
            let end = offset + bytes_needed(&list) as usize;
            let header = build(&mut memory[offset..end], &list).unwrap();
            assert_eq!(Graph::new(header).node_count(), 3);
        }
        for len in [0, 1, size_of::<Header>(), 100] {
            assert_eq!(build(&mut memory[..len], &list).map(|_| ()), Err(Full));
        }
    }

    #[test]
    fn what_is_no_graph_is_not_opened() {
        let list = EdgeList::parse("1 2\n".as_bytes()).unwrap();
        // Words, so that the beginning is aligned.
        let mut memory = vec![MaybeUninit::<u64>::new(0); 64];
        let start = memory.as_mut_ptr().expose_provenance() as u64;
        let range = start..start + 512;
        // SAFETY: the memory is mapped, initialised, and not changed while a graph lives.
        let open = |range: Range<u64>, root| unsafe { Graph::open(range, root) }.map(|_| ());
        assert_eq!(open(range.clone(), start), Err(NotAGraph::Fingerprint));
        assert_eq!(open(range.clone(), 0), Err(NotAGraph::Root));
        assert_eq!(open(range.clone(), start + 4), Err(NotAGraph::Root));
        assert_eq!(open(range.clone(), start - 8), Err(NotAGraph::Root));
        assert_eq!(open(range.clone(), range.end - 8), Err(NotAGraph::Root));
        // SAFETY: bytes of the words above, which hold no references.
        let (_, bytes, _) = unsafe { memory.align_to_mut::<MaybeUninit<u8>>() };
        build(bytes, &list).unwrap();
        assert_eq!(memory.as_ptr().expose_provenance() as u64, start);
        assert_eq!(open(range.clone(), start), Ok(()));
        assert_eq!(open(start..start + 60, start), Err(NotAGraph::Nodes));
    }
}
