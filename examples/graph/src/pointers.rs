//! The graph as pointers in an address space: nodes that point to nodes.
//!
//! ```text
//!  Graph { nodes, .. } --> [ Node { edges }, Node, .. ]   ascending by number
//!                                     |       ^    ^
//!                                     +--> [ ptr, ptr, .. ]
//! ```
//!
//! Built once, in three blocks whatever the number of nodes, and used in place by every program
//! that enters. `'v` is the time a thread is inside.

use spacejmp::{
    AllocError, In, Lifetime, Mode, Segment, Space, Storable, VPtr, VSlice, VVec, Vas, Write,
};

use crate::csr::Csr;
use crate::query::Adjacency;

spacejmp::brand! {
    /// The address space of a graph, which exists only once the graph is complete.
    pub Links<'v> => Option<Graph<'v>>
}

/// The root object.
#[derive(Debug, Storable)]
#[storable(vas = Links<'v>)]
pub struct Graph<'v> {
    nodes: VSlice<Node<'v>, Links<'v>>,
    /// The nodes' numbers, ascending; kept apart, since a traversal does not need them.
    ids: VSlice<u32, Links<'v>>,
    edge_count: u64,
    /// The first of the nodes with most edges.
    largest: Option<VPtr<Node<'v>, Links<'v>>>,
}

/// One node.
#[derive(Debug, Storable)]
#[storable(vas = Links<'v>)]
pub struct Node<'v> {
    /// The nodes its edges lead to, in the order of the text.
    edges: VSlice<VPtr<Node<'v>, Links<'v>>, Links<'v>>,
}

/// Creates an address space with a graph. If that fails, nothing is left of it.
///
/// # Errors
/// The errors of the calls; `EEXIST` if there is one of that name.
pub fn store(name: &str, csr: &Csr, mode: u32, lifetime: Lifetime) -> spacejmp::Result<()> {
    let space =
        Space::<Links<'_>>::options().mode(mode).lifetime(lifetime).create(name, |_| Ok(None))?;
    let filled = space.write(|v| Ok(fill(v, csr)?));
    if filled.is_err() {
        // Nothing attached can be deleted. The first error is the one reported.
        drop(space);
        let _ = Vas::find(name).and_then(|vas| vas.delete());
        let _ = Segment::find(name).and_then(|segment| segment.delete());
    }
    filled
}

/// Builds a graph in the VAS that the thread is in.
///
/// # Errors
/// [`AllocError`] when the segment is full.
pub fn fill(v: &mut In<Links<'_>, Write>, csr: &Csr) -> Result<(), AllocError> {
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

/// A graph, and the token that proves the thread is inside.
#[derive(Debug)]
pub struct Inside<'a, 'v, M: Mode> {
    v: &'a In<Links<'v>, M>,
    graph: &'a Graph<'v>,
}

impl<'a, 'v, M: Mode> Inside<'a, 'v, M> {
    /// The graph in the VAS that the thread is in, if there is one.
    #[must_use]
    pub fn new(v: &'a In<Links<'v>, M>) -> Option<Inside<'a, 'v, M>> {
        v.root().as_ref().map(|graph| Inside { v, graph })
    }

    fn nodes(&self) -> &'a [Node<'v>] {
        self.graph.nodes.get(self.v)
    }

    fn index(&self, node: VPtr<Node<'v>, Links<'v>>) -> usize {
        self.graph.nodes.index_of(node).expect("edges lead to nodes of the graph")
    }
}

impl<M: Mode> Adjacency for Inside<'_, '_, M> {
    fn ids(&self) -> &[u32] {
        self.graph.ids.get(self.v)
    }

    fn edge_count(&self) -> u64 {
        self.graph.edge_count
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
