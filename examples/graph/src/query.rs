//! Queries about a graph, answered from either representation in the same words.

use std::collections::VecDeque;
use std::io::{self, Write};

/// A graph whose nodes have positions from 0.
pub trait Adjacency {
    /// The nodes' numbers, ascending.
    fn ids(&self) -> &[u32];
    /// How many edges there are.
    fn edge_count(&self) -> u64;
    /// How many edges begin there.
    fn degree(&self, index: usize) -> u64;
    /// Visits the ends of these edges.
    fn for_neighbours(&self, index: usize, visit: impl FnMut(usize));
    /// The first of the nodes with most edges.
    fn largest(&self) -> Option<usize>;

    /// How many nodes there are.
    fn node_count(&self) -> usize {
        self.ids().len()
    }

    /// The position of the node with this number.
    fn find(&self, id: u32) -> Option<usize> {
        // In a dense graph a node's number is its position.
        match self.ids().get(id as usize) {
            Some(&found) if found == id => Some(id as usize),
            _ => self.ids().binary_search(&id).ok(),
        }
    }

    /// The smallest number of edges from one node to the other, if there is a path.
    fn steps(&self, from: usize, to: usize) -> Option<u64> {
        let mut seen = vec![0_u64; self.node_count() / 64 + 1];
        let mut first_visit = |index: usize| {
            let (word, bit) = (&mut seen[index / 64], 1 << (index % 64));
            let is_first = *word & bit == 0;
            *word |= bit;
            is_first
        };
        first_visit(from);
        let mut queue = VecDeque::from([(from, 0)]);
        while let Some((index, steps)) = queue.pop_front() {
            if index == to {
                return Some(steps);
            }
            self.for_neighbours(index, |next| {
                if first_visit(next) {
                    queue.push_back((next, steps + 1));
                }
            });
        }
        None
    }
}

/// A query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// How many edges begin at a node.
    Degree(u32),
    /// Whether the second node can be reached from the first.
    Reach(u32, u32),
    /// Statistics of the graph.
    Stats,
}

impl Query {
    /// Reads `degree N`, `reach A B` or `stats`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Query> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["degree", node] => Some(Query::Degree(node.parse().ok()?)),
            ["reach", from, to] => Some(Query::Reach(from.parse().ok()?, to.parse().ok()?)),
            ["stats"] => Some(Query::Stats),
            _ => None,
        }
    }

    /// Writes the answer, one line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn answer(self, graph: &impl Adjacency, out: &mut impl Write) -> io::Result<()> {
        match self {
            Query::Degree(id) => match graph.find(id) {
                Some(index) => writeln!(out, "degree {id}: {}", graph.degree(index)),
                None => writeln!(out, "degree {id}: there is no such node"),
            },
            Query::Reach(from, to) => match (graph.find(from), graph.find(to)) {
                (Some(start), Some(end)) => match graph.steps(start, end) {
                    Some(steps) => writeln!(out, "reach {from} {to}: yes, {steps} steps"),
                    None => writeln!(out, "reach {from} {to}: no"),
                },
                (None, _) => writeln!(out, "reach {from} {to}: there is no node {from}"),
                (_, None) => writeln!(out, "reach {from} {to}: there is no node {to}"),
            },
            Query::Stats => {
                write!(out, "stats: {} nodes, {} edges", graph.node_count(), graph.edge_count())?;
                match graph.largest() {
                    Some(index) => {
                        let (degree, id) = (graph.degree(index), graph.ids()[index]);
                        writeln!(out, ", largest degree {degree} at node {id}")
                    }
                    None => writeln!(out),
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
