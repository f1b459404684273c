//! The graph as pointers in an address space: nodes that point to nodes.
//!
//! ```text
//!  Graph { nodes, .. } --> [ Node { edges }, Node, .. ]   ascending by number
//!                                     |       ^    ^
//!                                     +--> [ ptr, ptr, .. ]
//! ```
//!
//! Built once, in three blocks whatever the number of nodes, and used in place by every program
//! that goes inside.

use spacejmp::{AllocError, In, Mode, Segment, Space, Storable, VPtr, VSlice, VVec, Vas, Write};

use crate::csr::Csr;
use crate::query::Adjacency;

spacejmp::brand! {
    /// The address space of a graph, which is there when it is whole.
    pub Links => Option<Graph>
}

/// The root object.
#[derive(Debug, Storable)]
#[storable(vas = Links)]
pub struct Graph {
    nodes: VSlice<Node, Links>,
    /// The nodes' numbers, ascending: apart, since a walk does not look at them.
    ids: VSlice<u32, Links>,
    edge_count: u64,
    /// The first of the nodes with most edges.
    largest: Option<VPtr<Node, Links>>,
}

/// One node.
#[derive(Debug, Storable)]
#[storable(vas = Links)]
pub struct Node {
    /// The nodes its edges lead to, in the order of the text.
    edges: VSlice<VPtr<Node, Links>, Links>,
}

/// Makes an address space with a graph. When that fails nothing is left of it.
///
/// # Errors
/// What the calls say; `EEXIST` if there is one of that name.
pub fn store(name: &str, csr: &Csr, mode: u32) -> spacejmp::Result<()> {
    let space = Space::<Links>::options().mode(mode).create(name, |_| Ok(None))?;
    let filled = space.enter_mut(|v| fill(v, csr)).and_then(|filled| Ok(filled?));
    if filled.is_err() {
        // What is attached cannot be deleted. What went wrong first is what is reported.
        drop(space);
        let _ = Vas::find(name).and_then(|vas| vas.delete());
        let _ = Segment::find(name).and_then(|segment| segment.delete());
    }
    filled
}

/// Builds a graph where the thread is.
///
/// # Errors
/// [`AllocError`] when there is no room.
pub fn fill(v: &mut In<Links, Write>, csr: &Csr) -> Result<(), AllocError> {
    let ids = VVec::from_slice(v, csr.ids())?.share();
    let nodes = csr.ids().iter().map(|_| Node { edges: VSlice::empty() });
    let nodes = VVec::collect(v, nodes)?.share();
    let edges = csr.targets().iter().map(|&to| nodes.ptr(to as usize));
    let edges = VVec::collect(v, edges)?.share();
    for (node, span) in nodes.get_mut(v).iter_mut().zip(csr.spans()) {
        node.edges = edges.part(span);
    }
    let largest = csr.largest().map(|index| nodes.ptr(index));
    *v.root_mut().0 = Some(Graph { nodes, ids, edge_count: csr.edge_count(), largest });
    Ok(())
}

/// A graph, and the token of being where it is.
#[derive(Debug)]
pub struct Inside<'a, M: Mode> {
    v: &'a In<Links, M>,
    graph: &'a Graph,
}

impl<'a, M: Mode> Inside<'a, M> {
    /// The graph where the thread is, if there is one.
    #[must_use]
    pub fn new(v: &'a In<Links, M>) -> Option<Inside<'a, M>> {
        v.root().as_ref().map(|graph| Inside { v, graph })
    }

    fn nodes(&self) -> &'a [Node] {
        self.graph.nodes.get(self.v)
    }

    fn index(&self, node: VPtr<Node, Links>) -> usize {
        self.graph.nodes.index_of(node).expect("edges lead to nodes of the graph")
    }
}

impl<M: Mode> Adjacency for Inside<'_, M> {
    fn node_count(&self) -> usize {
        self.graph.nodes.len()
    }

    fn edge_count(&self) -> u64 {
        self.graph.edge_count
    }

    fn find(&self, id: u32) -> Option<usize> {
        // Dense numbers are where they say.
        let ids = self.graph.ids.get(self.v);
        match ids.get(id as usize) {
            Some(&found) if found == id => Some(id as usize),
            _ => ids.binary_search(&id).ok(),
        }
    }

    fn id(&self, index: usize) -> u32 {
        self.graph.ids.get(self.v)[index]
    }

    fn degree(&self, index: usize) -> u64 {
        self.nodes()[index].edges.len() as u64
    }

    fn for_neighbours(&self, index: usize, mut visit: impl FnMut(usize)) {
        for &node in self.nodes()[index].edges.get(self.v) {
            visit(self.index(node));
        }
    }

    fn largest(&self) -> Option<usize> {
        self.graph.largest.map(|node| self.index(node))
    }
}
